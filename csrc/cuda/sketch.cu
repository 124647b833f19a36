// One pass that adds signed blocks to sums in shared memory: zopro/sketch.h has the law.
//
// A block of 128 threads sums a chunk. Thread k has the sums k, 128 + k, ... all along and takes
// element k ^ r of each block of elements, so no thread reads what another stores, and blocks need no
// barrier between them. Calls are made 128 blocks at a time, one a thread.
#include "sketch.h"

#include "launch.h"
#include "row.cuh"

#if !defined(ZOPRO_DYNAMIC)  // the test on the host has its own
#define ZOPRO_DYNAMIC(name) extern __shared__ float name[]
#endif

namespace zopro::cuda {

namespace {

constexpr int THREADS = SKETCH_BLOCK, AT_ONCE = 128, BATCH = 8;
constexpr int STRIP = AT_ONCE * SKETCH_BLOCK;  // elements whose calls are made together

// The last tensor that begins at or before the chunk.
__device__ const int64_t* tensor_of(const Sketch& args, int64_t chunk) {
    int low = 0, high = args.count;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (args.table[middle * SKETCH_COLUMNS + CHUNKS_BEFORE] <= chunk)
            low = middle;
        else
            high = middle;
    }
    return args.table + low * SKETCH_COLUMNS;
}

// Adds BATCH blocks from element `at` on, whose words begin at `signs` and `places`; low and high
// bound the chunk's part of the tensor. All are read before any is added.
template <class T>
__device__ __forceinline__ void add_blocks(float* sums, const T* x, int64_t at, int64_t low,
                                           int64_t high, const uint32_t* signs,
                                           const uint32_t* places, uint32_t buckets) {
    const uint32_t k = threadIdx.x;
    float value[BATCH];
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
        const uint32_t inside = k ^ sketch_order(places[b]);
        const int64_t i = at + b * SKETCH_BLOCK + inside;
        const float found = i >= low && i < high ? widen(x[i]) : 0.0f;
        const uint32_t sign = signs[4 * b + (inside >> 5)] << (31 - (inside & 31)) & 0x80000000u;
        value[b] = bits_float(float_bits(found) ^ sign);
    }
#pragma unroll
    for (int b = 0; b < BATCH; ++b) {
        float* to = sums + SKETCH_BLOCK * sketch_bucket(places[b], buckets) + k;
        *to = __fadd_rn(*to, value[b]);
    }
}

template <class T>
__global__ void __launch_bounds__(THREADS) sketch_chunk(const Sketch args) {
    ZOPRO_DYNAMIC(sums);
    __shared__ uint32_t signs[4 * AT_ONCE], places[AT_ONCE];
    const int k = int(threadIdx.x);
    for (int j = k; j < args.dim; j += THREADS) sums[j] = 0.0f;
    const int64_t chunk = args.first + blockIdx.x;
    const int64_t* row = tensor_of(args, chunk);
    const int64_t begin = row[OFFSET], end = begin + row[NUMEL];
    const int64_t start = (begin / SKETCH_CHUNK + chunk - row[CHUNKS_BEFORE]) * SKETCH_CHUNK;
    const int64_t low = begin > start ? begin : start;
    const int64_t high = end < start + SKETCH_CHUNK ? end : start + SKETCH_CHUNK;
    const Stream stream{args.seed, uint32_t(row[PARAM]), args.stream};
    const T* x = reinterpret_cast<const T*>(row[ADDRESS]) - begin;
    for (int64_t strip = low / STRIP * STRIP; strip < high; strip += STRIP) {
        __syncthreads();  // the former words have been read
        const Words own = random_words(stream, uint64_t(strip / SKETCH_BLOCK + k), Domain::sketch_sign);
        for (int w = 0; w < 4; ++w) signs[4 * k + w] = own.w[w];
        if (k < AT_ONCE / 4) {
            const uint64_t call = uint64_t(strip / (4 * SKETCH_BLOCK) + k);
            const Words four = random_words(stream, call, Domain::sketch_place);
            for (int w = 0; w < 4; ++w) places[4 * k + w] = four.w[w];
        }
        __syncthreads();
#pragma unroll 1
        for (int b = 0; b < AT_ONCE; b += BATCH) {
            const int64_t at = strip + b * SKETCH_BLOCK;
            if (at + BATCH * SKETCH_BLOCK <= low || at >= high) continue;
            add_blocks(sums, x, at, low, high, signs + 4 * b, places + b,
                       uint32_t(args.dim / SKETCH_BLOCK));
        }
    }
    float* out = args.sums + int64_t(blockIdx.x) * args.dim;
    for (int j = k; j < args.dim; j += THREADS) out[j] = sums[j];
}

// A thread has one number of all chunks.
__global__ void __launch_bounds__(THREADS) add_sketches(const Sketch args) {
    const int column = int(blockIdx.x * THREADS + threadIdx.x);
    for (int c = 0; c < args.chunks; ++c) {
        const int64_t row = tensor_of(args, args.first + c)[RESULT];
        args.out[row * args.dim + column] += double(args.sums[int64_t(c) * args.dim + column]);
    }
}

template <class Kernel>
void start(Kernel kernel, const Sketch& args, int blocks, size_t shared, cudaStream_t stream) {
    void* parameters[] = {const_cast<Sketch*>(&args)};
    const void* address = reinterpret_cast<const void*>(kernel);
    if (shared > 48 << 10)
        check(cudaFuncSetAttribute(address, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)),
              "cudaFuncSetAttribute");
    check(cudaLaunchKernel(address, dim3(unsigned(blocks)), dim3(THREADS), parameters, shared, stream),
          "cudaLaunchKernel");
}

}  // namespace

void sketch(const Sketch& args, Dtype dtype, cudaStream_t stream) {
    if (args.chunks == 0) return;
    const size_t shared = args.dim * sizeof(float);
    switch (dtype) {
        case Dtype::bf16: start(sketch_chunk<bf16>, args, args.chunks, shared, stream); break;
        case Dtype::fp16: start(sketch_chunk<fp16>, args, args.chunks, shared, stream); break;
        default: start(sketch_chunk<float>, args, args.chunks, shared, stream);
    }
    start(add_sketches, args, args.dim / THREADS, 0, stream);
}

}  // namespace zopro::cuda
