// Many perturbed copies of one tensor: out_k <- theta + c_k n_k + a_k prev + b_k v.
#pragma once

#include "kernels.h"

namespace zopro::cpu {

struct Perturbed {
    uint64_t theta;  // address; read
    uint64_t out;    // address of [K, numel]; written
    int64_t numel, offset, count;  // count: K
    uint32_t param;
    const int64_t* integers;  // [K, 4] a Record's of one seed, and the row of prev
    const float* floats;      // [K, 5] a Record's; where its `live` is 0, a plain copy
    uint64_t prev, prev_scales;  // addresses of [R, numel] of type `form`, or 0; scales of int8 (R = 1)
    uint64_t v, v_scales;        // [numel]
    Dtype dtype, form;
    bool gaussian, stochastic;
    int threads;
};

// Each copy has the bits that add_noise would leave in one: it is add_noise that works on them.
void perturbed(const Perturbed& args);

}  // namespace zopro::cpu
