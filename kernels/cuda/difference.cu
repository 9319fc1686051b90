// Losses on the difference of two blobs.  Scalars that other kernels made stay on the device.
#include "common.cuh"

template <typename T>
__global__ void euclidean_loss_partials(int columns, int length, double* partials, const T* a, const T* b,
                                        T* difference) {
    double sum = 0;
    FOR_EACH_REDUCED(i, length) {
        const T d = a[i] - b[i];
        difference[i] = d;
        sum += (double)d * d;
    }
    keep_partial(sum, threadIdx.x, columns, partials);
}

template <typename T>
__global__ void euclidean_loss_grad(long long count, const T* difference, const T* weight, double sign, int num,
                                    T* dx) {
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
__global__ void contrastive_loss(int columns, int num, const T* distance, const T* similar, double margin, bool legacy,
                                 T* loss) {
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
__global__ void contrastive_loss_grad(int planes, int size, const T* difference, const T* distance, const T* similar,
                                      double margin, bool legacy, const T* weight, double sign, T* dx) {
    const T scale = T(sign) * *weight / planes;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        T factor = 1;
        if ((long long)similar[plane] == 0) {
            const T d = legacy ? distance[plane] : sqrt(distance[plane]), apart = T(margin) - d;
            factor = apart <= 0 ? T(0) : legacy ? T(-1) : -apart / (d + T(1e-4));
        }
        dx[(long long)plane * size + i] = scale * factor * difference[(long long)plane * size + i];
    }
}
