// Python module zopro_kernels._cpu: addresses in, nothing checked (Python validates once).
// Tables and scalars lie in memory as the device kernels read them: zopro_kernels/table.py,
// zopro_kernels/passes.py.
#include <pybind11/pybind11.h>

#include <cstring>

#include "../cpu/kernels.h"

namespace py = pybind11;
using namespace zopro::cpu;

namespace {

template <class T>
const T* at(uint64_t address) {
    return reinterpret_cast<const T*>(address);
}

// Descriptors, int64 [T, 8]: theta, prev, v, numel, offset, param, (chunks before), (aligned).
constexpr int COLUMNS = 8;

// Address of the scales of tensor t's prev or vector (which 0) or v (1); `scales`: int64 [T, 2] or 0.
uint64_t scales_of(uint64_t scales, int64_t t, int which) {
    return scales ? at<int64_t>(scales)[2 * t + which] : 0;
}

// Scalars: int64 [1 + 2 K] and fp32 rows of 4 + K, `stride` apart (0: one row for all tensors).
void add_noise_by_tables(uint64_t table, uint64_t scales, int64_t count, uint64_t integers,
                         int seeds, uint64_t floats, int64_t stride, int dtype, bool gaussian,
                         bool stochastic, bool has_prev, bool has_v, int form, int threads) {
    AddNoise args{};
    std::vector<float> coeffs, decay, prev_coeffs, v_coeffs;
    for (int64_t t = 0; t < count; ++t) {
        const int64_t* row = at<int64_t>(table) + COLUMNS * t;
        const float* scalars = at<float>(floats) + stride * t;
        if (scalars[3] == 0.0f) continue;  // not live
        args.theta.push_back(row[0]);
        if (has_prev) args.prev.push_back(row[1]);
        if (has_v) args.v.push_back(row[2]);
        args.prev_scales.push_back(scales_of(scales, t, 0));
        args.v_scales.push_back(scales_of(scales, t, 1));
        args.numels.push_back(row[3]);
        args.offsets.push_back(row[4]);
        args.params.push_back(uint32_t(row[5]));
        decay.push_back(scalars[0]);
        prev_coeffs.push_back(scalars[1]);
        v_coeffs.push_back(scalars[2]);
        coeffs.insert(coeffs.end(), scalars + 4, scalars + 4 + seeds);
    }
    if (args.theta.empty()) return;
    const int64_t* numbers = at<int64_t>(integers);
    args.rounding_seed = uint64_t(numbers[0]);
    for (int k = 0; k < seeds; ++k) {
        args.seeds.push_back(uint64_t(numbers[1 + k]));
        args.streams.push_back(uint32_t(numbers[1 + seeds + k]));
    }
    args.coeffs = coeffs.data();
    args.decay = decay.data();
    args.prev_coeffs = prev_coeffs.data();
    args.v_coeffs = v_coeffs.data();
    args.dtype = Dtype(dtype);
    args.form = Dtype(form);
    args.gaussian = gaussian;
    args.stochastic = stochastic;
    args.threads = threads;
    add_noise(args);
}

// sums: int64 [T, 2], written.
void noise_dots_by_tables(uint64_t table, uint64_t scales, int64_t count, uint64_t integers,
                          uint64_t sums, bool gaussian, int form, int threads) {
    NoiseDots args{};
    for (int64_t t = 0; t < count; ++t) {
        const int64_t* row = at<int64_t>(table) + COLUMNS * t;
        args.vectors.push_back(row[0]);
        args.scales.push_back(scales_of(scales, t, 0));
        args.numels.push_back(row[3]);
        args.offsets.push_back(row[4]);
        args.params.push_back(uint32_t(row[5]));
    }
    const int64_t* numbers = at<int64_t>(integers);  // 0, seed, stream
    args.seed = uint64_t(numbers[1]);
    args.stream = uint32_t(numbers[2]);
    args.form = Dtype(form);
    args.gaussian = gaussian;
    args.threads = threads;
    const std::vector<int64_t> out = noise_dots(args);
    std::memcpy(reinterpret_cast<void*>(sums), out.data(), out.size() * sizeof(int64_t));
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.attr("LAW") = zopro::LAW;
    m.def("instruction_set", &instruction_set);
    m.def("add_noise", &add_noise_by_tables, py::call_guard<py::gil_scoped_release>());
    m.def("noise_dots", &noise_dots_by_tables, py::call_guard<py::gil_scoped_release>());
}
