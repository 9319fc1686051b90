// Convolution as a matrix product: the pixels under the window, laid out in columns, and back.
#include "common.cuh"

// size = taps * positions of a channel; entry i of a plane holds, for output position i % positions, the pixel under
// tap i / positions.  Kernel 2, stride 1 over the row  a b c d  (positions 3):
//
//     i       0 1 2   3 4 5
//     column  a b c | b c d
//     tap     0 0 0   1 1 1
template <typename T, int AXES>
__global__ void im2col(int planes, int size, const T* x, T* columns, Window<AXES> window) {
    const long long pixels = volume(window.in);
    const int positions = volume(window.out);
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        int position = i % positions, tap = i / positions;
        int pixel = 0, step = 1;
        bool inside = true;
        for (int axis = AXES - 1; axis >= 0; --axis) {
            const int at = position % window.out[axis] * window.stride[axis] - window.pad[axis] +
                           tap % window.kernel[axis] * window.dilation[axis];
            position /= window.out[axis];
            tap /= window.kernel[axis];
            inside = inside && at >= 0 && at < window.in[axis];
            pixel += at * step;
            step *= window.in[axis];
        }
        columns[(long long)plane * size + i] = inside ? x[plane * pixels + pixel] : T(0);
    }
}

// Sum of the column entries that came from the pixel at `place`, over the taps of axis AXIS and of those after it;
// `tap` and `position` number the taps and output positions chosen on the axes before.
template <typename T, int AXES, int AXIS>
__device__ T gather(const T* columns, const int (&place)[AXES], const Window<AXES>& window, int positions, int tap, int position) {
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
template <typename T, int AXES>
__global__ void col2im(int planes, int size, const T* columns, T* x, Window<AXES> window) {
    const int positions = volume(window.out);
    const long long column_size = (long long)volume(window.kernel) * positions;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        int place[AXES];
        for (int axis = AXES - 1, rest = i; axis >= 0; --axis) {
            place[axis] = rest % window.in[axis];
            rest /= window.in[axis];
        }
        x[(long long)plane * size + i] = gather<T, AXES, 0>(columns + plane * column_size, place, window, positions, 0, 0);
    }
}
