// Vector registers: loads with a ragged end, sigmoid, tanh. S is float or double, Vec<S> a register
// of LANES<S> of them. The registers are the compiler's vector types, not intrinsics: one source
// serves SSE, AVX, AVX-512 and NEON, and the compiler knows what the operators mean.
//
// All arithmetic is on whole registers; a ragged end is padded with zeros in a register. So the
// value of an element depends neither on its position nor on the number of threads, and results
// repeat bit for bit.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__) || defined(SHAPED_LIKE_AVX512)  // the latter for tests on other CPUs
constexpr int VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 16;
#endif
#define INLINE inline __attribute__((always_inline))

template <class S> struct Simd;
template <> struct Simd<float> {
    typedef float V __attribute__((vector_size(VECTOR_BYTES)));
    typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int mantissa = 23, terms = 7;
    static constexpr int32_t one = 0x3f800000;  // the bits of 1.0
    static constexpr float round = 12582912.f, exp_limit = 87.f, tanh_limit = 10.f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
};
template <> struct Simd<double> {
    typedef double V __attribute__((vector_size(VECTOR_BYTES)));
    typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
    static constexpr int mantissa = 52, terms = 13;
    static constexpr int64_t one = 0x3ff0000000000000;
    static constexpr double round = 6755399441055744., exp_limit = 708., tanh_limit = 20.;
    static constexpr double ln2_high = 6.93147180369123816490e-01;
    static constexpr double ln2_low = 1.90821492927058770002e-10;
};
template <class S> using Vec = typename Simd<S>::V;
template <class S> constexpr long LANES = VECTOR_BYTES / sizeof(S);

// The first n elements (all if n >= LANES, none if n <= 0); the rest of the register is zero. memcpy
// of a whole register becomes one unaligned load; the element-wise branch runs once a row at most.
template <class S> INLINE Vec<S> load(const S* p, long n) {
    Vec<S> v = {};
    if (n >= LANES<S>) std::memcpy(&v, p, sizeof v);
    else for (long i = 0; i < n; ++i) v[i] = p[i];
    return v;
}
template <class S> INLINE void store(S* p, Vec<S> v, long n) {
    if (n >= LANES<S>) std::memcpy(p, &v, sizeof v);
    else for (long i = 0; i < n; ++i) p[i] = v[i];
}

constexpr double inverse_factorial(int k) {
    double product = 1;
    for (; k > 1; --k) product *= k;
    return 1 / product;
}
// x = n ln 2 + r with |r| <= ln 2 / 2. Returns p = e^r - 1 (Taylor series; the first term left out
// is below half an ulp) and sets scale = 2^n, so that e^x = scale + scale * p; and
// e^x - 1 = scale * p + (scale - 1) keeps its relative accuracy near 0. NaN passes through. About 20
// operations in place of a call of expf for each element.
template <class S> INLINE Vec<S> exp_parts(Vec<S> x, Vec<S>& scale) {
    using M = Simd<S>;
    // adding 1.5 * 2^mantissa rounds to an integer, which then sits in the low bits
    const Vec<S> shifted = x * S(1.4426950408889634) + M::round;
    const Vec<S> n = shifted - M::round;
    // ln 2 in two parts: n times the first, which has few bits, is exact
    const Vec<S> r = (x - n * M::ln2_high) - n * M::ln2_low;
    Vec<S> p = Vec<S>{} + S(inverse_factorial(M::terms));
    #pragma GCC unroll 16
    for (int k = M::terms - 1; k >= 1; --k) p = p * r + S(inverse_factorial(k));
    // 2^n: n, shifted into the exponent's place, plus the exponent of 1.0
    typename M::I bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << M::mantissa) + M::one;
    std::memcpy(&scale, &bits, sizeof bits);
    return p * r;
}
// Both comparisons are false for NaN, which so stays; fmin and fmax would drop it. At the limits
// sigmoid and tanh have long reached 0 or +-1 in this precision, or 1e-38.
template <class S> INLINE Vec<S> clamp(Vec<S> x, S limit) {
    x = x > limit ? Vec<S>{} + limit : x;
    return x < -limit ? Vec<S>{} - limit : x;
}
template <class S> INLINE Vec<S> sigmoid(Vec<S> x) {
    Vec<S> scale, p = exp_parts<S>(clamp<S>(-x, Simd<S>::exp_limit), scale);
    return S(1) / (S(1) + (scale + scale * p));
}
template <class S> INLINE Vec<S> tanh(Vec<S> x) {  // (e^2x - 1) / (e^2x + 1)
    Vec<S> scale, p = exp_parts<S>(S(2) * clamp<S>(x, Simd<S>::tanh_limit), scale);
    const Vec<S> e = scale * p + (scale - S(1));
    return e / (e + S(2));
}
