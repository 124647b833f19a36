// theta <- decay theta + sum_k c_k n_k + a prev + b v, in place, for one instruction set.
//
// Of several records each is applied to a tile before the next tile's turn, which stays in the L1.
#include <type_traits>

#include "kept.h"
#include "tiles.h"

namespace zopro::cpu::ZOPRO_ISA {
namespace {

// What a loop over strips is compiled for in place of a form of prev and v: one seed alone, rounded to
// nearest, or any seeds.
struct Plain {};
struct None {};

template <class D, bool GAUSSIAN>
class Worker {
    using T = typename D::type;
    using O = typename D::order;
    const AddNoise& args;
    const Record& record;
    uint8_t* drawn;  // [K, DRAWN_BYTES] signs of the current tile, or a GaussianDraws

public:
    Worker(const AddNoise& a, const Record& r, uint8_t* scratch) : args(a), record(r), drawn(scratch) {}

    void tile(size_t t, uint64_t tile) {
        const int64_t start = tile * SIGN_TILE, begin = args.offsets[t], end = begin + args.numels[t];
        int64_t at = begin > start ? begin : start;
        const int64_t high = end < start + SIGN_TILE ? end : start + SIGN_TILE;
        for (size_t k = 0; k < record.seeds; ++k) {
            const Stream stream{record.seed(k), args.params[t], record.stream(k)};
            if (GAUSSIAN)
                draws(k).begin(stream, at / STRIP * STRIP);
            else
                draw_sign_bits(stream, tile, signs(k));
        }
        while (at < high) {
            T* theta = (T*)args.theta[t] + (at - begin);
            const int64_t scale = at / STRIP - begin / STRIP;
            Kept prev, v;
            if (!args.prev.empty())
                prev = {args.prev[t], args.prev_scales[t], args.form, at - begin, scale};
            if (!args.v.empty()) v = {args.v[t], args.v_scales[t], args.form, at - begin, scale};
            const int64_t strip = at / STRIP * STRIP, whole = (high - at) / STRIP * STRIP;
            int64_t count = whole;
            if (at > strip || !whole) {
                count = (high < strip + STRIP ? high : strip + STRIP) - at;
                part(t, strip, int(at - strip), int(count), theta, prev, v);
            } else {
                run(t, at, count, theta, prev, v);
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
    void part(size_t t, uint64_t strip, int from, int count, T* theta, Kept prev, Kept v) {
        T whole[STRIP] = {};
        uint8_t prev_whole[4 * STRIP] = {}, v_whole[4 * STRIP] = {};
        const size_t size = kept_bytes(args.form);
        const auto copied = [&](Kept& kept, uint8_t* to) {
            if (!kept.values) return;
            memcpy(to + from * size, kept.values, count * size);
            kept.values = to;
        };
        memcpy(whole + from, theta, count * sizeof *theta);
        copied(prev, prev_whole);
        copied(v, v_whole);
        run(t, strip, STRIP, whole, prev, v);
        memcpy(theta, whole + from, count * sizeof *theta);
    }

    // Whole strips from element `first` on.
    void run(size_t t, uint64_t first, int64_t count, T* theta, Kept prev, Kept v) {
        if (prev.values || v.values) {
            if (args.form == Dtype::fp32) return run_as<float>(t, first, count, theta, prev, v);
            if (args.form == Dtype::bf16) return run_as<uint16_t>(t, first, count, theta, prev, v);
            return run_as<int8_t>(t, first, count, theta, prev, v);
        }
        if (record.seeds == 1 && !args.stochastic) return run_as<Plain>(t, first, count, theta, {}, {});
        run_as<None>(t, first, count, theta, {}, {});
    }

    // A step of elements stays in registers from its load to its store, whatever the terms. Without the
    // other cases in the loop the plain Gaussian finds registers enough.
    template <class C>
    void run_as(size_t t, uint64_t first, int64_t count, T* theta, Kept prev, Kept v) {
        constexpr bool PLAIN = std::is_same_v<C, Plain>;
        constexpr bool TARGETED = !PLAIN && !std::is_same_v<C, None>;
        alignas(64) uint16_t bits[STRIP];
        const uint16_t* random = !PLAIN && args.stochastic ? bits : nullptr;
        // Held here: the compiler has to believe that a store to theta changes what `this` shows.
        const size_t K = PLAIN ? 1 : record.seeds;
        const float *scalars = record.row(args.rows[t]), *coeffs = scalars + 4;
        const float decay = scalars[0], a = scalars[1], b = scalars[2], c0 = PLAIN ? *coeffs : 0;
        for (int64_t e = 0; e < count; e += STEP) {
            const int within = e % STRIP;
            if (random && !within)
                draw_rounding_bits({record.rounding_seed(), args.params[t], 0}, (first + e) / STRIP, bits);
            if (GAUSSIAN && PLAIN) fetch_ahead(theta + e);
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
                if constexpr (TARGETED) {
                    if (prev.values) axpy<C>(x + j, a, prev, at);
                    if (v.values) axpy<C>(x + j, b, v, at);
                }
                D::write(theta + at, x + j, random ? random + within + j * LANES : nullptr);
            }
        }
    }

    // Brings what lies a strip ahead into the cache. The plain Gaussian gains 0.03 ns an element past the
    // caches; signs lose 0.05 and targeted passes 0.1, the hardware serves faster loops by itself.
    static void fetch_ahead(const T* x) {
        for (size_t byte = 0; byte < STEP * sizeof(T); byte += 64)
            __builtin_prefetch((const char*)(x + STRIP) + byte);
    }

    template <class C>
    static void axpy(VecF* x, float a, Kept y, int64_t at) {
        VecF z[4];
        read_kept<O::paired, C>(y.values + at * int64_t(sizeof(C)), y.scale(at / STRIP), z);
        for (int j = 0; j < 4; ++j) x[j] += a * z[j];
    }
};

template <class D, bool GAUSSIAN>
void run(const AddNoise& args, const Tiles& tiles, uint8_t* scratch, size_t share_bytes) {
    for_each_tile(tiles, args.offsets, args.threads, [&](size_t t, uint64_t tile, int share) {
        for (const Record& record : args.records)
            if (record.live(args.rows[t]))
                Worker<D, GAUSSIAN>(args, record, scratch + share_bytes * share).tile(t, tile);
    });
}

template <class D>
void run(const AddNoise& args, const Tiles& tiles, uint8_t* scratch, size_t share) {
    args.gaussian ? run<D, true>(args, tiles, scratch, share)
                  : run<D, false>(args, tiles, scratch, share);
}

}  // namespace

void add_noise(const AddNoise& args, const Tiles& tiles, uint8_t* scratch, size_t share) {
    fill_gaussian_table();
    if (args.dtype == Dtype::fp32) run<Fp32>(args, tiles, scratch, share);
    if (args.dtype == Dtype::bf16) run<Bf16>(args, tiles, scratch, share);
    if (args.dtype == Dtype::fp16) run<Fp16>(args, tiles, scratch, share);
}

}  // namespace zopro::cpu::ZOPRO_ISA
