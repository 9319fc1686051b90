// Applies a scalar function to arrays of equal size.  `function` is not here: kernels/cuda/translate.py writes it, from
// Python, and puts it in front of this file.  It takes and returns T, whatever the arrays hold.
#include "common.cuh"
#include "half.cuh"

template <typename T>
__device__ T at(const T* array, long long i) {
    return array[i];
}

template <typename T>
__device__ T at(T scalar, long long) {
    return scalar;
}

// Arguments are arrays (pointers) and then scalars (T), in the order of the function's parameters.
template <typename T, typename Out, typename... Arguments>
__global__ void elementwise(long long count, Out* out, Arguments... arguments) {
    FOR_EACH(i, count) out[i] = function<T>(at(arguments, i)...);
}
