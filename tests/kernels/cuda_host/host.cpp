// Runs the kernels of csrc/cuda on the host, and gives Python's ctypes two entry points.
#include <ucontext.h>

#include <memory>
#include <vector>

#include "kernels.h"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 1 << 16;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool done = false;
};

std::vector<Fiber> fibers;
std::vector<uint64_t> slots;
ucontext_t scheduler;
unsigned running;
void (*entry)(zopro::cuda::Arguments);
zopro::cuda::Arguments arguments;

void body() {
    entry(arguments);
    fibers[running].done = true;
    swapcontext(&fibers[running].context, &scheduler);
}

void run_block(unsigned threads) {
    fibers = std::vector<Fiber>(threads);
    slots.assign(threads, 0);
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = STACK;
        makecontext(&fiber.context, body, 0);
    }
    for (unsigned left = threads; left;) {
        for (unsigned t = 0; t < threads; ++t) {
            if (fibers[t].done) continue;
            running = threadIdx.x = t;
            swapcontext(&scheduler, &fibers[t].context);
            left -= fibers[t].done;
        }
    }
}

}  // namespace

void next_fiber() {
    const unsigned self = running;
    swapcontext(&fibers[self].context, &scheduler);
}
uint64_t& exchange_slot(unsigned thread) { return slots[thread]; }

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters, size_t,
                             cudaStream_t) {
    entry = reinterpret_cast<void (*)(zopro::cuda::Arguments)>(const_cast<void*>(kernel));
    arguments = *static_cast<zopro::cuda::Arguments*>(parameters[0]);
    gridDim.x = grid.x, blockDim.x = block.x;
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(block.x);
    return cudaSuccess;
}

extern "C" void host_add_noise(const int64_t* table, const int64_t* integers, const float* floats,
                               int64_t chunks, int count, int seeds, int dtype, bool gaussian,
                               bool stochastic, bool has_prev, bool has_v) {
    zopro::cuda::add_noise({table, integers, floats, nullptr, chunks, count, seeds, has_prev, has_v},
                           zopro::cuda::Dtype(dtype), gaussian, stochastic, nullptr);
}

extern "C" void host_noise_dots(const int64_t* table, const int64_t* integers, int64_t* sums,
                                int64_t chunks, int count, bool gaussian) {
    zopro::cuda::noise_dots({table, integers, nullptr, sums, chunks, count, 1, false, false},
                            gaussian, nullptr);
}
