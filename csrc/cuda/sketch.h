// The sketch on CUDA devices: arguments as one plain struct, one launcher.
#pragma once

#include "kernels.h"
#include "zopro/sketch.h"

namespace zopro::cuda {

struct Sketch {  // pointers to device memory
    const int64_t* table;  // [T, SKETCH_COLUMNS], contiguous elements of the launch's dtype
    float* sums;           // [chunks, dim], written
    double* out;           // [G, dim], added to
    uint64_t seed;
    int64_t first;   // chunk that is this launch's first
    int32_t count;   // T
    int32_t chunks;  // of this launch
    int32_t dim;     // at most 16,384: what every device has shared memory for
    uint32_t stream;
};

// Adds chunks first .. first + chunks - 1 to `out`, in their order. Throws std::runtime_error.
void sketch(const Sketch& args, Dtype dtype, cudaStream_t stream);

}  // namespace zopro::cuda
