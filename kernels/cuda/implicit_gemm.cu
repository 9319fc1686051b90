// Convolution as a matrix product whose right factor, the pixels under the window, is gathered tile by tile.
//
// With position p of a window (image and place), channel c, tap q and filter m, the three products are
//
//     y  [m, p]      = sum over (c, q)  w[m, (c, q)]   x[(c, q), p]
//     dx [c, p]      = sum over (m, q)  w[(m, q), c]  dy[(m, q), p]
//     dw [m, (c, q)] = sum over p      dy[m, p]        x[(c, q), p]
//
// where p is a pixel in the second.  Its gathering and that of the first differ in numbers only, so they are one kernel.
#include "common.cuh"
#include "half.cuh"
#include "mma.cuh"
#include "tile.cuh"

// Division by a number that is known at the launch, as a multiplication; launch.py's divisor packs it.
struct Divisor {
    unsigned divisor, multiplier, shift;

    __device__ int operator()(int value, int& rest) const {
        const int quotient = (__umulhi(value, multiplier) + value) >> shift;
        rest = value - quotient * divisor;
        return quotient;
    }
};

// Where the elements of a matrix lie: (row, k) of a group at row * row_step + k / inner * outer_step + k % inner.
struct Matrix {
    long long group_step, outer_step;
    int rows, depth, row_step;
    Divisor inner;

    __device__ long long at(int k) const {
        int rest = 0;
        const int outer = inner(k, rest);
        return outer * outer_step + rest;
    }
};

// The pixels under a window.  Tap q of the window at place p sees pixel (p * scale + shift + q * spread) / step along an
// axis, if that is a whole number of the image.
template <int AXES>
struct Gather {
    long long group_step, image_step, channel_step;
    int places, taps;  // of all images, of all channels of a group
    Divisor places_of_image, taps_of_channel, place[AXES], tap[AXES], step[AXES];
    int size[AXES], scale[AXES], shift[AXES], spread[AXES];
};

// One side of a tap and a place: what both add to the pixel's coordinates, and to where its channel lies; `offset` is
// negative for what is none.
template <int AXES>
struct Side {
    long long offset;
    int at[AXES];
};

// The left factor: values (row, k) of a matrix, of type T whatever holds them.  A thread brings COUNT rows, 32 apart, of whatever k.
template <typename T, typename Stored, int COUNT>
struct MatrixRows {
    typedef long long Depth;
    const Stored* data;
    const Matrix& matrix;
    int offset[COUNT];

    __device__ MatrixRows(const Stored* group, const Matrix& matrix, int first) : data(group), matrix(matrix) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) {
            const int row = first + 32 * i;
            offset[i] = row < matrix.rows ? row * matrix.row_step : -1;
        }
    }

    __device__ Depth depth(int k) const { return k < matrix.depth ? matrix.at(k) : -1; }

    __device__ T value(int i, Depth depth) const {
        return offset[i] >= 0 && depth >= 0 ? T(data[offset[i] + depth]) : T(0);
    }
};

// The right factor: COUNT places, each under whatever tap; or COUNT taps, each at whatever place.
template <typename T, typename Stored, int AXES, bool OF_PLACES, int COUNT>
struct PixelRows {
    typedef Side<AXES> Depth;
    const Stored* data;
    const Gather<AXES>& gather;
    Side<AXES> rows[COUNT];

    __device__ PixelRows(const Stored* group, const Gather<AXES>& gather, int first) : data(group), gather(gather) {
#pragma unroll
        for (int i = 0; i < COUNT; ++i) rows[i] = OF_PLACES ? place(first + 32 * i) : tap(first + 32 * i);
    }

    __device__ Side<AXES> place(int number) const {
        Side<AXES> side;
        int rest = 0;
        side.offset = number < gather.places ? gather.places_of_image(number, rest) * gather.image_step : -1;
#pragma unroll
        for (int axis = AXES - 1; axis >= 0; --axis) {
            int along;
            rest = gather.place[axis](rest, along);
            side.at[axis] = along * gather.scale[axis] + gather.shift[axis];
        }
        return side;
    }

    __device__ Side<AXES> tap(int number) const {
        Side<AXES> side;
        int rest = 0;
        side.offset = number < gather.taps ? gather.taps_of_channel(number, rest) * gather.channel_step : -1;
#pragma unroll
        for (int axis = AXES - 1; axis >= 0; --axis) {
            int along;
            rest = gather.tap[axis](rest, along);
            side.at[axis] = along * gather.spread[axis];
        }
        return side;
    }

    __device__ Depth depth(int k) const { return OF_PLACES ? tap(k) : place(k); }

    __device__ T value(int i, const Side<AXES>& other) const {
        bool inside = rows[i].offset >= 0 && other.offset >= 0;
        int pixel = 0;
#pragma unroll
        for (int axis = 0; axis < AXES; ++axis) {
            const int sum = rows[i].at[axis] + other.at[axis];
            int rest = 0;
            const int at = gather.step[axis].divisor == 1 ? sum : gather.step[axis](sum, rest);
            inside = inside && sum >= 0 && rest == 0 && at < gather.size[axis];
            pixel = pixel * gather.size[axis] + at;
        }
        return inside ? T(data[rows[i].offset + other.offset + pixel]) : T(0);
    }
};

