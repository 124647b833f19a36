// How prev and v are kept beside the weights: as fp32, bf16, or int8 with a scale for each row.
#pragma once

#include "row.cuh"

namespace zopro::cuda {

// Eight values of prev or v, kept as C (float, bf16 or int8_t), at the places of T's values.
template <class C>
struct Kept {
    uint32_t w[2 * sizeof(C)];
};
template <int WORDS>
struct alignas(4 * WORDS) Pack {
    uint32_t w[WORDS];
};
template <class T, class C>
__device__ __forceinline__ Kept<C> load_kept(const C* row, int lane) {
    constexpr int SIDE_BY_SIDE = (WIDE<T> ? 4 : 8) * sizeof(C) / 4;  // words
    constexpr int WORDS = SIDE_BY_SIDE < 4 ? SIDE_BY_SIDE : 4;
    Kept<C> out;
    __builtin_assume(__isGlobal(row));
#pragma unroll
    for (int w = 0; w < int(2 * sizeof(C)); w += WORDS) {
        const C* from = row + place<T>(lane, w * 4 / int(sizeof(C)));
        const auto pack = *reinterpret_cast<const Pack<WORDS>*>(from);
#pragma unroll
        for (int j = 0; j < WORDS; ++j) out.w[w + j] = pack.w[j];
    }
    return out;
}

// Byte b of a word, with its sign. As an unsigned byte in the mantissa of 2^23 it takes an exclusive
// or a word, a permutation and an exact subtraction: conversions have half the permutations' rate.
__device__ __forceinline__ float signed_byte(uint32_t word, int b) {
#if defined(__CUDA_ARCH__)
    return __fsub_rn(bits_float(__byte_perm(word ^ 0x80808080u, 0x4B000000u, 0x7440u | b)),
                     8388736.0f);  // 2^23 + 128
#else
    return float(int8_t(word >> (8 * b)));
#endif
}
// Value m as the pass counts it; `scale`: of the row, int8 alone.
template <class C>
__device__ __forceinline__ float value(const Kept<C>& kept, int m, float scale) {
    if constexpr (sizeof(C) == 4)
        return bits_float(kept.w[m]);
    else if constexpr (sizeof(C) == 2)
        return bits_float(m & 1 ? kept.w[m >> 1] & 0xFFFF0000u : kept.w[m >> 1] << 16);
    else
        return __fmul_rn(signed_byte(kept.w[m >> 2], m & 3), scale);
}
// One element.
template <class C>
__device__ __forceinline__ float value(C x, float scale) {
    if constexpr (sizeof(C) == 1)
        return __fmul_rn(float(x), scale);
    else
        return widen(x);
}

}  // namespace zopro::cuda
