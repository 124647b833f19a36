// Python module zopro_kernels._cpu: addresses in, nothing checked (Python validates once).
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/kernels.h"

namespace py = pybind11;
using namespace zopro::cpu;

namespace {

const float* floats(uint64_t address) { return reinterpret_cast<const float*>(address); }

}  // namespace

PYBIND11_MODULE(_cpu, m) {
    m.attr("LAW") = zopro::LAW;
    m.def("instruction_set", &instruction_set);
    m.def(
        "add_noise",
        [](std::vector<uint64_t> theta, std::vector<uint64_t> prev, std::vector<uint64_t> v,
           std::vector<int64_t> numels, std::vector<int64_t> offsets, std::vector<uint32_t> params,
           std::vector<uint64_t> seeds, std::vector<uint32_t> streams, uint64_t coeffs,
           uint64_t decay, uint64_t prev_coeffs, uint64_t v_coeffs, int dtype, bool gaussian,
           bool stochastic, uint64_t rounding_seed, int threads) {
            add_noise({std::move(theta), std::move(prev), std::move(v), std::move(numels),
                       std::move(offsets), std::move(params), std::move(seeds),
                       std::move(streams), floats(coeffs), floats(decay), floats(prev_coeffs),
                       floats(v_coeffs), Dtype(dtype), gaussian, stochastic, rounding_seed,
                       threads});
        },
        py::call_guard<py::gil_scoped_release>());
    m.def(
        "noise_dots",
        [](std::vector<uint64_t> vectors, std::vector<int64_t> numels,
           std::vector<int64_t> offsets, std::vector<uint32_t> params, uint64_t seed,
           uint32_t stream, bool gaussian, int threads) {
            return noise_dots({std::move(vectors), std::move(numels), std::move(offsets),
                               std::move(params), seed, stream, gaussian, threads});
        },
        py::call_guard<py::gil_scoped_release>());
}
