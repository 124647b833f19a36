// Many passes in one: a tile's weights stay in registers through all records, and each record's
// result is rounded to their dtype, as a pass would store it and the next one read it.
//
// A warp takes a tile of 4,096 elements and walks on by the number of warps in the grid.
#include "kernels.h"
#include "launch.h"
#include "tile.cuh"

namespace zopro::cuda {

namespace {

template <class T, bool GAUSSIAN, bool STOCHASTIC, class C>
struct SequenceForm : Form<T, GAUSSIAN, STOCHASTIC, Kind::many, C> {
    // Signs: sixteen rows at once, so that one call a lane serves them all, where the registers hold
    // them; else eight (sixteen spill: 40 bytes in fp32, 8 rounded stochastically).
    static constexpr bool EIGHT = !GAUSSIAN && (WIDE<T> || STOCHASTIC);
    static constexpr int BATCH = GAUSSIAN ? 2 : EIGHT ? 8 : 16;
    static constexpr int THREADS = GAUSSIAN ? 256 : 64;
    static constexpr int BLOCKS = GAUSSIAN ? 2 : 4;  // with twelve warps eight rows spill 16 bytes
};

// The record's own pass: its K, and where its scalars are.
__device__ __forceinline__ Arguments record_of(const Arguments& args, int r) {
    const int64_t* record = args.records + 4 * int64_t(r);
    Arguments own = args;
    own.integers += record[0];
    own.floats += record[1];
    own.seeds = int32_t(record[2]);
    return own;
}

// Rounds eight values and widens them again.
template <class F>
__device__ __forceinline__ void round_row(const Tile<F>& tile, int row, float* acc) {
    Words random{};
    if constexpr (F::STOCHASTIC)
        random = random_words(tile.rounding, tile.number * 512 + row * 32 + tile.lane,
                              Domain::rounding);
    const Row<typename F::T> out = rounded<typename F::T, F::STOCHASTIC>(acc, random);
#pragma unroll
    for (int m = 0; m < 8; ++m) acc[m] = value(out, m);
}

// One record on BATCH rows of a tile that lies wholly in its tensor.
template <class F>
__device__ __forceinline__ void apply(const Arguments& own, const Tile<F>& tile, int row,
                                      const float* normals, float (*acc)[8]) {
#pragma unroll
    for (int r = 0; r < F::BATCH; ++r)
#pragma unroll
        for (int m = 0; m < 8; ++m) acc[r][m] = __fmul_rn(tile.s.decay, acc[r][m]);
    if constexpr (F::GAUSSIAN) {
        add_gaussians<F>(own, tile, row, normals, acc);
    } else {
#pragma unroll 1
        for (int k = 0; k < own.seeds; ++k) {
            const Stream from = noise_stream(own, k, tile.first.param);
            Words words = turned(sign_words<typename F::T>(from, tile.number, tile.lane));
            if (F::EIGHT && row) words = Words{{words.w[2], words.w[3], 0, 0}};
            add_signs<F::BATCH, 1>(acc, tile.s.coeffs[k], words.w);
        }
    }
    add_targets<F>(tile, row, acc);
#pragma unroll
    for (int r = 0; r < F::BATCH; ++r) round_row(tile, row + r, acc[r]);
}

template <class F>
__device__ __forceinline__ void whole_tile(const Arguments& args, const Chunk& chunk, int lane,
                                           const float* normals) {
    using T = typename F::T;
    T* theta = chunk.address<T>(0);
#pragma unroll 1
    for (int row = 0; row < ROWS; row += F::BATCH) {
        float acc[F::BATCH][8];
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r) {
            const Row<T> stored = load_row<T>(theta + (row + r) * ROW, lane);
#pragma unroll
            for (int m = 0; m < 8; ++m) acc[r][m] = value(stored, m);
        }
        bool written = false;
#pragma unroll 1
        for (int r = 0; r < args.number; ++r) {
            const Arguments own = record_of(args, r);
            const Tile<F> tile = tile_of<F>(own, chunk, lane);
            if (tile.s.live == 0.0f) continue;
            apply<F>(own, tile, row, normals, acc);
            written = true;
        }
        if (!written) return;
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r)  // exact: the values have been rounded
            store_row(theta + (row + r) * ROW, lane, rounded<T, false>(acc[r], Words{}));
    }
}

