// Gates of the form silu(a) b, each way in one pass: torch's operations would write and read some
// five arrays in between, and compute each exponential up to three times.
//
// The grid: u = silu(zu), v = silu(zv), per channel
//
//     g = u m,   m = T_H along H of v + T_W along W of v
//
// with all between z and g in a core's cache. The matrices of such lines are small: a library's
// product of 14 x 14 spends its time on getting ready.
//
// Notation: C channels, H x W grid, b batch, N = b W. S is float or double. Sums run in one order,
// whatever the number of threads.
#include <algorithm>
#include <vector>
#include "parallel.h"



// The last, ragged part of a row shares a register with whole ones before it, where there are any.
template <class S, class F> INLINE void each(long n, F f) {
    const long last = n > LANES<S> ? n - LANES<S> : 0;
    for (long j = 0; j < last; j += LANES<S>) f(j, n);
    f(last, n - last);
}

template <class S> INLINE Vec<S> silu_slope(Vec<S> x, Vec<S> s) {  // s = sigmoid(x)
    return s * (S(1) + x * (S(1) - s));
}

// ------------------------------------------------------------------------------------- products
// R rows and V registers of columns (from `from`) of c = a b, with a (m, K) at i * a_row + k * a_step
// and b (K, n) in rows of b_row.
template <class S, int R, int V>
INLINE void tile(long K, const S* a, long a_row, long a_step, const S* b, long b_row,
                 const long* from, S* c, long c_row) {
    Vec<S> sums[R][V] = {};
    for (long k = 0; k < K; ++k, a += a_step, b += b_row) {
        Vec<S> columns[V];
        #pragma GCC unroll 8
        for (int v = 0; v < V; ++v) columns[v] = load(b + from[v], LANES<S>);
        #pragma GCC unroll 8
        for (int r = 0; r < R; ++r)
            #pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sums[r][v] += a[r * a_row] * columns[v];
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
        #pragma GCC unroll 8
        for (int v = 0; v < V; ++v) store(c + r * c_row + from[v], sums[r][v], LANES<S>);
}

// R rows of c, all columns. The last register shares columns with the one before it.
template <class S, int R>
INLINE void stripe(long n, long K, const S* a, long a_row, long a_step, const S* b, long b_row,
                   S* c, long c_row) {
    const long lanes = LANES<S>, last = n > lanes ? n - lanes : 0;
    for (long j = 0; j < n; j += 2 * lanes) {
        const long from[2] = {min(j, last), min(j + lanes, last)};
        if (j + lanes < n) tile<S, R, 2>(K, a, a_row, a_step, b, b_row, from, c, c_row);
        else tile<S, R, 1>(K, a, a_row, a_step, b, b_row, from, c, c_row);
    }
}

// c (m, n) = a b, rows in sixes, whose sums fill the registers, as long as no single row is left
// over. Columns fewer than a register has lanes: it is read and written whole all the same, over the
// beginning of the next row, which comes later. So b and c have LANES of room behind them.
template <class S>
INLINE void product(long m, long n, long K, const S* a, long a_row, long a_step, const S* b,
                    long b_row, S* c, long c_row) {
    for (long i = 0, rows; i < m; i += rows, a += rows * a_row, c += rows * c_row) {
        const long left = m - i;
        rows = left == 6 || left > 8 ? 6 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (rows == 6) stripe<S, 6>(n, K, a, a_row, a_step, b, b_row, c, c_row);
        else if (rows == 4) stripe<S, 4>(n, K, a, a_row, a_step, b, b_row, c, c_row);
        else if (rows == 2) stripe<S, 2>(n, K, a, a_row, a_step, b, b_row, c, c_row);
        else stripe<S, 1>(n, K, a, a_row, a_step, b, b_row, c, c_row);
    }
}

// to (n, m) = from (m, n) turned.
template <class S> INLINE void turn(long m, long n, const S* from, S* to) {
    for (long i = 0; i < m; ++i)
        for (long k = 0; k < n; ++k) to[k * m + i] = from[i * n + k];
}

// ------------------------------------------------------------------------------------- the grid
template <class S> struct Grid {
    long C, H, b, W;
    const S *z, *T_H, *T_W;  // (2,C,H,b,W), (C,H,H), (C,W,W)
    long N = b * W, size = H * N;
};

// One channel, in a core's cache: arrays of the channel's size, of that of its matrices, and LANES of
// room behind each.
template <class S> struct Channel {
    const Grid<S>& g;
    const long length = g.size + LANES<S>, square = (g.H > g.W ? g.H * g.H : g.W * g.W) + LANES<S>;
    std::vector<S> room;
    S *v, *slope, *along_H, *along_W, *dm, *turned, *T_W, *turned_W, *dT;

    explicit Channel(const Grid<S>& grid)
        : g(grid), room(6 * length + 3 * square), v(room.data()), slope(v + length),
          along_H(slope + length), along_W(along_H + length), dm(along_W + length),
          turned(dm + length), T_W(turned + length), turned_W(T_W + square),
          dT(turned_W + square) {}

    // The sum that along_H and along_W then hold in two parts: T_H, or turned, along H of x, and
    // along W the matrix that this is, turned.
    void mix(const S* x, const S* T_H, bool turn_H, const S* T) {
        product<S>(g.H, g.N, g.H, T_H, turn_H ? 1 : g.H, turn_H ? g.H : 1, x, g.N, along_H, g.N);
        product<S>(g.H * g.b, g.W, g.W, x, g.W, 1, T, g.W, along_W, g.W);
    }
    Vec<S> mixed(long j, long n) const { return load(along_H + j, n) + load(along_W + j, n); }

    void mix_v(const S* zv, const S* T_H, const S* matrix_W) {
        each<S>(g.size, [&](long j, long n) {
            const Vec<S> x = load(zv + j, n), s = sigmoid<S>(x);
            store(v + j, x * s, n), store(slope + j, silu_slope<S>(x, s), n);
        });
        std::copy_n(matrix_W, g.W * g.W, T_W);
        turn<S>(g.W, g.W, T_W, turned_W);
        mix(v, T_H, false, turned_W);
    }

    void forward(const S* zu, const S* zv, const S* T_H, const S* matrix_W, S* out) {
        mix_v(zv, T_H, matrix_W);
        each<S>(g.size, [&](long j, long n) {
            const Vec<S> x = load(zu + j, n);
            store(out + j, x * sigmoid<S>(x) * mixed(j, n), n);
        });
    }

    void backward(const S* zu, const S* zv, const S* T_H, const S* matrix_W, const S* d, S* dzu,
                  S* dzv, S* dT_H, S* dT_W) {
        mix_v(zv, T_H, matrix_W);
        each<S>(g.size, [&](long j, long n) {
            const Vec<S> x = load(zu + j, n), s = sigmoid<S>(x), here = load(d + j, n);
            store(dzu + j, here * mixed(j, n) * silu_slope<S>(x, s), n);
            store(dm + j, here * x * s, n);
        });
        turn<S>(g.H, g.N, v, turned);
        product<S>(g.H, g.H, g.N, dm, g.N, 1, turned, g.H, dT, g.H);
        std::copy_n(dT, g.H * g.H, dT_H);
        product<S>(g.W, g.W, g.H * g.b, dm, 1, g.W, v, g.W, dT, g.W);
        std::copy_n(dT, g.W * g.W, dT_W);
        mix(dm, T_H, true, T_W);
        each<S>(g.size, [&](long j, long n) {
            store(dzv + j, mixed(j, n) * load(slope + j, n), n);
        });
    }
};

// f(channel, number) of every channel, each thread with arrays of its own.
template <class S, class F> void each_channel(const Grid<S>& g, long threads, F f) {
    const unsigned flags = flush_flags();
    #pragma omp parallel num_threads(threads)
    {
        FlushAs guard(flags);
        Channel<S> channel(g);
        #pragma omp for schedule(static)
        for (long c = 0; c < g.C; ++c) f(channel, c);
    }
}

template <class S> void gated_grid_forward(const Grid<S>& g, S* out, long threads) {
    each_channel<S>(g, threads, [&](Channel<S>& channel, long c) {
        channel.forward(g.z + c * g.size, g.z + (g.C + c) * g.size, g.T_H + c * g.H * g.H,
                        g.T_W + c * g.W * g.W, out + c * g.size);
    });
}

template <class S>
void gated_grid_backward(const Grid<S>& g, const S* d, S* dz, S* dT_H, S* dT_W, long threads) {
    each_channel<S>(g, threads, [&](Channel<S>& channel, long c) {
        channel.backward(g.z + c * g.size, g.z + (g.C + c) * g.size, g.T_H + c * g.H * g.H,
                         g.T_W + c * g.W * g.W, d + c * g.size, dz + c * g.size,
                         dz + (g.C + c) * g.size, dT_H + c * g.H * g.H, dT_W + c * g.W * g.W);
    });
}

// ---------------------------------------------------------------------------------- the product
// f(at, left) for the registers of `rows` rows of n numbers, threads apart.
template <class S, class F> void each_row(long rows, long n, long threads, F f) {
    const unsigned flags = flush_flags();
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; ++row) {
        FlushAs guard(flags);
        each<S>(n, [&](long j, long left) { f(row * n + j, left); });
    }
}

