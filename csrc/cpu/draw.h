// Noise of one strip of 256 elements, from the strip's 32 calls (gaussian) or from the bits that
// 32 calls give for a whole tile of 16 strips (rademacher).
#pragma once

#include "simd.h"

namespace zopro::cpu::ZOPRO_ISA {

constexpr int STRIPS_A_TILE = SIGN_TILE / STRIP;

alignas(64) static float gaussian_table[GAUSSIAN_TABLE_SIZE];

// Called first by each operation, from one thread.
static void fill_gaussian_table() {
    static constexpr int32_t upper[] = {
#include "zopro/gaussian_table.inc"
    };
    constexpr int half = GAUSSIAN_TABLE_SIZE / 2;
    if (gaussian_table[half] != 0.0f) return;
    for (int j = half - 1; j >= 0; --j) {  // entry `half` last: it says that all are there
        gaussian_table[half - 1 - j] = float(upper[j]) * -GAUSSIAN_TABLE_UNIT;
        gaussian_table[half + j] = float(upper[j]) * GAUSSIAN_TABLE_UNIT;
    }
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

template <int STRIDE>
inline VecF butterfly(VecF t) {
    VecI partner;
    VecU minus;
    for (int l = 0; l < LANES; ++l) {
        partner[l] = l ^ STRIDE;
        minus[l] = l & STRIDE ? 0x80000000u : 0u;
    }
    return __builtin_shuffle(t, partner) + as_float(as_bits(t) ^ minus);
}

// The 256 values of a strip. A call's sixteen-bit halves lie in memory in the order of its values.
inline void draw_gaussian(const Stream& s, uint64_t strip, float* out) {
    uint32_t words[128];
    philox32(s, strip * 32, Domain::gaussian, words);
    // Four plain look-ups from each 64-bit word: 0.27 ns an element on a Zen 4 core where the
    // gather instruction takes 0.37.
    for (int q = 0; q < STRIP / 4; ++q) {
        uint64_t halves;
        __builtin_memcpy(&halves, words + 2 * q, 8);
        for (int m = 0; m < 4; ++m) out[4 * q + m] = gaussian_table[(halves >> (16 * m + 2)) & 2047];
    }
    for (int e = 0; e < STRIP; e += LANES)
        store(out + e, butterfly<4>(butterfly<2>(butterfly<1>(load<VecF>(out + e)))));
}

inline void draw_rounding_bits(const Stream& s, uint64_t strip, uint16_t* random) {
    philox32(s, strip * 32, Domain::rounding, (uint32_t*)random);
}

}  // namespace zopro::cpu::ZOPRO_ISA
