// Noise of one strip of 256 elements, from the strip's 32 calls (gaussian) or from the bits that
// 32 calls give for a whole tile of 16 strips (rademacher); what is drawn takes 512 bytes.
#pragma once

#include "simd.h"

namespace zopro::cpu::ZOPRO_ISA {

constexpr int STRIPS_A_TILE = SIGN_TILE / STRIP;

// Which elements of a block its four vectors hold. In rows: LANES consecutive ones each. In pairs
// (bf16, two elements a word): even ones in vectors 0 and 2, odd ones in 1 and 3, as shifting the
// words leaves them, with nothing to pack or unpack.
template <bool PAIRED>
struct Order {
    static constexpr bool paired = PAIRED;
    static constexpr int stride = PAIRED ? 2 : 1;  // of elements from lane to lane
    static constexpr int first(int j) { return PAIRED ? j / 2 * 2 * LANES + j % 2 : j * LANES; }
    static void read(const float* p, VecF* x) {  // a block of fp32
        for (int j = 0; j < 4; ++j) x[j] = load<VecF>(p + j * LANES);
        if (!PAIRED) return;
        for (int j = 0; j < 4; j += 2) {
            const VecF a = x[j], b = x[j + 1];
            x[j] = every_second<0>(a, b);
            x[j + 1] = every_second<1>(a, b);
        }
    }
};

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

// ---- rademacher -------------------------------------------------------------------------------
typedef uint8_t Bytes __attribute__((vector_size(16)));
template <size_t... I>
inline void interleave(Bytes a, Bytes b, Bytes* out, std::index_sequence<I...>) {
    out[0] = __builtin_shufflevector(a, b, int(I / 2 + I % 2 * 16)...);
    out[1] = __builtin_shufflevector(a, b, int(8 + I / 2 + I % 2 * 16)...);
}

// The tile's signs as a bitmap in element order: 512 bytes, bit 1 for -1. The calls' bytes are
// [call][row], the bitmap's [row][call]: a transposition, sixteen calls at a time.
inline void draw_sign_bits(const Stream& s, uint64_t tile, uint8_t* bitmap) {
    uint32_t words[128];
    philox32(s, tile * 32, Domain::rademacher, words);
    for (int half = 0; half < 2; ++half) {
        Bytes rows[16], next[16];
        __builtin_memcpy(rows, words + 64 * half, sizeof rows);
        for (int turn = 0; turn < 4; ++turn) {  // each moves one bit of the index
            for (int i = 0; i < 8; ++i)
                interleave(rows[i], rows[i + 8], next + 2 * i, std::make_index_sequence<16>());
            for (int i = 0; i < 16; ++i) rows[i] = next[i];
        }
        for (int row = 0; row < 16; ++row) store(bitmap + 32 * row + 16 * half, rows[row]);
    }
}

// c * (+1 or -1) for the elements of vector j of a block whose signs begin at `bits`.
template <class O>
inline VecF signed_coefficient(const uint8_t* bits, int j, VecF coefficient) {
    uint32_t word = 0;
    __builtin_memcpy(&word, bits + O::first(j) / 32 * 4, BLOCK < 32 ? BLOCK / 8 : 4);
    const VecU to_sign =
        vector_of<VecU>([&](int l) { return uint32_t(31 - O::first(j) % 32 - O::stride * l); });
    return as_float(as_bits(coefficient) ^ ((splat(word) << to_sign) & 0x80000000u));
}

// ---- gaussian ---------------------------------------------------------------------------------
// The strip's places in the table, in bytes, 16 bits each in element order.
inline void draw_gaussian_places(const Stream& s, uint64_t strip, uint32_t* places) {
    constexpr uint32_t bits = (GAUSSIAN_TABLE_SIZE - 1) * sizeof(float);
    philox32(s, strip * 32, Domain::gaussian, places, bits | bits << 16);
}

template <int S, class O>
inline void butterfly(VecF* t) {
    constexpr int lanes = S / O::stride;  // 0: the partners lie in the same lanes of vectors 0 and 1
    if (lanes > 0 && lanes < LANES) {
        const VecF sign = vector_of<VecF>([](int l) { return l & lanes ? -1.0f : 1.0f; });
        for (int j = 0; j < 4; ++j)
            t[j] = multiply_add(t[j], sign, partners<lanes % LANES>(t[j]));
        return;
    }
    constexpr int stride = lanes ? O::stride * (lanes / LANES) : 1;
    for (int j = 0; j < 4; ++j) {
        if (j & stride) continue;
        const VecF a = t[j], b = t[(j + stride) % 4];
        t[j] = a + b;
        t[(j + stride) % 4] = a - b;
    }
}

// The LANES values at at(lane). On a Zen 4 core, butterflies included, the gather instruction takes
// 0.56 ns an element, insertions 0.23, broadcasts under a mask 0.20.
template <class At>
inline VecF look_up(At at) {
#if defined(__AVX512VL__)
    const auto eight = [&](int from) {
        __m256 t = _mm256_broadcast_ss(at(from));
#pragma GCC unroll 8
        for (int l = 1; l < 8; ++l)
            t = _mm256_mask_broadcastss_ps(t, __mmask8(1 << l), _mm_load_ss(at(from + l)));
        return t;
    };
    return (VecF)_mm512_insertf32x8(_mm512_castps256_ps512(eight(0)), eight(8), 1);
#elif defined(__AVX2__)  // written out: left to itself GCC 12 loads all first and spills them
    const auto four = [&](int from) {
        __m128 t = _mm_load_ss(at(from));
        t = _mm_insert_ps(t, _mm_load_ss(at(from + 1)), 0x10);
        t = _mm_insert_ps(t, _mm_load_ss(at(from + 2)), 0x20);
        return _mm_insert_ps(t, _mm_load_ss(at(from + 3)), 0x30);
    };
    return (VecF)_mm256_set_m128(four(4), four(0));
#else
    return vector_of<VecF>([&](int l) { return *at(l); });
#endif
}

// The values of a block whose places begin at `places`.
template <class O>
inline void gaussian_values(const uint32_t* places, VecF* n) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        n[j] = look_up([&](int l) {
            const int e = O::first(j) + O::stride * l;
            const uint32_t place = e % 2 ? places[e / 2] >> 16 : places[e / 2] & 0xFFFFu;
            return (const float*)((const char*)gaussian_table + place);
        });
    }
    butterfly<1, O>(n);
    butterfly<2, O>(n);
    butterfly<4, O>(n);
}

// ---- both, and stochastic rounding ------------------------------------------------------------
// Adds c n of the block at element `at` of a strip; `drawn`: the strip's signs or its places.
template <bool GAUSSIAN, class O>
inline void add_block(VecF* x, float c, const uint8_t* drawn, int at) {
    VecF n[4];
    if (GAUSSIAN) gaussian_values<O>((const uint32_t*)drawn + at / 2, n);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j)
        x[j] += GAUSSIAN ? splat(c) * n[j] : signed_coefficient<O>(drawn + at / 8, j, splat(c));
}

inline void draw_rounding_bits(const Stream& s, uint64_t strip, uint16_t* random) {
    philox32(s, strip * 32, Domain::rounding, (uint32_t*)random);
}

}  // namespace zopro::cpu::ZOPRO_ISA
