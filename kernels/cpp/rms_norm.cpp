// Division of rows by their root mean square, and the sum of a float32 stream with a bfloat16 part
// before it, read and written once each way. The rows that are written are bfloat16: for float32
// ones PyTorch's operations stay in use, whose sums run in another order.
//
// Notation: R rows, d their width; X float or Bf16. s = 1 / (r + eps), r = |x| / sqrt(d):
//
//     y = x s,     dx = s dy - s^2 x (dy . x) / (d r),     the second term 0 where r is 0
#include <cmath>
#include "bf16.h"
#include "parallel.h"

constexpr long L = LANES<float>;
constexpr int SUMS = 4;  // running sums of a row, so that additions need not wait for one another

INLINE Vec<float> read(const float* p, long n) { return load(p, n); }
INLINE Vec<float> read(const Bf16* p, long n) { return widened(p, n); }
INLINE void write(float* p, Vec<float> v, long n) { store(p, v, n); }
INLINE void write(Bf16* p, Vec<float> v, long n) { store_rounded(p, v, n); }

// The sum over a row of d numbers of term(j, n), a vector of those from j on, n of which are left.
template <class Term>
INLINE float summed(long d, Term term) {
    Vec<float> sums[SUMS] = {};
    for (long j = 0; j < d; j += SUMS * L)
        #pragma GCC unroll 4
        for (int k = 0; k < SUMS; ++k) sums[k] += term(j + k * L, d - j - k * L);
    float sum = 0;
    for (int k = 0; k < SUMS; ++k)
        for (long i = 0; i < L; ++i) sum += sums[k][i];
    return sum;
}

// Threads that pay for few numbers; the results do not depend on it.
INLINE int threads_for(long numbers, long threads) { return numbers < 1 << 15 ? 1 : int(threads); }

// y = norm of x, or with `added` of sum = x + added. r keeps the root mean squares.
template <class X>
void rms_norm_forward(long R, long d, float eps, const X* x, const Bf16* added, float* sum, Bf16* y,
                      float* r, long threads) {
    const unsigned flags = flush_flags();
    #pragma omp parallel for schedule(static) num_threads(threads_for(R * d, threads))
    for (long row = 0; row < R; ++row) {
        FlushAs guard(flags);
        const long at = row * d;
        const float squares = summed(d, [&](long j, long n) {
            Vec<float> v = read(x + at + j, n);
            if (added) {
                v += widened(added + at + j, n);
                store(sum + at + j, v, n);
            }
            return v * v;
        });
        r[row] = std::sqrt(squares / float(d));
        const float scale = 1 / (r[row] + eps);
        for (long j = 0; j < d; j += L)
            store_rounded(y + at + j, (added ? load(sum + at + j, d - j) : read(x + at + j, d - j))
                                          * scale, d - j);
    }
}

// dx from dy, given x and r; with d_sum plus that, and rounded in d_added too.
template <class X>
void rms_norm_backward(long R, long d, float eps, const X* x, const float* r, const Bf16* dy,
                       const float* d_sum, X* dx, Bf16* d_added, long threads) {
    const unsigned flags = flush_flags();
    #pragma omp parallel for schedule(static) num_threads(threads_for(R * d, threads))
    for (long row = 0; row < R; ++row) {
        FlushAs guard(flags);
        const long at = row * d;
        const float product = summed(d, [&](long j, long n) {
            return widened(dy + at + j, n) * read(x + at + j, n);
        });
        const float scale = 1 / (r[row] + eps);
        // Where r is 0 so is every x.
        const float along = product * scale / (float(d) * (r[row] > 0 ? r[row] : 1.f));
        for (long j = 0; j < d; j += L) {
            const long i = at + j, n = d - j;
            Vec<float> v = scale * (widened(dy + i, n) - read(x + i, n) * along);
            if (d_sum) v += load(d_sum + i, n);
            write(dx + i, v, n);
            if (d_added) store_rounded(d_added + i, v, n);
        }
    }
}

// ---- C names for ctypes; see SIGNATURES in library.py -------------------------------------------
// `narrow`: x (and dx) are Bf16. `added`, `sum`, `d_sum` and `d_added` may be null.
extern "C" void rms_norm_forward_f32(long R, long d, double eps, long narrow, void* x, void* added,
                                     float* sum, void* y, float* r, long threads) {
    if (narrow)
        rms_norm_forward(R, d, float(eps), (const Bf16*)x, (const Bf16*)added, sum, (Bf16*)y, r,
                         threads);
    else
        rms_norm_forward(R, d, float(eps), (const float*)x, (const Bf16*)added, sum, (Bf16*)y, r,
                         threads);
}
extern "C" void rms_norm_backward_f32(long R, long d, double eps, long narrow, void* x, float* r,
                                      void* dy, float* d_sum, void* dx, void* d_added,
                                      long threads) {
    if (narrow)
        rms_norm_backward(R, d, float(eps), (const Bf16*)x, r, (const Bf16*)dy, d_sum, (Bf16*)dx,
                          (Bf16*)d_added, threads);
    else
        rms_norm_backward(R, d, float(eps), (const float*)x, r, (const Bf16*)dy, d_sum, (float*)dx,
                          (Bf16*)d_added, threads);
}
// sum = x + y, n numbers.
extern "C" void add_bf16_f32(long n, float* x, void* y, float* sum, long threads) {
    const unsigned flags = flush_flags();
    const long piece = ceil_div(ceil_div(n, 4 * threads), 64) * 64;
    #pragma omp parallel for schedule(static) num_threads(threads_for(n, threads))
    for (long start = 0; start < n; start += piece) {
        FlushAs guard(flags);
        for (long i = start; i < min(n, start + piece); i += L)
            store(sum + i, load(x + i, n - i) + widened((Bf16*)y + i, n - i), n - i);
    }
}
