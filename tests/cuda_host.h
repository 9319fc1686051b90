// Runs CUDA kernels on the CPU, one thread at a time, so that a test needs no GPU.
//
// cuda_host.py compiles a kernel file with g++ after this header, which gives the source the names it uses: threadIdx,
// __shared__, __syncthreads, atomicAdd and so on.  Blocks run one after the other.  The threads of a block are fibers:
// each runs until it ends or reaches __syncthreads, where the next one is switched in.  The order of threads and blocks
// can be reversed, which changes the result of a kernel that lacks a barrier or whose blocks race.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdlib>
#include <type_traits>
#include <ucontext.h>
#include <utility>

struct Index {
    unsigned x, y, z;
};
static Index threadIdx, blockIdx, blockDim, gridDim;

#define __global__ static
#define __device__ inline
#define __shared__ static

using std::exp;
using std::fabs;
using std::log;
using std::pow;
using std::sqrt;
using std::tanh;

template <typename T>
inline T min(T a, T b) {
    return b < a ? b : a;
}
template <typename T>
inline T max(T a, T b) {
    return a < b ? b : a;
}

template <typename T>
inline T atomicAdd(T* at, T value) {
    const T old = *at;
    *at = old + value;
    return old;
}

inline unsigned atomicMin(unsigned* at, unsigned value) {
    const unsigned old = *at;
    *at = min(old, value);
    return old;
}

namespace host {

const int MAX_THREADS = 1024;
const int STACK_BYTES = 128 * 1024;

enum Status { READY, AT_BARRIER, DONE };

// ucontext starts a fiber on its stack; after that setjmp and longjmp switch, because they make no system call.
struct Fiber {
    jmp_buf state;
    ucontext_t entry;
    bool started = false;
};

static Fiber fibers[MAX_THREADS];
static jmp_buf scheduler;
static ucontext_t scheduler_entry;
static int current;
static Status status[MAX_THREADS];
static void (*kernel_call)(void**);
static void** kernel_arguments;

// A fiber runs one thread of every block that has so many threads.
inline void fiber_main() {
    for (;;) {
        kernel_call(kernel_arguments);
        status[current] = DONE;
        if (!_setjmp(fibers[current].state)) _longjmp(scheduler, 1);
    }
}

inline void resume(int thread) {
    Fiber& fiber = fibers[thread];
    current = thread;
    threadIdx = {thread % blockDim.x, thread / blockDim.x % blockDim.y, thread / blockDim.x / blockDim.y};
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = std::malloc(STACK_BYTES);
    fiber.entry.uc_stack.ss_size = STACK_BYTES;
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, fiber_main, 0);
    swapcontext(&scheduler_entry, &fiber.entry);
}

// Whether all threads of the block came to the same barriers; if not, their fibers are given up.
inline bool run_block(int threads, bool reverse) {
    for (int thread = 0; thread < threads; ++thread) status[thread] = READY;
    for (int waiting = threads; waiting > 0;) {
        waiting = 0;
        for (int i = 0; i < threads; ++i) {
            const int thread = reverse ? threads - 1 - i : i;
            resume(thread);
            waiting += status[thread] == AT_BARRIER;
        }
        if (waiting != 0 && waiting != threads) {
            for (Fiber& fiber : fibers) fiber.started = false;
            return false;
        }
    }
    return true;
}

template <typename... A, std::size_t... I>
inline void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(A*)arguments[I]...);
}

// A letter for what a kernel's parameter is, so that the caller can check what it passes.
template <typename T>
constexpr char code() {
    using U = std::remove_const_t<T>;
    if (std::is_same_v<U, float>) return 'f';
    if (std::is_same_v<U, double>) return 'd';
    if (std::is_same_v<U, int>) return 'i';
    if (std::is_same_v<U, long long>) return 'q';
    if (std::is_same_v<U, unsigned long long>) return 'Q';
    if (std::is_same_v<U, bool>) return '?';
    return 'V';
}

// size is that of the value, or of what the pointer points to.
struct Parameter {
    char type;
    bool is_pointer;
    int size;
};

template <typename... A>
struct Parameters {
    static constexpr int count = sizeof...(A);
    static constexpr Parameter list[] = {
        {code<std::remove_pointer_t<A>>(), std::is_pointer_v<A>, (int)sizeof(std::remove_pointer_t<A>)}...};
};

template <typename... A>
constexpr Parameters<A...> parameters_of(void (*)(A...)) {
    return {};
}

// 0, or 1 if the threads of a block did not all come to the same barriers.
inline int launch(void (*call_kernel)(void**), const unsigned* grid, const unsigned* block, void** arguments,
                  bool reverse) {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block[0], block[1], block[2]};
    kernel_call = call_kernel;
    kernel_arguments = arguments;
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned i = 0; i < blocks; ++i) {
        const unsigned b = reverse ? blocks - 1 - i : i;
        blockIdx = {b % grid[0], b / grid[0] % grid[1], b / grid[0] / grid[1]};
        if (!run_block(block[0] * block[1] * block[2], reverse)) return 1;
    }
    return 0;
}

}  // namespace host

__attribute__((noinline)) inline void __syncthreads() {
    host::status[host::current] = host::AT_BARRIER;
    const int thread = host::current;
    if (!_setjmp(host::fibers[thread].state)) _longjmp(host::scheduler, 1);
}

// What ctypes calls for the kernel ... (a template-id may hold commas): its parameters, and a launch.
#define HOST_KERNEL(number, ...)                                                                                  \
    extern "C" int parameter_count_##number() { return decltype(host::parameters_of(__VA_ARGS__))::count; }       \
    extern "C" const host::Parameter* parameters_##number() {                                                     \
        return decltype(host::parameters_of(__VA_ARGS__))::list;                                                  \
    }                                                                                                             \
    static void call_##number(void** arguments) {                                                                 \
        host::call(__VA_ARGS__, arguments,                                                                        \
                   std::make_index_sequence<decltype(host::parameters_of(__VA_ARGS__))::count>());                \
    }                                                                                                             \
    extern "C" int launch_##number(const unsigned* grid, const unsigned* block, void** arguments, bool reverse) { \
        return host::launch(call_##number, grid, block, arguments, reverse);                                      \
    }
