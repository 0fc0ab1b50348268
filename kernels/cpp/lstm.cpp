// The LSTM recurrence (arXiv 1708.02182, section 2) over all of T in one call, and its gradient.
//
// The product of B (20 to 80) rows with W_hh is too thin for a library GEMM to run at full speed:
// it lays the matrix out anew for each product, and here T products use the same one. So W_hh is
// packed once per call, into panels that the inner loop reads from front to back, and the gates are
// computed while a tile of sums is still in registers. It costs a second copy of W_hh and one pass
// over it, about as much as two steps (so lstm.py leaves very short sequences to torch).
//
// The sums over k run in the same order whatever the number of threads or the tile's height, so the
// results repeat bit for bit.
//
// Notation: T time, B batch, H hidden size; S float or double, L = LANES<S> numbers in a register.
// Gates in torch's order: input, forget, cell, output (i, f, g, o). Arrays are contiguous.
// W is the type of the numbers that are multiplied: S itself, or Bf16 where S is float. With Bf16,
// W_hh and the rows that it meets (h forward, the gate gradients backward) are rounded copies;
// sums, gates, states and gradients remain float.
#include <type_traits>
#include "bf16.h"
#include "parallel.h"

constexpr int GATES = 4;
// A tile is ROWS high and SPAN registers wide. Its sums, a row of the panel and one number of the
// left matrix share the register file: 6 * 4 + 4 + 1 of 32, or 6 * 2 + 2 + 1 of 16. Each loaded
// register of the panel serves ROWS multiplications, each loaded number SPAN.
constexpr int ROWS = 6, SPAN = REGISTERS == 32 ? 4 : 2;
// Rows of a backward panel used at a time: 1024 * 4 registers of 64 bytes, or 2048 * 2 of 32 (256
// or 128 KiB), stay in the second-level cache while all B rows pass. A forward panel has only H
// rows and needs no slices.
constexpr long DEPTH = 4096 / SPAN;

// ---- the numbers that are multiplied ------------------------------------------------------------
// Neighbouring rows k of a panel that lie in one register, side by side in each lane: 1, or 2 Bf16.
template <class S, class W> constexpr long PAIR = sizeof(S) / sizeof(W);
template <class S, class W> constexpr bool ROUNDED = !std::is_same<S, W>::value;
// K rows, with a row of zeros if the last pair lacks its second.
template <class S, class W> INLINE long paired(long K) {
    return ceil_div(K, PAIR<S, W>) * PAIR<S, W>;
}
template <class W, class S> INLINE W as_weight(S x) {
    if constexpr (ROUNDED<S, W>) return rounded(x);
    else return x;
}

// acc[m][v] += sum over k of a[m][k] * panel[k][v], for m < R rows and v < V registers. R and V are
// constants and the loops over them unrolled, or acc would be an array in memory; k is outermost,
// so the sums leave their registers only at the end.
template <class S, int R, int V>
INLINE void multiply(const S* a, long stride, const S* panel, long K, Vec<S> (&acc)[R][V]) {
    for (long k = 0; k < K; ++k, panel += V * LANES<S>) {
        Vec<S> w[V];
        #pragma GCC unroll 16
        for (int v = 0; v < V; ++v) w[v] = load(panel + v * LANES<S>, LANES<S>);
        #pragma GCC unroll 16
        for (int m = 0; m < R; ++m)
            #pragma GCC unroll 16
            for (int v = 0; v < V; ++v) acc[m][v] += a[m * stride + k] * w[v];
    }
}
// The same for K an even number of Bf16.
template <class S, int R, int V>
INLINE void multiply(const Bf16* a, long stride, const Bf16* panel, long K, Vec<S> (&acc)[R][V]) {
    for (long k = 0; k < K; k += 2, panel += V * 2 * LANES<S>) {
        Pairs w[V];
        #pragma GCC unroll 16
        for (int v = 0; v < V; ++v) w[v] = load_pairs(panel + v * 2 * LANES<S>);
        #pragma GCC unroll 16
        for (int m = 0; m < R; ++m) {
            const Pairs x = broadcast_pair(a + m * stride + k);
            #pragma GCC unroll 16
            for (int v = 0; v < V; ++v) acc[m][v] = dot(acc[m][v], x, w[v]);
        }
    }
}

