// Local response normalisation across channels.  A plane is one channel of one image of x (N, C, inner); the window of
// channel c holds channels c - (size - 1) / 2 to c + size / 2, as far as they exist.
#include "common.cuh"

struct Neighbours {
    int first, last;

    __device__ Neighbours(int channel, int channels, int window) {
        const int start = channel - (window - 1) / 2;
        first = max(start, 0);
        last = min(start + window, channels);
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
        scale[at] = T(k) + T(alpha / window) * squares;
        y[at] = x[at] * pow(scale[at], T(-beta));
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
