// Forget-mult, the recurrence of QRNNs (arXiv 1611.01576, section 2):
//
//     c_t = f_t x_t + (1 - f_t) c_{t-1}
//
// Three numbers are read or written per element and four operations done with them, so the time is
// that of the memory traffic, and what counts is that every array passes through the cache once.
//
// Notation: T time, N = B * H columns (batch element and hidden unit). Arrays are (T,N), contiguous.
// S is float or double. A null pointer means "absent" (a zero state).
#include "parallel.h"

template <class S>
void forget_mult_forward(long T, long N, const S* f, const S* x, const S* c0, S* c, int threads) {
    const unsigned flags = flush_flags();
    const long block = block_size(N, 4 * threads);  // 4 blocks a thread: the last ones even out
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < N; start += block) {
        FlushAs guard(flags);
        const long stop = min(N, start + block);
        for (long t = 0; t < T; ++t) {
            // c_{t-1} is read back from the output: the block wrote it just now, so it is cached.
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

// With r_t the whole gradient of c_t,
//     r_t = dc_t + (1 - f_{t+1}) r_{t+1},   dx_t = f_t r_t,   df_t = (x_t - c_{t-1}) r_t.
template <class S>
void forget_mult_backward(long T, long N, const S* f, const S* x, const S* c0, const S* c,
                          const S* dc, S* df, S* dx, S* dc0, int threads) {
    const unsigned flags = flush_flags();
    const long block = block_size(N, 4 * threads);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long start = 0; start < N; start += block) {
        FlushAs guard(flags);
        const long stop = min(N, start + block);
        // (1 - f_{t+1}) r_{t+1} has no array of its own in memory; on the stack it never leaves the
        // cache. It is padded to whole registers, hence the full loads and stores below.
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
                store(running + (j - start), r - through, LANES<S>);  // (1 - f) r, one product less
            }
        }
        if (dc0) std::memcpy(dc0 + start, running, (stop - start) * sizeof(S));
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
#define EXPORT(S, TYPE)                                                                           \
    extern "C" void forget_mult_forward_##TYPE(long T, long N, S* f, S* x, S* c0, S* c,           \
                                               long threads) {                                    \
        forget_mult_forward<S>(T, N, f, x, c0, c, threads);                                       \
    }                                                                                             \
    extern "C" void forget_mult_backward_##TYPE(long T, long N, S* f, S* x, S* c0, S* c, S* dc,   \
                                                S* df, S* dx, S* dc0, long threads) {             \
        forget_mult_backward<S>(T, N, f, x, c0, c, dc, df, dx, dc0, threads);                     \
    }
EXPORT(float, f32)
EXPORT(double, f64)
