// One position of half a layer of gated units, in one call: the norm, two projections, a gate, the
// projection back and the sum with the input,
//
//     n = x / (rms(x) + eps),  a = silu(W1 n + c1),  b = W2 n + c2
//     y = x + W3 (a h) + c3,   h = b, or what a Toeplitz operator's recurrence makes of silu(b)
//
// PyTorch takes a dozen operations, each of which costs as much as the arithmetic of a narrow layer.
// What is left here is the time to read the weights once.
//
// Notation: B sequences (each with one position), D width, E inner width. Arrays are contiguous;
// weights as torch.nn.Linear has them, biases may be null. Results do not depend on the threads.
#include <cmath>
#include "parallel.h"

constexpr long L = LANES<float>;
constexpr int ROWS = 4;   // rows of a matrix at a time: each loaded register of the vector serves all
constexpr int DEPTH = 2;  // running sums of a row, so that additions need not wait for one another

INLINE float total(Vec<float> v) {
    float sum = 0;
    for (long i = 0; i < L; ++i) sum += v[i];
    return sum;
}

// out[r] = w[r] . x for R rows of I numbers.
template <int R> INLINE void dots(const float* w, const float* x, long I, float* out) {
    Vec<float> acc[R][DEPTH] = {};
    for (long i = 0; i < I; i += DEPTH * L)
        #pragma GCC unroll 4
        for (int k = 0; k < DEPTH; ++k) {
            const long n = I - i - k * L;
            const Vec<float> v = load(x + i + k * L, n);
            #pragma GCC unroll 8
            for (int r = 0; r < R; ++r) acc[r][k] += load(w + r * I + i + k * L, n) * v;
        }
    for (int r = 0; r < R; ++r) {
        Vec<float> sum = acc[r][0];
        for (int k = 1; k < DEPTH; ++k) sum += acc[r][k];
        out[r] = total(sum);
    }
}

// y[b] (O) = w x[b] + c (+ y[b]), for the calling team of threads.
template <bool ADD>
INLINE void project(long B, long I, long O, const float* w, const float* c, const float* x,
                    float* y) {
    #pragma omp for schedule(static)
    for (long o = 0; o < O; o += ROWS)
        for (long b = 0; b < B; ++b) {
            float sums[ROWS];
            const float* row = w + o * I;
            if (O - o >= ROWS) dots<ROWS>(row, x + b * I, I, sums);
            else for (long r = 0; r < O - o; ++r) dots<1>(row + r * I, x + b * I, I, sums + r);
            for (long r = 0; r < ROWS && o + r < O; ++r) {
                const float sum = sums[r] + (c ? c[o + r] : 0.f);
                float* to = y + b * O + o + r;
                *to = ADD ? *to + sum : sum;
            }
        }
}

struct Step {
    long B, D, E;
    float eps;
    const float *w1, *c1, *w2, *c2, *w3, *c3;
    float *x, *normed, *a, *b;  // (B,D), in and out; room: (B,D), (B,E), (B,E)
    // The recurrence: inputs and what is known of the outputs (B,Q,E) in the outer block, position
    // `at` and the first of its inner block, and the coefficients t(P-1) .. t(0) (P,E); or null.
    float* block;
    const float *before, *turned;
    long Q, P, first, at;
};

// silu(b) joins the block, and h = before + the sum of t(at - j) block[j]; a becomes silu(a) h.
INLINE void mix(const Step& q, long row, long start, long stop) {
    float *a = q.a + row * q.E, *b = q.b + row * q.E;
    if (q.block) {
        float* block = q.block + row * q.Q * q.E;
        for (long j = start; j < stop; j += L) {
            const Vec<float> v = load(b + j, stop - j);
            store(block + q.at * q.E + j, v * sigmoid<float>(v), stop - j);
            store(b + j, load(q.before + (row * q.Q + q.at) * q.E + j, stop - j), stop - j);
        }
        for (long i = q.first; i <= q.at; ++i) {
            const float* x = block + i * q.E;
            const float* t = q.turned + (q.P - 1 - q.at + i) * q.E;
            for (long j = start; j < stop; j += L)
                store(b + j, load(b + j, stop - j) + load(x + j, stop - j) * load(t + j, stop - j),
                      stop - j);
        }
    }
    for (long j = start; j < stop; j += L) {
        const Vec<float> v = load(a + j, stop - j);
        store(a + j, v * sigmoid<float>(v) * load(b + j, stop - j), stop - j);
    }
}

INLINE void norm(const Step& q, long row) {
    const float* x = q.x + row * q.D;
    Vec<float> sum = {};
    for (long j = 0; j < q.D; j += L) {
        const Vec<float> v = load(x + j, q.D - j);
        sum += v * v;
    }
    const float scale = 1 / (std::sqrt(total(sum) / float(q.D)) + q.eps);
    for (long j = 0; j < q.D; j += L)
        store(q.normed + row * q.D + j, load(x + j, q.D - j) * scale, q.D - j);
}

void gated_step(const Step& q, long threads) {
    const unsigned flags = flush_flags();
    const long piece = ceil_div(ceil_div(q.E, threads), 64) * 64;
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        #pragma omp for schedule(static)
        for (long row = 0; row < q.B; ++row) norm(q, row);
        project<false>(q.B, q.D, q.E, q.w1, q.c1, q.normed, q.a);
        project<false>(q.B, q.D, q.E, q.w2, q.c2, q.normed, q.b);
        #pragma omp for schedule(static) collapse(2)
        for (long row = 0; row < q.B; ++row)
            for (long start = 0; start < q.E; start += piece)
                mix(q, row, start, min(q.E, start + piece));
        project<true>(q.B, q.E, q.D, q.w3, q.c3, q.a, q.x);
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
// `room` holds B (D + 2 E) numbers.
extern "C" void gated_step_f32(long B, long D, long E, double eps, float* w1, float* c1, float* w2,
                               float* c2, float* w3, float* c3, float* x, float* room, float* block,
                               float* before, float* turned, long Q, long P, long first, long at,
                               long threads) {
    float *a = room + B * D, *b = a + B * E;
    gated_step({B, D, E, float(eps), w1, c1, w2, c2, w3, c3, x, room, a, b, block, before, turned,
                Q, P, first, at}, threads);
}
