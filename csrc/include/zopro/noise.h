// The noise law, version 1: the one definition of n[i], compiled by host and device.
//
// n[i] of a tensor is a function of (seed, parameter index, stream, i) alone. It is read off
// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11):
//
//     key     = (seed low, seed high)
//     counter = (block low, block high | domain << 29, parameter index, stream)
//
// A log written under a law replays under that law for ever: a change makes a new version
// beside this one. Mirrors: zopro_kernels/reference.py (the oracle) and zopro_kernels/triton_law.py.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define ZOPRO_HD __host__ __device__ __forceinline__
#define ZOPRO_UNROLL _Pragma("unroll")
#else
#define ZOPRO_HD inline
#define ZOPRO_UNROLL
#endif

namespace zopro {

constexpr uint32_t LAW = 1;

// What a call is for; kept in the three top bits of the block index, so that no two uses of one
// seed share random bits. i < 2^63, hence blocks < 2^60 leave these bits free.
enum class Domain : uint32_t {
    rademacher = 0,
    gaussian = 1,
    rounding = 2,
    sketch_sign = 3,  // sketch.h
    sketch_place = 4,
};

struct Words {
    uint32_t w[4];
};

struct Stream {  // what fixes the noise of one tensor
    uint64_t seed;
    uint32_t param;
    uint32_t stream;
};

ZOPRO_HD uint64_t wide_product(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
    uint64_t p;  // nvcc makes two multiplications of the C++ expression: 2.4 instructions a Gaussian
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(p) : "r"(a), "r"(b));
    return p;
#else
    return uint64_t(a) * b;
#endif
}

