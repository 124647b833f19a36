// The CUDA operations: arguments as one plain struct, one launcher an operation (host C++).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace zopro::cuda {

enum class Dtype : int { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3 };

// Arrays in device memory, so that a captured launch can be replayed with other values. Their
// layout is written down in zopro_kernels/table.py; chunks are of one tile (4,096 elements).
struct Arguments {
    const int64_t* table;     // [T, 8] descriptors
    const int64_t* scales;    // [T, 2] addresses of scales of prev (or the vector) and v; int8 alone
    const int64_t* integers;  // [1 + 2 K] rounding seed, seeds, streams
    const float* floats;      // [T, 4 + K] decay, prev_coeff, v_coeff, live (0: nothing of the
                              // tensor is written), coeffs; add_noise alone
    int64_t* sums;            // [T, 2] added to: v.n in 2^-40, n.n in 2^-24; noise_dots alone
    int64_t chunks;           // of all tensors
    int32_t count;            // T
    int32_t seeds;            // K; noise_dots: 1
    bool has_prev, has_v;
    Dtype form;  // of prev and v, or of the vectors: fp32, bf16 or int8
    // add_noise_sequence alone: integers and floats are those of all records, one after the other.
    const int64_t* records = nullptr;  // [R, 4] places of a record's first integer and float, K, 0
    int32_t number = 0;                // R
};

// Performs the pass on the tensors of the table, in place. Throws std::runtime_error.
void add_noise(const Arguments& args, Dtype dtype, bool gaussian, bool stochastic,
               cudaStream_t stream);
// Performs the passes of all records, in place, in one over the memory.
void add_noise_sequence(const Arguments& args, Dtype dtype, bool gaussian, bool stochastic,
                        cudaStream_t stream);
// v.n, and for gaussian n.n (of signs it is the number of elements), of vectors.
void noise_dots(const Arguments& args, bool gaussian, cudaStream_t stream);

}  // namespace zopro::cuda