// y = silu(a) b; and from dy, da and db.
template <class S>
void silu_product_forward(long rows, long n, const S* a, const S* b, S* y, long threads) {
    each_row<S>(rows, n, threads, [&](long at, long left) {
        const Vec<S> x = load(a + at, left);
        store(y + at, x * sigmoid<S>(x) * load(b + at, left), left);
    });
}

template <class S>
void silu_product_backward(long rows, long n, const S* a, const S* b, const S* dy, S* da, S* db,
                           long threads) {
    each_row<S>(rows, n, threads, [&](long at, long left) {
        const Vec<S> x = load(a + at, left), s = sigmoid<S>(x), d = load(dy + at, left);
        store(da + at, d * load(b + at, left) * silu_slope<S>(x, s), left);
        store(db + at, d * x * s, left);
    });
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
#define EXPORT(S, TYPE)                                                                           \
    extern "C" void gated_grid_forward_##TYPE(long C, long H, long b, long W, S* z, S* T_H,       \
                                              S* T_W, S* out, long threads) {                     \
        gated_grid_forward<S>({C, H, b, W, z, T_H, T_W}, out, threads);                           \
    }                                                                                             \
    extern "C" void gated_grid_backward_##TYPE(long C, long H, long b, long W, S* z, S* T_H,      \
                                               S* T_W, S* d, S* dz, S* dT_H, S* dT_W,             \
                                               long threads) {                                    \
        gated_grid_backward<S>({C, H, b, W, z, T_H, T_W}, d, dz, dT_H, dT_W, threads);            \
    }                                                                                             \
    extern "C" void silu_product_forward_##TYPE(long rows, long n, S* a, S* b, S* y,              \
                                                long threads) {                                   \
        silu_product_forward<S>(rows, n, a, b, y, threads);                                       \
    }                                                                                             \
    extern "C" void silu_product_backward_##TYPE(long rows, long n, S* a, S* b, S* dy, S* da,     \
                                                 S* db, long threads) {                           \
        silu_product_backward<S>(rows, n, a, b, dy, da, db, threads);                             \
    }
EXPORT(float, f32)
EXPORT(double, f64)
