// The CPU operations: arguments as plain structs, one entry point each, compiled once for every
// instruction set (simd.h) and chosen at run time (dispatch.cpp).
#pragma once

#include <cstdint>
#include <vector>

#include "tiles.h"

namespace zopro::cpu {

enum class Dtype : int { fp32 = 0, bf16 = 1, fp16 = 2, int8 = 3 };

// The scalars of one pass, as they lie in memory (zopro_kernels/passes.py): nothing is copied.
struct Record {
    const int64_t* integers;  // [1 + 2 K] rounding seed, seeds, streams
    const float* floats;      // rows of 4 + K: decay, prev_coeff, v_coeff, live, coeffs
    int64_t stride;           // from row to row; 0: one row for all tensors
    size_t seeds;             // K

    uint64_t rounding_seed() const { return uint64_t(integers[0]); }
    uint64_t seed(size_t k) const { return uint64_t(integers[1 + k]); }
    uint32_t stream(size_t k) const { return uint32_t(integers[1 + seeds + k]); }
    const float* row(int64_t tensor) const { return floats + stride * tensor; }
    bool live(int64_t tensor) const { return row(tensor)[3] != 0.0f; }  // else nothing is written
};

struct AddNoise {  // T of the tensors that the records speak of
    std::vector<Record> records;    // of the passes, one after the other
    std::vector<int64_t> rows;      // [T] which of the records' rows is a tensor's
    std::vector<uint64_t> theta;    // [T] addresses, written in place; elements of type `dtype`
    std::vector<uint64_t> prev, v;  // [T] addresses of elements of type `form`, or empty
    std::vector<uint64_t> prev_scales, v_scales;  // [T] addresses of fp32; 0 unless int8
    std::vector<int64_t> numels;    // [T]
    std::vector<int64_t> offsets;   // [T] global index of the first element
    std::vector<uint32_t> params;   // [T]
    Dtype dtype;
    Dtype form;  // of prev and v: fp32, bf16 or int8
    bool gaussian;
    bool stochastic;
    int threads;
};

struct NoiseDots {
    std::vector<uint64_t> vectors;  // [T] addresses of elements of type `form`
    std::vector<uint64_t> scales;   // [T] addresses of fp32; 0 unless int8
    Dtype form;
    std::vector<int64_t> numels, offsets;
    std::vector<uint32_t> params;
    uint64_t seed;
    uint32_t stream;
    bool gaussian;
    int threads;
};

// Bytes of working memory that add_noise needs for each thread and seed, on cache lines: the signs of
// a tile, or two units of a Gaussian's words and what their drawing shares.
constexpr int64_t DRAWN_BYTES = SIGN_TILE / 8 + 128;

void add_noise(const AddNoise& args);
// Sums of [T, 2]: v.n in units of 2^-40, n.n in units of 2^-24.
std::vector<int64_t> noise_dots(const NoiseDots& args);
const char* instruction_set();  // what the run-time dispatch chose

// The same, compiled for one instruction set. These files may emit no function that another file
// could also emit (an inline std:: function, say): the linker keeps one copy of such a function,
// and the copy made of wide instructions would then run on a processor that lacks them. So they
// allocate nothing and take what they need from the caller; tests/kernels/test_cpu.py looks.
#define ZOPRO_DECLARE(isa)                                                                   \
    namespace isa {                                                                          \
    /* scratch: `share` bytes a thread */                                                    \
    void add_noise(const AddNoise& args, const Tiles& tiles, uint8_t* scratch, size_t share); \
    void noise_dots(const NoiseDots& args, const Tiles& tiles, int64_t* sums /* [threads, T, 2] */); \
    }
ZOPRO_DECLARE(baseline)
ZOPRO_DECLARE(avx2)
ZOPRO_DECLARE(avx512)
#undef ZOPRO_DECLARE

}  // namespace zopro::cpu
