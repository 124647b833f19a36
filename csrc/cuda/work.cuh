// What a kernel reads before it starts: the tensor that owns a chunk, and the Gaussian table.
#pragma once

#include "kernels.h"
#include "kept.cuh"

namespace zopro::cuda {

constexpr int COLUMNS = 8;  // of the table

struct Chunk {  // one tile of one tensor
    const int64_t* row;  // its descriptor
    int t;
    uint64_t tile;
    int64_t start;  // place in the tensor of the tile's first element; may lie before it

    __device__ int64_t numel() const { return row[3]; }
    __device__ uint32_t param() const { return uint32_t(row[5]); }
    __device__ bool whole() const {  // inside the tensor, and 16-byte accesses fit
        return row[7] != 0 && start >= 0 && start + SIGN_TILE <= row[3];
    }
    template <class T>
    __device__ T* address(int column) const {
        T* pointer = reinterpret_cast<T*>(row[column]) + start;
        __builtin_assume(__isGlobal(pointer));  // ld.global, not a generic load
        return pointer;
    }
};

// Where the scale of a tile's first row is, and the following ones; null for what has none.
template <class C>
__device__ __forceinline__ const float* scales_of(const Arguments& args, const Chunk& chunk,
                                                  int which) {
    if constexpr (sizeof(C) > 1) return nullptr;
    const float* scales = reinterpret_cast<const float*>(args.scales[2 * chunk.t + which]);
    scales += int64_t(chunk.tile) * ROWS - (chunk.row[4] >> 8);
    __builtin_assume(__isGlobal(scales));
    return scales;
}

// `from`: a tensor that begins at or before the chunk; a warp's chunks ascend.
__device__ __forceinline__ Chunk locate(const Arguments& args, int64_t chunk, int from) {
    int low = from, high = args.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        (args.table[int64_t(middle) * COLUMNS + 6] <= chunk ? low : high) = middle;
    }
    const int64_t* row = args.table + int64_t(low) * COLUMNS;
    const uint64_t tile = uint64_t(row[4] >> 12) + uint64_t(chunk - row[6]);
    return Chunk{row, low, tile, int64_t(tile) * SIGN_TILE - row[4]};
}

__device__ __forceinline__ Stream noise_stream(const Arguments& args, int k, uint32_t param) {
    return Stream{uint64_t(args.integers[1 + k]), param,
                  uint32_t(args.integers[1 + args.seeds + k])};
}

static __device__ const int32_t upper_half[GAUSSIAN_TABLE_SIZE / 2] = {
#include "zopro/gaussian_table.inc"
};

// Fills shared memory; the whole block calls it.
__device__ __forceinline__ void load_normals(float* normals) {
    constexpr int half = GAUSSIAN_TABLE_SIZE / 2;
    for (int j = threadIdx.x; j < half; j += blockDim.x) {
        const float x = float(upper_half[j]) * GAUSSIAN_TABLE_UNIT;
        normals[half + j] = x;
        normals[half - 1 - j] = -x;
    }
    __syncthreads();
}

}  // namespace zopro::cuda
