// Philox (noise.h) on vectors, and what of it a stream's calls share.
#pragma once

#include "simd.h"

namespace zopro::cpu::ZOPRO_ISA {

// What calls of one stream and domain share as long as their numbers' high words are equal. Only the
// lowest word of the counter differs among them, so half of rounds 0 and 1 is done here.
struct Source {
    Stream stream;
    Domain domain;
    uint32_t key[10][2];  // of each round
    uint32_t fold[4];     // the constants that rounds 0 and 1 leave

    Source() = default;
    Source(const Stream& s, uint64_t call, Domain d) : stream(s), domain(d) {
        for (uint32_t round = 0; round < 10; ++round) {
            key[round][0] = uint32_t(s.seed) + round * 0x9E3779B9u;
            key[round][1] = uint32_t(s.seed >> 32) + round * 0xBB67AE85u;
        }
        const uint64_t p1 = wide_product(s.param, M1);
        const uint32_t c1 = uint32_t(call >> 32) | uint32_t(d) << 29;
        const uint64_t p0 = wide_product(uint32_t(p1 >> 32) ^ c1 ^ key[0][0], M0);
        fold[0] = s.stream ^ key[0][1];
        fold[1] = uint32_t(p1) ^ key[1][0];
        fold[2] = uint32_t(p0 >> 32) ^ key[1][1];
        fold[3] = uint32_t(p0);
    }
    static constexpr uint32_t M0 = 0xD2511F53u, M1 = 0xCD9E8D57u;
};

#if defined(__AVX2__)
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
#else
typedef __m256i Wide;
inline Wide multiply(Wide a, Wide b) { return _mm256_mul_epu32(a, b); }
inline Wide high_half(Wide a) { return _mm256_srli_epi64(a, 32); }
inline Wide pair(Wide low, Wide high) {
    return _mm256_blend_epi32(low, _mm256_slli_epi64(high, 32), 0xAA);
}
inline Wide even_lanes(Wide a, Wide b) { return _mm256_unpacklo_epi64(a, b); }
inline Wide odd_lanes(Wide a, Wide b) { return _mm256_unpackhi_epi64(a, b); }
#endif
static_assert(CALLS == sizeof(Wide) / 8);

inline Wide splat_word(uint32_t x) { return (Wide)splat(x); }  // in both halves of each lane
template <class Of>
inline Wide lanes(Of of) {
    typedef uint64_t Vec __attribute__((vector_size(sizeof(Wide))));
    Vec v;
    for (int l = 0; l < CALLS; ++l) v[l] = of(l);
    return (Wide)v;
}

// GROUPS vectors of calls that advance together, or each would wait for its multiplications.
template <int GROUPS>
struct Calls {
    Wide c[GROUPS][4];

    // Group g's calls are first + CALLS g + numbers; rounds 0 and 1 are done.
    void start(const Source& s, uint32_t first, Wide numbers) {
        const Wide m0 = splat_word(Source::M0), m1 = splat_word(Source::M1);
        for (int g = 0; g < GROUPS; ++g) {
            const Wide p0 = multiply(splat_word(first + g * CALLS) + numbers, m0);
            const Wide p1 = multiply(high_half(p0) ^ splat_word(s.fold[0]), m1);
            c[g][0] = high_half(p1) ^ splat_word(s.fold[1]);
            c[g][1] = p1;
            c[g][2] = p0 ^ splat_word(s.fold[2]);
            c[g][3] = splat_word(s.fold[3]);
        }
    }
    void round(const uint32_t* key) {
        const Wide m0 = splat_word(Source::M0), m1 = splat_word(Source::M1);
        const Wide k0 = splat_word(key[0]), k1 = splat_word(key[1]);
        for (int g = 0; g < GROUPS; ++g) {
            const Wide p0 = multiply(c[g][0], m0), p1 = multiply(c[g][2], m1);
            c[g][0] = high_half(p1) ^ c[g][1] ^ k0;
            c[g][1] = p1;
            c[g][2] = high_half(p0) ^ c[g][3] ^ k1;
            c[g][3] = p0;
        }
    }
    Wide words01(int g) const { return pair(c[g][0], c[g][1]); }
    Wide words23(int g) const { return pair(c[g][2], c[g][3]); }
};

// Calls `first` .. `first + 31` as 128 words in memory order, call by call; 32 divides `first`.
inline void philox32(const Stream& stream, uint64_t first, Domain domain, uint32_t* words) {
    constexpr int GROUPS = CALLS == 8 ? 4 : 2;  // as many as the registers hold
    const Source source(stream, first, domain);
    // Two calls of this order unpacked together end up as CALLS / 2 whole calls in memory order.
    const Wide numbers = lanes([](int l) { return l / 2 + l % 2 * (CALLS / 2); });
    for (int at = 0; at < 32; at += GROUPS * CALLS) {
        Calls<GROUPS> calls;
        calls.start(source, uint32_t(first) + at, numbers);
#pragma GCC unroll 8
        for (int r = 2; r < 10; ++r) calls.round(source.key[r]);
        for (int g = 0; g < GROUPS; ++g) {
            uint32_t* to = words + 4 * (at + g * CALLS);
            store(to, even_lanes(calls.words01(g), calls.words23(g)));
            store(to + 2 * CALLS, odd_lanes(calls.words01(g), calls.words23(g)));
        }
    }
}
#else
inline void philox32(const Stream& stream, uint64_t first, Domain domain, uint32_t* words) {
    for (int call = 0; call < 32; ++call) {
        const Words w = random_words(stream, first + call, domain);
        for (int j = 0; j < 4; ++j) words[4 * call + j] = w.w[j];
    }
}
#endif

// Two groups of calls from `first` on (a multiple of their number), words 0 and 1 of each of a group's
// calls, then words 2 and 3: 4 CALLS 64-bit words. between(0) .. between(7) run after one round each,
// so that a processor finds other work beside the multiplications; inlined, or it does not.
template <class Between>
[[gnu::always_inline]] inline void draw_two_groups(const Source& s, uint64_t first, uint64_t* words,
                                                   Between between) {
#if defined(__AVX2__)
    Calls<2> calls;
    calls.start(s, uint32_t(first), lanes([](int l) { return l; }));
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
        calls.round(s.key[2 + r]);
        between(r);
    }
    for (int g = 0; g < 2; ++g) {
        store(words + 2 * CALLS * g, calls.words01(g));
        store(words + 2 * CALLS * g + CALLS, calls.words23(g));
    }
#else
    for (int call = 0; call < 2 * CALLS; ++call) {
        const Words w = random_words(s.stream, first + call, s.domain);
        uint64_t* to = words + call / CALLS * 2 * CALLS + call % CALLS;
        to[0] = w.w[0] | uint64_t(w.w[1]) << 32;
        to[CALLS] = w.w[2] | uint64_t(w.w[3]) << 32;
    }
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) between(r);
#endif
}

}  // namespace zopro::cpu::ZOPRO_ISA
