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
    using O = typename D::order;
    const AddNoise& args;
    uint8_t* drawn;  // [K, DRAWN_BYTES] signs of the current tile, or a GaussianDraws

public:
    Worker(const AddNoise& a, uint8_t* scratch) : args(a), drawn(scratch) {}

    void tile(size_t t, uint64_t tile) {
        const int64_t start = tile * SIGN_TILE, begin = args.offsets[t], end = begin + args.numels[t];
        int64_t at = begin > start ? begin : start;
        const int64_t high = end < start + SIGN_TILE ? end : start + SIGN_TILE;
        for (size_t k = 0; k < args.seeds.size(); ++k) {
            const Stream stream{args.seeds[k], args.params[t], args.streams[k]};
            if (GAUSSIAN)
                draws(k).begin(stream, at / STRIP * STRIP);
            else
                draw_sign_bits(stream, tile, signs(k));
        }
        while (at < high) {
            T* theta = (T*)args.theta[t] + (at - begin);
            const float* prev = args.prev.empty() ? nullptr : (float*)args.prev[t] + (at - begin);
            const float* v = args.v.empty() ? nullptr : (float*)args.v[t] + (at - begin);
            const int64_t strip = at / STRIP * STRIP, whole = (high - at) / STRIP * STRIP;
            int64_t count = whole;
            if (at > strip || !whole) {
                count = (high < strip + STRIP ? high : strip + STRIP) - at;
                part(t, strip, int(at - strip), int(count), theta, prev, v);
            } else if (args.seeds.size() == 1 && !prev && !v && !args.stochastic) {
                run<true>(t, at, count, theta, nullptr, nullptr);
            } else {
                run<false>(t, at, count, theta, prev, v);
            }
            at += count;
        }
    }

private:
    static constexpr int STEP = GAUSSIAN ? UNIT : BLOCK, VECTORS = STEP / LANES;
    static_assert(sizeof(GaussianDraws) <= DRAWN_BYTES);

    uint8_t* signs(size_t k) const { return drawn + DRAWN_BYTES * k; }
    GaussianDraws& draws(size_t k) const { return *(GaussianDraws*)signs(k); }

    // A strip that the tensor covers only in part is worked on in a copy.
    void part(size_t t, uint64_t strip, int from, int count, T* theta, const float* prev,
              const float* v) {
        T whole[STRIP] = {};
        float prev_whole[STRIP] = {}, v_whole[STRIP] = {};
        memcpy(whole + from, theta, count * sizeof *theta);
        if (prev) memcpy(prev_whole + from, prev, count * sizeof *prev);
        if (v) memcpy(v_whole + from, v, count * sizeof *v);
        run<false>(t, strip, STRIP, whole, prev ? prev_whole : nullptr, v ? v_whole : nullptr);
        memcpy(theta, whole + from, count * sizeof *theta);
    }

    // Whole strips from element `first` on. A step of elements stays in registers from its load to its
    // store, whatever the terms. PLAIN: one seed alone, to nearest; without the other cases in the loop
    // the Gaussian finds registers enough.
    template <bool PLAIN>
    void run(size_t t, uint64_t first, int64_t count, T* theta, const float* prev, const float* v) {
        alignas(64) uint16_t bits[STRIP];
        const uint16_t* random = !PLAIN && args.stochastic ? bits : nullptr;
        if (PLAIN) prev = v = nullptr;
        // Held here: the compiler has to believe that a store to theta changes what `this` shows.
        const size_t K = PLAIN ? 1 : args.seeds.size();
        const float* coeffs = args.coeffs + t * K;
        const float c0 = PLAIN ? *coeffs : 0, decay = args.decay[t];
        const float a = prev ? args.prev_coeffs[t] : 0, b = v ? args.v_coeffs[t] : 0;
        for (int64_t e = 0; e < count; e += STEP) {
            const int within = e % STRIP;
            if (random && !within)
                draw_rounding_bits({args.rounding_seed, args.params[t], 0}, (first + e) / STRIP, bits);
            fetch_ahead(theta + e);
            if (prev) fetch_ahead(prev + e);
            if (v) fetch_ahead(v + e);
            VecF x[VECTORS];
            for (int j = 0; j < VECTORS; j += 4) D::read(theta + e + j * LANES, x + j);
            for (int j = 0; j < VECTORS; ++j) x[j] *= decay;
            for (size_t k = 0; k < K; ++k) {
                if constexpr (!GAUSSIAN)
                    add_signs<O>(x, PLAIN ? c0 : coeffs[k], signs(k) + (first + e) % SIGN_TILE / 8);
                else if constexpr (PLAIN)
                    add_unit<O>(x, c0, draws(k), first + e);
                else
                    add_unit_apart<O>(x, coeffs[k], draws(k), first + e);
            }
            for (int j = 0; j < VECTORS; j += 4) {
                const int64_t at = e + j * LANES;
                if (prev) axpy(x + j, a, prev + at);
                if (v) axpy(x + j, b, v + at);
                D::write(theta + at, x + j, random ? random + within + j * LANES : nullptr);
            }
        }
    }

    // Brings what lies a strip ahead into the cache: the drawing leaves the memory idle, and the
    // hardware does not look that far.
    template <class X>
    static void fetch_ahead(const X* x) {
        for (size_t byte = 0; byte < STEP * sizeof(X); byte += 64)
            __builtin_prefetch((const char*)(x + STRIP) + byte);
    }

    static void axpy(VecF* x, float a, const float* y) {
        VecF z[4];
        O::read(y, z);
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
