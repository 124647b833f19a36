// Python module zopro_kernels._cuda: device addresses in, nothing checked but the return codes.
// It imports where there is no driver (cudart is inside) and then says "no device".
#include <pybind11/pybind11.h>

#include <string>

#include "../cuda/kernels.h"
#include "../cuda/launch.h"
#include "../cuda/sketch.h"
#include "zopro/noise.h"

namespace py = pybind11;
using namespace zopro::cuda;

namespace {

int device_count() {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

std::string status() {
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code == cudaErrorInsufficientDriver)
        return "no device: there is no CUDA driver, or one older than this build of zopro needs";
    if (code != cudaSuccess)
        return std::string("no device: ") + cudaGetErrorString(code);
    return count ? "available" : "no device: the driver reports none";
}

// This runtime keeps its own current device, so every call names it.
Arguments arguments(int device, uint64_t table, uint64_t scales, uint64_t integers, uint64_t floats,
                    uint64_t sums, int64_t chunks, int32_t count, int32_t seeds, bool has_prev,
                    bool has_v, int form) {
    check(cudaSetDevice(device), "cudaSetDevice");
    return Arguments{reinterpret_cast<const int64_t*>(table),
                     reinterpret_cast<const int64_t*>(scales),
                     reinterpret_cast<const int64_t*>(integers),
                     reinterpret_cast<const float*>(floats),
                     reinterpret_cast<int64_t*>(sums),
                     chunks, count, seeds, has_prev, has_v, Dtype(form), nullptr, 0};
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
    m.attr("LAW") = zopro::LAW;
    m.def("device_count", &device_count);
    m.def("status", &status);
    m.def("add_noise",
          [](int device, uint64_t table, uint64_t scales, uint64_t integers, uint64_t floats,
             int64_t chunks, int32_t count, int32_t seeds, int dtype, bool gaussian,
             bool stochastic, bool has_prev, bool has_v, int form, uint64_t stream) {
              add_noise(arguments(device, table, scales, integers, floats, 0, chunks, count, seeds,
                                  has_prev, has_v, form),
                        Dtype(dtype), gaussian, stochastic,
                        reinterpret_cast<cudaStream_t>(stream));
          });
    m.def("add_noise_sequence",
          [](int device, uint64_t table, uint64_t scales, uint64_t records, int32_t number,
             uint64_t integers, uint64_t floats, int64_t chunks, int32_t count, int dtype,
             bool gaussian, bool stochastic, bool has_prev, bool has_v, int form,
             uint64_t stream) {
              Arguments args = arguments(device, table, scales, integers, floats, 0, chunks, count,
                                         0, has_prev, has_v, form);
              args.records = reinterpret_cast<const int64_t*>(records), args.number = number;
              add_noise_sequence(args, Dtype(dtype), gaussian, stochastic,
                                 reinterpret_cast<cudaStream_t>(stream));
          });
    m.def("sketch", [](int device, uint64_t table, uint64_t sums, uint64_t out, uint64_t seed,
                       uint32_t stream, int64_t first, int32_t chunks, int32_t count, int32_t dim,
                       int dtype, uint64_t queue) {
        check(cudaSetDevice(device), "cudaSetDevice");
        sketch({reinterpret_cast<const int64_t*>(table), reinterpret_cast<float*>(sums),
                reinterpret_cast<double*>(out), seed, first, count, chunks, dim, stream},
               Dtype(dtype), reinterpret_cast<cudaStream_t>(queue));
    });
    m.def("noise_dots", [](int device, uint64_t table, uint64_t scales, uint64_t integers,
                           uint64_t sums, int64_t chunks, int32_t count, bool gaussian, int form,
                           uint64_t stream) {
        noise_dots(arguments(device, table, scales, integers, 0, sums, chunks, count, 1, false,
                             false, form),
                   gaussian, reinterpret_cast<cudaStream_t>(stream));
    });
}
