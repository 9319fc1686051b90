// The instructions of tensor cores, and the roundings that their factors need.
//
// tests/cuda_host.h has functions of the same names for the CPU, written after the PTX manual.
#ifdef __CUDACC__

// To the nearest number of eleven significant bits, of two equally near the larger.
__device__ unsigned round_to_tf32(float value) {
    unsigned bits = 0;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
    return bits;
}

#if __CUDA_ARCH__ >= 800
#define MMA(kind, d, a, b)                                                                                            \
    asm volatile("mma.sync.aligned." kind " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"          \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define MMA(kind, d, a, b) __trap()  // the host launches no such kernel on a GPU without the instruction
#endif

// d += a b for one fragment of a warp: 16 rows, 8 columns, and 8 factors of TF32 or 16 halves.
__device__ void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    MMA("m16n8k8.row.col.f32.tf32.tf32.f32", d, a, b);
}

__device__ void mma_halves(Half, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    MMA("m16n8k16.row.col.f32.f16.f16.f32", d, a, b);
}

__device__ void mma_halves(BFloat16, float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    MMA("m16n8k16.row.col.f32.bf16.bf16.f32", d, a, b);
}

#endif

// Factors of float32 that are rounded to eleven significant bits.
struct Tf32 {
    static const int PER_WORD = 1;

    static __device__ unsigned word(const float (&values)[1]) { return round_to_tf32(values[0]); }

    static __device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_tf32(d, a, b); }
};

// Factors of float32 that are rounded to 16 bits.
template <typename T>
struct Halves {
    static const int PER_WORD = 2;

    static __device__ unsigned word(const float (&values)[2]) {
        return T(values[0]).bits | (unsigned)T(values[1]).bits << 16;
    }

    static __device__ void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) { mma_halves(T(), d, a, b); }
};
