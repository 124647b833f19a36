// Reading and writing a strip of weights: conversion to fp32 and the one rounding at the store.
#pragma once

#include "draw.h"

namespace zopro::cpu::ZOPRO_ISA {

struct Fp32 {
    using type = float;
    using order = Order<false>;
    static void read(const float* p, VecF* x) { order::read(p, x); }
    static void write(float* p, const VecF* x, const uint16_t*) {
        for (int j = 0; j < 4; ++j) store(p + j * LANES, x[j]);
    }
};

inline void narrow_store(uint16_t* p, VecU x) { store(p, __builtin_convertvector(x, VecH)); }
inline VecU widen(const uint16_t* p) { return __builtin_convertvector(load<VecH>(p), VecU); }

struct Bf16 {
    using type = uint16_t;
    using order = Order<true>;
    static void read(const uint16_t* p, VecF* x) {
        for (int j = 0; j < 4; j += 2) {
            const VecU words = load<VecU>(p + j * LANES);
            x[j] = as_float(words << 16);
            x[j + 1] = as_float(words & 0xFFFF0000u);
        }
    }
    // random: null for rounding to nearest
    static void write(uint16_t* p, const VecF* x, const uint16_t* random) {
        for (int j = 0; j < 4; j += 2) {
            VecU even, odd;
            if (random) {
                const VecU bits = load<VecU>(random + j * LANES);
                even = up(x[j], bits & 0xFFFFu), odd = up(x[j + 1], bits >> 16);
            } else {
                even = nearest(x[j]), odd = nearest(x[j + 1]);
            }
            store(p + j * LANES, (even >> 16) | (odd & 0xFFFF0000u));
        }
    }

private:  // the result in the upper half, anything in the lower
    static VecU nearest(VecF x) {
        const VecU u = as_bits(x);
        return x == x ? u + 0x7FFFu + ((u >> 16) & 1u) : splat(0x7FFFFFFFu);
    }
    static VecU up(VecF x, VecU random) {
        const VecU u = as_bits(x), mag = u & 0x7FFFFFFFu;
        const VecU finite = mag < 0x7F800000u ? u + random : u;
        return x == x ? finite : splat(0x7FFFFFFFu);
    }
};

struct Fp16 {
    using type = uint16_t;
    using order = Order<false>;
    static void read(const uint16_t* p, VecF* x) {
        for (int j = 0; j < 4; ++j) x[j] = read(p + j * LANES);
    }
    static void write(uint16_t* p, const VecF* x, const uint16_t* random) {
        for (int j = 0; j < 4; ++j) {
            if (random)
                write(p + j * LANES, x[j], random + j * LANES);
            else
                write(p + j * LANES, x[j]);
        }
    }

private:
    static VecF read(const uint16_t* p) {
        VecF x;
#if defined(__AVX512F__)
        x = (VecF)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
        x = (VecF)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
        for (int l = 0; l < LANES; ++l) x[l] = fp16_to_float(p[l]);
#endif
        return x;
    }
    static void write(uint16_t* p, VecF x) {
#if defined(__AVX512F__) || defined(__F16C__)
        const VecU mag = as_bits(x) & 0x7FFFFFFFu;
#if defined(__AVX512F__)
        const __m256i h = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
        const __m128i h = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#endif
        const VecU rounded = __builtin_convertvector((VecH)h, VecU);
        narrow_store(p, mag > 0x7F800000u ? splat(0x7FFFu) : rounded);
#else
        for (int l = 0; l < LANES; ++l) p[l] = float_to_fp16(x[l]);
#endif
    }
    static void write(uint16_t* p, VecF x, const uint16_t* random) {
        const VecU u = as_bits(x), mag = u & 0x7FFFFFFFu, r = widen(random);
        const VecU k = 126u - (mag >> 23);  // as float_to_fp16_stochastic, every branch computed
        const VecU normal = ((mag + (r >> 3)) >> 13) - (112u << 10);
        const VecU m = (mag & 0x7FFFFFu) | 0x800000u;
        const VecU shifted = k >= 16u ? r << ((k - 16u) & 31u) : r >> ((16u - k) & 31u);
        const VecU small = k > 31u ? splat(0u) : (m + shifted) >> (k & 31u);
        const VecU up = ((u >> 16) & 0x8000u) | (mag >= (113u << 23) ? normal : small);
        const VecU infinity = ((u >> 16) & 0x8000u) | 0x7C00u;
        const VecU beyond = mag > 0x7F800000u ? splat(0x7FFFu) : infinity;
        narrow_store(p, mag >= (143u << 23) ? beyond : up);
    }
};

}  // namespace zopro::cpu::ZOPRO_ISA
