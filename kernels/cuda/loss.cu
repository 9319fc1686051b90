// Losses and accuracy.  Labels are T and are truncated to integers; scalars that other kernels made stay on the device.
#include "common.cuh"

const float SMALLEST = 1.175494351e-38f;  // FLT_MIN, so that no loss is infinite

// A label that may be told to be ignored.
struct Ignore {
    bool active;
    int label;

    __device__ bool operator()(long long index) const { return active && index == label; }
};

// bad starts as -1, which is the largest unsigned number.
template <typename T>
__global__ void check_labels(long long count, const T* label, int classes, bool ignoring, int ignored, int* bad) {
    const Ignore ignore{ignoring, ignored};
    FOR_EACH(i, count) {
        const long long index = label[i];
        if ((index < 0 || index >= classes) && !ignore(index)) atomicMin((unsigned*)bad, (unsigned)i);
    }
}

template <typename T>
__global__ void valid_partials(int columns, int length, double* partials, const T* label, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double valid = 0;
    FOR_EACH_REDUCED(i, length) valid += !ignore((long long)label[i]);
    keep_partial(valid, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void normalizer_of_partials(int columns, int length, const double* partials, T* normalizer) {
    const double valid = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *normalizer = valid < 1 ? 1 : valid;
}

// length = outer * inner: position i is the pixel i % inner of the outer index i / inner.
template <typename T>
__global__ void softmax_loss_partials(int columns, int length, double* partials, const T* prob, const T* label, int channels,
                                      int inner, bool ignoring, int ignored) {
    const Ignore ignore{ignoring, ignored};
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const long long index = label[i];
        if (index < 0 || index >= channels || ignore(index)) continue;
        const T p = prob[((long long)(i / inner) * channels + index) * inner + i % inner];
        sum -= log(p < SMALLEST ? T(SMALLEST) : p);
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void softmax_loss_of_partials(int columns, int length, const double* partials, const T* normalizer, T* loss) {
    const double sum = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *loss = sum / *normalizer;
}

// A plane is one outer index of prob (outer, C, inner); size = C * inner.
template <typename T>
__global__ void softmax_loss_grad(int planes, int size, const T* prob, const T* label, int inner, bool ignoring, int ignored,
                                  const T* normalizer, const T* weight, T* dx) {
    const Ignore ignore{ignoring, ignored};
    const T scale = *weight / *normalizer;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const long long index = label[(long long)plane * inner + i % inner], at = (long long)plane * size + i;
        dx[at] = ignore(index) ? T(0) : (prob[at] - (i / inner == index)) * scale;
    }
}

// per_class and seen start as 0; they count in whole numbers, so that the order of the additions does not matter.
template <typename T>
__global__ void accuracy_counts(long long count, const T* score, const T* label, int channels, int inner, int top_k, bool ignoring,
                                int ignored, T* per_class, T* seen) {
    const Ignore ignore{ignoring, ignored};
    FOR_EACH(i, count) {
        const long long index = label[i], o = i / inner;
        if (index < 0 || index >= channels || ignore(index)) continue;
        const T* column = score + o * channels * inner + (i - o * inner);
        const T own = column[index * inner];
        int rank = 0;
        for (int c = 0; c < channels; ++c) rank += column[(long long)c * inner] >= own;
        atomicAdd(seen + index, T(1));
        if (rank <= top_k) atomicAdd(per_class + index, T(1));
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

template <typename T>
__global__ void euclidean_loss_partials(int columns, int length, double* partials, const T* a, const T* b, T* difference) {
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const T d = a[i] - b[i];
        difference[i] = d;
        sum += (double)d * d;
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void euclidean_loss_of_partials(int columns, int length, const double* partials, int num, T* loss) {
    const double sum = sum_partials(partials, length, 0, columns);
    if (is_first_thread()) *loss = sum / (2.0 * num);
}

template <typename T>
__global__ void euclidean_loss_grad(long long count, const T* difference, const T* weight, double sign, int num, T* dx) {
    const T scale = T(sign) * *weight / num;
    FOR_EACH(i, count) dx[i] = scale * difference[i];
}

// x runs over the pairs, y down their channels: difference (N, C) and its squared length (N,).
template <typename T>
__global__ void contrastive_distance(int num, int channels, const T* a, const T* b, T* difference, T* distance) {
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;
    if (n < num) {
        FOR_EACH_REDUCED(c, channels) {
            const long long at = (long long)n * channels + c;
            const T d = a[at] - b[at];
            difference[at] = d;
            sum += (double)d * d;
        }
    }
    sum = reduce(sum, Add());
    if (threadIdx.y == 0 && n < num) distance[n] = sum;
}

template <typename T>
__global__ void contrastive_loss(int columns, int num, const T* distance, const T* similar, double margin, bool legacy, T* loss) {
    double sum = 0;
    FOR_EACH_REDUCED(n, num) {
        const T squared = distance[n];
        T term = squared;
        if ((long long)similar[n] == 0) {
            const T apart = T(margin) - (legacy ? squared : sqrt(squared));
            term = apart < 0 ? T(0) : legacy ? apart : apart * apart;
        }
        sum += term;
    }
    sum = reduce(sum, Add());
    if (is_first_thread()) *loss = sum / (2.0 * num);
}

// A plane is one pair of difference (N, C).
template <typename T>
__global__ void contrastive_loss_grad(int planes, int size, const T* difference, const T* distance, const T* similar, double margin,
                                      bool legacy, const T* weight, double sign, T* dx) {
    const T scale = T(sign) * *weight / planes;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        T factor = 1;
        if ((long long)similar[plane] == 0) {
            const T d = legacy ? distance[plane] : sqrt(distance[plane]), apart = T(margin) - d;
            factor = apart > 0 ? (legacy ? T(-1) : -apart / (d + T(1e-4))) : T(0);
        }
        dx[(long long)plane * size + i] = scale * factor * difference[(long long)plane * size + i];
    }
}
