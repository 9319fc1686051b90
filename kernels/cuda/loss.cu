// Losses and accuracy.  Labels are T and are truncated to integers; scalars that other kernels made stay on the device.
#include "common.cuh"

const double SMALLEST = 0x1p-126;  // FLT_MIN: the least probability of softmax_loss
const double LOG_FLOOR = 1e-20;    // the least probability of the losses that take probabilities

// max(p, least), but NaN for NaN.
template <typename T>
__device__ T at_least(T p, double least) {
    return p < T(least) ? T(least) : p;
}

// A label that may be told to be ignored.
struct Ignore {
    bool active;
    int label;

    template <typename T>
    __device__ bool operator()(T value) const {
        return active && value == T(label);
    }
};

// bad starts as -1, which is the largest unsigned number, and keeps what was found until the host has read it.  Negative classes: any integer is good.
template <typename T>
__global__ void check_labels(long long count, const T* label, int classes, bool ignoring, int ignored, int* bad) {
    const Ignore ignore{ignoring, ignored};
    FOR_EACH(i, count) {
        const T k = label[i];
        const bool good = k == floor(k) && k - k == 0 && (classes < 0 || (k >= 0 && k < classes));  // inf - inf is NaN
        if (!good && !ignore(k)) atomicMin((unsigned*)bad, (unsigned)i);
    }
}

