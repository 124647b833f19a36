// Copies of a small tensor, a pass over each: threads take whole copies.
#include "perturbed.h"

#include <cstring>

namespace zopro::cpu {

namespace {

int64_t bytes_of(Dtype type) { return type == Dtype::fp32 ? 4 : type == Dtype::int8 ? 1 : 2; }

// The pass over one copy; `set` then says which.
AddNoise pass_of(const Perturbed& args) {
    AddNoise pass{};
    pass.theta = {args.out};
    if (args.prev) pass.prev = {args.prev};
    if (args.v) pass.v = {args.v};
    pass.prev_scales = {args.prev_scales};
    pass.v_scales = {args.v_scales};
    pass.numels = {args.numel};
    pass.offsets = {args.offset};
    pass.params = {args.param};
    pass.rows = {0};
    pass.records.resize(1);
    pass.dtype = args.dtype;
    pass.form = args.form;
    pass.gaussian = args.gaussian;
    pass.stochastic = args.stochastic;
    pass.threads = 1;
    return pass;
}

void set(AddNoise& pass, const Perturbed& args, int64_t k) {
    const int64_t* integers = args.integers + 4 * k;
    pass.theta[0] = args.out + k * args.numel * bytes_of(args.dtype);
    if (args.prev) pass.prev[0] = args.prev + integers[3] * args.numel * bytes_of(args.form);
    pass.records[0] = {integers, args.floats + 5 * k, 0, 1};
}

}  // namespace

void perturbed(const Perturbed& args) {
    const int64_t bytes = args.numel * bytes_of(args.dtype);
    // A thread is worth waking for four tiles, as in add_noise.
    const int64_t most = args.count * ((args.numel + SIGN_TILE - 1) / SIGN_TILE) / 4;
    const int64_t team = most < 1 ? 1 : most < args.threads ? most : args.threads;
#pragma omp parallel for schedule(static, 1) num_threads(team) if (team > 1)
    for (int64_t share = 0; share < team; ++share) {
        AddNoise pass = pass_of(args);
        const int64_t end = args.count * (share + 1) / team;
        for (int64_t k = args.count * share / team; k < end; ++k) {
            set(pass, args, k);
            // Read again from the cache at once.
            std::memcpy((void*)pass.theta[0], (const void*)args.theta, bytes);
            if (args.floats[5 * k + 3] != 0.0f && args.numel) add_noise(pass);
        }
    }
}

}  // namespace zopro::cpu
