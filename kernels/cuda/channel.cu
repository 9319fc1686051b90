// Applies a scalar function to arrays (N, C, inner) and to vectors (C,) with one value a channel.  `function` comes
// from Python, as for elementwise.cu.
#include "common.cuh"
#include "half.cuh"

// Marks a vector among a kernel's arguments.
template <typename T>
struct Channel {
    T value;
};

template <typename T>
__device__ T at(const T* array, long long i, int) {
    return array[i];
}

template <typename T>
__device__ T at(const Channel<T>* vector, long long, int c) {
    return vector[c].value;
}

template <typename T>
__device__ T at(T scalar, long long, int) {
    return scalar;
}

// A plane is one channel of one image: plane = n * channels + c.
template <typename T, typename Out, typename... Arguments>
__global__ void channelwise(int planes, int size, Out* out, int channels, Arguments... arguments) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const long long place = (long long)plane * size + i;
        out[place] = function<T>(at(arguments, place, plane % channels)...);
    }
}

// length = N * inner, as in bias_grad_partials.
template <typename T, typename, typename... Arguments>
__global__ void channel_sum_partials(int channels, int length, double* partials, int inner, Arguments... arguments) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double sum = 0;
    if (c < channels) {
        FOR_EACH_REDUCED(i, length) {
            const long long place = ((long long)(i / inner) * channels + c) * inner + i % inner;
            sum += function<T>(at(arguments, place, c)...);
        }
    }
    keep_partial(sum, c, channels, partials);
}
