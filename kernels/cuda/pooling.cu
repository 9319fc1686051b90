// Pooling of images: x (planes, H, W) -> y (planes, P, Q), a plane for each image and channel.  The mask of max_pool may
// be null.
#include "common.cuh"
#include "half.cuh"

const float LOWEST = -3.402823466e+38f;  // -FLT_MAX

// The part of a window that lies in the image, and the divisor of average pooling: its area up to H + pad, W + pad.
struct Patch {
    int top, left, bottom, right, area;

    __device__ Patch(const Window<2>& window, int row, int column) {
        top = row * window.stride[0] - window.pad[0];
        left = column * window.stride[1] - window.pad[1];
        bottom = min(top + window.kernel[0], window.in[0] + window.pad[0]);
        right = min(left + window.kernel[1], window.in[1] + window.pad[1]);
        area = (bottom - top) * (right - left);
        top = max(top, 0);
        left = max(left, 0);
        bottom = min(bottom, window.in[0]);
        right = min(right, window.in[1]);
    }
};

// The output positions first .. last - 1 of an axis whose window covers the pixel `at`.
// Kernel 3, stride 2, pad 0: pixel 4 lies in the windows that start at 2 and 4, which are positions 1 and 2.
struct Cover {
    int first, last;

    __device__ Cover(const Window<2>& window, int axis, int at) {
        const int padded = at + window.pad[axis];
        first = padded < window.kernel[axis] ? 0 : (padded - window.kernel[axis]) / window.stride[axis] + 1;
        last = min(padded / window.stride[axis] + 1, window.out[axis]);
    }
};

#define FOR_EACH_PIXEL(h, w, patch)                \
    for (int h = patch.top; h < patch.bottom; ++h) \
        for (int w = patch.left; w < patch.right; ++w)

template <typename T, typename X, typename Y>
__global__ void max_pool(int planes, int size, const X* x, Y* y, int* mask, Window<2> window) {
    const int width = window.in[1];
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Patch patch(window, i / window.out[1], i % window.out[1]);
        const X* image = x + (long long)plane * volume(window.in);
        T best = LOWEST;
        int place = -1;
        FOR_EACH_PIXEL(h, w, patch) {
            if (!(image[h * width + w] <= best) && best == best) {  // larger, or the first NaN
                place = h * width + w;
                best = image[place];
            }
        }
        y[(long long)plane * size + i] = best;
        if (mask) mask[(long long)plane * size + i] = place;
    }
}

// One thread a pixel looks at the windows that cover it: which of them chose it?
template <typename T, typename X, typename Y>
__global__ void max_pool_grad(int planes, int size, const Y* dy, const int* mask, X* dx, Window<2> window) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Cover rows(window, 0, i / window.in[1]), columns(window, 1, i % window.in[1]);
        const long long start = (long long)plane * volume(window.out);
        T sum = 0;
        for (int p = rows.first; p < rows.last; ++p) {
            for (int q = columns.first; q < columns.last; ++q) {
                const long long at = start + p * window.out[1] + q;
                if (mask[at] == i) sum += dy[at];
            }
        }
        dx[(long long)plane * size + i] = sum;
    }
}

template <typename T, typename X, typename Y>
__global__ void average_pool(int planes, int size, const X* x, Y* y, Window<2> window) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Patch patch(window, i / window.out[1], i % window.out[1]);
        const X* image = x + (long long)plane * volume(window.in);
        T sum = 0;
        FOR_EACH_PIXEL(h, w, patch) sum += image[h * window.in[1] + w];
        y[(long long)plane * size + i] = sum / patch.area;  // NaN where the area is 0
    }
}

template <typename T, typename X, typename Y>
__global__ void average_pool_grad(int planes, int size, const Y* dy, X* dx, Window<2> window) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Cover rows(window, 0, i / window.in[1]), columns(window, 1, i % window.in[1]);
        const Y* image = dy + (long long)plane * volume(window.out);
        T sum = 0;
        for (int p = rows.first; p < rows.last; ++p)
            for (int q = columns.first; q < columns.last; ++q)
                sum += image[p * window.out[1] + q] / Patch(window, p, q).area;
        dx[(long long)plane * size + i] = sum;
    }
}

template <typename T, typename X, typename Y>
__global__ void stochastic_pool(int planes, int size, const X* x, const T* u, Y* y, int* mask, Window<2> window) {
    const int width = window.in[1];
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Patch patch(window, i / window.out[1], i % window.out[1]);
        const X* image = x + (long long)plane * volume(window.in);
        T total = 0, running = 0;
        FOR_EACH_PIXEL(h, w, patch) total += image[h * width + w];
        const T threshold = u[(long long)plane * size + i] * total;
        int place = -1;
        bool reached = false;
        FOR_EACH_PIXEL(h, w, patch) {
            if (!reached) {
                place = h * width + w;
                running += image[place];
                reached = running >= threshold || running != running;
            }
        }
        y[(long long)plane * size + i] = place < 0 ? T(0) : T(image[place]);
        mask[(long long)plane * size + i] = place;
    }
}

template <typename T, typename X, typename Y>
__global__ void stochastic_pool_mean(int planes, int size, const X* x, Y* y, Window<2> window) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const Patch patch(window, i / window.out[1], i % window.out[1]);
        const X* image = x + (long long)plane * volume(window.in);
        T total = 0, squares = 0;
        FOR_EACH_PIXEL(h, w, patch) {
            const T value = image[h * window.in[1] + w];
            total += value;
            squares += value * value;
        }
        y[(long long)plane * size + i] = total <= 0 ? T(0) : squares / total;
    }
}
