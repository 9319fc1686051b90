// Mean and variance of the channels of x (N, channels, inner), and what their gradients need: two sums down each channel
// in one pass.  length = N * inner; element i of a channel lies in image i / inner.
#include "common.cuh"
#include "half.cuh"

__device__ long long place(int i, int channel, int channels, int inner) {
    return ((long long)(i / inner) * channels + channel) * inner + i % inner;
}

// The partial sums of two values, the second ones behind all the first ones.
__device__ void keep_partials(double first, double second, int column, int columns, double* partials) {
    keep_partial(first, column, columns, partials);
    keep_partial(second, column, columns, partials + (long long)gridDim.y * columns);
}

// Sums of the distances from the channel's first value, and of their squares: there is little to cancel.
template <typename T, typename X, typename Dy, typename Y>
__global__ void moments_partials(int channels, int length, double* partials, const X* x, int inner) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0, squares = 0;
    if (c < channels) {
        const double origin = x[(long long)c * inner];
        FOR_EACH_REDUCED(i, length) {
            const double distance = x[place(i, c, channels, inner)] - origin;
            sum += distance;
            squares += distance * distance;
        }
    }
    keep_partials(sum, squares, c, channels, partials);
}

template <typename T, typename X, typename Dy, typename Y>
__global__ void moments(int channels, int length, const double* partials, const X* x, int inner, double count,
                        double eps, T* mean, T* variance, T* factor) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    const double sum = sum_partials(partials, length, c, channels);
    const double squares = sum_partials(partials + (long long)length * channels, length, c, channels);
    if (threadIdx.y == 0 && c < channels) {
        const double distance = sum / count, spread = squares / count - distance * distance;
        mean[c] = x[(long long)c * inner] + distance;
        variance[c] = spread < 0 ? 0 : spread;
        factor[c] = T(1) / sqrt(variance[c] + T(eps));
    }
}

// Sums of the gradient behind a rectifier of this slope, and of its product with the standardized x.
template <typename T, typename X, typename Dy, typename Y>
__global__ void standard_grad_partials(int channels, int length, double* partials, const X* x, const Dy* dy, const Y* y,
                                       const T* mean, const T* factor, double slope, int inner) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0, dot = 0;
    if (c < channels) {
        const T centre = mean[c], scale = factor[c];
        FOR_EACH_REDUCED(i, length) {
            const long long at = place(i, c, channels, inner);
            const T above = dy[at], gradient = y[at] > 0 ? above : above * T(slope);
            sum += gradient;
            dot += (double)gradient * ((x[at] - centre) * scale);
        }
    }
    keep_partials(sum, dot, c, channels, partials);
}

// Their means; and the sums added to the gradients of the factor and of the bias behind, where those learn.
template <typename T, typename X, typename Dy, typename Y>
__global__ void standard_grad_means(int channels, int length, const double* partials, double count, T* mean,
                                    T* dot_mean, bool with_factor, T* factor_grad, bool with_bias, T* bias_grad) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    const double sum = sum_partials(partials, length, c, channels);
    const double dot = sum_partials(partials + (long long)length * channels, length, c, channels);
    if (threadIdx.y == 0 && c < channels) {
        mean[c] = sum / count;
        dot_mean[c] = dot / count;
        if (with_factor) factor_grad[c] += dot;
        if (with_bias) bias_grad[c] += sum;
    }
}
