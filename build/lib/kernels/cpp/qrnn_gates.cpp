// All that a QRNN layer (arXiv 1611.01576, section 2) does after its matrix product, in one pass:
//
//     y = (z, f, o);   c = forget-mult(sigmoid(f) keep scale, tanh(z));   h = sigmoid(o) c
//
// One operation of torch after another would write and read some ten arrays of this size; here y is
// read once and c and h are written once. keep (zoneout's mask) and the number `scale` (its form in
// evaluation) both multiply the forget gate.
//
// Notation: T time, B batch, H hidden size, N = B * H; arrays are contiguous, time first, and a row
// of y holds `gates` times H numbers per batch element: 3, or 2 without output gate (then h is c and
// the h pointer is null). S is float or double. A null pointer means "absent".
#include "parallel.h"

template <class S> struct Qrnn {
    long T, B, H, gates;
    const S *y, *keep;  // (T,B,gates,H), (T,B,H)
    S scale;
    const S* c0;        // (B,H)
    S* c;               // (T,B,H)
};

// A task is one batch element and one block of its hidden units, because the gates of a unit lie H
// apart in y: blocks of columns across batch elements, as in forget_mult.cpp, would not be whole
// rows of y.
template <class S> void qrnn_forward(const Qrnn<S>& q, S* h, int threads) {
    const unsigned flags = flush_flags();
    const long H = q.H, N = q.B * H;
    if (N == 0) return;
    const long block = block_size(H, ceil_div(4 * threads, q.B)), blocks = ceil_div(H, block);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < q.B * blocks; ++task) {
        FlushAs guard(flags);
        const long b = task / blocks, start = task % blocks * block, stop = min(H, start + block);
        for (long t = 0; t < q.T; ++t) {
            const S* previous = t ? q.c + (t - 1) * N : q.c0;
            for (long j = start; j < stop; j += LANES<S>) {
                const long n = stop - j, at = t * N + b * H + j;
                const S* y = q.y + (t * q.B + b) * q.gates * H + j;
                const Vec<S> cp = previous ? load(previous + b * H + j, n) : Vec<S>{};
                Vec<S> f = sigmoid<S>(load(y + H, n)) * q.scale;
                if (q.keep) f *= load(q.keep + at, n);
                const Vec<S> c = f * tanh<S>(load(y, n)) + (S(1) - f) * cp;
                store(q.c + at, c, n);
                if (h) store(h + at, sigmoid<S>(load(y + 2 * H, n)) * c, n);
            }
        }
    }
}

// Gradients as in forget_mult.cpp, then through the activations: sigmoid' = s (1 - s), tanh' =
// 1 - z^2. The activations are computed again from y, which costs less than to write three more
// arrays in the forward pass and to read them here.
template <class S>
void qrnn_backward(const Qrnn<S>& q, const S* dh, const S* dc_last, S* dy, S* dc0, int threads) {
    const unsigned flags = flush_flags();
    const long H = q.H, N = q.B * H;
    if (N == 0) return;
    const long block = block_size(H, ceil_div(4 * threads, q.B)), blocks = ceil_div(H, block);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < q.B * blocks; ++task) {
        FlushAs guard(flags);
        const long b = task / blocks, start = task % blocks * block, stop = min(H, start + block);
        alignas(64) S running[LONGEST] = {};  // the gradient that c_t gets from c_{t+1}
        if (dc_last) std::memcpy(running, dc_last + b * H + start, (stop - start) * sizeof(S));
        for (long t = q.T - 1; t >= 0; --t) {
            const S* previous = t ? q.c + (t - 1) * N : q.c0;
            for (long j = start; j < stop; j += LANES<S>) {
                const long n = stop - j, at = t * N + b * H + j;
                const long row = (t * q.B + b) * q.gates * H + j;
                const S* y = q.y + row;
                const Vec<S> cp = previous ? load(previous + b * H + j, n) : Vec<S>{};
                const Vec<S> z = tanh<S>(load(y, n)), f = sigmoid<S>(load(y + H, n));
                Vec<S> keep = Vec<S>{} + q.scale, dc = load(dh + at, n);
                if (q.keep) keep *= load(q.keep + at, n);
                if (q.gates == 3) {  // without output gate dh is already the gradient of c
                    const Vec<S> o = sigmoid<S>(load(y + 2 * H, n));
                    store(dy + row + 2 * H, dc * load(q.c + at, n) * (o * (S(1) - o)), n);
                    dc *= o;
                }
                const Vec<S> r = load(running + (j - start), LANES<S>) + dc;
                const Vec<S> through = f * keep * r;
                store(dy + row, through * (S(1) - z * z), n);
                store(dy + row + H, (z - cp) * r * keep * (f * (S(1) - f)), n);
                store(running + (j - start), r - through, LANES<S>);
            }
        }
        if (dc0) std::memcpy(dc0 + b * H + start, running, (stop - start) * sizeof(S));
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
#define EXPORT(S, TYPE)                                                                           \
    extern "C" void qrnn_forward_##TYPE(long T, long B, long H, long gates, S* y, S* keep,        \
                                        double scale, S* c0, S* c, S* h, long threads) {          \
        qrnn_forward<S>({T, B, H, gates, y, keep, S(scale), c0, c}, h, threads);                  \
    }                                                                                             \
    extern "C" void qrnn_backward_##TYPE(long T, long B, long H, long gates, S* y, S* keep,       \
                                         double scale, S* c0, S* c, S* dh, S* dc_last, S* dy,     \
                                         S* dc0, long threads) {                                  \
        qrnn_backward<S>({T, B, H, gates, y, keep, S(scale), c0, c}, dh, dc_last, dy, dc0,        \
                         threads);                                                                \
    }
EXPORT(float, f32)
EXPORT(double, f64)
