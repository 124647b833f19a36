// v.n and n.n of each tensor as integer sums (noise.h, "targeted directions").
#include "draw.h"
#include "kernels.h"
#include "tiles.h"

namespace zopro::cpu::ZOPRO_ISA {
namespace {

void add_tile(const NoiseDots& args, size_t t, uint64_t tile, int64_t* sums) {
    const Stream stream{args.seed, args.params[t], args.stream};
    const int64_t begin = args.offsets[t], end = begin + args.numels[t];
    uint8_t bits[SIGN_BYTES];
    int64_t vn = 0, nn = 0;
    alignas(64) float n[STRIP];
    if (!args.gaussian) draw_sign_bits(stream, tile, bits);
    for (int row = 0; row < STRIPS_A_TILE; ++row) {
        const int64_t at = int64_t(tile * SIGN_TILE) + row * STRIP;
        const int64_t low = begin > at ? begin : at;
        const int64_t high = end < at + STRIP ? end : at + STRIP;
        if (low >= high) continue;
        if (args.gaussian) {
            draw_gaussian(Keys(args.seed), stream, at / STRIP, n);
        } else {
            for (int e = 0; e < STRIP; e += LANES)
                store(n + e, signed_coefficient(bits + 32 * row, e, as_bits(splat(1.0f))));
        }
        const float* v = (const float*)args.vectors[t] + (low - begin);
        const float* noise = n + (low - at);
        for (int64_t e = 0; e < high - low; ++e) {
            vn += int64_t(v[e] * noise[e] * DOT_VN_SCALE);
            nn += int64_t(noise[e] * noise[e] * DOT_NN_SCALE);
        }
    }
    sums[0] += vn;
    sums[1] += nn;
}

}  // namespace

void noise_dots(const NoiseDots& args, const Tiles& tiles, int64_t* sums) {
    fill_gaussian_table();
    const size_t count = args.numels.size();
    for_each_tile(tiles, args.offsets, args.threads, [&](size_t t, uint64_t tile, int share) {
        add_tile(args, t, tile, sums + 2 * (count * share + t));
    });
}

}  // namespace zopro::cpu::ZOPRO_ISA
