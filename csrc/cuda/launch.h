// Return codes and grids, shared by the launchers.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace zopro::cuda {

inline void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess)
        throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}

// As many blocks as the device holds at once (fewer for little work): warps then walk the chunks.
template <auto KERNEL, class Args>
void launch(const Args& args, int threads, cudaStream_t stream) {
    if (args.chunks == 0) return;
    static thread_local int known_device = -1, resident = 0;  // of this kernel
    int device = 0;
    check(cudaGetDevice(&device), "cudaGetDevice");
    if (device != known_device) {
        int processors = 0, blocks = 0;
        check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
              "cudaDeviceGetAttribute");
        check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, KERNEL, threads, 0),
              "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
        resident = processors * std::max(blocks, 1), known_device = device;
    }
    const int64_t wanted = (args.chunks + threads / 32 - 1) / (threads / 32);
    void* parameters[] = {const_cast<Args*>(&args)};
    check(cudaLaunchKernel(reinterpret_cast<const void*>(KERNEL),
                           dim3(unsigned(std::min<int64_t>(wanted, resident))),
                           dim3(unsigned(threads)), parameters, 0, stream),
          "cudaLaunchKernel");
}

}  // namespace zopro::cuda