ZOPRO_HD Words philox4x32_10(Words c, uint32_t k0, uint32_t k1) {
    ZOPRO_UNROLL
    for (int round = 0; round < 10; ++round) {
        const uint64_t p0 = wide_product(0xD2511F53u, c.w[0]);
        const uint64_t p1 = wide_product(0xCD9E8D57u, c.w[2]);
        c = Words{{uint32_t(p1 >> 32) ^ c.w[1] ^ k0, uint32_t(p1),
                   uint32_t(p0 >> 32) ^ c.w[3] ^ k1, uint32_t(p0)}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

ZOPRO_HD Words random_words(const Stream& s, uint64_t block, Domain domain) {
    const Words counter{{uint32_t(block), uint32_t(block >> 32) | (uint32_t(domain) << 29),
                         s.param, s.stream}};
    return philox4x32_10(counter, uint32_t(s.seed), uint32_t(s.seed >> 32));
}

// ---- rademacher ---------------------------------------------------------------------------
// One call gives 128 signs. Within a tile of 4,096 elements, call `lane` (0..31) serves sixteen
// runs of eight consecutive elements that lie 256 apart, so that a warp whose lane l makes call l
// reads and writes 16 consecutive bytes of bf16 a lane, the lanes side by side.
//     i = tile * 4096 + row * 256 + lane * 8 + sub;  the sign is bit 8 * row + sub of the call
constexpr int SIGN_TILE = 4096;

ZOPRO_HD uint64_t sign_block(uint64_t i) { return (i >> 12) * 32 + ((i >> 3) & 31); }
ZOPRO_HD uint32_t sign_bit(const Words& words, uint64_t i) {
    const uint32_t row = uint32_t(i >> 8) & 15, sub = uint32_t(i) & 7;
    return (words.w[row >> 2] >> (8 * (row & 3) + sub)) & 1u;
}

// ---- gaussian -----------------------------------------------------------------------------
// One call gives eight values. Each 16-bit half of the words picks one of 2,048 equally likely
// values t of a table (conditional means of N(0,1)/sqrt(8), adjusted so that the second, fourth
// and sixth moments are those of the normal law); an 8-point Hadamard transform mixes the eight:
// n = H t. Its rows are orthogonal, so the eight are uncorrelated, and each is a sum of eight
// near-normal numbers. Table entries are multiples of 2^-20 and every sum stays under 2^4, so all
// additions are exact: no order, contraction or rounding can change a bit.
// Reach: |n| <= 10.21; P(n > x) falls short of the normal law's by 0.01 % at 4 sigma, 0.8 % at 5,
// 5 % at 6 (tests/kernels/test_law.py).
constexpr int GAUSSIAN_TABLE_SIZE = 2048;
constexpr float GAUSSIAN_TABLE_UNIT = 1.0f / 1048576.0f;  // 2^-20

ZOPRO_HD uint64_t gaussian_block(uint64_t i) { return i >> 3; }
ZOPRO_HD uint32_t gaussian_index(const Words& words, int m) {  // m = 0..7
    return (words.w[m >> 1] >> (16 * (m & 1) + 2)) & 2047u;
}
ZOPRO_HD void hadamard8(float* t) {
    ZOPRO_UNROLL
    for (int stride = 1; stride < 8; stride *= 2) {
        ZOPRO_UNROLL
        for (int j = 0; j < 8; ++j) {
            if (j & stride) continue;
            const float a = t[j], b = t[j + stride];
            t[j] = a + b;
            t[j + stride] = a - b;
        }
    }
}
// Elements 8 * block .. 8 * block + 7; table: GAUSSIAN_TABLE_SIZE floats.
ZOPRO_HD void gaussian8(const Words& words, const float* table, float* out) {
    ZOPRO_UNROLL
    for (int m = 0; m < 8; ++m) out[m] = table[gaussian_index(words, m)];
    hadamard8(out);
}

// ---- stochastic rounding --------------------------------------------------------------------
// One call gives eight 16-bit numbers, for elements 8 * block .. 8 * block + 7.
ZOPRO_HD uint64_t rounding_block(uint64_t i) { return i >> 3; }
ZOPRO_HD uint32_t rounding_bits(const Words& words, uint32_t sub) {  // sub = i & 7
    return (words.w[sub >> 1] >> (16 * (sub & 1))) & 0xFFFFu;
}

ZOPRO_HD uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
ZOPRO_HD float bits_float(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

// A NaN in fp32 stays a NaN, with the payload that the hardware gives it; in the 16-bit types every
// NaN is stored as 0x7FFF.
ZOPRO_HD float bf16_to_float(uint16_t h) { return bits_float(uint32_t(h) << 16); }

ZOPRO_HD uint16_t float_to_bf16(float x) {  // to nearest, ties to even; every NaN becomes 0x7FFF
    const uint32_t u = float_bits(x);
    const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return uint16_t((u & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FFFu : rounded);
}
// Up with probability (dropped part) / 2^16, by the law's 16 random bits.
ZOPRO_HD uint16_t float_to_bf16_stochastic(float x, uint32_t random16) {
    const uint32_t u = float_bits(x);
    if ((u & 0x7FFFFFFFu) >= 0x7F800000u) return float_to_bf16(x);
    return uint16_t((u + random16) >> 16);
}

ZOPRO_HD float fp16_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000u) << 16, mag = h & 0x7FFFu;
    if (mag >= 0x7C00u) return bits_float(sign | 0x7F800000u | ((mag & 0x3FFu) << 13));
    if (mag >= 0x0400u) return bits_float(sign | ((mag << 13) + (112u << 23)));
    return bits_float(sign | float_bits(float(mag) * (1.0f / 16777216.0f)));  // 2^-24, exact
}
ZOPRO_HD uint16_t float_to_fp16(float x) {  // to nearest, ties to even; every NaN becomes 0x7FFF
    const uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000u, mag = u & 0x7FFFFFFFu;
    if (mag > 0x7F800000u) return uint16_t(0x7FFFu);
    if (mag >= (143u << 23)) return uint16_t(sign | 0x7C00u);  // >= 2^16
    if (mag >= (113u << 23)) {                                 // >= 2^-14: a normal half
        const uint32_t rounded = (mag + 0xFFFu + ((mag >> 13) & 1u)) >> 13;
        return uint16_t(sign | (rounded - (112u << 10)));
    }
    const uint32_t k = 126u - (mag >> 23);  // bits dropped, units of 2^-24 kept
    if (k > 25u) return uint16_t(sign);     // < 2^-25, or a float subnormal
    const uint32_t m = (mag & 0x7FFFFFu) | 0x800000u;
    return uint16_t(sign | ((m + ((1u << (k - 1)) - 1u) + ((m >> k) & 1u)) >> k));
}
ZOPRO_HD uint16_t float_to_fp16_stochastic(float x, uint32_t random16) {
    const uint32_t u = float_bits(x), sign = (u >> 16) & 0x8000u, mag = u & 0x7FFFFFFFu;
    if (mag >= (143u << 23)) return float_to_fp16(x);  // >= 2^16, infinite or NaN
    if (mag >= (113u << 23)) return uint16_t(sign | (((mag + (random16 >> 3)) >> 13) - (112u << 10)));
    const uint32_t k = 126u - (mag >> 23);
    if (k > 31u) return uint16_t(sign);  // < 2^-31: the 16 bits do not resolve so small a chance
    const uint32_t m = (mag & 0x7FFFFFu) | 0x800000u;
    const uint32_t r = k >= 16u ? random16 << (k - 16u) : random16 >> (16u - k);
    return uint16_t(sign | ((m + r) >> k));
}

// ---- targeted directions: v.n and n.n in fixed point ------------------------------------------
// Products are rounded to fp32, scaled by a power of two and truncated to integers: integer sums
// have no order, so every backend, launch and sharding gives the same two numbers.
constexpr float DOT_VN_SCALE = 1099511627776.0f;  // 2^40: |v.n| < 2^23, ample for ||v|| <= 1
constexpr float DOT_NN_SCALE = 16777216.0f;       // 2^24: up to 2^38 elements

}  // namespace zopro
