// Solver steps on the flat buffers that hold all params of a net.
#include "common.cuh"

template <typename T>
__device__ T regularized(T w, T g, T scale, T decay, bool l1) {
    return g * scale + decay * (l1 ? T(w > 0) - T(w < 0) : w);
}

template <typename T>
__global__ void sgd_update(long long count, T* w, T* g, T* h, double rate, double momentum, double scale, double decay, bool l1) {
    FOR_EACH(i, count) {
        h[i] = T(momentum) * h[i] + T(rate) * regularized<T>(w[i], g[i], scale, decay, l1);
        g[i] = h[i];
        w[i] -= h[i];
    }
}

// The square root of the sum that dot_partials began.
template <typename T>
__global__ void norm_of_partials(int columns, int length, const double* partials, T* norm) {
    const double sum = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *norm = sqrt(sum);
}

template <typename T>
__global__ void clip_to_norm(long long count, T* g, double limit, const T* norm) {
    if (*norm > T(limit)) {
        const T factor = T(limit) / *norm;
        FOR_EACH(i, count) g[i] *= factor;
    }
}
