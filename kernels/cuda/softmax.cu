// Softmax over the middle axis of (outer, C, inner).  A block takes blockDim.x columns of one outer index and goes down
// them blockDim.y channels at a time: consecutive threads read consecutive memory both for inner = 1 (blockDim.x 1) and
// for images (blockDim.x 32).
#include "common.cuh"

#define FOR_EACH_CHANNEL(c, channels) for (int c = threadIdx.y; c < (channels); c += blockDim.y)

template <typename T>
__global__ void softmax(int inner, int channels, int outer, const T* x, T* y) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int there = min(column, inner - 1);  // beyond the last column a thread reads along: all must reach reduce
    for (int o = blockIdx.y; o < outer; o += gridDim.y) {
        const long long start = (long long)o * channels * inner + there;
        T largest = x[start];
        FOR_EACH_CHANNEL(c, channels) largest = Larger()(largest, x[start + (long long)c * inner]);
        largest = reduce(largest, Larger());
        T sum = 0;
        FOR_EACH_CHANNEL(c, channels) sum += exp(x[start + (long long)c * inner] - largest);
        sum = reduce(sum, Add());
        if (column >= inner) continue;
        FOR_EACH_CHANNEL(c, channels) {
            const long long at = start + (long long)c * inner;
            y[at] = exp(x[at] - largest) / sum;
        }
    }
}

template <typename T>
__global__ void softmax_grad(int inner, int channels, int outer, const T* y, const T* dy, T* dx) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int there = min(column, inner - 1);
    for (int o = blockIdx.y; o < outer; o += gridDim.y) {
        const long long start = (long long)o * channels * inner + there;
        T sum = 0;
        FOR_EACH_CHANNEL(c, channels) sum += dy[start + (long long)c * inner] * y[start + (long long)c * inner];
        sum = reduce(sum, Add());
        if (column >= inner) continue;
        FOR_EACH_CHANNEL(c, channels) {
            const long long at = start + (long long)c * inner;
            dx[at] = y[at] * (dy[at] - sum);
        }
    }
}
