// v.n and n.n of each tensor as integer sums (noise.h, "targeted directions").
#include "kept.h"
#include "tiles.h"

namespace zopro::cpu::ZOPRO_ISA {
namespace {

typedef uint64_t VecL __attribute__((vector_size(4 * LANES)));  // half as many lanes as VecF

// x truncated to int64, the lanes added to those of `sum`. |x| < 2^63.
inline void add_truncated(VecL& sum, VecF x) {
#if defined(__AVX512DQ__)
    const __m512 f = (__m512)x;
    sum += (VecL)_mm512_cvttps_epi64(_mm512_castps512_ps256(f));
    sum += (VecL)_mm512_cvttps_epi64(_mm512_extractf32x8_ps(f, 1));
#elif defined(__AVX2__)  // no such conversion: the mantissa shifted by the exponent; past 63 gives 0
    for (int half = 0; half < 2; ++half) {
        const __m128i bits = _mm256_extracti128_si256((__m256i)x, half);
        const VecL u = (VecL)_mm256_cvtepu32_epi64(bits);
        const VecL sign = (VecL)_mm256_cvtepi32_epi64(_mm_srai_epi32(bits, 31));
        const VecL mantissa = ((u & 0x7FFFFFu) | 0x800000u) << 39;
        const VecL count = 189u - ((u >> 23) & 255u);
        sum += ((VecL)_mm256_srlv_epi64((__m256i)mantissa, (__m256i)count) ^ sign) - sign;
    }
#else
    for (int l = 0; l < LANES; ++l) sum[0] += int64_t(x[l]);
#endif
}

inline int64_t total(VecL sum) {
    uint64_t all = 0;
    for (int l = 0; l < LANES / 2; ++l) all += sum[l];
    return int64_t(all);
}

struct Sums {
    VecL vn{}, nn{};  // nn: gaussian alone; signs have n n = 1

    template <bool GAUSSIAN>
    void add(const VecF* n, const VecF* v) {
        for (int j = 0; j < 4; ++j) {
            add_truncated(vn, v[j] * n[j] * DOT_VN_SCALE);
            if (!GAUSSIAN) continue;
            // Below 2^31, since |n| <= 10.21 (noise.h).
            const VecL squares = (VecL)__builtin_convertvector(n[j] * n[j] * DOT_NN_SCALE, VecI);
            nn += (squares & 0xFFFFFFFFu) + (squares >> 32);
        }
    }
};

// Adds products with the elements at `from`, of one strip.
template <bool GAUSSIAN>
inline void add_step(Sums& sums, const VecF* n, int vectors, Dtype form, const uint8_t* from,
                     float scale) {
    for (int j = 0; j < vectors; j += 4) {
        VecF x[4];
        read_kept<false>(form, from + j * LANES * kept_bytes(form), scale, x);
        sums.add<GAUSSIAN>(n + j, x);
    }
}

template <bool GAUSSIAN>
void add_tile(const NoiseDots& args, size_t t, uint64_t tile, int64_t* out) {
    using O = Order<false>;
    constexpr int STEP = GAUSSIAN ? UNIT : BLOCK, VECTORS = STEP / LANES;
    const Stream stream{args.seed, args.params[t], args.stream};
    const int64_t start = tile * SIGN_TILE, begin = args.offsets[t], end = begin + args.numels[t];
    const int64_t low = begin > start ? begin : start;
    const int64_t high = end < start + SIGN_TILE ? end : start + SIGN_TILE;
    const size_t size = kept_bytes(args.form);
    const uint8_t* v = (const uint8_t*)args.vectors[t] - begin * int64_t(size);
    const float* scales = args.scales[t] ? (const float*)args.scales[t] - begin / STRIP : nullptr;
    uint8_t signs[SIGN_TILE / 8];
    GaussianDraws draws;
    if (GAUSSIAN) draws.begin(stream, low / STEP * STEP);
    if (!GAUSSIAN) draw_sign_bits(stream, tile, signs);
    Sums sums;
    for (int64_t at = low / STEP * STEP; at < high; at += STEP) {
        VecF n[VECTORS] = {};
        if constexpr (GAUSSIAN)
            add_unit<O>(n, 1.0f, draws, at);
        else
            add_signs<O>(n, 1.0f, signs + (at - start) / 8);
        const float scale = scales ? scales[at / STRIP] : 0;
        if (at >= low && at + STEP <= high) {
            add_step<GAUSSIAN>(sums, n, VECTORS, args.form, v + at * size, scale);
            continue;
        }
        // Elements that the tensor does not cover count as v = n = 0.
        uint8_t part[4 * STEP] = {};
        float noise[STEP];
        memcpy(noise, n, sizeof noise);
        for (int i = 0; i < STEP; ++i) {
            if (at + i >= low && at + i < high)
                memcpy(part + i * size, v + (at + i) * size, size);
            else
                noise[i] = 0;
        }
        memcpy(n, noise, sizeof noise);
        add_step<GAUSSIAN>(sums, n, VECTORS, args.form, part, scale);
    }
    if (!GAUSSIAN) out[1] += (high - low) * int64_t(DOT_NN_SCALE);
    out[0] += total(sums.vn);
    out[1] += total(sums.nn);
}

}  // namespace

void noise_dots(const NoiseDots& args, const Tiles& tiles, int64_t* sums) {
    fill_gaussian_table();
    const size_t count = args.numels.size();
    for_each_tile(tiles, args.offsets, args.threads, [&](size_t t, uint64_t tile, int share) {
        int64_t* out = sums + 2 * (count * share + t);
        args.gaussian ? add_tile<true>(args, t, tile, out) : add_tile<false>(args, t, tile, out);
    });
}

}  // namespace zopro::cpu::ZOPRO_ISA
