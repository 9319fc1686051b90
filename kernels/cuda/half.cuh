// Numbers of 16 bits, in which arrays are kept; what is computed with them is float.
//
// tests/cuda_host.h has the conversions of IEEE halves for the CPU.
#ifdef __CUDACC__

__device__ float float_of_half(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ unsigned short half_of_float(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

#endif

// IEEE binary16: eleven significant bits, up to 65504.
struct Half {
    unsigned short bits = 0;

    Half() = default;
    __device__ Half(float value) : bits(half_of_float(value)) {}
    __device__ operator float() const { return float_of_half(bits); }
};

// bfloat16: the upper half of a float, eight significant bits.
struct BFloat16 {
    unsigned short bits = 0;

    BFloat16() = default;
    __device__ BFloat16(float value) {
        const unsigned all = __float_as_uint(value), rest = 0x7FFF + (all >> 16 & 1);  // half-way to the even one
        bits = value == value ? (all + rest) >> 16 : 0x7FFF;
    }
    __device__ operator float() const { return __uint_as_float((unsigned)bits << 16); }
};
