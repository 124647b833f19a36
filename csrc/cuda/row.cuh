// How a warp holds one row of the law's tile: 256 consecutive elements, eight values a lane.
//
// 16-bit types: lane l has elements 8 l .. 8 l + 7, one 16-byte access, and makes call l itself.
// fp32: two 16-byte accesses, elements 4 l .. 4 l + 3 and 128 + 4 l .. 128 + 4 l + 3, so that the
// lanes' bytes lie side by side; the first half belongs to half (l & 1) of call l / 2, the second
// to the same half of call 16 + l / 2, and lanes exchange what they drew.
#pragma once

#include <type_traits>

#include "zopro/noise.h"

namespace zopro::cuda {

struct bf16 {
    uint16_t bits;
};
struct fp16 {
    uint16_t bits;
};

constexpr int ROWS = 16, ROW = 256;
constexpr unsigned ALL = 0xFFFFFFFFu;

template <class T>
constexpr bool WIDE = sizeof(T) == 4;

template <class T>
__device__ __forceinline__ int place(int lane, int m) {  // of value m in the row
    return WIDE<T> ? (m >> 2) * 128 + lane * 4 + (m & 3) : lane * 8 + m;
}

// ---- stored elements to fp32 and back ------------------------------------------------------
__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return bf16_to_float(x.bits); }
__device__ __forceinline__ float widen(fp16 x) {
#if defined(__CUDA_ARCH__)
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#else
    return fp16_to_float(x.bits);
#endif
}

// Two values to 16 bits each. The hardware's cvt.rn rounds as noise.h does, NaN to 0x7FFF too, in
// half an instruction an element instead of seven.
__device__ __forceinline__ uint32_t nearest2(float low, float high, bf16) {
#if defined(__CUDA_ARCH__)
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return float_to_bf16(low) | uint32_t(float_to_bf16(high)) << 16;
#endif
}
__device__ __forceinline__ uint32_t nearest2(float low, float high, fp16) {
#if defined(__CUDA_ARCH__)
    uint32_t pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return float_to_fp16(low) | uint32_t(float_to_fp16(high)) << 16;
#endif
}
__device__ __forceinline__ uint32_t stochastic1(float x, uint32_t random16, bf16) {
    return float_to_bf16_stochastic(x, random16);
}
__device__ __forceinline__ uint32_t stochastic1(float x, uint32_t random16, fp16) {
    return float_to_fp16_stochastic(x, random16);
}

// ---- rows in memory ---------------------------------------------------------------------------
struct alignas(16) Quad {
    uint32_t w[4];
};

template <class T>
struct Row {  // as stored: 16 bytes a lane, or 32
    Quad q[sizeof(T) / 2];
};

// `row`: the row's first element. 16-byte accesses; the rest of the warp takes the neighbours.
template <class T>
__device__ __forceinline__ Row<T> load_row(const T* row, int lane) {
    Row<T> out;
#pragma unroll
    for (int j = 0; j < int(sizeof(T) / 2); ++j)
        out.q[j] = *reinterpret_cast<const Quad*>(row + place<T>(lane, 4 * j));
    return out;
}
template <class T>
__device__ __forceinline__ void store_row(T* row, int lane, const Row<T>& in) {
#pragma unroll
    for (int j = 0; j < int(sizeof(T) / 2); ++j)
        *reinterpret_cast<Quad*>(row + place<T>(lane, 4 * j)) = in.q[j];
}
template <class T>
__device__ __forceinline__ float value(const Row<T>& row, int m) {
    const uint32_t word = row.q[WIDE<T> ? m >> 2 : 0].w[WIDE<T> ? m & 3 : m >> 1];
    if constexpr (WIDE<T>)
        return bits_float(word);
    else if constexpr (std::is_same_v<T, bf16>)  // the upper half is an fp32 but for a mask
        return bits_float(m & 1 ? word & 0xFFFF0000u : word << 16);
    else
        return widen(T{uint16_t(m & 1 ? word >> 16 : word)});
}

template <class T>
__device__ __forceinline__ T element(const Row<T>& row, int m) {
    if constexpr (WIDE<T>)
        return value(row, m);
    else
        return T{uint16_t(row.q[0].w[m >> 1] >> (16 * (m & 1)))};
}

