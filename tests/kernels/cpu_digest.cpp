// Prints a digest (FNV-1a) of what the CPU operations make of many forms; see test_neon.py.
#include <cstdio>
#include <vector>

#include "kernels.h"

using namespace zopro::cpu;

static uint64_t digest = 14695981039346656037u;

template <class T>
static void eat(const std::vector<T>& data) {
    const uint8_t* bytes = (const uint8_t*)data.data();
    for (size_t i = 0; i < data.size() * sizeof(T); ++i) digest = (digest ^ bytes[i]) * 1099511628211u;
}

static void form(Dtype dtype, bool gaussian, bool stochastic, size_t seeds, int64_t offset) {
    const int64_t n = 9001;
    std::vector<float> theta(n), prev(n), v(n);
    for (int i = 0; i < n; ++i) {
        const float x = 0.013f * float(i % 97 - 48);
        prev[i] = 1e-3f * float(i % 101 - 50);
        v[i] = 1e-4f * float(i % 89 - 44);
        if (dtype == Dtype::fp32) theta[i] = x;
        if (dtype == Dtype::bf16) ((uint16_t*)theta.data())[i] = zopro::float_to_bf16(x);
        if (dtype == Dtype::fp16) ((uint16_t*)theta.data())[i] = zopro::float_to_fp16(x);
    }
    std::vector<float> floats = {0.9f, 0.3f, -0.2f, 1.0f, 1e-2f, 2e-2f, 3e-2f};
    std::vector<int64_t> integers = {9};
    for (size_t k = 0; k < seeds; ++k) integers.push_back(INT64_MIN + int64_t(k));
    for (size_t k = 0; k < seeds; ++k) integers.push_back(int64_t(k));
    AddNoise pass{};
    pass.records = {{integers.data(), floats.data(), 0, seeds}};
    pass.rows = {0}, pass.theta = {(uint64_t)theta.data()};
    if (offset == 5) pass.prev = {(uint64_t)prev.data()}, pass.v = {(uint64_t)v.data()};
    pass.prev_scales = pass.v_scales = {0};
    pass.numels = {n}, pass.offsets = {offset}, pass.params = {3};
    pass.dtype = dtype, pass.gaussian = gaussian, pass.stochastic = stochastic, pass.threads = 1;
    add_noise(pass);
    eat(theta);
    eat(noise_dots({{(uint64_t)v.data()}, {0}, Dtype::fp32, {n}, {offset}, {3}, 5, 1, gaussian, 1}));
}

int main() {
    for (Dtype dtype : {Dtype::fp32, Dtype::bf16, Dtype::fp16})
        for (bool gaussian : {false, true})
            for (bool stochastic : {false, true})
                for (size_t seeds : {0, 1, 3})
                    for (int64_t offset : {int64_t(0), int64_t(5), (int64_t(1) << 33) + 4093})
                        form(dtype, gaussian, stochastic, seeds, offset);
    std::printf("%016llx\n", (unsigned long long)digest);
}
