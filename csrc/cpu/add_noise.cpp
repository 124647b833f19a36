// theta <- decay theta + sum_k c_k n_k + a prev + b v, in place, for one instruction set.
#include "draw.h"
#include "kernels.h"
#include "store.h"
#include "tiles.h"

namespace zopro::cpu::ZOPRO_ISA {
namespace {

template <class D, bool GAUSSIAN>
class Worker {
    using T = typename D::type;
    const AddNoise& args;
    uint8_t* bitmaps;  // [K, SIGN_BYTES] signs of the current tile
    const Keys keys;   // of the first seed, mostly the only one: made once a tile

public:
    Worker(const AddNoise& a, uint8_t* scratch)
        : args(a), bitmaps(scratch), keys(a.seeds.empty() ? 0 : a.seeds[0]) {}

    void tile(size_t t, uint64_t tile) {
        if (!GAUSSIAN)
            for (size_t k = 0; k < args.seeds.size(); ++k)
                draw_sign_bits(stream(t, k), tile, &bitmaps[SIGN_BYTES * k]);
        const int64_t begin = args.offsets[t], end = begin + args.numels[t];
        for (int row = 0; row < STRIPS_A_TILE; ++row) {
            const int64_t at = int64_t(tile * SIGN_TILE) + row * STRIP;
            const int64_t low = begin > at ? begin : at;
            const int64_t high = end < at + STRIP ? end : at + STRIP;
            if (low >= high) continue;
            T* theta = (T*)args.theta[t] + (low - begin);
            const float* prev = args.prev.empty() ? nullptr : (float*)args.prev[t] + (low - begin);
            const float* v = args.v.empty() ? nullptr : (float*)args.v[t] + (low - begin);
            fetch_ahead(theta, end - high);
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
    static void fetch_ahead(const T* theta, int64_t left) {
        if (left < STRIP) return;
        for (size_t byte = 0; byte < STRIP * sizeof(T); byte += 64)
            __builtin_prefetch((const char*)(theta + STRIP) + byte, 1);
    }

    // A strip that the tensor covers only in part is worked on in a copy.
    void part(size_t t, uint64_t index, int row, int from, int count, T* theta, const float* prev,
              const float* v) {
        T whole[STRIP] = {};
        float prev_whole[STRIP] = {}, v_whole[STRIP] = {};
        memcpy(whole + from, theta, count * sizeof *theta);
        if (prev) memcpy(prev_whole + from, prev, count * sizeof *prev);
        if (v) memcpy(v_whole + from, v, count * sizeof *v);
        strip(t, index, row, whole, prev ? prev_whole : nullptr, v ? v_whole : nullptr);
        memcpy(theta, whole + from, count * sizeof *theta);
    }

    void strip(size_t t, uint64_t index, int row, T* theta, const float* prev, const float* v) {
        const size_t K = args.seeds.size();
        const bool plain = K == 1 && !prev && !v;
        alignas(64) float acc[STRIP], n[GAUSSIAN ? STRIP : 1];
        alignas(64) uint16_t random[STRIP];
        if (args.stochastic) draw_rounding_bits({args.rounding_seed, args.params[t], 0}, index, random);
        if (plain) {  // one term: straight from memory to memory
            if (GAUSSIAN) draw_gaussian(keys, stream(t, 0), index, n);
            const Term term = make_term(t, 0, row, n);
            const float decay = args.decay[t];
            store_strip(theta, random, [&](int e) { return add(D::read(theta + e) * decay, term, e); });
            return;
        }
        for (int e = 0; e < STRIP; e += LANES) store(acc + e, D::read(theta + e) * args.decay[t]);
        for (size_t k = 0; k < K; ++k) {
            if (GAUSSIAN) draw_gaussian(k ? Keys(args.seeds[k]) : keys, stream(t, k), index, n);
            const Term term = make_term(t, k, row, n);
            for (int e = 0; e < STRIP; e += LANES) store(acc + e, add(load<VecF>(acc + e), term, e));
        }
        if (prev) axpy(acc, args.prev_coeffs[t], prev);
        if (v) axpy(acc, args.v_coeffs[t], v);
        store_strip(theta, random, [&](int e) { return load<VecF>(acc + e); });
    }

    struct Term {
        VecF coefficient;
        const float* n;        // gaussian
        const uint8_t* signs;  // rademacher: the strip's 32 bytes
    };
    Term make_term(size_t t, size_t k, int row, const float* n) const {
        const uint8_t* signs = GAUSSIAN ? nullptr : &bitmaps[SIGN_BYTES * k + 32 * row];
        return {splat(args.coeffs[t * args.seeds.size() + k]), n, signs};
    }
    static VecF add(VecF x, const Term& term, int e) {
        if (GAUSSIAN) return x + term.coefficient * load<VecF>(term.n + e);
        return x + signed_coefficient(term.signs, e, as_bits(term.coefficient));
    }
    static void axpy(float* acc, float a, const float* x) {
        for (int e = 0; e < STRIP; e += LANES)
            store(acc + e, load<VecF>(acc + e) + a * load<VecF>(x + e));
    }

    template <class Value>
    void store_strip(T* theta, const uint16_t* random, Value value) const {
        if (args.stochastic) {
            for (int e = 0; e < STRIP; e += LANES) D::write(theta + e, value(e), random + e);
            return;
        }
#pragma GCC unroll 4
        for (int e = 0; e < STRIP; e += LANES) D::write(theta + e, value(e));
    }
};

template <class D, bool GAUSSIAN>
void run(const AddNoise& args, const Tiles& tiles, uint8_t* scratch) {
    const size_t share_bytes = SIGN_BYTES * args.seeds.size();
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
