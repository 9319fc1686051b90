// Rows of a matrix (R, K) by index, for Embed.  Indices are T and are truncated to integers.
#include "common.cuh"

// A plane is one row of y (M, K).
template <typename T>
__global__ void gather_rows(int planes, int size, const T* x, const T* index, T* y, int rows) {
    FOR_EACH_IN_PLANES(m, planes, k, size) {
        const long long row = index[m];
        y[(long long)m * size + k] = row >= 0 && row < rows ? x[row * size + k] : T(0);
    }
}

// Several rows of y may go to one row of x.  The first of them adds them all, in order, so that no two threads meet:
//
//     index   4 7 4 4        m = 0 adds y[0], y[2], y[3] to x[4]; m = 1 adds y[1] to x[7]; m = 2, 3 see an earlier 4
template <typename T>
__global__ void scatter_rows(int planes, int size, const T* y, const T* index, T* x, int rows) {
    FOR_EACH_IN_PLANES(m, planes, k, size) {
        const long long row = index[m];
        bool mine = row >= 0 && row < rows;
        for (int before = m - 1; mine && before >= 0; --before) mine = (long long)index[before] != row;
        if (!mine) continue;
        T sum = 0;
        for (int other = m; other < planes; ++other)
            if ((long long)index[other] == row) sum += y[(long long)other * size + k];
        x[row * size + k] += sum;
    }
}
