// CPU kernels of the recurrent layers: forget-mult and QRNN gates (arXiv 1611.01576, section 2) and
// the LSTM recurrence (arXiv 1708.02182, section 2). Plain C++17 with OpenMP, built and loaded by
// kernels.py; no torch headers.
//
// Letters: T time, B batch, H hidden, N = B * H columns. Every array is contiguous, time first.
// A null pointer means "absent" (a zero state, no mask).
#include "kernels_random.h"
#include "kernels_simd.h"

INLINE long min(long a, long b) { return a < b ? a : b; }
INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }

// Columns are handled in blocks, and a block runs through all of T: its running state stays in
// cache while the arrays stream by, in rows as long as possible, for the prefetcher. Blocks are
// shorter for few columns and many threads; that does not change the results.
constexpr long LONGEST = 4096;
INLINE long block_size(long columns, long blocks) {
    return min(LONGEST, ceil_div(ceil_div(columns, blocks), 64) * 64);
}

// ---- forget-mult: c_t = f_t x_t + (1 - f_t) c_{t-1} ---------------------------------------------
template <class S>
void forget_mult_forward(long T, long N, const S* f, const S* x, const S* c0, S* c, int threads) {
    const unsigned flags = flush_flags();
    const long block = block_size(N, 4 * threads);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < N; start += block) {
        FlushAs guard(flags);
        const long stop = min(N, start + block);
        for (long t = 0; t < T; ++t) {
            const S* previous = t ? c + (t - 1) * N : c0;
            for (long j = start; j < stop; j += LANES<S>) {
                const long n = stop - j, at = t * N + j;
                const Vec<S> cp = previous ? load(previous + j, n) : Vec<S>{};
                const Vec<S> fv = load(f + at, n);
                store(c + at, fv * load(x + at, n) + (S(1) - fv) * cp, n);
            }
        }
    }
}

template <class S>
void forget_mult_backward(long T, long N, const S* f, const S* x, const S* c0, const S* c,
                          const S* dc, S* df, S* dx, S* dc0, int threads) {
    const unsigned flags = flush_flags();
    const long block = block_size(N, 4 * threads);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < N; start += block) {
        FlushAs guard(flags);
        const long stop = min(N, start + block);
        alignas(64) S running[LONGEST] = {};
        for (long t = T - 1; t >= 0; --t) {
            const S* previous = t ? c + (t - 1) * N : c0;
            for (long j = start; j < stop; j += LANES<S>) {
                const long n = stop - j, at = t * N + j;
                const Vec<S> cp = previous ? load(previous + j, n) : Vec<S>{};
                const Vec<S> fv = load(f + at, n);
                const Vec<S> r = load(running + (j - start), LANES<S>) + load(dc + at, n);
                const Vec<S> through = fv * r;
                store(dx + at, through, n);
                store(df + at, (load(x + at, n) - cp) * r, n);
                store(running + (j - start), r - through, LANES<S>);
            }
        }
        if (dc0) std::memcpy(dc0 + start, running, (stop - start) * sizeof(S));
    }
}

// ---- QRNN gates: y = (z, f, o); c = forget-mult(sigmoid(f) keep, tanh(z)); h = sigmoid(o) c -----
// One row of y is (gates, H) per batch element. keep (T,B,H) and the number `scale` both multiply
// sigmoid(f): zoneout. Without output gate (gates = 2) h is c, and the h pointer is null.
// A task is one batch element and one block of H.
template <class S> struct Qrnn {
    long T, B, H, gates;
    const S *y, *keep;
    S scale;
    const S* c0;
    S* c;
};

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

