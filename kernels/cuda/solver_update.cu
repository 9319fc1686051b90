// Solver steps on the flat buffers that hold all params of a net.
#include "common.cuh"

// A number that is given, or that lies in device memory, where a captured launch finds the newest one.
__device__ double value_of(double number) { return number; }
__device__ double value_of(const double* number) { return *number; }

// The learning rate and the weight decay of one element after the other, whose indices grow.
template <typename T, typename Rate>
struct Rates;

template <typename T>
struct Rates<T, double> {
    T rate, decay;

    __device__ Rates(double rate_of_all, double decay_of_all) : rate(rate_of_all), decay(decay_of_all) {}
    __device__ void move_to(long long) {}
};

// A table in device memory: where each range of elements ends, its rate, and what multiplies its decay.
template <typename T>
struct Rates<T, const double*> {
    const double* next;
    const double whole_decay;
    long long end = 0;
    T rate = 0, decay = 0;

    __device__ Rates(const double* table, double decay_of_all) : next(table), whole_decay(decay_of_all) {}
    __device__ void move_to(long long i) {
        for (; i >= end; next += 3) {
            end = next[0];
            rate = next[1];
            decay = whole_decay * next[2];
        }
    }
};

// Takes the step of each element, which `step` gives for its index, its regularised gradient and its rate, and leaves it
// in g.  A scale that is not a number says that the gradients have overflowed: nothing is stepped then.
template <typename T, typename Rate, typename Scale, typename Step>
__device__ void step_each(long long count, T* w, T* g, Rate rate, Scale scale, double decay, bool l1, Step step) {
    Rates<T, Rate> rates(rate, decay);
    const T factor = value_of(scale);
    FOR_EACH(i, count) {
        if (factor != factor) {
            g[i] = 0;
            continue;
        }
        rates.move_to(i);
        const T gradient = g[i] * factor + rates.decay * (l1 ? T(w[i] > 0) - T(w[i] < 0) : w[i]);
        g[i] = step(i, gradient, rates.rate);
        w[i] -= g[i];
    }
}

template <typename T, typename Rate, typename Scale>
__global__ void sgd_update(long long count, T* w, T* g, T* h, Rate rate, double momentum, Scale scale, double decay,
                           bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        h[i] = T(momentum) * h[i] + eta * gradient;
        return h[i];
    });
}

template <typename T, typename Rate, typename Scale>
__global__ void nesterov_update(long long count, T* w, T* g, T* h, Rate rate, double momentum, Scale scale,
                                double decay, bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        const T before = T(momentum) * h[i];
        h[i] = before + eta * gradient;
        return T(1 + momentum) * h[i] - before;
    });
}

template <typename T, typename Rate, typename Scale>
__global__ void adagrad_update(long long count, T* w, T* g, T* h, Rate rate, double delta, Scale scale, double decay,
                               bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        h[i] += gradient * gradient;
        return gradient * (eta / (sqrt(h[i]) + T(delta)));
    });
}

// The running mean after one more value.
template <typename T>
__device__ T mean_after(T mean, T value, double memory) {
    return T(memory) * mean + T(1 - memory) * value;
}

template <typename T, typename Rate, typename Scale>
__global__ void rmsprop_update(long long count, T* w, T* g, T* h, Rate rate, double memory, double delta, Scale scale,
                               double decay, bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        h[i] = mean_after(h[i], gradient * gradient, memory);
        return gradient * (eta / (sqrt(h[i]) + T(delta)));
    });
}

template <typename T, typename Rate, typename Scale>
__global__ void adadelta_update(long long count, T* w, T* g, T* h, T* steps, Rate rate, double memory, double delta,
                                Scale scale, double decay, bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        h[i] = mean_after(h[i], gradient * gradient, memory);
        const T step = gradient * sqrt((steps[i] + T(delta)) / (h[i] + T(delta)));
        steps[i] = mean_after(steps[i], step * step, memory);
        return eta * step;
    });
}

template <typename T, typename Rate, typename Scale>
__global__ void adam_update(long long count, T* w, T* g, T* m, T* v, Rate rate, double beta1, double beta2,
                            double delta, Scale scale, double decay, bool l1) {
    step_each(count, w, g, rate, scale, decay, l1, [=](long long i, T gradient, T eta) {
        m[i] = mean_after(m[i], gradient, beta1);
        v[i] = mean_after(v[i], gradient * gradient, beta2);
        return eta * m[i] / (sqrt(v[i]) + T(delta));
    });
}
