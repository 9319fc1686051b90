// Regions of interest, rows (item, x1, y1, x2, y2), pooled: image (N, C, H, W) -> (R, C', P, Q).
//
// In the gradients a thread has a pixel and adds what all regions send there, in order, so that no two threads meet.
#include "common.cuh"

struct Sizes {
    int items, channels, height, width, regions, rows, columns;
};

const double FAR = 1e8;  // where a coordinate ends, in pixels

template <typename T>
__device__ int rounded(T value) {  // halves away from 0; NaN is far on the left
    if (!(value > -FAR)) return -(int)FAR;
    if (value > FAR) return (int)FAR;
    const int whole = (int)value;
    const T rest = value - whole;
    return rest >= T(0.5) ? whole + 1 : rest <= T(-0.5) ? whole - 1 : whole;
}

template <typename T>
__device__ int clipped(T value, int limit) {  // 0 for NaN
    return value > limit ? limit : value > 0 ? (int)value : 0;
}

__device__ int between(int value, int limit) { return min(max(value, 0), limit); }

template <typename T>
__device__ bool known(const T* roi, const Sizes& sizes) {
    return roi[0] >= 0 && roi[0] < sizes.items;
}

// [first, last) pixels.
struct Range {
    int first, last;
    __device__ bool has(int pixel) const { return first <= pixel && pixel < last; }
};

// A region along an axis (0: x, 1: y), in whole pixels; bins may share pixels.
template <typename T>
struct WholeRegion {
    int start;
    T size;  // of a bin

    __device__ WholeRegion(const T* roi, int axis, T scale, T pad_ratio, int bins) {
        const T low = roi[1 + axis], high = roi[3 + axis], pad = (high - low + 1) * pad_ratio;
        start = rounded((low - pad) * scale);
        size = T(max(rounded((high + pad) * scale) - start + 1, 1)) / T(bins);
    }
    __device__ Range bin(int k, int pixels) const {
        return {between((int)floor(T(k) * size) + start, pixels), between((int)ceil(T(k + 1) * size) + start, pixels)};
    }
};

template <typename T>
__global__ void roi_pool(int planes, int size, const T* x, const T* rois, T* y, int* mask, T scale_x, T scale_y,
                         T pad_ratio, Sizes sizes) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const T* roi = rois + 5 * (plane / sizes.channels);
        T best = 0;
        int place = -1;
        if (known(roi, sizes)) {
            const T* image =
                x + ((long long)roi[0] * sizes.channels + plane % sizes.channels) * sizes.height * sizes.width;
            const WholeRegion<T> down(roi, 1, scale_y, pad_ratio, sizes.rows);
            const WholeRegion<T> along(roi, 0, scale_x, pad_ratio, sizes.columns);
            const Range rows = down.bin(i / sizes.columns, sizes.height);
            const Range columns = along.bin(i % sizes.columns, sizes.width);
            if (rows.first < rows.last && columns.first < columns.last) best = T(-3.402823466e+38f);
            for (int h = rows.first; h < rows.last; ++h) {
                for (int w = columns.first; w < columns.last; ++w) {
                    const T value = image[h * sizes.width + w];
                    if (value > best || (value != value && best == best)) {  // the first NaN stays
                        place = h * sizes.width + w;
                        best = value;
                    }
                }
            }
        }
        y[(long long)plane * size + i] = best;
        mask[(long long)plane * size + i] = place;
    }
}

template <typename T>
__global__ void roi_pool_grad(int planes, int size, const T* dy, const int* mask, const T* rois, T* dx, T scale_x,
                              T scale_y, T pad_ratio, Sizes sizes) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int item = plane / sizes.channels, channel = plane % sizes.channels, bins = sizes.rows * sizes.columns;
        T sum = 0;
        for (int r = 0; r < sizes.regions; ++r) {
            const T* roi = rois + 5 * r;
            if (!known(roi, sizes) || (int)roi[0] != item) continue;
            const WholeRegion<T> down(roi, 1, scale_y, pad_ratio, sizes.rows);
            const WholeRegion<T> along(roi, 0, scale_x, pad_ratio, sizes.columns);
            const long long start = ((long long)r * sizes.channels + channel) * bins;
            for (int p = 0; p < sizes.rows; ++p) {
                if (!down.bin(p, sizes.height).has(i / sizes.width)) continue;
                for (int q = 0; q < sizes.columns; ++q) {
                    const long long at = start + p * sizes.columns + q;
                    if (along.bin(q, sizes.width).has(i % sizes.width) && mask[at] == i) sum += dy[at];
                }
            }
        }
        dx[(long long)plane * size + i] = sum;
    }
}

// Bin k of a region along an axis, in fractions of pixels.
template <typename T>
__device__ Range own_bin(const T* roi, int axis, T scale, int k, int bins, int pixels) {
    const T low = T(rounded(roi[1 + axis])) * scale, high = T(rounded(roi[3 + axis]) + 1) * scale;
    const T length = high - low > T(0.1) ? high - low : T(0.1), size = length / T(bins);
    return {clipped(floor(T(k) * size + low), pixels), clipped(ceil(T(k + 1) * size + low), pixels)};
}