// The activations are computed again from y: cheaper than writing and reading three more arrays.
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
        alignas(64) S running[LONGEST] = {};
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
                if (q.gates == 3) {
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

// ---- LSTM: the recurrence over all of T in one call ---------------------------------------------
// The product of B (20 to 80) rows with W_hh is too thin for a library GEMM to run at full speed,
// and the same matrix is used T times. So W_hh is repacked once per call into panels that the inner
// loop reads from front to back, and the gates are computed while a tile is still in registers.
constexpr int GATES = 4;             // a forward panel is four registers wide: one for each gate
constexpr int BACKWARD_VECTORS = 4;  // width of a backward panel in registers
constexpr int ROWS = REGISTERS == 32 ? 6 : 3;  // of a tile: with the panel they fill the registers
constexpr long DEPTH = 1024;         // rows of a backward panel used at a time: second-level cache

// acc[m][v] += sum over k of a[m][k] * panel[k][v], for m < R rows and v < W registers
template <class S, int R, int W>
INLINE void multiply(const S* a, long stride, const S* panel, long K, Vec<S> (&acc)[R][W]) {
    for (long k = 0; k < K; ++k, panel += W * LANES<S>) {
        Vec<S> w[W];
        #pragma GCC unroll 16
        for (int v = 0; v < W; ++v) w[v] = load(panel + v * LANES<S>, LANES<S>);
        #pragma GCC unroll 16
        for (int m = 0; m < R; ++m)
            #pragma GCC unroll 16
            for (int v = 0; v < W; ++v) acc[m][v] += a[m * stride + k] * w[v];
    }
}

// Panel p of the forward pass has LANES hidden units: packed[p][k][gate][lane] = w[gate, unit][k].
template <class S> void lstm_pack_forward(long H, const S* w, S* packed, int threads) {
    constexpr long L = LANES<S>, WIDTH = GATES * L;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < ceil_div(H, L); ++p)
        for (long k0 = 0; k0 < H; k0 += L)  // small squares: both sides stay in cache
            for (long column = 0; column < WIDTH; ++column) {
                const long gate = column / L, unit = p * L + column % L;
                S* to = packed + p * H * WIDTH + column;
                for (long k = k0; k < min(H, k0 + L); ++k)
                    to[k * WIDTH] = unit < H ? w[(gate * H + unit) * H + k] : S(0);
            }
}
// Panel p of the backward pass: packed[p][k][lane] = w[k][p * WIDTH + lane], k < 4H.
template <class S> void lstm_pack_backward(long H, const S* w, S* packed, int threads) {
    constexpr long WIDTH = BACKWARD_VECTORS * LANES<S>;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < ceil_div(H, WIDTH); ++p)
        for (long k = 0; k < 4 * H; ++k)
            for (long i = 0; i < WIDTH; ++i) {
                const long unit = p * WIDTH + i;
                packed[(p * 4 * H + k) * WIDTH + i] = unit < H ? w[k * H + unit] : S(0);
            }
}

template <class S> struct Lstm {
    long T, B, H;
    S* gates;          // (T,B,4H) in: x W_ih^T + biases; out: the activated gates i, f, g, o
    const S* packed;   // W_hh, packed for the direction
    const S *h0, *c0;  // (B,H)
    S *out, *cells;    // (T,B,H)
    long cell_step;    // B * H, or 0 to keep only the last cell state
};

// R rows from b of panel p: gates += h_{t-1} W_hh^T, then c_t and h_t (1708.02182, section 2).
template <class S, int R>
INLINE void lstm_rows(const Lstm<S>& q, long t, long b, long p, long rows) {
    if constexpr (R > 1)
        if (rows < R) return lstm_rows<S, R - 1>(q, t, b, p, rows);
    const long H = q.H, unit = p * LANES<S>, n = H - unit;
    const S* h_previous = t ? q.out + (t - 1) * q.B * H : q.h0;
    const S* c_previous = t ? q.cells + (t - 1) * q.cell_step : q.c0;
    Vec<S> acc[R][GATES] = {};
    multiply<S, R, GATES>(h_previous + b * H, H, q.packed + unit * H * GATES, H, acc);
    for (int m = 0; m < R; ++m) {
        const long at = (b + m) * H + unit;
        S* gate = q.gates + (t * q.B + b + m) * 4 * H + unit;
        const Vec<S> i = sigmoid<S>(acc[m][0] + load(gate, n));
        const Vec<S> f = sigmoid<S>(acc[m][1] + load(gate + H, n));
        const Vec<S> g = tanh<S>(acc[m][2] + load(gate + 2 * H, n));
        const Vec<S> o = sigmoid<S>(acc[m][3] + load(gate + 3 * H, n));
        const Vec<S> c = f * load(c_previous + at, n) + i * g;
        store(gate, i, n), store(gate + H, f, n), store(gate + 2 * H, g, n);
        store(gate + 3 * H, o, n);
        store(q.cells + t * q.cell_step + at, c, n);
        store(q.out + t * q.B * H + at, o * tanh<S>(c), n);
    }
}

