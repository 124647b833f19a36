// Inverse normal distribution: 31 uniform bits and a sign a value; the segment of the table is
// picked by the exponent and the leading bits of the uniform, the rest interpolates linearly.
// Table: 512 segments of (value, slope), 16 a binade of p = u / 2^32.
#include "common.cuh"

__device__ __forceinline__ float inverse(uint32_t word, const float2* table) {
    const float u = float((word << 1) | 1u);  // 2^32 p, rounded to 24 bits; never 0
    const uint32_t bits = zopro::float_bits(u), segment = (bits >> 19) - (127u << 4);
    const float fraction = zopro::bits_float(0x3F800000u | ((bits << 4) & 0x7FFFFFu));
    const float2 entry = table[segment];
    const float x = __fadd_rn(entry.x, __fmul_rn(entry.y, fraction));
    return zopro::bits_float(zopro::float_bits(x) ^ (word & 0x80000000u));
}

extern "C" __global__ void __launch_bounds__(256) candidate(const Job job) {
    __shared__ float table[1024];
    stage(job, table, 1024);
    run(job, [&](uint64_t g, float* n) {
        const float2* entries = reinterpret_cast<const float2*>(table);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const zopro::Words w = words(job, 2 * g + half);
#pragma unroll
            for (int m = 0; m < 4; ++m) n[4 * half + m] = inverse(w.w[m], entries);
        }
    });
}
