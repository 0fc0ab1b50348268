// bfloat16 operands of a product whose sums stay in float: pairs of numbers and the dot-product
// instruction of AVX-512 BF16, which does twice the multiplications of a float register.
//
// On other CPUs the same names are written in the compiler's vectors. That form is no faster than
// float; it is there so that the loops around it can be tested on any machine (test_lstm_bf16.py).
//
// A Bf16 is the upper half of a float's bits. Pairs is a register of LANES<float> pairs (x, y), y
// in the upper half of each lane.
#pragma once
#include "simd.h"
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

typedef uint16_t Bf16;

// To the nearest, of two equally near ones to the even one; NaN stays NaN.
INLINE Bf16 rounded(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    if (x != x) return Bf16(bits >> 16 | 0x40);
    return Bf16((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// The first n numbers (as `load`), as floats: exact.
INLINE Vec<float> widened(const Bf16* p, long n) {
    typedef uint16_t Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    typedef uint32_t Bits __attribute__((vector_size(VECTOR_BYTES)));
    Half half = {};
    if (n >= LANES<float>) std::memcpy(&half, p, sizeof half);
    else for (long i = 0; i < n; ++i) half[i] = p[i];
    return (Vec<float>)(__builtin_convertvector(half, Bits) << 16);
}

#if defined(__AVX512BF16__)
constexpr bool BF16_INSTRUCTIONS = true;
typedef __m512bh Pairs;
INLINE Pairs load_pairs(const Bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
INLINE Pairs broadcast_pair(const Bf16* p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return (__m512bh)_mm512_set1_epi32(bits);
}
// sum + y y' + x x' in each lane. (The instruction takes denormals for zero.)
INLINE Vec<float> dot(Vec<float> sum, Pairs a, Pairs b) {
    return (Vec<float>)_mm512_dpbf16_ps((__m512)sum, a, b);
}
INLINE void store_rounded(Bf16* p, Vec<float> v, long n) {
    const __m256bh r = _mm512_cvtneps_pbh((__m512)v);
    if (n >= LANES<float>) std::memcpy(p, &r, sizeof r);
    else if (n > 0) std::memcpy(p, &r, n * sizeof *p);
}
#else
constexpr bool BF16_INSTRUCTIONS = false;
typedef uint32_t Pairs __attribute__((vector_size(VECTOR_BYTES)));
INLINE Pairs load_pairs(const Bf16* p) {
    Pairs v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
INLINE Pairs broadcast_pair(const Bf16* p) {
    uint32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return Pairs{} + bits;
}
// A product of two Bf16 is exact in float, so this rounds as the instruction does, y before x.
INLINE Vec<float> dot(Vec<float> sum, Pairs a, Pairs b) {
    sum += (Vec<float>)(a & 0xffff0000u) * (Vec<float>)(b & 0xffff0000u);
    return sum + (Vec<float>)(a << 16) * (Vec<float>)(b << 16);
}
// `rounded` on whole registers.
INLINE void store_rounded(Bf16* p, Vec<float> v, long n) {
    typedef uint16_t Half __attribute__((vector_size(VECTOR_BYTES / 2)));
    const Pairs bits = (Pairs)v;
    const Pairs nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    const Half r = __builtin_convertvector(v == v ? nearest : bits >> 16 | 0x40, Half);
    if (n >= LANES<float>) std::memcpy(p, &r, sizeof r);
    else for (long i = 0; i < n; ++i) p[i] = r[i];
}
#endif
