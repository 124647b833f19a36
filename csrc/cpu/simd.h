// Vectors of the instruction set this file is compiled for, and the law's functions on them.
// Compiler vector types, not intrinsics, so the same source serves AVX-512, AVX2, NEON and SSE2.
#pragma once

#include <array>

#include "zopro/noise.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ZOPRO_ISA
#error "compile with -DZOPRO_ISA=<name>"
#endif

namespace zopro::cpu::ZOPRO_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
constexpr int STRIP = 256;  // elements handled at a time: 32 calls of eight values, 1 KiB of fp32

typedef float VecF __attribute__((vector_size(4 * LANES)));
typedef uint32_t VecU __attribute__((vector_size(4 * LANES)));
typedef int32_t VecI __attribute__((vector_size(4 * LANES)));
typedef uint16_t VecH __attribute__((vector_size(2 * LANES)));

template <class V, class T>
inline V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof(V));
    return v;
}
template <class V, class T>
inline void store(T* p, V v) {
    __builtin_memcpy(p, &v, sizeof(V));
}
inline VecF as_float(VecU u) { return (VecF)u; }
inline VecU as_bits(VecF f) { return (VecU)f; }
inline VecF splat(float x) { return x - VecF{}; }
inline VecU splat(uint32_t x) { return x - VecU{}; }
inline VecU iota() {
    VecU v;
    for (int l = 0; l < LANES; ++l) v[l] = l;
    return v;
}

// ---- Philox on vectors ------------------------------------------------------------------------
// One call a 64-bit lane, its word in the low half and anything in the high half: the widening
// multiply reads low halves only and leaves both halves of the product in place, so a round is two
// multiplies, two shifts and four xors, with nothing to mask or move.
#if defined(__AVX512F__)
typedef __m512i Wide;
inline Wide multiply(Wide a, Wide b) { return _mm512_mul_epu32(a, b); }
inline Wide high_half(Wide a) { return _mm512_srli_epi64(a, 32); }
inline Wide pair(Wide low, Wide high) {
    return _mm512_mask_blend_epi32(0xAAAA, low, _mm512_slli_epi64(high, 32));
}
inline Wide even_lanes(Wide a, Wide b) { return _mm512_unpacklo_epi64(a, b); }
inline Wide odd_lanes(Wide a, Wide b) { return _mm512_unpackhi_epi64(a, b); }
#elif defined(__AVX2__)
typedef __m256i Wide;
inline Wide multiply(Wide a, Wide b) { return _mm256_mul_epu32(a, b); }
inline Wide high_half(Wide a) { return _mm256_srli_epi64(a, 32); }
inline Wide pair(Wide low, Wide high) {
    return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA);
}
inline Wide even_lanes(Wide a, Wide b) { return _mm256_unpacklo_epi64(a, b); }
inline Wide odd_lanes(Wide a, Wide b) { return _mm256_unpackhi_epi64(a, b); }
#endif

#if defined(__AVX2__)
constexpr int CALLS = sizeof(Wide) / 8;  // at a time

inline Wide splat64(uint32_t x) {
    typedef uint64_t Vec __attribute__((vector_size(sizeof(Wide))));
    return (Wide)(uint64_t(x) - Vec{});
}
inline Wide lane_numbers() {
    typedef uint64_t Vec __attribute__((vector_size(sizeof(Wide))));
    Vec v;
    for (int l = 0; l < CALLS; ++l) v[l] = l;
    return (Wide)v;
}

// The round keys of a seed, one copy a lane.
struct Keys {
    Wide k[10][2];
    explicit Keys(uint64_t seed) {
        for (uint32_t round = 0; round < 10; ++round) {
            k[round][0] = splat64(uint32_t(seed) + round * 0x9E3779B9u);
            k[round][1] = splat64(uint32_t(seed >> 32) + round * 0xBB67AE85u);
        }
    }
};

// Calls `first` .. `first + 31` of a stream as 128 words in memory order (call-major); `first` is
// a multiple of 32. GROUPS vectors advance together, or each would wait for its multiplications.
inline void philox32(const Keys& keys, const Stream& s, uint64_t first, Domain domain,
                     uint32_t* words) {
    constexpr int GROUPS = CALLS == 8 ? 4 : 2;  // as many as the registers hold
    const Wide m0 = splat64(0xD2511F53u), m1 = splat64(0xCD9E8D57u);
    for (int at = 0; at < 32; at += GROUPS * CALLS) {
        Wide c[GROUPS][4];
        for (int g = 0; g < GROUPS; ++g) {
            c[g][0] = splat64(uint32_t(first) + at + g * CALLS) + lane_numbers();
            c[g][1] = splat64(uint32_t(first >> 32) | (uint32_t(domain) << 29));
            c[g][2] = splat64(s.param);
            c[g][3] = splat64(s.stream);
        }
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            for (int g = 0; g < GROUPS; ++g) {
                const Wide p0 = multiply(c[g][0], m0), p1 = multiply(c[g][2], m1);
                c[g][0] = high_half(p1) ^ c[g][1] ^ keys.k[round][0];
                c[g][1] = p1;
                c[g][2] = high_half(p0) ^ c[g][3] ^ keys.k[round][1];
                c[g][3] = p0;
            }
        }
        for (int g = 0; g < GROUPS; ++g) {
            const Wide w01 = pair(c[g][0], c[g][1]), w23 = pair(c[g][2], c[g][3]);
            const Wide even = even_lanes(w01, w23), odd = odd_lanes(w01, w23);
            for (int l = 0; l < CALLS; l += 2) {  // 16 bytes a call
                uint32_t* to = words + 4 * (at + g * CALLS + l);
                __builtin_memcpy(to, (const char*)&even + 8 * l, 16);
                __builtin_memcpy(to + 4, (const char*)&odd + 8 * l, 16);
            }
        }
    }
}
#else
struct Keys {
    explicit Keys(uint64_t) {}
};

inline void philox32(const Keys&, const Stream& s, uint64_t first, Domain domain,
                     uint32_t* words) {
    for (int call = 0; call < 32; ++call) {
        const Words w = random_words(s, first + call, domain);
        __builtin_memcpy(words + 4 * call, w.w, 16);
    }
}
#endif

inline void philox32(const Stream& s, uint64_t first, Domain domain, uint32_t* words) {
    philox32(Keys(s.seed), s, first, domain, words);
}

}  // namespace zopro::cpu::ZOPRO_ISA
