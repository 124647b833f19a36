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

template <bool GAUSSIAN>
void add_tile(const NoiseDots& args, size_t t, uint64_t tile, int64_t* out) {
    using O = Order<false>;
    const Stream stream{args.seed, args.params[t], args.stream};
    const int64_t begin = args.offsets[t], end = begin + args.numels[t];
    const size_t size = kept_bytes(args.form);
    alignas(64) uint8_t drawn[DRAWN_BYTES];
    Sums sums;
    if (!GAUSSIAN) draw_sign_bits(stream, tile, drawn);
    for (int row = 0; row < STRIPS_A_TILE; ++row) {
        const int64_t at = int64_t(tile * SIGN_TILE) + row * STRIP;
        const int64_t low = begin > at ? begin : at;
        const int64_t high = end < at + STRIP ? end : at + STRIP;
        if (low >= high) continue;
        if (GAUSSIAN) draw_gaussian_places(stream, at / STRIP, (uint32_t*)drawn);
        const uint8_t* from = drawn + (GAUSSIAN ? 0 : 32 * row);
        const Kept v(args.vectors[t], args.scales[t], args.form, low - begin,
                     at / STRIP - begin / STRIP);
        // Elements of a block that the tensor does not cover count as v = n = 0.
        const int first = int(low - at), last = int(high - at);
        for (int e = first / BLOCK * BLOCK; e < last; e += BLOCK) {
            VecF n[4] = {};
            add_block<GAUSSIAN, O>(n, 1.0f, from, e);
            VecF x[4];
            if (e >= first && e + BLOCK <= last) {
                read_kept<O::paired>(args.form, v, e - first, x);
            } else {
                uint8_t part[4 * BLOCK] = {};
                float noise[BLOCK];
                memcpy(noise, n, sizeof noise);
                for (int i = 0; i < BLOCK; ++i) {
                    if (e + i >= first && e + i < last)
                        memcpy(part + i * size, v.p + (e + i - first) * size, size);
                    else
                        noise[i] = 0;
                }
                memcpy(n, noise, sizeof noise);
                Kept copy = v;
                copy.p = part;
                read_kept<O::paired>(args.form, copy, 0, x);
            }
            sums.add<GAUSSIAN>(n, x);
        }
        if (!GAUSSIAN) out[1] += (high - low) * int64_t(DOT_NN_SCALE);
    }
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