// One record on a row of which the tensor covers a part; inside(place): what it covers.
template <class F, class Inside>
__device__ __forceinline__ void apply_in_part(const Arguments& own, const Tile<F>& tile, int row,
                                              const float* normals, float* acc, Inside inside) {
    using T = typename F::T;
    float n[8], x[8];
#pragma unroll
    for (int m = 0; m < 8; ++m) acc[m] = __fmul_rn(tile.s.decay, acc[m]);
#pragma unroll 1
    for (int k = 0; k < own.seeds; ++k) {
        const Stream from = noise_stream(own, k, tile.first.param);
        if constexpr (F::GAUSSIAN) {
            gaussian_row<T>(from, tile.number, row, tile.lane, normals, n);
            add_scaled<8>(acc, tile.s.coeffs[k], n);
        } else {
            const uint32_t word = word_of_row(sign_words<T>(from, tile.number, tile.lane), row);
            add_signs<1>(reinterpret_cast<float(*)[8]>(acc), tile.s.coeffs[k], &word);
        }
    }
#pragma unroll 1
    for (int which = 0; which < 2; ++which) {
        if (!(which ? tile.v : tile.prev)) continue;
        companion_in_part(tile, which, row, x, inside);
        add_scaled<8>(acc, which ? tile.s.v : tile.s.prev, x);
    }
    round_row(tile, row, acc);
}

// A tile that sticks out of its tensor, or whose elements 16-byte accesses do not fit.
template <class F>
__device__ void edge_tile(const Arguments& args, const Chunk& chunk, int lane,
                          const float* normals) {
    using T = typename F::T;
    T* theta = chunk.address<T>(0);
#pragma unroll 1
    for (int row = 0; row < ROWS; ++row) {
        const int64_t start = chunk.start + row * ROW, left = chunk.numel() - start;
        if (left <= 0 || start <= -ROW) continue;
        const auto inside = [&](int at) { return start + at >= 0 && at < left; };
        float acc[8];
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            const int at = place<T>(lane, m);
            acc[m] = inside(at) ? widen(theta[row * ROW + at]) : 0.0f;
        }
        bool written = false;
#pragma unroll 1
        for (int r = 0; r < args.number; ++r) {
            const Arguments own = record_of(args, r);
            const Tile<F> tile = tile_of<F>(own, chunk, lane);
            if (tile.s.live == 0.0f) continue;
            apply_in_part<F>(own, tile, row, normals, acc, inside);
            written = true;
        }
        if (!written) return;
        const Row<T> out = rounded<T, false>(acc, Words{});
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            const int at = place<T>(lane, m);
            if (inside(at)) theta[row * ROW + at] = element(out, m);
        }
    }
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS) sequence_kernel(const Arguments args) {
    __shared__ float normals[F::GAUSSIAN ? GAUSSIAN_TABLE_SIZE : 1];
    if constexpr (F::GAUSSIAN) load_normals(normals);
    const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    int t = 0;
#pragma unroll 1
    for (int64_t c = (blockIdx.x * blockDim.x + threadIdx.x) / 32; c < args.chunks; c += warps) {
        const Chunk chunk = locate(args, c, t);
        t = chunk.t;
        if (chunk.whole())
            whole_tile<F>(args, chunk, lane, normals);
        else
            edge_tile<F>(args, chunk, lane, normals);
    }
}

template <class T, bool GAUSSIAN, bool STOCHASTIC, class C>
void run(const Arguments& args, cudaStream_t stream) {
    using F = SequenceForm<T, GAUSSIAN, STOCHASTIC, C>;
    launch<sequence_kernel<F>>(args, F::THREADS, stream);
}

template <class T, bool GAUSSIAN, bool STOCHASTIC>
void run(const Arguments& args, cudaStream_t stream) {
    if (args.form == Dtype::bf16) return run<T, GAUSSIAN, STOCHASTIC, bf16>(args, stream);
    if (args.form == Dtype::int8) return run<T, GAUSSIAN, STOCHASTIC, int8_t>(args, stream);
    run<T, GAUSSIAN, STOCHASTIC, float>(args, stream);
}

template <class T>
void run(const Arguments& args, bool gaussian, bool stochastic, cudaStream_t stream) {
    if (stochastic && !WIDE<T>)  // fp32 is stored as it is
        gaussian ? run<T, true, !WIDE<T>>(args, stream) : run<T, false, !WIDE<T>>(args, stream);
    else
        gaussian ? run<T, true, false>(args, stream) : run<T, false, false>(args, stream);
}

}  // namespace

void add_noise_sequence(const Arguments& args, Dtype dtype, bool gaussian, bool stochastic,
                        cudaStream_t stream) {
    switch (dtype) {
        case Dtype::fp32: return run<float>(args, gaussian, stochastic, stream);
        case Dtype::bf16: return run<bf16>(args, gaussian, stochastic, stream);
        case Dtype::fp16: return run<fp16>(args, gaussian, stochastic, stream);
        case Dtype::int8: return;  // no weights are
    }
}

}  // namespace zopro::cuda
