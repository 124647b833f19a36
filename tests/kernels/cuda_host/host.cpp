// Runs the kernels of csrc/cuda on the host, and gives Python's ctypes two entry points.
#include <setjmp.h>
#include <ucontext.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels.h"
#include "sketch.h"

Index threadIdx, blockIdx, blockDim, gridDim;

namespace {

constexpr size_t STACK = 1 << 16;

// ucontext gives a fiber its stack; from then on setjmp and longjmp switch, because swapcontext
// makes a system call each time (4M targeted signs in fp32: 4.4 s against 0.3 s).
struct Fiber {
    ucontext_t start;
    jmp_buf place;
    std::unique_ptr<char[]> stack{new char[STACK]};
    bool started = false, done = false;
};

std::vector<Fiber> fibers;
std::vector<uint64_t> slots;
jmp_buf finished;
unsigned running, left;
void (*entry)(zopro::cuda::Arguments);
zopro::cuda::Arguments arguments;
void (*sketch_entry)(zopro::cuda::Sketch);
const zopro::cuda::Sketch* sketching;  // which arguments the kernel takes; null: the others

unsigned following(unsigned fiber) {  // in turn, of those that still run
    do fiber = fiber + 1 == fibers.size() ? 0 : fiber + 1;
    while (fibers[fiber].done);
    return fiber;
}

[[noreturn]] void enter(unsigned fiber) {
    running = threadIdx.x = fiber;
    if (fibers[fiber].started) longjmp(fibers[fiber].place, 1);
    fibers[fiber].started = true;
    setcontext(&fibers[fiber].start);
    abort();
}

void body() {
    sketching ? sketch_entry(*sketching) : entry(arguments);
    fibers[running].done = true;
    if (--left == 0) longjmp(finished, 1);
    enter(following(running));
}

void run_block(unsigned threads) {
    fibers = std::vector<Fiber>(threads);
    slots.assign(threads, 0);
    left = threads;
    for (Fiber& fiber : fibers) {
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.get();
        fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, body, 0);
    }
    if (!setjmp(finished)) enter(0);
}

}  // namespace

void next_fiber() {
    const unsigned next = following(running);
    if (next != running && !setjmp(fibers[running].place)) enter(next);
}
uint64_t& exchange_slot(unsigned thread) { return slots[thread]; }

cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** parameters, size_t,
                             cudaStream_t) {
    sketch_entry = reinterpret_cast<void (*)(zopro::cuda::Sketch)>(const_cast<void*>(kernel));
    entry = reinterpret_cast<void (*)(zopro::cuda::Arguments)>(const_cast<void*>(kernel));
    if (!sketching) arguments = *static_cast<zopro::cuda::Arguments*>(parameters[0]);
    gridDim.x = grid.x, blockDim.x = block.x;
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(block.x);
    return cudaSuccess;
}

#if !defined(ZOPRO_SKETCH_ALONE)
extern "C" void host_add_noise(const int64_t* table, const int64_t* scales, const int64_t* integers,
                               const float* floats, int64_t chunks, int count, int seeds, int dtype,
                               bool gaussian, bool stochastic, bool has_prev, bool has_v,
                               int form) {
    zopro::cuda::add_noise({table, scales, integers, floats, nullptr, chunks, count, seeds, has_prev,
                            has_v, zopro::cuda::Dtype(form)},
                           zopro::cuda::Dtype(dtype), gaussian, stochastic, nullptr);
}

extern "C" void host_add_noise_sequence(const int64_t* table, const int64_t* scales,
                                        const int64_t* records, const int64_t* integers,
                                        const float* floats, int64_t chunks, int count, int number,
                                        int dtype, bool gaussian, bool stochastic, bool has_prev,
                                        bool has_v, int form) {
    zopro::cuda::add_noise_sequence({table, scales, integers, floats, nullptr, chunks, count, 0,
                                     has_prev, has_v, zopro::cuda::Dtype(form), records, number},
                                    zopro::cuda::Dtype(dtype), gaussian, stochastic, nullptr);
}

extern "C" void host_noise_dots(const int64_t* table, const int64_t* scales, const int64_t* integers,
                                int64_t* sums, int64_t chunks, int count, bool gaussian, int form) {
    zopro::cuda::noise_dots({table, scales, integers, nullptr, sums, chunks, count, 1, false, false,
                             zopro::cuda::Dtype(form)},
                            gaussian, nullptr);
}
#endif

extern "C" void host_sketch(const int64_t* table, float* sums, double* out, uint64_t seed,
                            uint32_t stream, int64_t first, int chunks, int count, int dim,
                            int dtype) {
    const zopro::cuda::Sketch args{table, sums, out, seed, first, count, chunks, dim, stream};
    sketching = &args;
    zopro::cuda::sketch(args, zopro::cuda::Dtype(dtype), nullptr);
    sketching = nullptr;
}
