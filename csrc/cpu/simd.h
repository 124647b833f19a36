// Vectors of the instruction set this file is compiled for.
// Compiler vector types, not intrinsics, so the same source serves AVX-512, AVX2, NEON and SSE2.
#pragma once

#include <utility>

#include "zopro/noise.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef ZOPRO_ISA
#error "compile with -DZOPRO_ISA=<name>"
#endif

namespace zopro::cpu::ZOPRO_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;  // SSE2, NEON; wider vectors would be shuffled through memory there
#endif
constexpr int STRIP = 256;         // elements of one drawing: 32 calls of eight values
constexpr int BLOCK = 4 * LANES;   // elements that stay in four registers from load to store
constexpr int CALLS = BLOCK / 8;   // of Philox for a block of Gaussians; one 64-bit lane each

typedef float VecF __attribute__((vector_size(4 * LANES)));
typedef uint32_t VecU __attribute__((vector_size(4 * LANES)));
typedef int32_t VecI __attribute__((vector_size(4 * LANES)));
typedef uint16_t VecH __attribute__((vector_size(2 * LANES)));
typedef float Row __attribute__((vector_size(32)));  // a Gaussian call's eight values

template <class V, class T>
inline V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof(V));
    return v;
}
template <class V, class T>
inline void store(T* p, V v) {
    __builtin_memcpy(p, &v, sizeof(V));
}
inline VecF as_float(VecU u) { return (VecF)u; }
inline VecU as_bits(VecF f) { return (VecU)f; }
inline VecF splat(float x) { return x - VecF{}; }
inline VecU splat(uint32_t x) { return x - VecU{}; }
template <class V, size_t... L, class Of>
inline V vector_of(std::index_sequence<L...>, Of of) {
    return V{of(L)...};
}
template <class V, class Of>
inline V vector_of(Of of) {  // of(lane) in each lane
    return vector_of<V>(std::make_index_sequence<LANES>(), of);
}
template <int FIRST, size_t... L>
inline VecF every_second(VecF a, VecF b, std::index_sequence<L...>) {
    return __builtin_shufflevector(a, b, int(2 * L + FIRST)...);
}
template <int FIRST>
inline VecF every_second(VecF a, VecF b) {  // lanes FIRST, FIRST + 2, ... of the row a, b
    return every_second<FIRST>(a, b, std::make_index_sequence<LANES>());
}
// a b + c where the product is exact, so that fusing it cannot change a bit.
inline Row multiply_add(Row a, Row b, Row c) {
#if defined(__FMA__)
    return (Row)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

}  // namespace zopro::cpu::ZOPRO_ISA
