// Reading prev and v as they are kept: fp32, bf16, or int8 with a scale for each strip.
#pragma once

#include "kernels.h"
#include "store.h"

namespace zopro::cpu::ZOPRO_ISA {

inline size_t kept_bytes(Dtype form) {  // an element
    return form == Dtype::fp32 ? 4 : form == Dtype::bf16 ? 2 : 1;
}

// A tensor's elements from one on, and the scales of its strips (int8, else null) from that one's on;
// `values` is null where there are none.
struct Kept {
    const uint8_t* values = nullptr;
    const float* scales = nullptr;

    Kept() = default;
    Kept(uint64_t of_values, uint64_t of_scales, Dtype form, int64_t element, int64_t strip)
        : values((const uint8_t*)of_values + element * int64_t(kept_bytes(form))),
          scales(of_scales ? (const float*)of_scales + strip : nullptr) {}
    float scale(int64_t strip) const { return scales ? scales[strip] : 0; }
};

// LANES bytes with their signs. GCC 12 makes a vector conversion from eight bits of many steps.
inline VecI signed_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
    return (VecI)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p));
#elif defined(__AVX2__)
    return (VecI)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p));
#else
    typedef int8_t VecB __attribute__((vector_size(LANES)));
    return __builtin_convertvector(load<VecB>(p), VecI);
#endif
}
inline VecF to_float(VecI x) { return __builtin_convertvector(x, VecF); }

// Reads a block at `from`, kept as C (float, uint16_t for bf16, or int8_t) in one strip, in the order
// Order<PAIRED>.
template <bool PAIRED, class C>
inline void read_kept(const uint8_t* from, float scale, VecF* x) {
    if constexpr (sizeof(C) == 4) {
        Order<PAIRED>::read((const float*)from, x);
    } else if constexpr (sizeof(C) == 2) {
        const uint16_t* p = (const uint16_t*)from;
        if (PAIRED) return Bf16::read(p, x);
        for (int j = 0; j < 4; ++j) x[j] = as_float(widen(p + j * LANES) << 16);
    } else {
        for (int j = 0; j < 4; j += PAIRED ? 2 : 1) {
            if (PAIRED) {  // a word of 16 bits has two neighbours
                const VecU words = widen((const uint16_t*)(from + j * LANES));
                x[j] = to_float(VecI(words << 24) >> 24) * scale;
                x[j + 1] = to_float(VecI(words << 16) >> 24) * scale;
            } else {
                x[j] = to_float(signed_bytes(from + j * LANES)) * scale;
            }
        }
    }
}
template <bool PAIRED>
inline void read_kept(Dtype form, const uint8_t* from, float scale, VecF* x) {
    if (form == Dtype::fp32) return read_kept<PAIRED, float>(from, scale, x);
    if (form == Dtype::bf16) return read_kept<PAIRED, uint16_t>(from, scale, x);
    read_kept<PAIRED, int8_t>(from, scale, x);
}

}  // namespace zopro::cpu::ZOPRO_ISA
