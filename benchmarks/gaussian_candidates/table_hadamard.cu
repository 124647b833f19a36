// The law: eight look-ups in a table of 2,048, mixed by an 8-point Hadamard transform.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(256) candidate(const Job job) {
    __shared__ float table[2048];
    stage(job, table, 2048);
    run(job, [&](uint64_t g, float* n) { zopro::gaussian8(words(job, g), table, n); });
}
