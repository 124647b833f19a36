// Vectors of the instruction set this file is compiled for, and the law's functions on them.
// Compiler vector types, not intrinsics, so the same source serves AVX-512, AVX2, NEON and SSE2.
#pragma once

#include <utility>

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
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;  // SSE2, NEON; wider vectors would be shuffled through memory there
#endif
constexpr int STRIP = 256;         // elements of one drawing: 32 calls of eight values
constexpr int BLOCK = 4 * LANES;   // elements that stay in four registers from load to store

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
template <class V, size_t... L, class Of>
inline V vector_of(std::index_sequence<L...>, Of of) {
    return V{of(L)...};
}
template <class V, class Of>
inline V vector_of(Of of) {  // of(lane) in each lane
    return vector_of<V>(std::make_index_sequence<LANES>(), of);
}
template <int S, size_t... L>
inline VecF partners(VecF x, std::index_sequence<L...>) {
    return __builtin_shufflevector(x, x, int(L ^ S)...);
}
template <int S>
inline VecF partners(VecF x) {  // lanes l ^ S of x
    return partners<S>(x, std::make_index_sequence<LANES>());
}
template <int FIRST, size_t... L>
inline VecF every_second(VecF a, VecF b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int(2 * L + FIRST)...);
}
template <int FIRST>
inline VecF every_second(VecF a, VecF b) {  // lanes FIRST, FIRST + 2, ... of the row a, b
    return every_second<FIRST>(a, b, std::make_index_sequence<LANES>());
}
// a b + c where the product is exact, so that fusing it cannot change a bit.
inline VecF multiply_add(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
    return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
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
    return (Wide)_mm512_mask_moveldup_ps((__m512)low, 0xAAAA, (__m512)high);
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

inline Wide splat_word(uint32_t x) { return (Wide)splat(x); }  // in both halves of each lane
// Calls in such an order (0, C/2, 1, C/2 + 1, ...) that two of them unpacked together end up as
// C/2 whole calls in memory order.
inline Wide call_numbers() {
    typedef uint64_t Vec __attribute__((vector_size(sizeof(Wide))));
    Vec v;
    for (int l = 0; l < CALLS; ++l) v[l] = l / 2 + l % 2 * (CALLS / 2);
    return (Wide)v;
}
#endif

struct Keys {  // the round keys of a seed
    uint32_t k[10][2];
    explicit Keys(uint64_t seed) {
        for (uint32_t round = 0; round < 10; ++round) {
            k[round][0] = uint32_t(seed) + round * 0x9E3779B9u;
            k[round][1] = uint32_t(seed >> 32) + round * 0xBB67AE85u;
        }
    }
};

#if defined(__AVX2__)
// Calls `first` .. `first + 31` of a stream as 128 words in memory order (call-major), each of them
// masked; `first` is a multiple of 32. GROUPS vectors advance together, or each would wait for its
// multiplications.
inline void philox32(const Stream& s, uint64_t first, Domain domain,
                     uint32_t* words, uint32_t mask = ~0u) {
    const Keys keys(s.seed);
    constexpr int GROUPS = CALLS == 8 ? 4 : 2;  // as many as the registers hold
    const Wide m0 = splat_word(0xD2511F53u), m1 = splat_word(0xCD9E8D57u);
    const Wide masks = splat_word(mask);
    for (int at = 0; at < 32; at += GROUPS * CALLS) {
        Wide c[GROUPS][4];
        for (int g = 0; g < GROUPS; ++g) {
            c[g][0] = splat_word(uint32_t(first) + at + g * CALLS) + call_numbers();
            c[g][1] = splat_word(uint32_t(first >> 32) | (uint32_t(domain) << 29));
            c[g][2] = splat_word(s.param);
            c[g][3] = splat_word(s.stream);
        }
#pragma GCC unroll 10
        for (int round = 0; round < 10; ++round) {
            const Wide k0 = splat_word(keys.k[round][0]), k1 = splat_word(keys.k[round][1]);
            for (int g = 0; g < GROUPS; ++g) {
                const Wide p0 = multiply(c[g][0], m0), p1 = multiply(c[g][2], m1);
                c[g][0] = high_half(p1) ^ c[g][1] ^ k0;
                c[g][1] = p1;
                c[g][2] = high_half(p0) ^ c[g][3] ^ k1;
                c[g][3] = p0;
            }
        }
        for (int g = 0; g < GROUPS; ++g) {
            const Wide w01 = pair(c[g][0], c[g][1]), w23 = pair(c[g][2], c[g][3]);
            const Wide even = even_lanes(w01, w23), odd = odd_lanes(w01, w23);
            uint32_t* to = words + 4 * (at + g * CALLS);
            store(to, even & masks);
            store(to + 2 * CALLS, odd & masks);
        }
    }
}
#else
inline void philox32(const Stream& s, uint64_t first, Domain domain,
                     uint32_t* words, uint32_t mask = ~0u) {
    for (int call = 0; call < 32; ++call) {
        const Words w = random_words(s, first + call, domain);
        for (int j = 0; j < 4; ++j) words[4 * call + j] = w.w[j] & mask;
    }
}
#endif

}  // namespace zopro::cpu::ZOPRO_ISA