// Rounds eight values up with the law's probabilities; `random`: the words of their rounding call.
template <class T>
__device__ __forceinline__ Row<T> stochastic(const float* x, const Words& random) {
    Row<T> out;
#pragma unroll
    for (int q = 0; q < 4; ++q)
        out.q[0].w[q] = stochastic1(x[2 * q], random.w[q] & 0xFFFFu, T{}) |
                        stochastic1(x[2 * q + 1], random.w[q] >> 16, T{}) << 16;
    return out;
}
// As if all were finite; then, where the sum of their magnitudes is not, once more with a test of
// each: one instruction an element for the rare case instead of four.
template <>
__device__ __forceinline__ Row<bf16> stochastic(const float* x, const Words& random) {
    constexpr uint32_t INFINITE = 0x7F800000u;
    Row<bf16> out;
    float sum = 0.0f;
#pragma unroll
    for (int q = 0; q < 4; ++q) {
        const uint32_t low = float_bits(x[2 * q]) + (random.w[q] & 0xFFFFu);
        const uint32_t high = float_bits(x[2 * q + 1]) + (random.w[q] >> 16);
        out.q[0].w[q] = low >> 16 | (high & 0xFFFF0000u);
        sum = __fadd_rn(__fadd_rn(sum, fabsf(x[2 * q])), fabsf(x[2 * q + 1]));
    }
    if (!(sum < bits_float(INFINITE))) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const uint32_t nearest = nearest2(x[2 * q], x[2 * q + 1], bf16{});
            const bool low = (float_bits(x[2 * q]) & INFINITE) == INFINITE;
            const bool high = (float_bits(x[2 * q + 1]) & INFINITE) == INFINITE;
            const uint32_t taken = (low ? 0xFFFFu : 0u) | (high ? 0xFFFF0000u : 0u);
            out.q[0].w[q] = (out.q[0].w[q] & ~taken) | (nearest & taken);
        }
    }
    return out;
}

// Rounds eight values once. `random`: the words of the row's rounding call (stochastic alone).
template <class T, bool STOCHASTIC>
__device__ __forceinline__ Row<T> rounded(const float* x, const Words& random) {
    if constexpr (STOCHASTIC) return stochastic<T>(x, random);
    Row<T> out;
#pragma unroll
    for (int m = 0; m < 8; m += 2) {
        if constexpr (WIDE<T>) {
            out.q[m >> 2].w[m & 3] = float_bits(x[m]);
            out.q[m >> 2].w[(m & 3) + 1] = float_bits(x[m + 1]);
        } else {
            out.q[0].w[m >> 1] = nearest2(x[m], x[m + 1], T{});
        }
    }
    return out;
}

// ---- noise ------------------------------------------------------------------------------------
// The tile's signs: bit 8 * (row & 3) + m of word row >> 2 is value m's, for fp32 as for the rest.
template <class T>
__device__ __forceinline__ Words sign_words(const Stream& s, uint64_t tile, int lane) {
    Words words = random_words(s, tile * 32 + lane, Domain::rademacher);
    if constexpr (WIDE<T>) {
        const int half = 4 * (lane & 1);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            const uint32_t first = __shfl_sync(ALL, words.w[q], lane >> 1) >> half;
            const uint32_t second = __shfl_sync(ALL, words.w[q], 16 + (lane >> 1)) >> half;
            words.w[q] = (first & 0x0F0F0F0Fu) | (second & 0x0F0F0F0Fu) << 4;
        }
    }
    return words;
}
// ptxas tests seven bits of a register with one instruction (R2P), but none in a half of a 64-bit
// product, as two of the words are: moved by a byte they are registers of their own.
__device__ __forceinline__ Words turned(Words words) {
#pragma unroll
    for (uint32_t& w : words.w) {
#if defined(__CUDA_ARCH__)  // of the C++ expression nothing would remain but other bit numbers
        asm("prmt.b32 %0, %0, %0, 0x2103;" : "+r"(w));
#else
        w = w << 8 | w >> 24;
#endif
    }
    return words;
}
// Tested and selected, not shifted into the sign bit: two instructions and a seventh, not three.
__device__ __forceinline__ float signed_coefficient(float c, uint32_t word, int bit) {
    return word & (1u << bit) ? -c : c;
}

// The row's Gaussians. fp32: even lanes draw the call of their first half, odd ones of their
// second, and neighbours swap the halves that the other needs.
template <class T>
__device__ __forceinline__ void gaussian_row(const Stream& s, uint64_t tile, int row, int lane,
                                             const float* normals, float* out) {
    const int call = WIDE<T> ? (lane & 1) * 16 + (lane >> 1) : lane;
    gaussian8(random_words(s, tile * 512 + row * 32 + call, Domain::gaussian), normals, out);
    if constexpr (WIDE<T>) {
        const bool odd = lane & 1;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            const float got = __shfl_xor_sync(ALL, odd ? out[e] : out[4 + e], 1);
            (odd ? out[e] : out[4 + e]) = got;
        }
    }
}

}  // namespace zopro::cuda
