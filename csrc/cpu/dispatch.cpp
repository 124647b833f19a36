// Chooses, once, the widest instruction set that this processor has.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace zopro::cpu {

namespace {

struct Kernels {
    const char* name;
    void (*add_noise)(const AddNoise&, const Tiles&, uint8_t*, size_t);
    void (*noise_dots)(const NoiseDots&, const Tiles&, int64_t*);
};

constexpr Kernels baseline_kernels{"baseline", baseline::add_noise, baseline::noise_dots};

Kernels widest() {
#if defined(ZOPRO_X86)
    const char* limit = std::getenv("ZOPRO_CPU_ISA");  // for tests: baseline, avx2 or avx512
    const auto allowed = [&](const char* name) { return !limit || !std::strcmp(limit, name); };
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c");
    const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (has_avx512 && allowed("avx512")) return {"avx512", avx512::add_noise, avx512::noise_dots};
    if (has_avx2 && allowed("avx2")) return {"avx2", avx2::add_noise, avx2::noise_dots};
    if (limit && std::strcmp(limit, "baseline"))
        throw std::runtime_error(std::string("ZOPRO_CPU_ISA=") + limit +
                                 " is unknown or not on this processor: use baseline, avx2 or avx512");
#endif
    return baseline_kernels;
}

const Kernels& chosen() {
    static const Kernels kernels = widest();
    return kernels;
}

}  // namespace

Tiles::Tiles(const std::vector<int64_t>& numels, const std::vector<int64_t>& offsets) : first{0} {
    for (size_t t = 0; t < numels.size(); ++t) {
        const int64_t begin = offsets[t] / SIGN_TILE;
        const int64_t end = numels[t] ? (offsets[t] + numels[t] - 1) / SIGN_TILE + 1 : begin;
        first.push_back(first.back() + end - begin);
    }
}

void add_noise(const AddNoise& args) {
    const Tiles tiles(args.numels, args.offsets);
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    static_assert(DRAWN_BYTES % sizeof(Line) == 0);
    size_t seeds = 0;
    for (const Record& record : args.records) seeds = std::max(seeds, record.seeds);
    const size_t lines = DRAWN_BYTES / sizeof(Line) * seeds;
    std::vector<Line> scratch(tiles.team(args.threads) * lines);
    chosen().add_noise(args, tiles, scratch.data()->bytes, DRAWN_BYTES * seeds);
}

std::vector<int64_t> noise_dots(const NoiseDots& args) {
    const Tiles tiles(args.numels, args.offsets);
    const size_t count = args.numels.size(), team = tiles.team(args.threads);
    std::vector<int64_t> sums(2 * count * team);
    chosen().noise_dots(args, tiles, sums.data());
    for (size_t share = 1; share < team; ++share)
        for (size_t j = 0; j < 2 * count; ++j) sums[j] += sums[2 * count * share + j];
    sums.resize(2 * count);
    return sums;
}

const char* instruction_set() { return chosen().name; }

}  // namespace zopro::cpu