template <class S> void lstm_forward(const Lstm<S>& q, int threads) {
    const unsigned flags = flush_flags();
    const long rows = ceil_div(q.B, ceil_div(q.B, ROWS));  // equal tiles: 20 = 4 times 5
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        for (long t = 0; t < q.T; ++t) {
            #pragma omp for schedule(static)  // ends with a barrier: step t + 1 needs all of h_t
            for (long p = 0; p < ceil_div(q.H, LANES<S>); ++p)
                for (long b = 0; b < q.B; b += rows)
                    lstm_rows<S, ROWS>(q, t, b, p, min(rows, q.B - b));
        }
    }
}

template <class S> struct LstmGrad {
    const S* d_out;  // (T,B,H)
    S* d_gates;      // (T,B,4H), before the activations
    S *dh, *dc;      // (B,H) in: gradients of h_n, c_n; out: of h0, c0
};

// The gate gradients of step t, row b, hidden units [unit, stop); dc moves on to step t - 1.
template <class S>
void lstm_gate_gradient(const Lstm<S>& q, const LstmGrad<S>& d, long t, long b, long unit,
                        long stop) {
    const long H = q.H;
    const S* c_previous = t ? q.cells + (t - 1) * q.cell_step : q.c0;
    for (; unit < stop; unit += LANES<S>) {
        const long n = stop - unit, at = b * H + unit, now = t * q.B * H + at;
        const long row = (t * q.B + b) * 4 * H + unit;
        const S* gate = q.gates + row;
        const Vec<S> i = load(gate, n), f = load(gate + H, n);
        const Vec<S> g = load(gate + 2 * H, n), o = load(gate + 3 * H, n);
        const Vec<S> tc = tanh<S>(load(q.cells + now, n));
        const Vec<S> dh = load(d.dh + at, n) + load(d.d_out + now, n);
        const Vec<S> dc = load(d.dc + at, n) + dh * o * (S(1) - tc * tc);
        store(d.d_gates + row, dc * g * (i * (S(1) - i)), n);
        store(d.d_gates + row + H, dc * load(c_previous + at, n) * (f * (S(1) - f)), n);
        store(d.d_gates + row + 2 * H, dc * i * (S(1) - g * g), n);
        store(d.d_gates + row + 3 * H, dh * tc * (o * (S(1) - o)), n);
        store(d.dc + at, dc * f, n);
    }
}

// dh[b .. b + R, panel p] (+)= d_gates_t W_hh, over the gate rows k0 <= k < k1.
template <class S, int R>
INLINE void lstm_grad_rows(const Lstm<S>& q, const LstmGrad<S>& d, long t, long b, long p, long k0,
                           long k1, long rows) {
    if constexpr (R > 1)
        if (rows < R) return lstm_grad_rows<S, R - 1>(q, d, t, b, p, k0, k1, rows);
    constexpr int W = BACKWARD_VECTORS;
    constexpr long L = LANES<S>;
    const long K = 4 * q.H, n = q.H - p * W * L;
    S* dh = d.dh + b * q.H + p * W * L;
    Vec<S> acc[R][W] = {};
    for (int m = 0; k0 && m < R; ++m)
        for (int v = 0; v < W; ++v) acc[m][v] = load(dh + m * q.H + v * L, n - v * L);
    multiply<S, R, W>(d.d_gates + (t * q.B + b) * K + k0, K, q.packed + (p * K + k0) * W * L,
                      k1 - k0, acc);
    for (int m = 0; m < R; ++m)
        for (int v = 0; v < W; ++v) store(dh + m * q.H + v * L, acc[m][v], n - v * L);
}

