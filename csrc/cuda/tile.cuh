// The forms of the pass, and what a warp adds to the rows of a tile that it holds.
//
// Products and sums are rounded separately, in the order written: the law's bits.
#pragma once

#include "kernels.h"
#include "work.cuh"

namespace zopro::cuda {

// one: K = 1 and nothing else, the usual pass; targeted: K = 1, prev and v; many: all the rest.
enum class Kind { one, targeted, many };

template <class Element, bool GAUSSIAN_, bool STOCHASTIC_, Kind KIND_, class Companion = float>
struct Form {
    using T = Element;
    using C = Companion;  // what prev and v are kept as: float, bf16 or int8_t
    static constexpr bool GAUSSIAN = GAUSSIAN_, STOCHASTIC = STOCHASTIC_;
    static constexpr Kind KIND = KIND_;
    // Rows whose loads are in flight together, at 16 bytes a lane and array at least. With many
    // seeds of signs all sixteen are held: one call a lane serves them all.
    static constexpr bool HOLD = KIND_ == Kind::many && !GAUSSIAN_;
    static constexpr bool SHORT = KIND_ == Kind::one && !GAUSSIAN_ && !STOCHASTIC_;
    static constexpr int BATCH = HOLD ? 16 : KIND_ == Kind::one ? 4 : 2;
    static constexpr int STEP = HOLD ? 2 : BATCH;  // rows of prev and v in flight
    static constexpr int THREADS = HOLD ? 64 : 256;
    static constexpr int BLOCKS = HOLD ? 4 : SHORT ? 3 : 2;  // at once, without spilling
};

struct Scalars {
    float decay, prev, v, live;
    const float* coeffs;  // [K]
};

template <class F>
struct Tile {
    typename F::T* theta;  // of the tile's first element, as prev and v
    const typename F::C *prev, *v;
    const float *prev_scales, *v_scales;  // of its rows; int8 alone
    Scalars s;
    uint64_t number;
    Stream first, rounding;
    int lane;
};

template <class F>
__device__ __forceinline__ Tile<F> tile_of(const Arguments& args, const Chunk& chunk, int lane) {
    const float* s = args.floats + int64_t(chunk.t) * (4 + args.seeds);
    Tile<F> tile;
    tile.theta = chunk.address<typename F::T>(0);
    tile.prev = args.has_prev ? chunk.address<const typename F::C>(1) : nullptr;
    tile.v = args.has_v ? chunk.address<const typename F::C>(2) : nullptr;
    tile.prev_scales = args.has_prev ? scales_of<typename F::C>(args, chunk, 0) : nullptr;
    tile.v_scales = args.has_v ? scales_of<typename F::C>(args, chunk, 1) : nullptr;
    tile.s = Scalars{s[0], s[1], s[2], s[3], s + 4};
    tile.number = chunk.tile;
    tile.first = Stream{0, chunk.param(), 0};
    if (args.seeds) tile.first = noise_stream(args, 0, chunk.param());
    tile.rounding = Stream{uint64_t(args.integers[0]), chunk.param(), 0};
    tile.lane = lane;
    return tile;
}

template <int N>
__device__ __forceinline__ void add_scaled(float* acc, float c, const float* x) {
#pragma unroll
    for (int m = 0; m < N; ++m) acc[m] = __fadd_rn(acc[m], __fmul_rn(c, x[m]));
}

// Adds c * sign to BATCH rows, four a word; `BYTE`: of the word, where the first row's bits are.
template <int BATCH, int BYTE = 0>
__device__ __forceinline__ void add_signs(float (*acc)[8], float c, const uint32_t* words) {
#pragma unroll
    for (int r = 0; r < BATCH; ++r)
#pragma unroll
        for (int m = 0; m < 8; ++m)
            acc[r][m] = __fadd_rn(
                acc[r][m], signed_coefficient(c, words[r >> 2], 8 * ((r + BYTE) & 3) + m));
}

// Brings the next batch's bits to the bottom of the first word.
template <int BATCH>
__device__ __forceinline__ void next_signs(Words& words, int row) {
    if (BATCH == 2 && !(row & 2)) {
        words.w[0] >>= 16;
        return;
    }
    words = Words{{words.w[1], words.w[2], words.w[3], 0}};
}

// Adds c * x for some rows of a companion; all of them are loaded first.
template <class F>
__device__ __forceinline__ void add_companion(float (*acc)[8], float c, const typename F::C* x,
                                              const float* scales, int lane) {
    Kept<typename F::C> rows[F::STEP];
    float scale[F::STEP] = {};
#pragma unroll
    for (int r = 0; r < F::STEP; ++r) {
        rows[r] = load_kept<typename F::T>(x + r * ROW, lane);
        if constexpr (sizeof(typename F::C) == 1) scale[r] = scales[r];
    }
#pragma unroll
    for (int r = 0; r < F::STEP; ++r) {
        float values[8];
#pragma unroll
        for (int m = 0; m < 8; ++m) values[m] = value(rows[r], m, scale[r]);
        add_scaled<8>(acc[r], c, values);
    }
}

// ---- rows of which the tensor covers a part -----------------------------------------------------
// The word that holds the row's signs, brought to the bottom.
__device__ __forceinline__ uint32_t word_of_row(const Words& w, int row) {
    const uint32_t word = row & 8 ? row & 4 ? w.w[3] : w.w[2] : row & 4 ? w.w[1] : w.w[0];
    return word >> (8 * (row & 3));
}

// Values of prev (which 0) or v (1), 0 outside.
template <class F, class Inside>
__device__ __forceinline__ void companion_in_part(const Tile<F>& tile, int which, int row, float* x,
                                                  Inside inside) {
    const typename F::C* base = which ? tile.v : tile.prev;
    float scale = 0.0f;
    if constexpr (sizeof(typename F::C) == 1)
        scale = (which ? tile.v_scales : tile.prev_scales)[row];
#pragma unroll
    for (int m = 0; m < 8; ++m) {
        const int at = place<typename F::T>(tile.lane, m);
        x[m] = inside(at) ? value(base[row * ROW + at], scale) : 0.0f;
    }
}

// ---- whole rows ---------------------------------------------------------------------------------
template <class F>
__device__ __forceinline__ void add_gaussians(const Arguments& args, const Tile<F>& tile, int row,
                                              const float* normals, float (*acc)[8]) {
    float n[8];
    if constexpr (F::KIND != Kind::many) {
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r) {
            gaussian_row<typename F::T>(tile.first, tile.number, row + r, tile.lane, normals, n);
            add_scaled<8>(acc[r], tile.s.coeffs[0], n);
        }
    } else {
#pragma unroll 1
        for (int k = 0; k < args.seeds; ++k) {
            const Stream from = noise_stream(args, k, tile.first.param);
            const float c = tile.s.coeffs[k];
#pragma unroll
            for (int r = 0; r < F::BATCH; ++r) {
                gaussian_row<typename F::T>(from, tile.number, row + r, tile.lane, normals, n);
                add_scaled<8>(acc[r], c, n);
            }
        }
    }
}

template <class F>
__device__ __forceinline__ void add_targets(const Tile<F>& tile, int row, float (*acc)[8]) {
    constexpr bool BOTH = F::KIND == Kind::targeted;
    if (!BOTH && !tile.prev && !tile.v) return;  // one test, not one for every STEP rows
#pragma unroll
    for (int r = 0; r < F::BATCH; r += F::STEP) {
        if (BOTH || tile.prev)
            add_companion<F>(acc + r, tile.s.prev, tile.prev + (row + r) * ROW,
                             tile.prev_scales + row + r, tile.lane);
        if (BOTH || tile.v)
            add_companion<F>(acc + r, tile.s.v, tile.v + (row + r) * ROW,
                             tile.v_scales + row + r, tile.lane);
    }
}

}  // namespace zopro::cuda
