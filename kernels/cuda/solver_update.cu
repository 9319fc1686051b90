// Solver steps on the flat buffers that hold all params of a net.
#include "common.cuh"

template <typename T>
__device__ T regularized(T w, T g, T scale, T decay, bool l1) {
    return g * scale + decay * (l1 ? T(w > 0) - T(w < 0) : w);
}

template <typename T>
__global__ void sgd_update(long long count, T* w, T* g, T* h, double rate, double momentum, double scale, double decay,
                           bool l1) {
    FOR_EACH(i, count) {
        h[i] = T(momentum) * h[i] + T(rate) * regularized<T>(w[i], g[i], scale, decay, l1);
        g[i] = h[i];
        w[i] -= h[i];
    }
}

template <typename T>
__global__ void nesterov_update(long long count, T* w, T* g, T* h, double rate, double momentum, double scale,
                                double decay, bool l1) {
    FOR_EACH(i, count) {
        const T before = T(momentum) * h[i];
        h[i] = before + T(rate) * regularized<T>(w[i], g[i], scale, decay, l1);
        g[i] = T(1 + momentum) * h[i] - before;
        w[i] -= g[i];
    }
}

template <typename T>
__global__ void adagrad_update(long long count, T* w, T* g, T* h, double rate, double delta, double scale, double decay,
                               bool l1) {
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] += gradient * gradient;
        g[i] = gradient * (T(rate) / (sqrt(h[i]) + T(delta)));
        w[i] -= g[i];
    }
}

// The running mean after one more value.
template <typename T>
__device__ T mean_after(T mean, T value, double memory) {
    return T(memory) * mean + T(1 - memory) * value;
}

template <typename T>
__global__ void rmsprop_update(long long count, T* w, T* g, T* h, double rate, double memory, double delta,
                               double scale, double decay, bool l1) {
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] = mean_after(h[i], gradient * gradient, memory);
        g[i] = gradient * (T(rate) / (sqrt(h[i]) + T(delta)));
        w[i] -= g[i];
    }
}

template <typename T>
__global__ void adadelta_update(long long count, T* w, T* g, T* h, T* steps, double rate, double memory, double delta,
                                double scale, double decay, bool l1) {
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] = mean_after(h[i], gradient * gradient, memory);
        const T step = gradient * sqrt((steps[i] + T(delta)) / (h[i] + T(delta)));
        steps[i] = mean_after(steps[i], step * step, memory);
        g[i] = T(rate) * step;
        w[i] -= g[i];
    }
}

template <typename T>
__global__ void adam_update(long long count, T* w, T* g, T* m, T* v, double rate, double beta1, double beta2,
                            double delta, double scale, double decay, bool l1) {
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        m[i] = mean_after(m[i], gradient, beta1);
        v[i] = mean_after(v[i], gradient * gradient, beta2);
        g[i] = T(rate) * m[i] / (sqrt(v[i]) + T(delta));
        w[i] -= g[i];
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