// ---- packing ------------------------------------------------------------------------------------
// Panel p of the forward pass has the four gates of L hidden units, all that their cells need:
// packed[p][gate / SPAN][k][gate % SPAN][lane] = w[gate, unit][k]. Units past H are zeros. With
// pairs: [k / 2] in the place of [k], and [k % 2] behind [lane].
template <class S, class W> void lstm_pack_forward(long H, const S* w, W* packed, int threads) {
    constexpr long L = LANES<S>, WIDTH = GATES * L, P = PAIR<S, W>;
    const long K = paired<S, W>(H);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < ceil_div(H, L); ++p)
        for (long k0 = 0; k0 < K; k0 += L)
            // This is a transposition: rows of w become columns. In squares of L numbers both the
            // rows read and the lines written stay in the cache.
            for (long column = 0; column < WIDTH; ++column) {
                const long gate = column / L, unit = p * L + column % L;
                W* to = packed + (p * GATES + gate / SPAN * SPAN) * K * L
                        + (gate % SPAN * L + column % L) * P;
                for (long k = k0; k < min(K, k0 + L); ++k)
                    to[k / P * P * SPAN * L + k % P] = as_weight<W>(
                        unit < H && k < H ? w[(gate * H + unit) * H + k] : S(0));
            }
}
// Panel p of the backward pass: packed[p][k][lane] = w[k][p * WIDTH + lane], k < 4H. Rows stay
// rows, so plain copies do. With pairs: packed[p][k / 2][lane][k % 2].
template <class S, class W> void lstm_pack_backward(long H, const S* w, W* packed, int threads) {
    constexpr long WIDTH = SPAN * LANES<S>, P = PAIR<S, W>;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long p = 0; p < ceil_div(H, WIDTH); ++p)
        for (long k = 0; k < 4 * H; ++k)
            for (long i = 0; i < WIDTH; ++i) {
                const long unit = p * WIDTH + i;
                packed[(p * 4 * H + k / P * P) * WIDTH + i * P + k % P] =
                    as_weight<W>(unit < H ? w[k * H + unit] : S(0));
            }
}

// ---- room ---------------------------------------------------------------------------------------
// Numbers of W in either packed form, at most: 4H rows of H rounded up to whole backward panels, or
// the same of H + 1 (pairs).
template <class S, class W> long lstm_packed_size(long H) {
    constexpr long WIDTH = GATES * LANES<S>;
    return 4 * paired<S, W>(H) * ceil_div(H, WIDTH) * WIDTH;
}
// Numbers of S that lstm.py must make room for: W_hh packed and, with Bf16, two steps of rounded
// rows (at most 4H wide), one that is read while the other is written.
template <class S, class W> long lstm_room(long B, long H) {
    const long rows = ROUNDED<S, W> ? 2 * B * 4 * H : 0;
    return ceil_div(lstm_packed_size<S, W>(H) + rows, PAIR<S, W>);
}

// ---- forward ------------------------------------------------------------------------------------
template <class S, class W> struct Lstm {
    long T, B, H;
    S* gates;          // (T,B,4H) in: x W_ih^T + biases; out: the activated gates i, f, g, o
    W* packed;         // W_hh, packed for the direction
    const S *h0, *c0;  // (B,H)
    S *out, *cells;    // (T,B,H)
    long cell_step;    // B * H, or 0 to keep only the last cell state

    // The rounded rows of step t, (B, width).
    W* rounded_rows(long t, long width) const {
        return packed + lstm_packed_size<S, W>(H) + t % 2 * B * width;
    }
};

