// The pass: theta <- decay theta + sum_k c_k n_k (+ a prev + b v), in place, all tensors at once.
//
// A warp takes a tile of 4,096 elements, sixteen rows of 256, and walks on by the number of warps
// in the grid.
#include "kernels.h"
#include "launch.h"
#include "tile.cuh"

namespace zopro::cuda {

namespace {

// A tile that lies wholly in its tensor.
template <class F>
__device__ __forceinline__ void whole_tile(const Arguments& args, const Tile<F>& tile,
                                           const float* normals) {
    using T = typename F::T;
    Words signs{};
    if constexpr (!F::GAUSSIAN && !F::HOLD)
        signs = sign_words<T>(tile.first, tile.number, tile.lane);
#pragma unroll 1
    for (int row = 0; row < ROWS; row += F::BATCH) {
        Row<T> stored[F::BATCH];
        float acc[F::BATCH][8];
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r)
            stored[r] = load_row<T>(tile.theta + (row + r) * ROW, tile.lane);
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r)
#pragma unroll
            for (int m = 0; m < 8; ++m) acc[r][m] = __fmul_rn(tile.s.decay, value(stored[r], m));
        if constexpr (F::GAUSSIAN) {
            add_gaussians<F>(args, tile, row, normals, acc);
        } else if constexpr (F::HOLD) {
#pragma unroll 1
            for (int k = 0; k < args.seeds; ++k) {
                const Stream from = noise_stream(args, k, tile.first.param);
                const Words words = turned(sign_words<T>(from, tile.number, tile.lane));
                add_signs<F::BATCH, 1>(acc, tile.s.coeffs[k], words.w);
            }
        } else {
            add_signs<F::BATCH>(acc, tile.s.coeffs[0], signs.w);
            next_signs<F::BATCH>(signs, row);
        }
        if constexpr (F::KIND != Kind::one) add_targets<F>(tile, row, acc);
#pragma unroll
        for (int r = 0; r < F::BATCH; ++r) {
            Words random{};
            if constexpr (F::STOCHASTIC)
                random = random_words(tile.rounding, tile.number * 512 + (row + r) * 32 + tile.lane,
                                      Domain::rounding);
            store_row(tile.theta + (row + r) * ROW, tile.lane,
                      rounded<T, F::STOCHASTIC>(acc[r], random));
        }
    }
}

// A tile that sticks out of its tensor, or whose elements 16-byte accesses do not fit.
template <class F>
__device__ void edge_tile(const Arguments& args, const Tile<F>& tile, const Chunk& chunk,
                          const float* normals) {
    using T = typename F::T;
#pragma unroll 1
    for (int row = 0; row < ROWS; ++row) {
        const int64_t start = chunk.start + row * ROW, left = chunk.numel() - start;
        if (left <= 0 || start <= -ROW) continue;  // nothing of the tensor: adapters are small
        const auto inside = [&](int at) { return start + at >= 0 && at < left; };
        float acc[8], n[8], x[8];
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            const int at = place<T>(tile.lane, m);
            acc[m] = __fmul_rn(tile.s.decay, inside(at) ? widen(tile.theta[row * ROW + at]) : 0.0f);
        }
#pragma unroll 1
        for (int k = 0; k < args.seeds; ++k) {
            const Stream from = noise_stream(args, k, tile.first.param);
            const float c = tile.s.coeffs[k];
            if constexpr (F::GAUSSIAN) {
                gaussian_row<T>(from, tile.number, row, tile.lane, normals, n);
                add_scaled<8>(acc, c, n);
            } else {
                const uint32_t word = word_of_row(sign_words<T>(from, tile.number, tile.lane), row);
                add_signs<1>(&acc, c, &word);
            }
        }
#pragma unroll 1
        for (int which = 0; which < 2; ++which) {
            if (F::KIND == Kind::one || !(which ? tile.v : tile.prev)) continue;
            companion_in_part(tile, which, row, x, inside);
            add_scaled<8>(acc, which ? tile.s.v : tile.s.prev, x);
        }
        Words random{};
        if constexpr (F::STOCHASTIC)
            random = random_words(tile.rounding, tile.number * 512 + row * 32 + tile.lane,
                                  Domain::rounding);
        const Row<T> out = rounded<T, F::STOCHASTIC>(acc, random);
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            const int at = place<T>(tile.lane, m);
            if (inside(at)) tile.theta[row * ROW + at] = element(out, m);
        }
    }
}

template <class F>
__global__ void __launch_bounds__(F::THREADS, F::BLOCKS) add_noise_kernel(const Arguments args) {
    __shared__ float normals[F::GAUSSIAN ? GAUSSIAN_TABLE_SIZE : 1];
    if constexpr (F::GAUSSIAN) load_normals(normals);
    const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    int t = 0;
#pragma unroll 1
    for (int64_t c = (blockIdx.x * blockDim.x + threadIdx.x) / 32; c < args.chunks; c += warps) {
        const Chunk chunk = locate(args, c, t);
        t = chunk.t;
        const Tile<F> tile = tile_of<F>(args, chunk, lane);
        if (tile.s.live == 0.0f) continue;
        if (chunk.whole())
            whole_tile<F>(args, tile, normals);
        else
            edge_tile<F>(args, tile, chunk, normals);
    }
}

template <class F>
void run(const Arguments& args, cudaStream_t stream) {
    launch<add_noise_kernel<F>>(args, F::THREADS, stream);
}

template <class T, bool GAUSSIAN, bool STOCHASTIC, class C>
void run(const Arguments& args, cudaStream_t stream) {
    if (args.seeds == 1 && args.has_prev && args.has_v)
        run<Form<T, GAUSSIAN, STOCHASTIC, Kind::targeted, C>>(args, stream);
    else
        run<Form<T, GAUSSIAN, STOCHASTIC, Kind::many, C>>(args, stream);
}

template <class T, bool GAUSSIAN, bool STOCHASTIC>
void run(const Arguments& args, cudaStream_t stream) {
    if (args.seeds == 1 && !args.has_prev && !args.has_v)
        run<Form<T, GAUSSIAN, STOCHASTIC, Kind::one>>(args, stream);
    else if (args.form == Dtype::bf16)
        run<T, GAUSSIAN, STOCHASTIC, bf16>(args, stream);
    else if (args.form == Dtype::int8)
        run<T, GAUSSIAN, STOCHASTIC, int8_t>(args, stream);
    else
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

void add_noise(const Arguments& args, Dtype dtype, bool gaussian, bool stochastic,
               cudaStream_t stream) {
    switch (dtype) {
        case Dtype::fp32: return run<float>(args, gaussian, stochastic, stream);
        case Dtype::bf16: return run<bf16>(args, gaussian, stochastic, stream);
        case Dtype::fp16: return run<fp16>(args, gaussian, stochastic, stream);
        case Dtype::int8: return;  // no weights are
    }
}

}  // namespace zopro::cuda
