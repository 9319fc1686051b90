// Shared by every kernel file; kernels/cuda/launch.py pastes it and other headers in front of those that include them.
//
// A kernel is launched in one of three ways, and its first parameters say which:
//   (long long count, ...)            flat: one thread an element, grid-stride
//   (int planes, int size, ...)       planes: a plane is an image's channel or a row; index = plane * size + i
//   (int columns, int length, ...)    reduction: x runs over the columns that are kept, y down what is combined
// Indices inside a plane are ints, because a GPU divides 64-bit integers slowly; offsets of planes are long long.

#define FOR_EACH(i, count)                                                            \
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < (count); \
         i += (long long)gridDim.x * blockDim.x)

#define FOR_EACH_IN_PLANES(plane, planes, i, size)                                                             \
    for (int plane = blockIdx.y * blockDim.y + threadIdx.y; plane < (planes); plane += gridDim.y * blockDim.y) \
        for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < (size); i += gridDim.x * blockDim.x)

#define FOR_EACH_REDUCED(i, length) \
    for (int i = blockIdx.y * blockDim.y + threadIdx.y; i < (length); i += gridDim.y * blockDim.y)

const int THREADS = 256;  // of a block, at most; both sides of a block are powers of two

// A window over an image of AXES spatial axes, laid out as launch.py's window_struct packs it.
template <int AXES>
struct Window {
    int in[AXES], out[AXES], kernel[AXES], stride[AXES], pad[AXES], dilation[AXES];
};

template <int AXES>
__device__ int volume(const int (&sizes)[AXES]) {
    int product = 1;
    for (int axis = 0; axis < AXES; ++axis) product *= sizes[axis];
    return product;
}

struct Add {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return a + b;
    }
};

// The larger, or the first of equals, as Python's max; Smaller as its min.
struct Larger {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return b > a ? b : a;
    }
};

struct Smaller {
    template <typename T>
    __device__ T operator()(T a, T b) const {
        return b < a ? b : a;
    }
};

template <typename T>
__device__ T sigmoid(T x) {
    return T(0.5) * tanh(T(0.5) * x) + T(0.5);
}

// Combines the values of the threads of a block that have the same threadIdx.x; each of them gets the result.
// The order is fixed, so a sum is the same in every run.  All threads of the block must call it.
//
//     y 0 | a  b |      | a+c+e+g  b+d+f+h |
//     y 1 | c  d |  ->  | a+c+e+g  b+d+f+h |     blockDim (2, 4)
//     y 2 | e  f |      |   ...      ...   |
//     y 3 | g  h |      |   ...      ...   |
template <typename T, typename Operation>
__device__ T reduce(T value, Operation operation) {
    __shared__ T cells[THREADS];
    const int here = threadIdx.y * blockDim.x + threadIdx.x;
    cells[here] = value;
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.y < half) cells[here] = operation(cells[here], cells[here + half * blockDim.x]);
    }
    __syncthreads();
    const T result = cells[threadIdx.x];
    __syncthreads();  // nobody may write the next reduction's values before everybody has read this one's
    return result;
}

// A long sum takes two kernels: the first leaves a partial sum for each (blockIdx.y, column), the second adds those up.
__device__ void keep_partial(double value, int column, int columns, double* partials) {
    const double sum = reduce(value, Add());
    if (threadIdx.y == 0 && column < columns) partials[(long long)blockIdx.y * columns + column] = sum;
}

__device__ double sum_partials(const double* partials, int length, int column, int columns) {
    double sum = 0;
    if (column < columns) FOR_EACH_REDUCED(i, length) sum += partials[(long long)i * columns + column];
    return reduce(sum, Add());
}

__device__ bool is_first_thread() { return threadIdx.x == 0 && threadIdx.y == 0; }