// A thread's place in the loading of a tile: the first of its rows, 32 apart, and the first of its words, 8 apart.
// Neighbouring threads read neighbours along what lies together in memory.
template <bool ALONG_DEPTH>
struct Loading {
    static __device__ int row() { return ALONG_DEPTH ? threadIdx.x / 8 : threadIdx.x % 32; }
    static __device__ int word() { return ALONG_DEPTH ? threadIdx.x % 8 : threadIdx.x / 32; }
};

// What a thread carries from memory to the tile of a step.
template <class Unit, int COUNT, bool ALONG_DEPTH>
struct Load {
    typedef typename Unit::Word Word;
    Word words[WORDS / 8][COUNT];

    // Reads the words of the step that begins at k.
    template <class Factor>
    __device__ void fetch(const Factor& factor, int k) {
#pragma unroll
        for (int j = 0; j < WORDS / 8; ++j) {
            const int first = k + (Loading<ALONG_DEPTH>::word() + 8 * j) * Unit::PER_WORD;
            typename Factor::Depth depth[Unit::PER_WORD];
#pragma unroll
            for (int e = 0; e < Unit::PER_WORD; ++e) depth[e] = factor.depth(first + e);
#pragma unroll
            for (int i = 0; i < COUNT; ++i) {
                decltype(factor.value(0, depth[0])) values[Unit::PER_WORD];
#pragma unroll
                for (int e = 0; e < Unit::PER_WORD; ++e) values[e] = factor.value(i, depth[e]);
                words[j][i] = Unit::word(values);
            }
        }
    }

    __device__ void store(Word (*tile)[32 * COUNT + SKEW]) const {
#pragma unroll
        for (int j = 0; j < WORDS / 8; ++j)
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                tile[Loading<ALONG_DEPTH>::word() + 8 * j][Loading<ALONG_DEPTH>::row() + 32 * i] = words[j][i];
    }
};

// The three products: whether neighbouring k of the left factor lie together in memory, and whether rows of the right
// one are places (and k taps) or the other way round.
struct Forward {
    static const bool LEFT_ALONG_DEPTH = true, GATHERS_PLACES = true;
};

struct DataGrad {
    static const bool LEFT_ALONG_DEPTH = false, GATHERS_PLACES = true;
};

struct WeightGrad {
    static const bool LEFT_ALONG_DEPTH = true, GATHERS_PLACES = false;
};

// Adds the products over begin <= k < end to the unit's sums.  While one pair of tiles is multiplied, the next is under
// way to registers.
template <class Product, class Unit, class Left, class Right>
__device__ void multiply(Unit& unit, const Left& left, const Right& right, int begin, int end) {
    typedef typename Unit::Word Word;
    alignas(16) __shared__ Word left_tiles[2][WORDS][Unit::ROWS + SKEW];
    alignas(16) __shared__ Word right_tiles[2][WORDS][Unit::COLUMNS + SKEW];
    Load<Unit, Unit::ROWS / 32, Product::LEFT_ALONG_DEPTH> next_left;
    Load<Unit, Unit::COLUMNS / 32, !Product::GATHERS_PLACES> next_right;
    const int step = WORDS * Unit::PER_WORD;
    next_left.fetch(left, begin);
    next_right.fetch(right, begin);
    for (int k = begin, here = 0; k < end; k += step, here = 1 - here) {
        next_left.store(left_tiles[here]);
        next_right.store(right_tiles[here]);
        __syncthreads();  // these tiles are whole, and nobody reads the other pair any more
        if (k + step < end) {
            next_left.fetch(left, k + step);
            next_right.fetch(right, k + step);
        }
        unit.multiply(left_tiles[here], right_tiles[here]);
    }
}

// A block makes one tile of a group's results, over k of its share.  blockIdx.x counts tiles, those that gather the same
// pixels next to each other; y counts groups, z shares of k, each of which has an output of its own.
template <typename T, int AXES, class Product, class Unit, typename Left, typename Right, typename Out>
__launch_bounds__(THREADS, 2)
__global__ void implicit_gemm(const Left* left, Matrix matrix, const Right* x, Gather<AXES> gather, int share,
                              Out* out, Matrix result, bool has_bias, const T* bias, double slope, bool accumulate) {
    const int group = blockIdx.y, tiles = (result.rows + Unit::ROWS - 1) / Unit::ROWS;
    const int first_row = blockIdx.x % tiles * Unit::ROWS, first_column = blockIdx.x / tiles * Unit::COLUMNS;
    const MatrixRows<T, Left, Unit::ROWS / 32> rows(left + group * matrix.group_step, matrix,
                                              first_row + Loading<Product::LEFT_ALONG_DEPTH>::row());
    const PixelRows<T, Right, AXES, Product::GATHERS_PLACES, Unit::COLUMNS / 32> pixels(
        x + group * gather.group_step, gather, first_column + Loading<!Product::GATHERS_PLACES>::row());
    const int begin = blockIdx.z * share;
    Unit unit;
    multiply<Product>(unit, rows, pixels, begin, min(begin + share, matrix.depth));

    out += (blockIdx.z * (long long)gridDim.y + group) * result.group_step;
    unit.each([&](int row, int column, T sum) {
        row += first_row, column += first_column;
        if (row >= result.rows || column >= result.depth) return;
        if (has_bias) sum += bias[group * result.rows + row];
        Out& there = out[row * (long long)result.row_step + result.at(column)];
        if (accumulate) sum += there;
        if (!(sum > 0)) sum *= T(slope);
        there = sum;
    });
}
