// The gates and the cell of a TrellisNet's level in one pass each way (gates_triton.py has the
// equations): torch's operations would write and read some ten arrays of this size.
//
// Notation: R rows, of which N belong to one time step, H columns; a row of a, and of the gates that
// take its place, holds i, o, g, f side by side, H each. mask is (N,H) or null. S is float or double.
#include "parallel.h"

template <class S> struct Level {
    long R, N, H;
    S* gates;                    // (R,4H)
    const S *c_below, *mask;     // (R,H), (N,H)
    S* c;                        // (R,H)
};

// What one register of columns becomes.
template <class S> struct Cell { Vec<S> i, o, g, f, c, h; };

// The last, ragged columns share a register with whole ones before them, where there are any: their
// values, computed again, are the same. To fill up a register number by number takes longer.
INLINE long last_columns(long H, long lanes) { return H > lanes ? H - lanes : 0; }

// gates from a; c and h, (R,H) like it, times the mask.
template <class S> void gates_forward(const Level<S>& l, S* h, int threads) {
    const unsigned flags = flush_flags();
    const long H = l.H, last = last_columns(H, LANES<S>);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < l.R; ++row) {
        FlushAs guard(flags);
        S* const a = l.gates + row * 4 * H;
        const S* const mask = l.mask ? l.mask + row % l.N * H : nullptr;
        const auto cell = [&](long j, long n) {
            Cell<S> v;
            v.i = sigmoid<S>(load(a + j, n)), v.o = sigmoid<S>(load(a + H + j, n));
            v.g = tanh<S>(load(a + 2 * H + j, n)), v.f = sigmoid<S>(load(a + 3 * H + j, n));
            v.c = v.i * v.g + v.f * load(l.c_below + row * H + j, n);
            v.h = v.o * tanh<S>(v.c);
            if (mask) v.h *= load(mask + j, n);
            return v;
        };
        const auto keep = [&](const Cell<S>& v, long j, long n) {
            store(a + j, v.i, n), store(a + H + j, v.o, n);
            store(a + 2 * H + j, v.g, n), store(a + 3 * H + j, v.f, n);
            store(l.c + row * H + j, v.c, n), store(h + row * H + j, v.h, n);
        };
        // Before the gates take a's place, and stored after them.
        const Cell<S> ragged = cell(last, H);
        for (long j = 0; j < last; j += LANES<S>) keep(cell(j, LANES<S>), j, LANES<S>);
        keep(ragged, last, H);
    }
}

// From dh and dc, those of h (masked: of h times the mask) and c, the gradients of a and c_below;
// h again, times the mask, unless it is null.
template <class S>
void gates_backward(const Level<S>& l, bool masked, const S* dh, const S* dc, S* da, S* dc_below,
                    S* h, int threads) {
    const unsigned flags = flush_flags();
    const long H = l.H, last = last_columns(H, LANES<S>);
    #pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < l.R; ++row) {
        FlushAs guard(flags);
        const S* const gates = l.gates + row * 4 * H;
        const S* const mask = l.mask ? l.mask + row % l.N * H : nullptr;
        S* const out = da + row * 4 * H;
        const auto cell = [&](long j, long n) {
            const long at = row * H + j;
            const Vec<S> i = load(gates + j, n), o = load(gates + H + j, n);
            const Vec<S> g = load(gates + 2 * H + j, n), f = load(gates + 3 * H + j, n);
            const Vec<S> m = mask ? load(mask + j, n) : Vec<S>{} + S(1);
            const Vec<S> tanh_c = tanh<S>(load(l.c + at, n));
            Vec<S> d = load(dh + at, n);
            if (masked) d *= m;
            const Vec<S> through = load(dc + at, n) + d * o * (S(1) - tanh_c * tanh_c);
            store(out + j, through * g * (i * (S(1) - i)), n);
            store(out + H + j, d * tanh_c * (o * (S(1) - o)), n);
            store(out + 2 * H + j, through * i * (S(1) - g * g), n);
            store(out + 3 * H + j, through * load(l.c_below + at, n) * (f * (S(1) - f)), n);
            store(dc_below + at, through * f, n);
            if (h) store(h + at, o * tanh_c * m, n);
        };
        for (long j = 0; j < last; j += LANES<S>) cell(j, LANES<S>);
        cell(last, H);
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
#define EXPORT(S, TYPE)                                                                           \
    extern "C" void gates_forward_##TYPE(long R, long N, long H, S* a, S* c_below, S* mask, S* c, \
                                         S* h, long threads) {                                    \
        gates_forward<S>({R, N, H, a, c_below, mask, c}, h, threads);                             \
    }                                                                                             \
    extern "C" void gates_backward_##TYPE(long R, long N, long H, long masked, S* gates,          \
                                          S* c_below, S* mask, S* c, S* dh, S* dc, S* da,         \
                                          S* dc_below, S* h, long threads) {                      \
        gates_backward<S>({R, N, H, gates, c_below, mask, c}, masked, dh, dc, da, dc_below, h,    \
                          threads);                                                               \
    }
EXPORT(float, f32)
EXPORT(double, f64)
