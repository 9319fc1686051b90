// A bias for each channel, and its gradient.
#include "common.cuh"
#include "half.cuh"

// A plane is one channel of one image of y (N, C, inner): plane = n * channels + c.
template <typename T, typename Y>
__global__ void bias_add(int planes, int size, Y* y, const T* bias, int channels) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const long long place = (long long)plane * size + i;
        y[place] = y[place] + bias[plane % channels];
    }
}

// length = N * inner, the elements of a channel of dy (N, C, inner): element i lies in image i / inner.
template <typename T, typename Y>
__global__ void bias_grad_partials(int channels, int length, double* partials, const Y* dy, int inner) {
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
