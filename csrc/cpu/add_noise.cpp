// theta <- decay theta + sum_k c_k n_k + a prev + b v, in place, for one instruction set.
#include "draw.h"
#include "kept.h"
#include "tiles.h"

namespace zopro::cpu::ZOPRO_ISA {
namespace {

template <class D, bool GAUSSIAN>
class Worker {
    using T = typename D::type;
    using O = typename D::order;
    const AddNoise& args;
    uint8_t* drawn;  // [K, DRAWN_BYTES] signs of the current tile, or places of the current strip

public:
    Worker(const AddNoise& a, uint8_t* scratch) : args(a), drawn(scratch) {}

    void tile(size_t t, uint64_t tile) {
        if (!GAUSSIAN)
            for (size_t k = 0; k < args.seeds.size(); ++k)
                draw_sign_bits(stream(t, k), tile, &drawn[DRAWN_BYTES * k]);
        const int64_t begin = args.offsets[t], end = begin + args.numels[t];
        for (int row = 0; row < STRIPS_A_TILE; ++row) {
            const int64_t at = int64_t(tile * SIGN_TILE) + row * STRIP;
            const int64_t low = begin > at ? begin : at;
            const int64_t high = end < at + STRIP ? end : at + STRIP;
            if (low >= high) continue;
            T* theta = (T*)args.theta[t] + (low - begin);
            const int64_t first = low - begin, strip_number = at / STRIP - begin / STRIP;
            Kept prev, v;
            if (!args.prev.empty())
                prev = {args.prev[t], args.prev_scales[t], args.form, first, strip_number};
            if (!args.v.empty()) v = {args.v[t], args.v_scales[t], args.form, first, strip_number};
            const size_t kept = STRIP * kept_bytes(args.form);
            fetch_ahead(theta, STRIP * sizeof(T), end - high);
            if (prev.p) fetch_ahead(prev.p, kept, end - high);
            if (v.p) fetch_ahead(v.p, kept, end - high);
            if (high - low == STRIP)
                strip(t, at / STRIP, row, theta, prev, v);
            else
                part(t, at / STRIP, row, int(low - at), int(high - low), theta, prev, v);
        }
    }

private:
    Stream stream(size_t t, size_t k) const {
        return {args.seeds[k], args.params[t], args.streams[k]};
    }

    // Brings the next strip into the cache while this one's noise is drawn: the drawing leaves the
    // memory idle, and the hardware does not look that far ahead.
    static void fetch_ahead(const void* strip, size_t bytes, int64_t left) {
        if (left < STRIP) return;
        for (size_t byte = 0; byte < bytes; byte += 64)
            __builtin_prefetch((const char*)strip + bytes + byte);
    }

    // A strip that the tensor covers only in part is worked on in a copy.
    void part(size_t t, uint64_t index, int row, int from, int count, T* theta, Kept prev,
              Kept v) {
        T whole[STRIP] = {};
        uint8_t prev_whole[4 * STRIP] = {}, v_whole[4 * STRIP] = {};
        const size_t size = kept_bytes(args.form);
        const auto copied = [&](Kept& kept, uint8_t* to) {
            if (!kept.p) return;
            memcpy(to + from * size, kept.p, count * size);
            kept.p = to;
        };
        memcpy(whole + from, theta, count * sizeof *theta);
        copied(prev, prev_whole);
        copied(v, v_whole);
        strip(t, index, row, whole, prev, v);
        memcpy(theta, whole + from, count * sizeof *theta);
    }

    // A block of elements stays in registers from its load to its store, whatever the terms.
    void strip(size_t t, uint64_t index, int row, T* theta, const Kept prev, const Kept v) {
        alignas(64) uint16_t bits[STRIP];
        const uint16_t* random = args.stochastic ? bits : nullptr;
        if (random) draw_rounding_bits({args.rounding_seed, args.params[t], 0}, index, bits);
        // Held here: the compiler has to believe that a store to theta changes what `this` shows.
        const size_t K = args.seeds.size();
        const float* coeffs = args.coeffs + t * K;
        const float decay = args.decay[t], a = args.prev_coeffs[t], b = args.v_coeffs[t];
        const Dtype form = args.form;
        const uint8_t* from = drawn + (GAUSSIAN ? 0 : 32 * row);
        if (GAUSSIAN)
            for (size_t k = 0; k < K; ++k)
                draw_gaussian_places(stream(t, k), index, (uint32_t*)(drawn + DRAWN_BYTES * k));
        for (int e = 0; e < STRIP; e += BLOCK) {
            VecF x[4];
            D::read(theta + e, x);
            for (int j = 0; j < 4; ++j) x[j] *= decay;
            for (size_t k = 0; k < K; ++k)
                add_block<GAUSSIAN, O>(x, coeffs[k], from + DRAWN_BYTES * k, e);
            if (prev.p) axpy(x, a, form, prev, e);
            if (v.p) axpy(x, b, form, v, e);
            D::write(theta + e, x, random ? random + e : nullptr);
        }
    }

    static void axpy(VecF* x, float a, Dtype form, const Kept& y, int e) {
        VecF z[4];
        read_kept<O::paired>(form, y, e, z);
        for (int j = 0; j < 4; ++j) x[j] += a * z[j];
    }
};

template <class D, bool GAUSSIAN>
void run(const AddNoise& args, const Tiles& tiles, uint8_t* scratch) {
    const size_t share_bytes = DRAWN_BYTES * args.seeds.size();
    for_each_tile(tiles, args.offsets, args.threads, [&](size_t t, uint64_t tile, int share) {
        Worker<D, GAUSSIAN>(args, scratch + share_bytes * share).tile(t, tile);
    });
}

template <class D>
void run_distribution(const AddNoise& args, const Tiles& tiles, uint8_t* scratch) {
    args.gaussian ? run<D, true>(args, tiles, scratch) : run<D, false>(args, tiles, scratch);
}

}  // namespace

void add_noise(const AddNoise& args, const Tiles& tiles, uint8_t* scratch) {
    fill_gaussian_table();
    if (args.dtype == Dtype::fp32) run_distribution<Fp32>(args, tiles, scratch);
    if (args.dtype == Dtype::bf16) run_distribution<Bf16>(args, tiles, scratch);
    if (args.dtype == Dtype::fp16) run_distribution<Fp16>(args, tiles, scratch);
}

}  // namespace zopro::cpu::ZOPRO_ISA