// R rows from b of panel p: gates += h_{t-1} W_hh^T, then c_t and h_t. A tile with fewer rows calls
// the instance for its own number, because the sums stay in registers only if R is a constant.
template <class S, class W, int R>
INLINE void lstm_rows(const Lstm<S, W>& q, long t, long b, long p, long rows) {
    if constexpr (R > 1)
        if (rows < R) return lstm_rows<S, W, R - 1>(q, t, b, p, rows);
    const long H = q.H, K = paired<S, W>(H), unit = p * LANES<S>, n = H - unit;
    const S* c_previous = t ? q.cells + (t - 1) * q.cell_step : q.c0;
    const W* h_previous;
    if constexpr (ROUNDED<S, W>) h_previous = q.rounded_rows(t, K);
    else h_previous = t ? q.out + (t - 1) * q.B * H : q.h0;
    Vec<S> acc[GATES / SPAN][R][SPAN] = {};
    for (int part = 0; part < GATES / SPAN; ++part)
        multiply<S, R, SPAN>(h_previous + b * K, K,
                             q.packed + (unit * GATES + part * SPAN * LANES<S>) * K, K, acc[part]);
    for (int m = 0; m < R; ++m) {
        const auto sum = [&](int j) { return acc[j / SPAN][m][j % SPAN]; };
        const long at = (b + m) * H + unit;
        S* gate = q.gates + (t * q.B + b + m) * 4 * H + unit;
        const Vec<S> i = sigmoid<S>(sum(0) + load(gate, n));
        const Vec<S> f = sigmoid<S>(sum(1) + load(gate + H, n));
        const Vec<S> g = tanh<S>(sum(2) + load(gate + 2 * H, n));
        const Vec<S> o = sigmoid<S>(sum(3) + load(gate + 3 * H, n));
        // With cell_step 0 c_t overwrites c_{t-1}: this tile alone reads it, and has done so.
        const Vec<S> c = f * load(c_previous + at, n) + i * g;
        const Vec<S> h = o * tanh<S>(c);
        // Backward needs the activated gates; they take the place of the sums they come from.
        store(gate, i, n), store(gate + H, f, n), store(gate + 2 * H, g, n);
        store(gate + 3 * H, o, n);
        store(q.cells + t * q.cell_step + at, c, n);
        store(q.out + t * q.B * H + at, h, n);
        if constexpr (ROUNDED<S, W>)
            store_rounded(q.rounded_rows(t + 1, K) + (b + m) * K + unit, h, n);
    }
}

// Panels are shared out among the threads, and since the schedule is static a thread has the same
// panels at every step: its part of W_hh stays in its own cache. Inside, one panel meets all rows.
template <class S, class W> void lstm_forward(const Lstm<S, W>& q, int threads) {
    const unsigned flags = flush_flags();
    const long rows = ceil_div(q.B, ceil_div(q.B, ROWS));  // equal tiles: 20 = 4 times 5
    if constexpr (ROUNDED<S, W>)
        for (long b = 0, K = paired<S, W>(q.H); b < q.B; ++b)
            for (long k = 0; k < K; ++k) {
                q.rounded_rows(0, K)[b * K + k] = as_weight<W>(k < q.H ? q.h0[b * q.H + k] : S(0));
                q.rounded_rows(1, K)[b * K + k] = 0;  // the unit past H stays so
            }
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        for (long t = 0; t < q.T; ++t) {
            #pragma omp for schedule(static)  // ends with a barrier: step t + 1 needs all of h_t
            for (long p = 0; p < ceil_div(q.H, LANES<S>); ++p)
                for (long b = 0; b < q.B; b += rows)
                    lstm_rows<S, W, ROWS>(q, t, b, p, min(rows, q.B - b));
        }
    }
}

// ---- backward -----------------------------------------------------------------------------------
// With dh_t, dc_t the whole gradients of h_t and c_t, and i' = i (1 - i), g' = 1 - g^2 and so on,
//
//     dc_t   += dh_t o (1 - tanh(c_t)^2)
//     d_gates = (dc_t g i',  dc_t c_{t-1} f',  dc_t i g',  dh_t tanh(c_t) o')     before activation
//     dc_{t-1} = dc_t f,     dh_{t-1} = d_out_{t-1} + d_gates W_hh
template <class S> struct LstmGrad {
    const S* d_out;  // (T,B,H)
    S* d_gates;      // (T,B,4H), before the activations
    S *dh, *dc;      // (B,H) in: gradients of h_n, c_n; out: of h0, c0
};

// The gate gradients of step t, row b, hidden units [unit, stop); dc moves on to step t - 1.
template <class S, class W>
void lstm_gate_gradient(const Lstm<S, W>& q, const LstmGrad<S>& d, long t, long b, long unit,
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
        const Vec<S> d_gate[GATES] = {
            dc * g * (i * (S(1) - i)), dc * load(c_previous + at, n) * (f * (S(1) - f)),
            dc * i * (S(1) - g * g), dh * tc * (o * (S(1) - o))};
        for (int j = 0; j < GATES; ++j) {
            store(d.d_gates + row + j * H, d_gate[j], n);
            if constexpr (ROUNDED<S, W>)
                store_rounded(q.rounded_rows(t, 4 * H) + b * 4 * H + j * H + unit, d_gate[j], n);
        }
        store(d.dc + at, dc * f, n);
    }
}

