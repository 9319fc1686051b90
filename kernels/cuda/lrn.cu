// Local response normalisation, across channels and within them.  A plane is one channel of one image of x.  Across
// channels x is (N, C, inner), and the window of channel c holds channels c - (size - 1) / 2 to c + size / 2, as far as
// they exist; within them x is (N, C, height, width), and a window is as large along both axes of a plane.  `scale` may be
// null in the forward kernels.
#include "common.cuh"

struct Neighbours {
    int first, last;

    __device__ Neighbours(int centre, int size, int window) {
        const int start = centre - (window - 1) / 2;
        first = max(start, 0);
        last = min(start + window, size);
    }
};

template <typename T>
__global__ void lrn(int planes, int size, const T* x, T* scale, T* y, int channels, int window, double alpha,
                    double beta, double k) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int channel = plane % channels;
        const T* image = x + (long long)(plane - channel) * size + i;
        const Neighbours neighbours(channel, channels, window);
        T squares = 0;
        for (int c = neighbours.first; c < neighbours.last; ++c)
            squares += image[(long long)c * size] * image[(long long)c * size];
        const long long at = (long long)plane * size + i;
        const T base = T(k) + T(alpha / window) * squares;
        if (scale) scale[at] = base;
        y[at] = x[at] * pow(base, T(-beta));
    }
}

template <typename T>
__global__ void lrn_grad(int planes, int size, const T* x, const T* y, const T* scale, const T* dy, T* dx, int channels,
                         int window, double alpha, double beta) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int channel = plane % channels;
        const long long start = (long long)(plane - channel) * size + i;
        const Neighbours neighbours(channel, channels, window);
        T sum = 0;
        for (int c = neighbours.first; c < neighbours.last; ++c) {
            const long long other = start + (long long)c * size;
            sum += dy[other] * y[other] / scale[other];
        }
        const long long at = (long long)plane * size + i;
        dx[at] = dy[at] * pow(scale[at], T(-beta)) - T(2 * alpha * beta / window) * x[at] * sum;
    }
}

template <typename T>
__global__ void lrn_within(int planes, int size, const T* x, T* scale, T* y, int height, int width, int window,
                           double alpha, double beta) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const long long start = (long long)plane * size;
        const Neighbours rows(i / width, height, window), columns(i % width, width, window);
        T squares = 0;
        for (int h = rows.first; h < rows.last; ++h)
            for (int w = columns.first; w < columns.last; ++w) {
                const T pixel = x[start + h * width + w];
                squares += pixel * pixel;
            }
        const long long at = start + i;
        const T base = T(1) + T(alpha / (window * window)) * squares;
        if (scale) scale[at] = base;
        y[at] = x[at] * pow(base, T(-beta));
    }
}

template <typename T>
__global__ void lrn_within_grad(int planes, int size, const T* x, const T* y, const T* scale, const T* dy, T* dx,
                                int height, int width, int window, double alpha, double beta) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const long long start = (long long)plane * size;
        const Neighbours rows(i / width, height, window), columns(i % width, width, window);
        T sum = 0;
        for (int h = rows.first; h < rows.last; ++h)
            for (int w = columns.first; w < columns.last; ++w) {
                const long long other = start + h * width + w;
                sum += dy[other] * y[other] / scale[other];
            }
        const long long at = start + i;
        dx[at] = dy[at] * pow(scale[at], T(-beta)) - T(2 * alpha * beta / (window * window)) * x[at] * sum;
    }
}
