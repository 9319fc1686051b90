// Inner products and sums of matrices: what surrounds a matrix product.
#include "common.cuh"

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

template <typename T>
__global__ void rescale(long long count, T* x, const double* scale, bool inverse) {
    const T number = *scale;
    FOR_EACH(i, count) x[i] = inverse ? x[i] / number : x[i] * number;
}

// The norm and the factor of gradients whose squares dot_partials began to sum.  If they are scaled, loss_scale holds the
// scale, the steps that it has served, after how many it doubles, and how many were left out.
template <typename T>
__global__ void gradient_scale(int columns, int length, const double* partials, double limit, double scale,
                               double largest, bool scaled, double* loss_scale, T* norm, double* factor) {
    const double squares = sum_partials(partials, length, 0, columns);
    if (!is_first_thread()) return;
    double length_of_g = sqrt(squares), found = scale;
    if (scaled) {
        const double s = loss_scale[0], interval = loss_scale[2];
        length_of_g /= s;
        found /= s;
        const bool overflow = !(length_of_g * 0 == 0) && s > 1;
        const bool doubled = !overflow && interval > 0 && loss_scale[1] + 1 >= interval;
        if (overflow && interval > 0) loss_scale[0] = s / 2;
        if (doubled) loss_scale[0] = min(2 * s, largest);
        loss_scale[1] = overflow || doubled ? 0 : loss_scale[1] + 1;
        loss_scale[3] += overflow;
        if (overflow) found = length_of_g * 0;  // not a number
    }
    *norm = length_of_g;
    *factor = length_of_g > limit && limit >= 0 ? found * limit / length_of_g : found;
}