// dh[b .. b + R, panel p] (+)= d_gates_t W_hh, over the gate rows k0 <= k < k1. The first slice
// (k0 = 0) starts from zero, the later ones from what the one before has left in dh.
template <class S, class W, int R>
INLINE void lstm_grad_rows(const Lstm<S, W>& q, const LstmGrad<S>& d, long t, long b, long p,
                           long k0, long k1, long rows) {
    if constexpr (R > 1)
        if (rows < R) return lstm_grad_rows<S, W, R - 1>(q, d, t, b, p, k0, k1, rows);
    constexpr int V = SPAN;
    constexpr long L = LANES<S>;
    const long K = 4 * q.H, n = q.H - p * V * L;
    const W* d_gates;
    if constexpr (ROUNDED<S, W>) d_gates = q.rounded_rows(t, K);
    else d_gates = d.d_gates + t * q.B * K;
    S* dh = d.dh + b * q.H + p * V * L;
    Vec<S> acc[R][V] = {};
    for (int m = 0; k0 && m < R; ++m)
        for (int v = 0; v < V; ++v) acc[m][v] = load(dh + m * q.H + v * L, n - v * L);
    multiply<S, R, V>(d_gates + b * K + k0, K, q.packed + (p * K + k0) * V * L, k1 - k0, acc);
    for (int m = 0; m < R; ++m)
        for (int v = 0; v < V; ++v) store(dh + m * q.H + v * L, acc[m][v], n - v * L);
}

// Turn t makes dh of step t - 1 from the gate gradients of step t and then, for the same hidden
// units, the gate gradients of step t - 1. A panel's units need no other panel's dh, so the two
// parts share a loop and a step has one barrier. The first turn (t = T) has no product: dh holds
// the gradient of h_n. The last one (t = 0) has only the product: it leaves the gradient of h0.
template <class S, class W>
void lstm_backward(const Lstm<S, W>& q, const LstmGrad<S>& d, int threads) {
    constexpr long WIDTH = SPAN * LANES<S>, SLICE = DEPTH * PAIR<S, W>;
    const unsigned flags = flush_flags();
    const long H = q.H, K = 4 * H, rows = ceil_div(q.B, ceil_div(q.B, ROWS));
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        for (long t = q.T; t >= 0; --t) {
            #pragma omp for schedule(static)  // ends with a barrier: d_gates_{t-1} is complete
            for (long p = 0; p < ceil_div(H, WIDTH); ++p) {
                for (long k = 0; t < q.T && k < K; k += SLICE)  // a cached slice meets all rows
                    for (long b = 0; b < q.B; b += rows)
                        lstm_grad_rows<S, W, ROWS>(q, d, t, b, p, k, min(K, k + SLICE),
                                                   min(rows, q.B - b));
                for (long b = 0; t > 0 && b < q.B; ++b)
                    lstm_gate_gradient(q, d, t - 1, b, p * WIDTH, min(H, (p + 1) * WIDTH));
            }
        }
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
// `room` holds lstm_room numbers.
#define EXPORT(NAME, S, W, TYPE)                                                                  \
    extern "C" long NAME##_room_##TYPE(long B, long H) { return lstm_room<S, W>(B, H); }          \
    extern "C" void NAME##_forward_##TYPE(long T, long B, long H, S* gates, S* w_hh, S* room,     \
                                          S* h0, S* c0, S* out, S* cells, long cell_step,         \
                                          long threads) {                                         \
        W* packed = reinterpret_cast<W*>(room);                                                   \
        lstm_pack_forward<S, W>(H, w_hh, packed, threads);                                        \
        lstm_forward<S, W>({T, B, H, gates, packed, h0, c0, out, cells, cell_step}, threads);     \
    }                                                                                             \
    extern "C" void NAME##_backward_##TYPE(long T, long B, long H, S* gates, S* w_hh, S* room,    \
                                           S* c0, S* cells, S* d_out, S* d_gates, S* dh, S* dc,   \
                                           long threads) {                                        \
        W* packed = reinterpret_cast<W*>(room);                                                   \
        lstm_pack_backward<S, W>(H, w_hh, packed, threads);                                       \
        lstm_backward<S, W>({T, B, H, gates, packed, nullptr, c0, nullptr, cells, B * H},         \
                            {d_out, d_gates, dh, dc}, threads);                                   \
    }
#ifndef VARIANTS  // tests compile one of them alone
#define VARIANTS EXPORT(lstm, float, float, f32) EXPORT(lstm, double, double, f64)                \
                 EXPORT(lstm_bf16, float, Bf16, f32)
#endif
VARIANTS
extern "C" long has_bf16_instructions_f32() { return BF16_INSTRUCTIONS; }
