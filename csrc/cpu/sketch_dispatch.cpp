// The sketch's working memory, and the instruction set that dispatch.cpp chose.
#include "sketch.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace zopro::cpu {

namespace {

constexpr int64_t MOST = 1 << 21;  // sums of chunks held before all are added: 8 MiB

struct alignas(64) Line {
    float numbers[16];
};

using Pass = void (*)(const Sketch&, int64_t, int64_t, int, float*);

Pass widest() {
#if defined(ZOPRO_X86)
    if (!std::strcmp(instruction_set(), "avx512")) return avx512::sketch;
    if (!std::strcmp(instruction_set(), "avx2")) return avx2::sketch;
#endif
    return baseline::sketch;
}

}  // namespace

void sketch(const Sketch& args) {
    static const Pass pass = widest();
    if (args.count == 0) return;
    const int64_t* last = args.table + (args.count - 1) * SKETCH_COLUMNS;
    const int64_t begin = last[OFFSET] / SKETCH_CHUNK, end = last[OFFSET] + last[NUMEL] - 1;
    const int64_t chunks = last[CHUNKS_BEFORE] + end / SKETCH_CHUNK - begin + 1;
    const int team = int(std::max<int64_t>(1, std::min<int64_t>(args.threads, chunks / 2)));
    const int64_t wave = std::min(chunks, std::max<int64_t>(team, MOST / args.dim));
    std::vector<Line> sums(wave * args.dim / (sizeof(Line) / sizeof(float)));
    for (int64_t first = 0; first < chunks; first += wave)
        pass(args, first, std::min(wave, chunks - first), team, sums.data()->numbers);
}

}  // namespace zopro::cpu
