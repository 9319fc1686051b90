// Factors of matrix products, rounded to 16 bits for tensor cores.
#include "common.cuh"
#include "half.cuh"

// A plane is a matrix; those of x start `stride` elements apart.
template <typename T, typename Half>
__global__ void round_factor(int planes, int size, const T* x, long long stride, Half* rounded) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        rounded[(long long)plane * size + i] = Half(float(x[plane * stride + i]));
    }
}
