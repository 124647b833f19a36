// A bf16 in-place pass, theta <- decay theta + c n, of which only n differs between candidates.
// Eight consecutive elements a thread and turn: one 16-byte load and store.
#pragma once

#include <cstdint>

#include "../../csrc/include/zopro/noise.h"

struct Job {
    uint4* theta;        // [groups] of eight bf16
    const float* table;  // in device memory; each candidate says what it holds
    uint64_t groups, seed;
    float decay, c;
};

__device__ __forceinline__ zopro::Words words(const Job& job, uint64_t block) {
    return zopro::random_words({job.seed, 0, 0}, block, zopro::Domain::gaussian);
}

template <class Draw>
__device__ __forceinline__ void run(const Job& job, Draw draw) {
    const uint64_t stride = uint64_t(gridDim.x) * blockDim.x;
#pragma unroll 1
    for (uint64_t g = blockIdx.x * blockDim.x + threadIdx.x; g < job.groups; g += stride) {
        uint4 stored = job.theta[g];
        uint32_t* pair = &stored.x;
        float n[8];
        draw(g, n);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
            float low = zopro::bits_float(pair[q] << 16);
            float high = zopro::bits_float(pair[q] & 0xFFFF0000u);
            low = __fadd_rn(__fmul_rn(job.decay, low), __fmul_rn(job.c, n[2 * q]));
            high = __fadd_rn(__fmul_rn(job.decay, high), __fmul_rn(job.c, n[2 * q + 1]));
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair[q]) : "f"(high), "f"(low));
        }
        job.theta[g] = stored;
    }
}

// Copies the candidate's table to shared memory.
__device__ __forceinline__ void stage(const Job& job, float* shared, int size) {
    for (int i = threadIdx.x; i < size; i += blockDim.x) shared[i] = job.table[i];
    __syncthreads();
}
