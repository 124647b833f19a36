// Box-Muller in fp32 without libm or fused multiply-add: log, sine and cosine by polynomials,
// a correctly rounded square root. Two words give two values. No table.
#include "common.cuh"

// One step of Horner, rounded twice.
__device__ __forceinline__ float step(float sum, float x, float coefficient) {
    return __fadd_rn(__fmul_rn(sum, x), coefficient);
}

__device__ __forceinline__ float minus_two_log(uint32_t word) {
    const float u = __fmul_rn(float((word >> 8) + 1), 1.0f / 16777216.0f);  // (0, 1]
    uint32_t bits = zopro::float_bits(u);
    const int exponent = int((bits - 0x3F3504F3u) >> 23) << 24 >> 24;  // mantissa near 1
    const float m = zopro::bits_float(bits - (uint32_t(exponent) << 23));
    const float t = __fadd_rn(m, -1.0f);
    // (log(1 + t) - t + t^2 / 2) / t^3 on [sqrt(1/2) - 1, sqrt(2) - 1], least squares: 3e-8.
    float p = step(0.08446179f, t, -0.140491f);
    p = step(p, t, 0.14903197f), p = step(p, t, -0.16603031f), p = step(p, t, 0.1996643f);
    p = step(p, t, -0.25000634f), p = step(p, t, 0.33333829f);
    const float t2 = __fmul_rn(t, t);
    const float log1 = __fadd_rn(t, __fmul_rn(t2, step(p, t, -0.5f)));
    return __fmul_rn(-2.0f, __fadd_rn(__fmul_rn(float(exponent), 0.69314718f), log1));
}

__device__ __forceinline__ void sine_cosine(uint32_t word, float& sine, float& cosine) {
    const int whole = int(word);  // the angle is word / 2^32 turns
    const int quarter = (whole + 0x20000000) >> 30;
    const float x = __fmul_rn(float(whole - (quarter << 30)), 1.4629180792671596e-9f);  // radians
    const float x2 = __fmul_rn(x, x);
    float s = step(-1.9515295891e-4f, x2, 8.3321608736e-3f);
    s = __fadd_rn(x, __fmul_rn(__fmul_rn(x, x2), step(s, x2, -1.6666654611e-1f)));
    float c = step(2.443315711809948e-5f, x2, -1.388731625493765e-3f);
    c = step(step(step(c, x2, 4.166664568298827e-2f), x2, -0.5f), x2, 1.0f);
    const bool swap = quarter & 1;
    const uint32_t turn_s = uint32_t(quarter & 2) << 30, turn_c = uint32_t((quarter + 1) & 2) << 30;
    sine = zopro::bits_float(zopro::float_bits(swap ? c : s) ^ turn_s);
    cosine = zopro::bits_float(zopro::float_bits(swap ? s : c) ^ turn_c);
}

extern "C" __global__ void __launch_bounds__(256) candidate(const Job job) {
    run(job, [&](uint64_t g, float* n) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const zopro::Words w = words(job, 2 * g + half);
#pragma unroll
            for (int m = 0; m < 4; m += 2) {
                float sine, cosine;
                sine_cosine(w.w[m + 1], sine, cosine);
                const float radius = __fsqrt_rn(minus_two_log(w.w[m]));
                n[4 * half + m] = __fmul_rn(radius, cosine);
                n[4 * half + m + 1] = __fmul_rn(radius, sine);
            }
        }
    });
}
