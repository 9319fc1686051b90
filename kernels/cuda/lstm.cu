// One step of a long short-term memory.  A plane is one sequence n of c (N, D); gates (N, 4D) hold i, f, o, g side by
// side:
//
//     gates[n]   i i i f f f o o o g g g        D = 3
#include "common.cuh"

// The gates of one cell after their nonlinearities.
template <typename T>
struct Gates {
    T i, f, o, g;

    __device__ Gates(const T* gates, int size) {
        i = sigmoid(gates[0]);
        f = sigmoid(gates[size]);
        o = sigmoid(gates[2 * size]);
        g = tanh(gates[3 * size]);
    }
};

template <typename T>
__global__ void lstm_unit(int planes, int size, const T* c_before, const T* gates, const T* cont, T* c, T* h) {
    FOR_EACH_IN_PLANES(n, planes, d, size) {
        const long long at = (long long)n * size + d;
        const Gates<T> gate(gates + 4ll * n * size + d, size);
        const T kept = cont[n] == 0 ? T(0) : cont[n] * gate.f * c_before[at];
        c[at] = kept + gate.i * gate.g;
        h[at] = gate.o * tanh(c[at]);
    }
}

// dc_before may be dc: a thread reads its element before it writes there.
template <typename T>
__global__ void lstm_unit_grad(int planes, int size, const T* c_before, const T* gates, const T* cont, const T* c,
                               const T* dc, const T* dh, T* dc_before, T* dgates) {
    FOR_EACH_IN_PLANES(n, planes, d, size) {
        const long long at = (long long)n * size + d, first = 4ll * n * size + d;
        const Gates<T> gate(gates + first, size);
        const T keep = cont[n] == 0 ? T(0) : cont[n] * gate.f, before = cont[n] == 0 ? T(0) : c_before[at];
        const T squashed = tanh(c[at]);
        const T total = dc[at] + dh[at] * gate.o * (1 - squashed * squashed);
        dgates[first] = total * gate.g * gate.i * (1 - gate.i);
        dgates[first + size] = total * before * keep * (1 - keep);
        dgates[first + 2ll * size] = dh[at] * squashed * gate.o * (1 - gate.o);
        dgates[first + 3ll * size] = total * gate.i * (1 - gate.g * gate.g);
        dc_before[at] = total * keep;
    }
}
