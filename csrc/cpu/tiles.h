// How a pass over many tensors is cut into tiles of 4,096 elements and shared among threads.
#pragma once

#include <cstdint>
#include <vector>

#include "zopro/noise.h"

namespace zopro::cpu {

// Tiles are counted in the global index space, so a shard that begins anywhere sees the law's own
// boundaries; its first and last tile may be partial.
struct Tiles {
    std::vector<int64_t> first;  // [T + 1] running count of tiles before each tensor

    Tiles(const std::vector<int64_t>& numels, const std::vector<int64_t>& offsets);  // dispatch.cpp
    int64_t count() const { return first[first.size() - 1]; }
    int team(int threads) const {  // below four tiles a thread, waking it costs more than it does
        const int64_t most = count() / 4;
        return most < 1 ? 1 : most < threads ? int(most) : threads;
    }
};

// body(tensor, global tile, share) for every tile; each thread takes one contiguous share.
template <class Body>
void for_each_tile(const Tiles& tiles, const std::vector<int64_t>& offsets, int threads, Body body) {
    const int64_t count = tiles.count();
    const int team = tiles.team(threads);
#pragma omp parallel for schedule(static, 1) num_threads(team) if (team > 1)
    for (int share = 0; share < team; ++share) {
        const int64_t end = count * (share + 1) / team;
        size_t t = 0;
        for (int64_t tile = count * share / team; tile < end; ++tile) {
            while (tile >= tiles.first[t + 1]) ++t;
            body(t, uint64_t(offsets[t] / SIGN_TILE + tile - tiles.first[t]), share);
        }
    }
}

}  // namespace zopro::cpu
