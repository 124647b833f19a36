// Noise in registers: signs from a bitmap of the tile, Gaussians from a unit's words drawn ahead.
#pragma once

#include "philox.h"

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
[[maybe_unused]] static void fill_gaussian_table() {
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

// Adds c n of a block whose signs begin at `bits`.
template <class O>
inline void add_signs(VecF* x, float c, const uint8_t* bits) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        uint32_t word = 0;
        __builtin_memcpy(&word, bits + O::first(j) / 32 * 4, BLOCK < 32 ? BLOCK / 8 : 4);
        const VecU to_sign = vector_of<VecU>(
            [&](int l) { return uint32_t(31 - O::first(j) % 32 - O::stride * l); });
        x[j] += as_float(as_bits(splat(c)) ^ ((splat(word) << to_sign) & 0x80000000u));
    }
}

// ---- gaussian ---------------------------------------------------------------------------------
constexpr int UNIT = 2 * BLOCK;  // elements drawn at a time

// One seed's noise in a tile: the next unit's words are drawn while this one's values are looked up.
struct GaussianDraws {
    Source source;
    alignas(64) uint64_t words[2][UNIT / 4];  // of units of even and of odd number

    static uint64_t call(uint64_t element) { return element / 8; }
    uint64_t* words_of(uint64_t element) { return words[element / UNIT % 2]; }
    void begin(const Stream& s, uint64_t element) {  // the tile's first unit that is wanted
        source = Source(s, call(element), Domain::gaussian);
        draw_two_groups(source, call(element), words_of(element), [](int) {});
    }
};

// Column m of the Hadamard matrix in O's order of lanes, even elements before odd ones where O pairs. A
// constant: filled lane by lane it was stored and read back for every row where no register holds one.
template <class O, int M, size_t... L>
inline Row column(std::index_sequence<L...>) {
    return Row{((O::stride == 2 ? L % 4 * 2 + L / 4 : L) & M ? -1.0f : 1.0f)...};
}

// The values that the four halves of a pair of words pick, as a sum of columns of signs. Inlined, as
// what calls it: SSE2 and NEON would pass rows through memory (8 seeds fp32 6.2 ns a seed, not 1.8).
[[gnu::always_inline]] inline Row four_values(uint64_t pair, Row column1, Row column2) {
    const auto t = [&](int m) {
        return gaussian_table[pair >> (16 * m + 2) & (GAUSSIAN_TABLE_SIZE - 1)] - Row{};
    };
    const Row low = multiply_add(t(1), column1, t(0)), high = multiply_add(t(3), column1, t(2));
    return multiply_add(high, column2, low);
}

// The eight values of call `call` of a unit. n = sum_m t_m H_m with columns H_m of signs; H_3 = H_1 H_2
// and so on, which makes it a tree. All sums are exact, so these are hadamard8's bits.
template <class O>
[[gnu::always_inline]] inline Row gaussian_row(const uint64_t* words, int call) {
    constexpr auto all = std::make_index_sequence<8>();
    const Row column1 = column<O, 1>(all), column2 = column<O, 2>(all);
    const uint64_t* at = words + call / CALLS * 2 * CALLS + call % CALLS;
    const Row low = four_values(at[0], column1, column2);
    const Row high = four_values(at[CALLS], column1, column2);
    return multiply_add(high, column<O, 4>(all), low);
}

template <size_t... L>
inline VecF leading(Row a, Row b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int(L)...);
}
template <int FIRST, class V, size_t... L>
inline VecF every_second_four(V a, V b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int((L / 4 * 8 + L % 4 + 4 * FIRST) % (sizeof(V) / 2))...);
}

// The four vectors of a block from its rows.
template <class O>
inline void block_of_rows(const Row* rows, VecF* n) {
    constexpr auto all = std::make_index_sequence<LANES>();
    for (int j = 0; j < 4; j += 2) {
        if (LANES == 4) {
            n[j] = every_second_four<0>(rows[j / 2], rows[j / 2], all);
            n[j + 1] = every_second_four<1>(rows[j / 2], rows[j / 2], all);
            continue;
        }
        const Row* from = rows + j * LANES / 8;
        const VecF a = leading(from[0], from[1], all);
        const VecF b = leading(from[LANES / 8], from[LANES / 8 + LANES / 16], all);
        n[j] = O::stride == 2 ? every_second_four<0>(a, b, all) : a;
        n[j + 1] = O::stride == 2 ? every_second_four<1>(a, b, all) : b;
    }
}

// Adds c n of the unit at `element`, eight vectors, and draws the next unit's words: a round of
// Philox, which its multiplications bind, and then an eighth of the look-ups, which loads bind.
// A Zen 4 core takes 0.24 and 0.21 ns an element for one after the other, 0.27 for both so mixed.
template <class O>
[[gnu::always_inline]] inline void add_unit(VecF* x, float c, GaussianDraws& draws, uint64_t element) {
    const uint64_t* words = draws.words_of(element);
    Row rows[2 * CALLS];
    const uint64_t next = element + UNIT;
    // Without the attribute GCC calls eight copies of it: noise_dots 0.88 ns an element, not 0.52.
    const auto share = [&](int turn) __attribute__((always_inline)) {
#pragma GCC unroll 2
        for (int r = turn * CALLS / 4; r < (turn + 1) * CALLS / 4; ++r)
            rows[r] = gaussian_row<O>(words, r);
        if (turn % 4 != 3) return;
        const int block = turn / 4;
        VecF n[4];
        block_of_rows<O>(rows + CALLS * block, n);
        for (int j = 0; j < 4; ++j) x[4 * block + j] += splat(c) * n[j];
    };
    draw_two_groups(draws.source, draws.call(next), draws.words_of(next), share);
}

// The same for loops whose own values need the registers: inlined there, targeted passes take 0.58 ns
// an element in place of 0.47, plain ones 0.36 in place of 0.39.
template <class O>
[[gnu::noinline]] void add_unit_apart(VecF* x, float c, GaussianDraws& draws, uint64_t element) {
    add_unit<O>(x, c, draws, element);
}

// ---- stochastic rounding -----------------------------------------------------------------------
inline void draw_rounding_bits(const Stream& s, uint64_t strip, uint16_t* random) {
    philox32(s, strip * 32, Domain::rounding, (uint32_t*)random);
}

}  // namespace zopro::cpu::ZOPRO_ISA