template <typename T>
__global__ void valid_partials(int columns, int length, double* partials, const T* label, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double valid = 0;
    FOR_EACH_REDUCED(i, length) valid += !ignore(label[i]);
    keep_partial(valid, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void normalizer_of_partials(int columns, int length, const double* partials, T* normalizer) {
    const double valid = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *normalizer = valid < 1 ? 1 : valid;
}

// What ends the long sum of a loss: the sum over a normalizer that lies on the device, or over a known count.
template <typename T>
__global__ void normalized_loss(int columns, int length, const double* partials, const T* normalizer, T* loss) {
    const double sum = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *loss = sum / *normalizer;
}

template <typename T>
__global__ void mean_loss(int columns, int length, const double* partials, double count, T* loss) {
    const double sum = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *loss = sum / count;
}

// length = outer * inner: position i is the pixel i % inner of the outer index i / inner.
template <typename T>
__global__ void softmax_loss_partials(int columns, int length, double* partials, const T* prob, const T* label,
                                      int channels, int inner, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const long long index = label[i];
        if (index < 0 || index >= channels || ignore(label[i])) continue;
        const T p = prob[((long long)(i / inner) * channels + index) * inner + i % inner];
        sum -= log(at_least(p, SMALLEST));
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

// A plane is one outer index of prob (outer, C, inner); size = C * inner.
template <typename T>
__global__ void softmax_loss_grad(int planes, int size, const T* prob, const T* label, int inner, bool ignoring,
                                  int ignored, const T* normalizer, const T* weight, T* dx) {
    const Ignore ignore{ignoring, ignored};
    const T scale = *weight / *normalizer;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const T own = label[(long long)plane * inner + i % inner];
        const long long index = own, at = (long long)plane * size + i;
        dx[at] = ignore(own) ? T(0) : (prob[at] - (i / inner == index)) * scale;
    }
}

// See softmax_loss_partials.
template <typename T>
__global__ void focal_loss_partials(int columns, int length, double* partials, const T* prob, const T* label,
                                    double alpha, double gamma, int channels, int inner, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const long long index = label[i];
        if (index < 0 || index >= channels || ignore(label[i])) continue;
        const T p = prob[((long long)(i / inner) * channels + index) * inner + i % inner];
        sum -= alpha * pow(1 - (double)p, gamma) * log((double)at_least(p, SMALLEST));
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

// See softmax_loss_grad.
template <typename T>
__global__ void focal_loss_grad(int planes, int size, const T* prob, const T* label, double alpha, double gamma,
                                int inner, bool ignoring, int ignored, const T* normalizer, const T* weight, T* dx) {
    const Ignore ignore{ignoring, ignored};
    const double scale = alpha * (double)*weight / (double)*normalizer;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const T own = label[(long long)plane * inner + i % inner];
        const long long index = own, start = (long long)plane * size;
        double slope = 0;
        if (index >= 0 && index < size / inner && !ignore(own)) {
            const T p = prob[start + index * inner + i % inner];
            const double log_p = log((double)at_least(p, SMALLEST));
            if (p < 1) slope = pow(1 - (double)p, gamma - 1) * (gamma * p * log_p + p - 1) * scale;
        }
        dx[start + i] = slope * ((i / inner == index) - (double)prob[start + i]);
    }
}

// A score or target of its own at every place: i runs over all of x.
template <typename T>
__global__ void sigmoid_loss_partials(int columns, int length, double* partials, const T* x, const T* target,
                                      bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const bool positive = x[i] >= 0;
        if (!ignore(target[i])) sum += log(1 + exp(positive ? -x[i] : x[i])) - x[i] * (target[i] - positive);
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void sigmoid_loss_grad(long long count, const T* x, const T* target, bool ignoring, int ignored,
                                  const T* normalizer, const T* weight, T* dx) {
    const Ignore ignore{ignoring, ignored};
    const T scale = *weight / *normalizer;
    FOR_EACH(i, count) dx[i] = ignore(target[i]) ? T(0) : (sigmoid(x[i]) - target[i]) * scale;
}

// prob (N, C); a row a label.
template <typename T>
__global__ void multinomial_loss_partials(int columns, int num, double* partials, const T* prob, const T* label,
                                          int channels) {
    double sum = 0;
    FOR_EACH_REDUCED(n, num) {
        const long long index = label[n];
        if (index >= 0 && index < channels) sum -= log(at_least(prob[(long long)n * channels + index], LOG_FLOOR));
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void multinomial_loss_grad(int num, int channels, const T* prob, const T* label, const T* weight, T* dx) {
    FOR_EACH_IN_PLANES(n, num, c, channels) {
        const long long at = (long long)n * channels + c;
        dx[at] = (long long)label[n] == c ? -*weight / (num * at_least(prob[at], LOG_FLOOR)) : T(0);
    }
}

// length = N * C; margin is kept for the gradient.
template <typename T>
__global__ void hinge_loss_partials(int columns, int length, double* partials, const T* x, const T* label, int channels,
                                    bool squared, T* margin) {
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const bool own = (long long)label[i / channels] == i % channels;
        const T m = 1 + (own ? -x[i] : x[i]);
        margin[i] = m < 0 ? T(0) : m;
        sum += squared ? (double)margin[i] * margin[i] : (double)margin[i];
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void hinge_loss_grad(int num, int channels, const T* margin, const T* label, bool squared, const T* weight,
                                T* dx) {
    const T scale = *weight / num;
    FOR_EACH_IN_PLANES(n, num, c, channels) {
        const long long at = (long long)n * channels + c;
        const T gradient = squared ? 2 * margin[at] : margin[at] > 0 ? T(1) : margin[at];
        dx[at] = ((long long)label[n] == c ? -gradient : gradient) * scale;
    }
}

// length = outer * C * inner; gain (C, C) weighs the log of every class's probability by the label's row.
template <typename T>
__global__ void infogain_loss_partials(int columns, int length, double* partials, const T* prob, const T* label,
                                       const T* gain, int channels, int inner, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const int c = i / inner % channels, o = i / inner / channels;
        const T own = label[(long long)o * inner + i % inner];
        const long long index = own;
        if (index < 0 || index >= channels || ignore(own)) continue;
        sum -= gain[index * channels + c] * log(at_least(prob[i], LOG_FLOOR));
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

// A plane is one outer index of prob (outer, C, inner).
template <typename T>
__global__ void infogain_loss_grad(int planes, int size, const T* prob, const T* label, const T* gain, int channels,
                                   int inner, bool ignoring, int ignored, const T* normalizer, const T* weight, T* dx) {
    const Ignore ignore{ignoring, ignored};
    const T scale = *weight / *normalizer;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const T own = label[(long long)plane * inner + i % inner];
        const long long index = own, at = (long long)plane * size + i;
        T gradient = 0;
        if (index >= 0 && index < channels && !ignore(own)) {
            const T* row = gain + index * channels;
            T sum = 0;
            for (int c = 0; c < channels; ++c) sum += row[c];
            gradient = (prob[at] * sum - row[i / inner]) * scale;
        }
        dx[at] = gradient;
    }
}

// per_class and seen start as 0; they count in whole numbers, so that the order of the additions does not matter.
template <typename T>
__global__ void accuracy_counts(long long count, const T* score, const T* label, int channels, int inner, int top_k,
                                bool ignoring, int ignored, T* per_class, T* seen) {
    const Ignore ignore{ignoring, ignored};
    FOR_EACH(i, count) {
        const long long index = label[i], o = i / inner;
        if (index < 0 || index >= channels || ignore(label[i])) continue;
        const T* column = score + o * channels * inner + (i - o * inner);
        const T own = column[index * inner];
        int rank = 0;
        for (int c = 0; c < channels; ++c) rank += !(column[(long long)c * inner] < own);
        atomicAdd(seen + index, T(1));
        if (rank <= top_k && own == own) atomicAdd(per_class + index, T(1));
    }
}

template <typename T>
__global__ void accuracy_shares(int columns, int channels, T* correct, T* per_class, const T* seen) {
    double hits = 0, valid = 0;
    FOR_EACH_REDUCED(c, channels) {
        hits += per_class[c];
        valid += seen[c];
        per_class[c] /= seen[c] < 1 ? T(1) : seen[c];
    }
    hits = reduce(hits, Add());
    valid = reduce(valid, Add());
    if (is_first_thread()) *correct = hits / (valid < 1 ? 1 : valid);
}