template <class S> void lstm_backward(const Lstm<S>& q, const LstmGrad<S>& d, int threads) {
    constexpr long WIDTH = BACKWARD_VECTORS * LANES<S>;
    const unsigned flags = flush_flags();
    const long H = q.H, K = 4 * H, rows = ceil_div(q.B, ceil_div(q.B, ROWS));
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        for (long t = q.T; t >= 0; --t) {
            #pragma omp for schedule(static)  // ends with a barrier: d_gates_{t-1} is complete
            for (long p = 0; p < ceil_div(H, WIDTH); ++p) {
                for (long k = 0; t < q.T && k < K; k += DEPTH)
                    for (long b = 0; b < q.B; b += rows)
                        lstm_grad_rows<S, ROWS>(q, d, t, b, p, k, min(K, k + DEPTH),
                                                         min(rows, q.B - b));
                for (long b = 0; t > 0 && b < q.B; ++b)
                    lstm_gate_gradient(q, d, t - 1, b, p * WIDTH, min(H, (p + 1) * WIDTH));
            }
        }
    }
}

// ---- C names for ctypes: <operation>_f32 and <operation>_f64; see SIGNATURES in kernels.py ------
#define EXPORT(S, TYPE)                                                                           \
    extern "C" {                                                                                  \
    long lanes_##TYPE() { return LANES<S>; }                                                      \
    void forget_mult_forward_##TYPE(long T, long N, S* f, S* x, S* c0, S* c, long threads) {      \
        forget_mult_forward<S>(T, N, f, x, c0, c, threads);                                       \
    }                                                                                             \
    void forget_mult_backward_##TYPE(long T, long N, S* f, S* x, S* c0, S* c, S* dc, S* df,       \
                                     S* dx, S* dc0, long threads) {                               \
        forget_mult_backward<S>(T, N, f, x, c0, c, dc, df, dx, dc0, threads);                     \
    }                                                                                             \
    void qrnn_forward_##TYPE(long T, long B, long H, long gates, S* y, S* keep, double scale,     \
                             S* c0, S* c, S* h, long threads) {                                   \
        qrnn_forward<S>({T, B, H, gates, y, keep, S(scale), c0, c}, h, threads);                  \
    }                                                                                             \
    void qrnn_backward_##TYPE(long T, long B, long H, long gates, S* y, S* keep, double scale,    \
                              S* c0, S* c, S* dh, S* dc_last, S* dy, S* dc0, long threads) {      \
        qrnn_backward<S>({T, B, H, gates, y, keep, S(scale), c0, c}, dh, dc_last, dy, dc0,        \
                         threads);                                                                \
    }                                                                                             \
    void lstm_forward_##TYPE(long T, long B, long H, S* gates, S* w_hh, S* packed, S* h0, S* c0,  \
                             S* out, S* cells, long cell_step, long threads) {                    \
        lstm_pack_forward<S>(H, w_hh, packed, threads);                                           \
        lstm_forward<S>({T, B, H, gates, packed, h0, c0, out, cells, cell_step}, threads);        \
    }                                                                                             \
    void lstm_backward_##TYPE(long T, long B, long H, S* gates, S* w_hh, S* packed, S* c0,        \
                              S* cells, S* d_out, S* d_gates, S* dh, S* dc, long threads) {       \
        lstm_pack_backward<S>(H, w_hh, packed, threads);                                          \
        lstm_backward<S>({T, B, H, gates, packed, nullptr, c0, nullptr, cells, B * H},            \
                         {d_out, d_gates, dh, dc}, threads);                                      \
    }                                                                                             \
    }
EXPORT(float, f32)
EXPORT(double, f64)
extern "C" void draw_mask_f32(long n, double keep, double value, uint8_t* state, float* mask) {
    draw_mask(state, n, keep, float(value), mask);
}
