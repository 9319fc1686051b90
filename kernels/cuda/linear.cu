// Bias, inner products, and sums of matrices: what surrounds a matrix product.
#include "common.cuh"

// A plane is one channel of one image of y (N, C, inner): plane = n * channels + c.
template <typename T>
__global__ void bias_add(int planes, int size, T* y, const T* bias, int channels) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) y[(long long)plane * size + i] += bias[plane % channels];
}

// length = N * inner, the elements of a channel of dy (N, C, inner): element i lies in image i / inner.
template <typename T>
__global__ void bias_grad_partials(int channels, int length, double* partials, const T* dy, int inner) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;
    if (c < channels) {
        FOR_EACH_REDUCED(i, length) {
            const int n = i / inner;
            sum += dy[((long long)n * channels + c) * inner + i % inner];
        }
    }
    keep_partial(sum, c, channels, partials);
}

// Accumulates the partial sums of every column into out.
template <typename T>
__global__ void add_partials(int columns, int length, const double* partials, T* out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const double sum = sum_partials(partials, length, column, columns);
    if (threadIdx.y == 0 && column < columns) out[column] += sum;
}

template <typename T>
__global__ void dot_partials(int columns, int length, double* partials, const T* a, const T* b) {
    double sum = 0;
    FOR_EACH_REDUCED(i, length) sum += (double)a[i] * b[i];
    keep_partial(sum, threadIdx.x, columns, partials);
}

// Sums the rows of a matrix (length, columns), the weight gradients of single images, into out (columns,) or onto what is there.
template <typename T>
__global__ void add_rows(int columns, int length, const T* rows, T* out, bool accumulate) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    T sum = 0;
    if (column < columns) FOR_EACH_REDUCED(i, length) sum += rows[(long long)i * columns + column];
    sum = reduce(sum, Add());
    if (threadIdx.y == 0 && column < columns) out[column] = accumulate ? out[column] + sum : sum;
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
