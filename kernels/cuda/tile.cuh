// How a block multiplies two tiles that lie in shared memory; implicit_gemm.cu brings them there.
//
// A unit is one way to do it.  All THREADS threads of a block share a product of ROWS x COLUMNS sums; `multiply` adds
//
//     sums[row][column] += left[k][row] * right[k][column]     for k = 0 .. WORDS - 1
//
// where left and right hold words: the factors of PER_WORD neighbouring k, as `word` packs them.
// `each` hands every sum that a thread holds to a function (row, column, sum), a column after the other.

const int WORDS = 16;  // of the shared dimension, in a step
const int SKEW = 8;    // words between rows of a tile: the lanes of a warp then read different banks

// Whole tiles of words are read by the units below four at a time.
template <typename Word>
struct alignas(16) Four {
    Word at[4];
};

// One multiplication after the other, as every GPU can.  Of 16 x 16 threads each has the sums of SIDE rows and columns,
// in groups of four that lie 64 apart.
template <typename T, int TILE>
struct Scalar {
    typedef T Word;
    static const int ROWS = TILE, COLUMNS = TILE, PER_WORD = 1, SIDE = TILE / 16;

    T sums[SIDE][SIDE] = {};

    static __device__ Word word(const T (&values)[1]) { return values[0]; }

    static __device__ void pick(const Word* words, int part, Word (&picked)[SIDE]) {
#pragma unroll
        for (int i = 0; i < SIDE; i += 4) {
            const Four<Word> four = *(const Four<Word>*)(words + 4 * part + 16 * i);
#pragma unroll
            for (int j = 0; j < 4; ++j) picked[i + j] = four.at[j];
        }
    }

    __device__ void multiply(const Word (*left)[ROWS + SKEW], const Word (*right)[COLUMNS + SKEW]) {
#pragma unroll
        for (int k = 0; k < WORDS; ++k) {
            Word a[SIDE], b[SIDE];
            pick(left[k], threadIdx.x / 16, a);
            pick(right[k], threadIdx.x % 16, b);
#pragma unroll
            for (int i = 0; i < SIDE; ++i)
#pragma unroll
                for (int j = 0; j < SIDE; ++j) sums[i][j] += a[i] * b[j];
        }
    }

    static __device__ int place(int part, int i) { return 4 * part + 16 * (i / 4 * 4) + i % 4; }

    template <typename Function>
    __device__ void each(Function function) const {
#pragma unroll
        for (int j = 0; j < SIDE; ++j)
#pragma unroll
            for (int i = 0; i < SIDE; ++i)
                function(place(threadIdx.x / 16, i), place(threadIdx.x % 16, j), sums[i][j]);
    }
};

// Tensor cores: 2 x 4 warps, each with fragments of 16 x 8 sums.  A fragment's lanes are four to a row; the words that a
// lane holds of the factors are the same for TF32 (k of 8) and for halves (k of 16, two to a word):
//
//     left   rows lane / 4, lane / 4 + 8          k words lane % 4, lane % 4 + 4
//     right  column lane / 4                      k words lane % 4, lane % 4 + 4
//     sums   rows lane / 4, lane / 4 + 8          columns 2 (lane % 4), 2 (lane % 4) + 1
template <class Factor, int TILE>
struct TensorCore {
    typedef unsigned Word;
    static const int ROWS = TILE, COLUMNS = TILE, PER_WORD = Factor::PER_WORD;
    static const int DOWN = ROWS / 2 / 16, ACROSS = COLUMNS / 4 / 8, STEP = 8;

    float sums[DOWN][ACROSS][4] = {};

    static __device__ Word word(const float (&values)[PER_WORD]) { return Factor::word(values); }

    static __device__ int lane() { return threadIdx.x % 32; }
    static __device__ int row(int i) { return threadIdx.x / 32 / 4 * (ROWS / 2) + 16 * i + lane() / 4; }
    static __device__ int column(int j) { return threadIdx.x / 32 % 4 * (COLUMNS / 4) + 8 * j; }

    __device__ void multiply(const Word (*left)[ROWS + SKEW], const Word (*right)[COLUMNS + SKEW]) {
#pragma unroll
        for (int first = 0; first < WORDS; first += STEP) {
            const int k = first + lane() % 4;
            unsigned a[DOWN][4], b[ACROSS][2];
#pragma unroll
            for (int i = 0; i < DOWN; ++i)
#pragma unroll
                for (int part = 0; part < 4; ++part) a[i][part] = left[k + part / 2 * 4][row(i) + part % 2 * 8];
#pragma unroll
            for (int j = 0; j < ACROSS; ++j)
#pragma unroll
                for (int part = 0; part < 2; ++part) b[j][part] = right[k + part * 4][column(j) + lane() / 4];
#pragma unroll
            for (int i = 0; i < DOWN; ++i)
#pragma unroll
                for (int j = 0; j < ACROSS; ++j) Factor::mma(sums[i][j], a[i], b[j]);
        }
    }

    template <typename Function>
    __device__ void each(Function function) const {
#pragma unroll
        for (int j = 0; j < ACROSS; ++j)
#pragma unroll
            for (int part = 0; part < 4; ++part)
#pragma unroll
                for (int i = 0; i < DOWN; ++i)
                    function(row(i) + part / 2 * 8, column(j) + lane() % 4 * 2 + part % 2, sums[i][j][part]);
    }
};
