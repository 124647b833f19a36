// Python module zopro_kernels._cpu: addresses in, nothing checked (Python validates once).
// Tables and scalars lie in memory as the device kernels read them: zopro_kernels/table.py,
// zopro_kernels/passes.py.
#include <pybind11/pybind11.h>

#include <cstring>

#include "../cpu/kernels.h"
#include "../cpu/perturbed.h"
#include "../cpu/sketch.h"

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

// A tensor that no record writes takes no part.
void add_noise_records(AddNoise& args, uint64_t table, uint64_t scales, int64_t count, bool has_prev,
                       bool has_v) {
    for (int64_t t = 0; t < count; ++t) {
        bool live = false;
        for (const Record& record : args.records) live |= record.live(t);
        if (!live) continue;
        const int64_t* row = at<int64_t>(table) + COLUMNS * t;
        args.rows.push_back(t);
        args.theta.push_back(row[0]);
        if (has_prev) args.prev.push_back(row[1]);
        if (has_v) args.v.push_back(row[2]);
        args.prev_scales.push_back(scales_of(scales, t, 0));
        args.v_scales.push_back(scales_of(scales, t, 1));
        args.numels.push_back(row[3]);
        args.offsets.push_back(row[4]);
        args.params.push_back(uint32_t(row[5]));
    }
    if (!args.theta.empty()) add_noise(args);
}

AddNoise pass(int dtype, bool gaussian, bool stochastic, int form, int threads) {
    AddNoise args{};
    args.dtype = Dtype(dtype);
    args.form = Dtype(form);
    args.gaussian = gaussian;
    args.stochastic = stochastic;
    args.threads = threads;
    return args;
}

// Scalars: int64 [1 + 2 K] and fp32 rows of 4 + K, `stride` apart (0: one row for all tensors).
void add_noise_by_tables(uint64_t table, uint64_t scales, int64_t count, uint64_t integers,
                         int seeds, uint64_t floats, int64_t stride, int dtype, bool gaussian,
                         bool stochastic, bool has_prev, bool has_v, int form, int threads) {
    AddNoise args = pass(dtype, gaussian, stochastic, form, threads);
    args.records.push_back({at<int64_t>(integers), at<float>(floats), stride, size_t(seeds)});
    add_noise_records(args, table, scales, count, has_prev, has_v);
}

// Records: int64 [R, 4], places of the first of their integers and floats, K, 0.
void add_noise_sequence_by_tables(uint64_t table, uint64_t scales, int64_t count, uint64_t records,
                                  int64_t record_count, uint64_t integers, uint64_t floats,
                                  int dtype, bool gaussian, bool stochastic, bool has_prev,
                                  bool has_v, int form, int threads) {
    AddNoise args = pass(dtype, gaussian, stochastic, form, threads);
    for (int64_t r = 0; r < record_count; ++r) {
        const int64_t* record = at<int64_t>(records) + 4 * r;
        args.records.push_back({at<int64_t>(integers) + record[0], at<float>(floats) + record[1],
                                4 + record[2], size_t(record[2])});
    }
    add_noise_records(args, table, scales, count, has_prev, has_v);
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

// table: int64 [T, 6] (zopro/sketch.h); out: fp64 [G, dim], added to.
void sketch_by_table(uint64_t table, int64_t count, int dtype, uint64_t seed, uint32_t stream,
                     int64_t dim, uint64_t out, int threads) {
    sketch({at<int64_t>(table), count, Dtype(dtype), seed, stream, dim,
            reinterpret_cast<double*>(out), threads});
}

// out: [count, numel], written; integers: int64 [count, 4]; floats: fp32 [count, 5].
void perturbed_copies(uint64_t theta, uint64_t out, int64_t numel, int64_t offset, int64_t count,
                      uint32_t param, uint64_t integers, uint64_t floats, uint64_t prev,
                      uint64_t prev_scales, uint64_t v, uint64_t v_scales, int dtype, int form,
                      bool gaussian, bool stochastic, int threads) {
    perturbed({theta, out, numel, offset, count, param, at<int64_t>(integers), at<float>(floats),
               prev, prev_scales, v, v_scales, Dtype(dtype), Dtype(form), gaussian, stochastic,
               threads});
}

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.attr("LAW") = zopro::LAW;
    m.def("instruction_set", &instruction_set);
    m.def("add_noise", &add_noise_by_tables, py::call_guard<py::gil_scoped_release>());
    m.def("add_noise_sequence", &add_noise_sequence_by_tables,
          py::call_guard<py::gil_scoped_release>());
    m.def("perturbed", &perturbed_copies, py::call_guard<py::gil_scoped_release>());
    m.def("noise_dots", &noise_dots_by_tables, py::call_guard<py::gil_scoped_release>());
    m.def("sketch", &sketch_by_table, py::call_guard<py::gil_scoped_release>());
}
