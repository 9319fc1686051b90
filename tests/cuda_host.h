// Runs CUDA kernels on the CPU, one thread at a time, so that a test needs no GPU.
//
// cuda_host.py compiles a kernel file with g++ after this header, which gives the source the names it uses: threadIdx,
// __shared__, __syncthreads, atomicAdd and so on.  Blocks run one after the other.  The threads of a block are fibers:
// each runs until it ends or reaches a barrier, where the next one is switched in.  The order of threads and blocks can
// be reversed, which changes the result of a kernel that lacks a barrier or whose blocks race.  The instructions of
// tensor cores, which the threads of a warp execute together, are barriers of that warp.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdlib>
#include <cstring>
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
#define __launch_bounds__(...)

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

inline unsigned __umulhi(unsigned a, unsigned b) { return (uint64_t)a * b >> 32; }

namespace host {

const int MAX_THREADS = 1024;
const int STACK_BYTES = 128 * 1024;
const int WARP = 32;

enum Status { READY, AT_WARP_BARRIER, AT_BARRIER, DONE };

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

// Runs a warp until all its threads are at a barrier of the block, or done; false if only some came to one of the warp.
inline bool run_warp(int first, int threads, bool reverse) {
    for (;;) {
        int waiting = 0;
        for (int i = 0; i < threads; ++i) {
            const int thread = first + (reverse ? threads - 1 - i : i);
            if (status[thread] != DONE) resume(thread);
            waiting += status[thread] == AT_WARP_BARRIER;
        }
        if (waiting == 0) return true;
        if (waiting != threads) return false;
    }
}

// Whether all threads of the block came to the same barriers.
inline bool run_to_end(int threads, bool reverse) {
    for (int thread = 0; thread < threads; ++thread) status[thread] = READY;
    const int warps = (threads + WARP - 1) / WARP;
    for (;;) {
        for (int i = 0; i < warps; ++i) {
            const int first = WARP * (reverse ? warps - 1 - i : i);
            if (!run_warp(first, min(WARP, threads - first), reverse)) return false;
        }
        int waiting = 0;
        for (int thread = 0; thread < threads; ++thread) waiting += status[thread] == AT_BARRIER;
        if (waiting == 0) return true;
        if (waiting != threads) return false;
    }
}

// The same; the fibers of threads that still wait are given up.
inline bool run_block(int threads, bool reverse) {
    if (run_to_end(threads, reverse)) return true;
    for (Fiber& fiber : fibers) fiber.started = false;
    return false;
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

// The thread that calls it waits until the others have come to the same barrier.
__attribute__((noinline)) inline void wait_at(Status barrier) {
    const int thread = current;
    status[thread] = barrier;
    if (!_setjmp(fibers[thread].state)) _longjmp(scheduler, 1);
}

inline float float_of(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned bits_of(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// What the lanes of each warp hand to an instruction that they execute together.
struct Fragments {
    unsigned a[4], b[2];
};
static Fragments fragments[MAX_THREADS];

// d += a b of a warp, 16 x 8 sums, as the PTX manual lays the fragments out: lane 4 r + c holds of a the words c, c + 4
// of rows r, r + 8 (row by row in each column), of b the words c, c + 4 of column r, of d rows r, r + 8 of columns 2 c,
// 2 c + 1.  Each word is `per_word` factors, of which `factor` tells one.
template <typename Factor>
inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int per_word, Factor factor) {
    const int thread = current, first = thread / WARP * WARP, lane = thread - first;
    for (int i = 0; i < 4; ++i) fragments[thread].a[i] = a[i];
    for (int i = 0; i < 2; ++i) fragments[thread].b[i] = b[i];
    wait_at(AT_WARP_BARRIER);
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4, column = lane % 4 * 2 + i % 2, lower = i / 2;
        for (int k = 0; k < 8; ++k) {
            const unsigned left = fragments[first + row * 4 + k % 4].a[k / 4 * 2 + lower];
            const unsigned right = fragments[first + column * 4 + k % 4].b[k / 4];
            for (int part = 0; part < per_word; ++part) d[i] += factor(left, part) * factor(right, part);
        }
    }
    wait_at(AT_WARP_BARRIER);  // nobody may hand over the next factors before everybody has read these
}

}  // namespace host

inline void __syncthreads() { host::wait_at(host::AT_BARRIER); }

inline unsigned __float_as_uint(float value) { return host::bits_of(value); }
inline float __uint_as_float(unsigned bits) { return host::float_of(bits); }

// IEEE binary16: a sign, 5 bits of the exponent, 10 behind the leading one; to the nearest, of two the even one.
inline float float_of_half(unsigned short bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(fraction, -24)
                                       : std::ldexp(1024 + fraction, exponent - 25);
    return bits >> 15 ? -size : size;
}

inline unsigned short half_of_float(float value) {
    const unsigned short sign = host::bits_of(value) >> 31 << 15;
    const float size = std::fabs(value);
    if (size != size) return sign | 0x7FFF;
    if (size >= 65520) return sign | 31 << 10;
    const int exponent = size < 0x1p-14f ? -14 : std::ilogb(size);
    const int units = (int)std::nearbyint(std::ldexp(size, 10 - exponent));  // of the last place; may carry over
    return sign | ((exponent + 14) * 1024 + units);
}

// To the nearest number of eleven significant bits, of two equally near the larger; not for infinities and NaN.
inline unsigned round_to_tf32(float value) {
    const unsigned bits = host::bits_of(value), exponent = 0xFF << 23;
    return (bits & exponent) == exponent ? bits : (bits + 0x1000) & ~0x1FFFu;
}

// A tensor core does not look at the thirteen lowest bits of a factor.
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    host::mma(d, a, b, 1, [](unsigned word, int) { return host::float_of(word & ~0x1FFFu); });
}

// Two factors of 16 bits to a word, the first one in its lower half; T is a type of half.cuh.
template <typename T>
inline void mma_halves(T, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    host::mma(d, a, b, 2, [](unsigned word, int part) {
        T factor;
        factor.bits = word >> 16 * part;
        return (float)factor;
    });
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
