// How the kernels divide their work among OpenMP threads, and the flush-to-zero flag that every
// thread must agree on.
#pragma once
#include "simd.h"
#if defined(__SSE2__)
#include <xmmintrin.h>  // _mm_getcsr; immintrin.h would double the time to compile
#endif

INLINE long min(long a, long b) { return a < b ? a : b; }
INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }

// Recurrences without a matrix handle columns (batch element and hidden unit) in blocks, and a
// block runs through all of T before the next one starts: its running state stays in the
// first-level cache (4096 doubles are 32 KiB) while the large arrays stream by once. Within the
// limit a block is as long as it can be, because hardware prefetchers follow long rows; it is a
// multiple of 64 columns, so that two threads never write to one cache line of an aligned array.
// Few columns and many threads make blocks shorter. That does not change the results: columns do
// not depend on one another.
constexpr long LONGEST = 4096;
INLINE long block_size(long columns, long blocks) {
    return min(LONGEST, ceil_div(ceil_div(columns, blocks), 64) * 64);
}

// torch.set_flush_denormal(True) sets a flag of the calling thread only. Every OpenMP thread takes
// over the caller's flag here and puts its own back at the end; otherwise speed and last bits would
// depend on which thread happened to compute an element.
#if defined(__SSE2__)
INLINE unsigned flush_flags() { return _mm_getcsr() & 0x8040u; }  // FTZ and DAZ
struct FlushAs {
    unsigned before = _mm_getcsr();
    explicit FlushAs(unsigned flags) { _mm_setcsr((before & ~0x8040u) | flags); }
    ~FlushAs() { _mm_setcsr(before); }
};
#else
INLINE unsigned flush_flags() { return 0; }
struct FlushAs {
    explicit FlushAs(unsigned) {}
    ~FlushAs() {}
};
#endif