template <typename T>
__global__ void position_sensitive_pool(int planes, int size, const T* x, const T* rois, T* y, T scale, Sizes sizes) {
    const int bins = sizes.rows;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int outputs = sizes.channels / (bins * bins);
        const T* roi = rois + 5 * (plane / outputs);
        T sum = 0;
        if (known(roi, sizes)) {
            const int channel = plane % outputs * bins * bins + i;
            const T* image = x + ((long long)roi[0] * sizes.channels + channel) * sizes.height * sizes.width;
            const Range rows = own_bin(roi, 1, scale, i / bins, bins, sizes.height);
            const Range columns = own_bin(roi, 0, scale, i % bins, bins, sizes.width);
            for (int h = rows.first; h < rows.last; ++h)
                for (int w = columns.first; w < columns.last; ++w) sum += image[h * sizes.width + w];
            if (rows.first < rows.last && columns.first < columns.last)
                sum /= T((rows.last - rows.first) * (columns.last - columns.first));
        }
        y[(long long)plane * size + i] = sum;
    }
}

template <typename T>
__global__ void position_sensitive_pool_grad(int planes, int size, const T* dy, const T* rois, T* dx, T scale,
                                             Sizes sizes) {
    const int bins = sizes.rows;
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int item = plane / sizes.channels, channel = plane % sizes.channels, bin = channel % (bins * bins);
        T sum = 0;
        for (int r = 0; r < sizes.regions; ++r) {
            const T* roi = rois + 5 * r;
            if (!known(roi, sizes) || (int)roi[0] != item) continue;
            const Range rows = own_bin(roi, 1, scale, bin / bins, bins, sizes.height);
            const Range columns = own_bin(roi, 0, scale, bin % bins, bins, sizes.width);
            if (rows.has(i / sizes.width) && columns.has(i % sizes.width))
                sum += dy[(long long)r * sizes.channels + channel] /
                       T((rows.last - rows.first) * (columns.last - columns.first));
        }
        dx[(long long)plane * size + i] = sum;
    }
}

// A grid of points on a region along an axis.
template <typename T>
struct Points {
    T start, length;

    __device__ Points(const T* roi, int axis, T scale, T pad_ratio) {
        const T low = roi[1 + axis], high = roi[3 + axis], pad = (high - low + 1) * pad_ratio;
        start = (low - pad) * scale - T(0.5);
        length = (high + pad) * scale - T(0.5) - start;
    }
};

// One of them: the pixels before and after it (-1: outside), and the share of the latter.
template <typename T>
struct Point {
    int near, far;
    T share;

    __device__ Point(const Points<T>& points, int k, int count, int pixels) : near(-1), far(-1), share(0) {
        const T at = points.start + T(k) * (points.length / T(max(count - 1, 1)));
        if (!(at >= T(-0.5) && at <= pixels - T(0.5))) return;
        const int first = (int)floor(at);
        near = between(first, pixels - 1);
        far = between(first + 1, pixels - 1);
        share = (at < 0 ? T(0) : at > pixels - 1 ? T(pixels - 1) : at) - T(near);
    }
    __device__ T part(int pixel) const {
        return (pixel == near ? T(1) - share : T(0)) + (pixel == far ? share : T(0));
    }
};

template <typename T>
__global__ void roi_sample(int planes, int size, const T* x, const T* rois, T* y, T scale, T pad_ratio, Sizes sizes) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const T* roi = rois + 5 * (plane / sizes.channels);
        const Points<T> down(roi, 1, scale, pad_ratio), along(roi, 0, scale, pad_ratio);
        T value = 0;
        if (known(roi, sizes) && down.length > 0 && along.length > 0) {
            const Point<T> row(down, i / sizes.columns, sizes.rows, sizes.height);
            const Point<T> column(along, i % sizes.columns, sizes.columns, sizes.width);
            if (row.near >= 0 && column.near >= 0) {
                const T* image =
                    x + ((long long)roi[0] * sizes.channels + plane % sizes.channels) * sizes.height * sizes.width;
                const T* above = image + row.near * sizes.width;
                const T* below = image + row.far * sizes.width;
                const T left = T(1) - column.share, right = column.share;
                value = (T(1) - row.share) * (left * above[column.near] + right * above[column.far]) +
                        row.share * (left * below[column.near] + right * below[column.far]);
            }
        }
        y[(long long)plane * size + i] = value;
    }
}

template <typename T>
__global__ void roi_sample_grad(int planes, int size, const T* dy, const T* rois, T* dx, T scale, T pad_ratio,
                                Sizes sizes) {
    FOR_EACH_IN_PLANES(plane, planes, i, size) {
        const int item = plane / sizes.channels, channel = plane % sizes.channels, bins = sizes.rows * sizes.columns;
        T sum = 0;
        for (int r = 0; r < sizes.regions; ++r) {
            const T* roi = rois + 5 * r;
            const Points<T> down(roi, 1, scale, pad_ratio), along(roi, 0, scale, pad_ratio);
            if (!known(roi, sizes) || (int)roi[0] != item || !(down.length > 0 && along.length > 0)) continue;
            const T* image = dy + ((long long)r * sizes.channels + channel) * bins;
            for (int p = 0; p < sizes.rows; ++p) {
                const T part = Point<T>(down, p, sizes.rows, sizes.height).part(i / sizes.width);
                if (part == 0) continue;
                for (int q = 0; q < sizes.columns; ++q)
                    sum += part * Point<T>(along, q, sizes.columns, sizes.width).part(i % sizes.width) *
                           image[p * sizes.columns + q];
            }
        }
        dx[(long long)plane * size + i] = sum;
    }
}
