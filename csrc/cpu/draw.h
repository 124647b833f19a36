// Noise of one strip of 256 elements, from the strip's 32 calls (gaussian) or from the bits that
// 32 calls give for a whole tile of 16 strips (rademacher).
#pragma once

#include "simd.h"

namespace zopro::cpu::ZOPRO_ISA {

constexpr int STRIPS_A_TILE = SIGN_TILE / STRIP;

alignas(64) static float gaussian_table[GAUSSIAN_TABLE_SIZE];

// Called first by each operation; the first caller fills it, others wait.
static void fill_gaussian_table() {
    static constexpr int32_t upper[] = {
#include "zopro/gaussian_table.inc"
    };
    static const bool filled = [] {
        constexpr int half = GAUSSIAN_TABLE_SIZE / 2;
        for (int j = 0; j < half; ++j) {
            gaussian_table[half + j] = float(upper[j]) * GAUSSIAN_TABLE_UNIT;
            gaussian_table[half - 1 - j] = -gaussian_table[half + j];
        }
        return true;
    }();
    (void)filled;
}

// The tile's signs as a bitmap in element order: 512 bytes, bit 1 for -1.
inline void draw_sign_bits(const Stream& s, uint64_t tile, uint8_t* bitmap) {
    uint32_t words[128];
    philox32(s, tile * 32, Domain::rademacher, words);
    const uint8_t* bytes = (const uint8_t*)words;  // [call][row], and the bitmap is [row][call]
    for (int row = 0; row < STRIPS_A_TILE; ++row)
        for (int call = 0; call < 32; ++call) bitmap[32 * row + call] = bytes[16 * call + row];
}

// c * (+1 or -1) for LANES elements from bit `at` of the strip's 32 bytes.
inline VecF signed_coefficient(const uint8_t* strip_bits, int at, VecU coefficient_bits) {
    uint32_t word;
    __builtin_memcpy(&word, strip_bits + (at / 32) * 4, 4);
    const VecU to_sign = splat(31u - uint32_t(at % 32)) - iota();
    return as_float(coefficient_bits ^ ((splat(word) << to_sign) & 0x80000000u));
}

typedef float Eight __attribute__((vector_size(32)));
typedef int32_t EightI __attribute__((vector_size(32)));

template <int S>
inline Eight butterfly(Eight t) {
    const Eight partner = __builtin_shufflevector(t, t, 0 ^ S, 1 ^ S, 2 ^ S, 3 ^ S, 4 ^ S, 5 ^ S,
                                                  6 ^ S, 7 ^ S);
    EightI minus;
    for (int l = 0; l < 8; ++l) minus[l] = l & S ? int32_t(0x80000000u) : 0;
    return partner + (Eight)((EightI)t ^ minus);
}

// A call's eight values: its sixteen-bit halves lie in memory in the order of the values.
inline void look_up(const uint32_t* words, float* out) {
    uint64_t w[2];
    __builtin_memcpy(w, words, 16);
    const auto t = [&](int m) { return gaussian_table[(w[m / 4] >> (16 * (m % 4) + 2)) & 2047]; };
    const Eight values = {t(0), t(1), t(2), t(3), t(4), t(5), t(6), t(7)};
    store(out, butterfly<4>(butterfly<2>(butterfly<1>(values))));
}

// The 256 values of a strip. Plain loads: on a Zen 4 core the gather instruction takes 0.37 ns an
// element, these and the butterflies together 0.33, Philox 0.19.
inline void draw_gaussian(const Keys& keys, const Stream& s, uint64_t strip, float* out) {
    uint32_t words[128];
    philox32(keys, s, strip * 32, Domain::gaussian, words);
    for (int call = 0; call < 32; ++call) look_up(words + 4 * call, out + 8 * call);
}

inline void draw_rounding_bits(const Stream& s, uint64_t strip, uint16_t* random) {
    philox32(s, strip * 32, Domain::rounding, (uint32_t*)random);
}

}  // namespace zopro::cpu::ZOPRO_ISA
