// Stands in for the CUDA runtime, so that csrc/cuda compiles with g++ and its kernels run on the
// host: every thread of a block is a fiber, and fibers take turns at each shuffle or barrier.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

struct Index {
    unsigned x = 0;
};
struct dim3 {
    unsigned x, y = 1, z = 1;
    explicit dim3(unsigned n) : x(n) {}
};
extern Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // blocks run one after the other
#define __launch_bounds__(...)
#define __isGlobal(pointer) true
#define __builtin_assume(condition) ((void)(condition))

void next_fiber();  // returns when every other thread of the block has had its turn
uint64_t& exchange_slot(unsigned thread);

inline void __syncthreads() { next_fiber(); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

template <class V>
V __shfl_sync(unsigned, V value, int lane) {
    const unsigned self = threadIdx.x;
    memcpy(&exchange_slot(self), &value, sizeof(V));
    next_fiber();
    V got;
    memcpy(&got, &exchange_slot(self / 32 * 32 + unsigned(lane) % 32), sizeof(V));
    next_fiber();
    return got;
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int distance) {
    return __shfl_sync(mask, value, int(threadIdx.x % 32) ^ distance);
}
template <class V>
void atomicAdd(V* to, V value) {
    *to += value;
}

#define ZOPRO_DYNAMIC(name) static float name[1 << 14]  // dynamic shared memory

enum cudaError_t { cudaSuccess };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
using cudaStream_t = void*;
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    return *value = 2, cudaSuccess;  // few blocks: warps walk over several chunks
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel, int, int) {
    return *blocks = 1, cudaSuccess;
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters, size_t,
                             cudaStream_t);
