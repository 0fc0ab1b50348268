// The first level of a TrellisNet, under which there is nothing, so that its forget gate has
// nothing to keep:
//
//     i, o, g = x W, through sigmoid, sigmoid, tanh      c = i g      h = o tanh(c), times the mask
//
// x is so narrow that to compute x W costs less than to write and read it, and to keep the gates
// more than to compute them again. So neither they nor their gradient are kept.
//
// Notation: R rows, of which N belong to one time step; x (R,K), one of its columns may be ones; W
// (K,3H); mask (N,H) or null. S is float or double.
#include <type_traits>
#include "parallel.h"

constexpr long WIDEST = 8;            // of K
// The gradient of W is summed over parts of so many rows, a tile of them after the other, which the
// first-level cache holds; the parts are added by whoever called. No sum depends on the threads.
constexpr long PART = 1024, TILE = 16;

template <class S> struct Narrow {
    long R, N, H;
    const S *x, *weight, *mask;
};

// The first column of a register. The last one, where it would be ragged, begins so that it ends
// with the row, and computes some columns once more, with the same results.
template <class S> INLINE long first_column(long H, long at) {
    return H > LANES<S> ? min(at, H - LANES<S>) : 0;
}

template <class S> struct NarrowGates { Vec<S> i, o, g; };

template <class S, int K>
INLINE NarrowGates<S> narrow_gates(const S* x, const S* weight, long H, long j) {
    Vec<S> a[3] = {};
    #pragma GCC unroll 8
    for (int k = 0; k < K; ++k)
        #pragma GCC unroll 3
        for (int q = 0; q < 3; ++q) a[q] += x[k] * load(weight + (3 * k + q) * H + j, H);
    return {sigmoid<S>(a[0]), sigmoid<S>(a[1]), tanh<S>(a[2])};
}

template <class S, int K> void narrow_forward(const Narrow<S>& l, S* c, S* h, int threads) {
    const unsigned flags = flush_flags();
    const long H = l.H;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < l.R; ++row) {
        FlushAs guard(flags);
        const S* const mask = l.mask ? l.mask + row % l.N * H : nullptr;
        for (long at = 0; at < H; at += LANES<S>) {
            const long j = first_column<S>(H, at);
            const NarrowGates<S> v = narrow_gates<S, K>(l.x + row * K, l.weight, H, j);
            const Vec<S> cell = v.i * v.g;
            const Vec<S> hidden = v.o * tanh<S>(cell);
            store(c + row * H + j, cell, H);
            store(h + row * H + j, mask ? hidden * load(mask + j, H) : hidden, H);
        }
    }
}

// to[k] += sum over `rows` of x[row][k] da[row]; to[k + 1] lies 3H numbers behind to[k]. The first
// `known` columns have these rows' sum already, from the register before.
template <class S, int K>
INLINE void add_narrow_products(const S* x, const Vec<S>* da, long rows, S* to, long H,
                                long known) {
    Vec<S> sums[K] = {};
    for (long row = 0; row < rows; ++row)
        #pragma GCC unroll 8
        for (int k = 0; k < K; ++k) sums[k] += x[row * K + k] * da[row];
    #pragma GCC unroll 8
    for (int k = 0; k < K; ++k) {
        for (long i = 0; i < known; ++i) sums[k][i] = 0;
        store(to + 3 * k * H, load(to + 3 * k * H, H) + sums[k], H);
    }
}

// From dh and dc (R,H), dh that of the masked h: the gradient of W, part by part (parts,K,3H).
template <class S, int K>
void narrow_backward(const Narrow<S>& l, const S* dh, const S* dc, S* d_weight, int threads) {
    const unsigned flags = flush_flags();
    const long H = l.H;
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long part = 0; part < ceil_div(l.R, PART); ++part) {
        FlushAs guard(flags);
        S* const into = d_weight + part * K * 3 * H;
        std::memset(into, 0, sizeof(S) * K * 3 * H);
        const long end = min(l.R, (part + 1) * PART);
        for (long tile = part * PART; tile < end; tile += TILE)
            for (long at = 0; at < H; at += LANES<S>) {
                const long j = first_column<S>(H, at), rows = min(TILE, end - tile);
                Vec<S> da[3][TILE];
                for (long n = 0; n < rows; ++n) {
                    const long row = tile + n;
                    // The next tile's; beyond the last there is nothing, which does no harm.
                    __builtin_prefetch(dh + (row + TILE) * H + j);
                    __builtin_prefetch(dc + (row + TILE) * H + j);
                    const NarrowGates<S> v = narrow_gates<S, K>(l.x + row * K, l.weight, H, j);
                    const Vec<S> tanh_c = tanh<S>(v.i * v.g);
                    Vec<S> d = load(dh + row * H + j, H);
                    if (l.mask) d *= load(l.mask + row % l.N * H + j, H);
                    const Vec<S> through = load(dc + row * H + j, H)
                                           + d * v.o * (S(1) - tanh_c * tanh_c);
                    da[0][n] = through * v.g * (v.i * (S(1) - v.i));
                    da[1][n] = d * tanh_c * (v.o * (S(1) - v.o));
                    da[2][n] = through * v.i * (S(1) - v.g * v.g);
                }
                for (int q = 0; q < 3; ++q)
                    add_narrow_products<S, K>(l.x + tile * K, da[q], rows, into + q * H + j, H,
                                              at - j);
            }
    }
}

// Which instance: K is 1 to WIDEST.
template <class S, int K = 1, class Use> INLINE void with_width(long width, Use use) {
    if constexpr (K <= WIDEST) {
        if (width == K) use(std::integral_constant<int, K>{});
        else with_width<S, K + 1>(width, use);
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
#define EXPORT(S, TYPE)                                                                          \
    extern "C" void narrow_gates_forward_##TYPE(long R, long N, long H, long K, S* x, S* weight, \
                                                S* mask, S* c, S* h, long threads) {             \
        with_width<S>(K, [&](auto k) {                                                           \
            narrow_forward<S, k>({R, N, H, x, weight, mask}, c, h, threads);                     \
        });                                                                                      \
    }                                                                                            \
    extern "C" void narrow_gates_backward_##TYPE(long R, long N, long H, long K, S* x,           \
                                                 S* weight, S* mask, S* dh, S* dc, S* d_weight,  \
                                                 long threads) {                                 \
        with_width<S>(K, [&](auto k) {                                                           \
            narrow_backward<S, k>({R, N, H, x, weight, mask}, dh, dc, d_weight, threads);        \
        });                                                                                      \
    }                                                                                            \
    extern "C" long narrow_gates_parts_##TYPE(long R) { return ceil_div(R, PART); }
EXPORT(float, f32)
EXPORT(double, f64)
