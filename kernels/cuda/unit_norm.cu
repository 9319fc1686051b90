// Vectors of a length of 1 along the middle axis of (outer, C, inner), launched as softmax.cu's kernels are.
#include "common.cuh"

#define FOR_EACH_CHANNEL(c, channels) for (int c = threadIdx.y; c < (channels); c += blockDim.y)

template <typename T>
__global__ void unit_norm(int inner, int channels, int outer, const T* x, double eps, int power, T* norm, T* z) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int there = min(column, inner - 1);  // beyond the last column a thread reads along: all must reach reduce
    for (int o = blockIdx.y; o < outer; o += gridDim.y) {
        const long long start = (long long)o * channels * inner + there;
        T sum = 0;
        FOR_EACH_CHANNEL(c, channels) {
            const T value = x[start + (long long)c * inner];
            sum += power == 2 ? value * value : fabs(value);
        }
        sum = reduce(sum, Add()) + T(eps);
        const T length = power == 2 ? sqrt(sum) : sum;
        if (column >= inner) continue;
        if (threadIdx.y == 0) norm[(long long)o * inner + column] = length;
        FOR_EACH_CHANNEL(c, channels) z[start + (long long)c * inner] = x[start + (long long)c * inner] / length;
    }
}

// The gradient of the norm by what was divided by it.
template <typename T>
__device__ T slope(T z, int power) {
    return power == 2 ? z : z > 0 ? T(1) : z < 0 ? T(-1) : z;
}

template <typename T>
__global__ void unit_norm_grad(int inner, int channels, int outer, const T* z, const T* norm, const T* dz, int power,
                               const T* dnorm, T* dx) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int there = min(column, inner - 1);
    for (int o = blockIdx.y; o < outer; o += gridDim.y) {
        const long long start = (long long)o * channels * inner + there;
        T along = 0;
        FOR_EACH_CHANNEL(c, channels) along += z[start + (long long)c * inner] * dz[start + (long long)c * inner];
        along = reduce(along, Add());
        if (column >= inner) continue;
        const T length = norm[(long long)o * inner + column];
        const T weight = dnorm ? dnorm[(long long)o * inner + column] : T(0);
        FOR_EACH_CHANNEL(c, channels) {
            const long long at = start + (long long)c * inner;
            const T g = slope(z[at], power);
            dx[at] = (dz[at] - g * along) / length + g * weight;
        }
    }
}
