// Reading prev and v as they are kept: fp32, bf16, or int8 with a scale for each strip.
#pragma once

#include "kernels.h"
#include "store.h"

namespace zopro::cpu::ZOPRO_ISA {

inline size_t kept_bytes(Dtype form) {  // an element
    return form == Dtype::fp32 ? 4 : form == Dtype::bf16 ? 2 : 1;
}

// What one tensor has of it in a strip; `p` is null where it has none. The scale: of int8 alone.
struct Kept {
    const uint8_t* p = nullptr;
    float scale = 0;

    Kept() = default;
    // `first`: of the tensor's elements, the strip's first; `scales`: of its strips, or 0.
    Kept(uint64_t values, uint64_t scales, Dtype form, int64_t first, int64_t strip)
        : p((const uint8_t*)values + first * int64_t(kept_bytes(form))),
          scale(scales ? ((const float*)scales)[strip] : 0) {}
};

typedef int8_t VecB __attribute__((vector_size(LANES)));

inline VecF to_float(VecI x) { return __builtin_convertvector(x, VecF); }

// Reads the block of elements e .. e + BLOCK - 1 in the order Order<PAIRED>.
template <bool PAIRED>
inline void read_kept(Dtype form, const Kept& kept, int e, VecF* x) {
    if (form == Dtype::fp32) {
        Order<PAIRED>::read((const float*)kept.p + e, x);
    } else if (form == Dtype::bf16) {
        const uint16_t* p = (const uint16_t*)kept.p + e;
        if (PAIRED) return Bf16::read(p, x);
        for (int j = 0; j < 4; ++j) x[j] = as_float(widen(p + j * LANES) << 16);
    } else {
        const uint8_t* p = kept.p + e;
        for (int j = 0; j < 4; j += PAIRED ? 2 : 1) {
            if (PAIRED) {  // a word of 16 bits has two neighbours
                const VecU words = widen((const uint16_t*)(p + j * LANES));
                x[j] = to_float(VecI(words << 24) >> 24) * kept.scale;
                x[j + 1] = to_float(VecI(words << 16) >> 24) * kept.scale;
            } else {
                const VecB bytes = load<VecB>(p + j * LANES);
                x[j] = to_float(__builtin_convertvector(bytes, VecI)) * kept.scale;
            }
        }
    }
}

}  // namespace zopro::cpu::ZOPRO_ISA
