// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as
// 1, 2, 3").  state = {seed, counter} lies in device memory.  Index i alone uses block number counter + i, four 32-bit
// words, and `advance` moves the counter on the device, so that a captured graph draws new numbers when it is replayed.
#include "common.cuh"

struct Words {
    unsigned word[4];
};

__device__ Words philox(unsigned long long seed, unsigned long long counter) {
    unsigned key0 = seed, key1 = seed >> 32;
    unsigned c0 = counter, c1 = counter >> 32, c2 = 0, c3 = 0;
    for (int round = 0; round < 10; ++round) {
        const unsigned long long even = 0xD2511F53ull * c0, odd = 0xCD9E8D57ull * c2;
        c0 = unsigned(odd >> 32) ^ c1 ^ key0;
        c1 = unsigned(odd);
        c2 = unsigned(even >> 32) ^ c3 ^ key1;
        c3 = unsigned(even);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Numbers in (0, 1] with as many bits as the significand holds; a float takes one word, a double two.
__device__ int draws(const Words& words, float* numbers) {
    for (int k = 0; k < 4; ++k) numbers[k] = ((words.word[k] >> 8) + 1) * 0x1p-24f;
    return 4;
}

__device__ int draws(const Words& words, double* numbers) {
    for (int k = 0; k < 2; ++k) {
        const unsigned long long bits = (unsigned long long)words.word[2 * k] << 21 | words.word[2 * k + 1] >> 11;
        numbers[k] = (bits + 1) * 0x1p-53;
    }
    return 2;
}

// count is the number of Philox blocks; the last one may have words to spare.
template <typename T>
__global__ void uniform(long long count, const unsigned long long* state, T* out, long long size) {
    FOR_EACH(i, count) {
        T numbers[4];
        const int n = draws(philox(state[0], state[1] + i), numbers);
        for (int k = 0; k < n && i * n + k < size; ++k) out[i * n + k] = numbers[k];
    }
}

// A word is below threshold = keep * 2^32 with probability keep.
template <typename T>
__global__ void bernoulli(long long count, const unsigned long long* state, T* out, long long size,
                          long long threshold) {
    FOR_EACH(i, count) {
        const Words words = philox(state[0], state[1] + i);
        for (int k = 0; k < 4 && i * 4 + k < size; ++k) out[i * 4 + k] = words.word[k] < threshold;
    }
}

template <typename T>
__global__ void advance(long long count, unsigned long long* state) {
    if (blockIdx.x == 0 && threadIdx.x == 0) state[1] += count;
}
