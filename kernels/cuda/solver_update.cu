// Solver steps on the flat buffers that hold all params of a net.
#include "common.cuh"

// A rate that is given, or that lies in device memory, where a captured launch finds the newest one.
__device__ double value_of(double rate) { return rate; }
__device__ double value_of(const double* rate) { return *rate; }

template <typename T>
__device__ T regularized(T w, T g, T scale, T decay, bool l1) {
    return g * scale + decay * (l1 ? T(w > 0) - T(w < 0) : w);
}

template <typename T, typename Rate>
__global__ void sgd_update(long long count, T* w, T* g, T* h, Rate rate, double momentum, double scale, double decay,
                           bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        h[i] = T(momentum) * h[i] + eta * regularized<T>(w[i], g[i], scale, decay, l1);
        g[i] = h[i];
        w[i] -= h[i];
    }
}

template <typename T, typename Rate>
__global__ void nesterov_update(long long count, T* w, T* g, T* h, Rate rate, double momentum, double scale,
                                double decay, bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        const T before = T(momentum) * h[i];
        h[i] = before + eta * regularized<T>(w[i], g[i], scale, decay, l1);
        g[i] = T(1 + momentum) * h[i] - before;
        w[i] -= g[i];
    }
}

template <typename T, typename Rate>
__global__ void adagrad_update(long long count, T* w, T* g, T* h, Rate rate, double delta, double scale, double decay,
                               bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] += gradient * gradient;
        g[i] = gradient * (eta / (sqrt(h[i]) + T(delta)));
        w[i] -= g[i];
    }
}

// The running mean after one more value.
template <typename T>
__device__ T mean_after(T mean, T value, double memory) {
    return T(memory) * mean + T(1 - memory) * value;
}

template <typename T, typename Rate>
__global__ void rmsprop_update(long long count, T* w, T* g, T* h, Rate rate, double memory, double delta,
                               double scale, double decay, bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] = mean_after(h[i], gradient * gradient, memory);
        g[i] = gradient * (eta / (sqrt(h[i]) + T(delta)));
        w[i] -= g[i];
    }
}

template <typename T, typename Rate>
__global__ void adadelta_update(long long count, T* w, T* g, T* h, T* steps, Rate rate, double memory, double delta,
                                double scale, double decay, bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        h[i] = mean_after(h[i], gradient * gradient, memory);
        const T step = gradient * sqrt((steps[i] + T(delta)) / (h[i] + T(delta)));
        steps[i] = mean_after(steps[i], step * step, memory);
        g[i] = eta * step;
        w[i] -= g[i];
    }
}

template <typename T, typename Rate>
__global__ void adam_update(long long count, T* w, T* g, T* m, T* v, Rate rate, double beta1, double beta2,
                            double delta, double scale, double decay, bool l1) {
    const T eta = value_of(rate);
    FOR_EACH(i, count) {
        const T gradient = regularized<T>(w[i], g[i], scale, decay, l1);
        m[i] = mean_after(m[i], gradient, beta1);
        v[i] = mean_after(v[i], gradient * gradient, beta2);
        g[i] = eta * m[i] / (sqrt(v[i]) + T(delta));
        w[i] -= g[i];
    }
}
