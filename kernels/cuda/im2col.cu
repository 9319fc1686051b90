// Convolution as a matrix product: the pixels under the window, laid out in columns, and back.
#include "common.cuh"
#include "half.cuh"

// Copies the pixels under a window into a column: the taps of axis AXIS and of those after it.  `corner` is the pixel
// under the window's first tap; `tap` and `pixel` number the tap and the pixel chosen on the axes before.
template <typename T, int AXES, int AXIS, typename Pixel, typename Column>
__device__ void spread(const Pixel* x, Column* column, const int (&corner)[AXES], const Window<AXES>& window, int positions,
                       int tap, int pixel, bool inside) {
    if constexpr (AXIS == AXES) {
        column[(long long)tap * positions] = Column(inside ? T(x[pixel]) : T(0));
    } else {
        for (int q = 0; q < window.kernel[AXIS]; ++q) {
            const int at = corner[AXIS] + q * window.dilation[AXIS];
            spread<T, AXES, AXIS + 1>(x, column, corner, window, positions, tap * window.kernel[AXIS] + q,
                                      pixel * window.in[AXIS] + at, inside && at >= 0 && at < window.in[AXIS]);
        }
    }
}

// One thread an output position (size = positions) fills that position's column, an entry for each tap; neighbours
// write side by side.  Kernel 2, stride 1 over the row  a b c d:
//
//     position  0 1 2
//     tap 0     a b c
//     tap 1     b c d
//
// Columns of 16 bits are rounded as they are written.
template <typename T, int AXES, typename Pixel, typename Column>
__global__ void im2col(int planes, int size, const Pixel* x, Column* columns, Window<AXES> window) {
    const long long pixels = volume(window.in), column_size = (long long)volume(window.kernel) * size;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        int corner[AXES];
        for (int axis = AXES - 1, rest = i; axis >= 0; --axis) {
            corner[axis] = rest % window.out[axis] * window.stride[axis] - window.pad[axis];
            rest /= window.out[axis];
        }
        spread<T, AXES, 0>(x + plane * pixels, columns + plane * column_size + i, corner, window, size, 0, 0, true);
    }
}

// Sum of the column entries that came from the pixel at `place`, over the taps of axis AXIS and of those after it;
// `tap` and `position` number the taps and output positions chosen on the axes before.
template <typename T, int AXES, int AXIS, typename Column>
__device__ T gather(const Column* columns, const int (&place)[AXES], const Window<AXES>& window, int positions, int tap,
                    int position) {
    if constexpr (AXIS == AXES) {
        return columns[(long long)tap * positions + position];
    } else {
        T sum = 0;
        for (int q = 0; q < window.kernel[AXIS]; ++q) {
            const int first = place[AXIS] + window.pad[AXIS] - q * window.dilation[AXIS];
            const int at = first / window.stride[AXIS];
            if (first >= 0 && first % window.stride[AXIS] == 0 && at < window.out[AXIS]) {
                sum += gather<T, AXES, AXIS + 1>(columns, place, window, positions, tap * window.kernel[AXIS] + q,
                                                 position * window.out[AXIS] + at);
            }
        }
        return sum;
    }
}

// One thread a pixel gathers what im2col spread, so that no two threads add to the same place.
template <typename T, int AXES, typename Pixel, typename Column>
__global__ void col2im(int planes, int size, const Column* columns, Pixel* x, Window<AXES> window) {
    const int positions = volume(window.out);
    const long long column_size = (long long)volume(window.kernel) * positions;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        int place[AXES];
        for (int axis = AXES - 1, rest = i; axis >= 0; --axis) {
            place[axis] = rest % window.in[axis];
            rest /= window.in[axis];
        }
        x[(long long)plane * size + i] =
            gather<T, AXES, 0>(columns + plane * column_size, place, window, positions, 0, 0);
    }
}
