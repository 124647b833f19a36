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

// words[4 * lane + w] = c[w][lane]: 4x4 transposes inside 128-bit lanes, stored lane by lane.
inline void store_interleaved(const VecU c[4], uint32_t* words) {
#if defined(__AVX512F__)
    const __m512i* x = (const __m512i*)c;
    const __m512i t0 = _mm512_unpacklo_epi32(x[0], x[1]), t1 = _mm512_unpackhi_epi32(x[0], x[1]);
    const __m512i t2 = _mm512_unpacklo_epi32(x[2], x[3]), t3 = _mm512_unpackhi_epi32(x[2], x[3]);
    const __m512i r[4] = {_mm512_unpacklo_epi64(t0, t2), _mm512_unpackhi_epi64(t0, t2),
                          _mm512_unpacklo_epi64(t1, t3), _mm512_unpackhi_epi64(t1, t3)};
#elif defined(__AVX2__)
    const __m256i* x = (const __m256i*)c;
    const __m256i t0 = _mm256_unpacklo_epi32(x[0], x[1]), t1 = _mm256_unpackhi_epi32(x[0], x[1]);
    const __m256i t2 = _mm256_unpacklo_epi32(x[2], x[3]), t3 = _mm256_unpackhi_epi32(x[2], x[3]);
    const __m256i r[4] = {_mm256_unpacklo_epi64(t0, t2), _mm256_unpackhi_epi64(t0, t2),
                          _mm256_unpacklo_epi64(t1, t3), _mm256_unpackhi_epi64(t1, t3)};
#endif
#if defined(__AVX2__)
    for (int j = 0; j < 4; ++j)
        for (int q = 0; q < LANES / 4; ++q)
            __builtin_memcpy(words + 16 * q + 4 * j, (const char*)&r[j] + 16 * q, 16);
#else
    for (int w = 0; w < 4; ++w)
        for (int l = 0; l < LANES; ++l) words[4 * l + w] = c[w][l];
#endif
}

// High and low halves of 32x32-bit products. x86 multiplies the even lanes of 64-bit pairs, so the
// odd lanes are shifted down, and the halves are put back in their places.
inline void multiply(uint32_t m, VecU a, VecU& high, VecU& low) {
#if defined(__AVX512F__)
    const __m512i x = (__m512i)a, y = _mm512_set1_epi32(int(m));
    const __m512i even = _mm512_mul_epu32(x, y);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), y);
    high = (VecU)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    low = (VecU)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
    const __m256i x = (__m256i)a, y = _mm256_set1_epi32(int(m));
    const __m256i even = _mm256_mul_epu32(x, y);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), y);
    high = (VecU)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low = (VecU)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
#else
    for (int l = 0; l < LANES; ++l) high[l] = mul_high(m, a[l]);
    low = m * a;
#endif
}

// Calls `first` .. `first + 31` of a stream, as 128 words in memory order (call-major). Two
// vectors of calls advance together: one alone would wait for its multiplications.
inline void philox32(const Stream& s, uint64_t first, Domain domain, uint32_t* words) {
    for (int group = 0; group < 32; group += 2 * LANES) {
        VecU c[2][4];
        for (int g = 0; g < 2; ++g) {
            // `first` is a multiple of 32: the lanes never carry into the high half.
            c[g][0] = splat(uint32_t(first) + group + g * LANES) + iota();
            c[g][1] = splat(uint32_t(first >> 32) | (uint32_t(domain) << 29));
            c[g][2] = splat(s.param);
            c[g][3] = splat(s.stream);
        }
        uint32_t k0 = uint32_t(s.seed), k1 = uint32_t(s.seed >> 32);
        for (int round = 0; round < 10; ++round) {
            for (int g = 0; g < 2; ++g) {
                VecU h0, l0, h1, l1;
                multiply(0xD2511F53u, c[g][0], h0, l0);
                multiply(0xCD9E8D57u, c[g][2], h1, l1);
                c[g][0] = h1 ^ c[g][1] ^ k0;
                c[g][1] = l1;
                c[g][2] = h0 ^ c[g][3] ^ k1;
                c[g][3] = l0;
            }
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        for (int g = 0; g < 2; ++g) store_interleaved(c[g], words + 4 * (group + g * LANES));
    }
}

}  // namespace zopro::cpu::ZOPRO_ISA
