// The reduction v.n and n.n in fixed point: integer sums have no order, so warps add as they come.
//
// A warp takes a tile of 4,096 elements of a vector (fp32, bf16 or int8 with scales) and walks on by the number of warps in
// the grid; it keeps its sums until the vector changes.
#include "kernels.h"
#include "launch.h"
#include "work.cuh"

namespace zopro::cuda {

namespace {

constexpr int THREADS = 256, BATCH = 4;

// Whose places the lanes take (row.cuh): wide accesses for each form, and of 16 bits or fewer the
// lanes' own calls.
template <class C>
using Layout = std::conditional_t<sizeof(C) == 4, float, bf16>;

struct Sums {
    int64_t vn = 0, nn = 0;
};

// Truncates toward zero; the product is rounded to fp32 first, the scaling is exact.
__device__ __forceinline__ int64_t fixed(float product, float scale) {
    return int64_t(__fmul_rn(product, scale));
}

__device__ void flush(const Arguments& args, int t, Sums& sums, int lane, bool gaussian) {
    for (int distance = 16; distance > 0; distance /= 2) {
        sums.vn += __shfl_xor_sync(ALL, sums.vn, distance);
        sums.nn += __shfl_xor_sync(ALL, sums.nn, distance);
    }
    if (lane == 0) {
        auto* out = reinterpret_cast<unsigned long long*>(args.sums + 2 * int64_t(t));
        atomicAdd(out, (unsigned long long)sums.vn);
        if (gaussian) atomicAdd(out + 1, (unsigned long long)sums.nn);
    }
    sums = Sums{};
}

// Eight products of a lane; `inside`: bit m says that value m belongs to the vector.
template <bool GAUSSIAN>
__device__ __forceinline__ void add_row(Sums& sums, const float* x, const float* n, unsigned inside) {
#pragma unroll
    for (int m = 0; m < 8; ++m) {
        if (!(inside >> m & 1)) continue;
        sums.vn += fixed(__fmul_rn(x[m], n[m]), DOT_VN_SCALE);
        if (GAUSSIAN) sums.nn += fixed(__fmul_rn(n[m], n[m]), DOT_NN_SCALE);
    }
}

template <bool GAUSSIAN, class C>
__device__ __forceinline__ void noise_of_row(const Stream& s, const Chunk& chunk, const Words& signs,
                                             int row, int lane, const float* normals, float* n) {
    if constexpr (GAUSSIAN) {
        gaussian_row<Layout<C>>(s, chunk.tile, row, lane, normals, n);
    } else {
        const uint32_t word = row & 8 ? (row & 4 ? signs.w[3] : signs.w[2])
                                      : (row & 4 ? signs.w[1] : signs.w[0]);
#pragma unroll
        for (int m = 0; m < 8; ++m)
            n[m] = signed_coefficient(1.0f, word >> (8 * (row & 3)), m);
    }
}

template <bool GAUSSIAN, class C>
__device__ __forceinline__ void whole_tile(Sums& sums, const Arguments& args, const Stream& s,
                                           const Chunk& chunk, const Words& signs, int lane,
                                           const float* normals) {
    const C* v = chunk.address<const C>(0);
    const float* scales = scales_of<C>(args, chunk, 0);
#pragma unroll 1
    for (int first = 0; first < ROWS; first += BATCH) {
        Kept<C> kept[BATCH];
        float scale[BATCH] = {};
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
            kept[r] = load_kept<Layout<C>>(v + (first + r) * ROW, lane);
            if constexpr (sizeof(C) == 1) scale[r] = scales[first + r];
        }
#pragma unroll
        for (int r = 0; r < BATCH; ++r) {
            float n[8], x[8];
            noise_of_row<GAUSSIAN, C>(s, chunk, signs, first + r, lane, normals, n);
#pragma unroll
            for (int m = 0; m < 8; ++m) x[m] = value(kept[r], m, scale[r]);
            add_row<GAUSSIAN>(sums, x, n, 0xFFu);
        }
    }
}

template <bool GAUSSIAN, class C>
__device__ void edge_tile(Sums& sums, const Arguments& args, const Stream& s, const Chunk& chunk,
                          const Words& signs, int lane, const float* normals) {
    const C* v = chunk.address<const C>(0);
    const float* scales = scales_of<C>(args, chunk, 0);
#pragma unroll 1
    for (int row = 0; row < ROWS; ++row) {
        const int64_t start = chunk.start + row * ROW, left = chunk.numel() - start;
        if (left <= 0 || start <= -ROW) continue;  // nothing of the vector
        float n[8], x[8];
        unsigned inside = 0;
        float scale = 0.0f;
        if constexpr (sizeof(C) == 1) scale = scales[row];
        noise_of_row<GAUSSIAN, C>(s, chunk, signs, row, lane, normals, n);
#pragma unroll
        for (int m = 0; m < 8; ++m) {
            const int at = place<Layout<C>>(lane, m);
            const bool here = start + at >= 0 && at < left;
            x[m] = here ? value(v[row * ROW + at], scale) : 0.0f;
            inside |= unsigned(here) << m;
        }
        add_row<GAUSSIAN>(sums, x, n, inside);
    }
}

template <bool GAUSSIAN, class C>
__global__ void __launch_bounds__(THREADS, 2) noise_dots_kernel(const Arguments args) {
    __shared__ float normals[GAUSSIAN ? GAUSSIAN_TABLE_SIZE : 1];
    if constexpr (GAUSSIAN) load_normals(normals);
    const int lane = threadIdx.x % 32, warps = gridDim.x * (blockDim.x / 32);
    int t = 0;
    Sums sums;
#pragma unroll 1
    for (int64_t c = (blockIdx.x * blockDim.x + threadIdx.x) / 32; c < args.chunks; c += warps) {
        const Chunk chunk = locate(args, c, t);
        if (chunk.t != t) flush(args, t, sums, lane, GAUSSIAN);
        t = chunk.t;
        const Stream s = noise_stream(args, 0, chunk.param());
        Words signs{};
        if constexpr (!GAUSSIAN) signs = sign_words<Layout<C>>(s, chunk.tile, lane);
        if (chunk.whole())
            whole_tile<GAUSSIAN, C>(sums, args, s, chunk, signs, lane, normals);
        else
            edge_tile<GAUSSIAN, C>(sums, args, s, chunk, signs, lane, normals);
    }
    flush(args, t, sums, lane, GAUSSIAN);
}

template <class C>
void run(const Arguments& args, bool gaussian, cudaStream_t stream) {
    if (gaussian)
        launch<noise_dots_kernel<true, C>>(args, THREADS, stream);
    else
        launch<noise_dots_kernel<false, C>>(args, THREADS, stream);
}

}  // namespace

void noise_dots(const Arguments& args, bool gaussian, cudaStream_t stream) {
    switch (args.form) {
        case Dtype::bf16: return run<bf16>(args, gaussian, stream);
        case Dtype::int8: return run<int8_t>(args, gaussian, stream);
        default: return run<float>(args, gaussian, stream);
    }
}

}  // namespace zopro::cuda
