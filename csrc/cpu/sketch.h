// The sketch on the CPU: arguments, and one pass compiled for each instruction set.
#pragma once

#include "kernels.h"
#include "zopro/sketch.h"

namespace zopro::cpu {

struct Sketch {
    const int64_t* table;  // [T, SKETCH_COLUMNS], contiguous elements of type `dtype`
    int64_t count;         // T
    Dtype dtype;
    uint64_t seed;
    uint32_t stream;
    int64_t dim;
    double* out;  // [G, dim], added to
    int threads;
};

void sketch(const Sketch& args);

// Chunks from `first` on, `count` of them, each into its own sums, dim floats; then these
// are added to `out` in the order of the chunks. See kernels.h for what these files may emit.
#define ZOPRO_DECLARE(isa)                                                                \
    namespace isa {                                                                       \
    void sketch(const Sketch& args, int64_t first, int64_t count, int team, float* sums); \
    }
ZOPRO_DECLARE(baseline)
ZOPRO_DECLARE(avx2)
ZOPRO_DECLARE(avx512)
#undef ZOPRO_DECLARE

}  // namespace zopro::cpu
