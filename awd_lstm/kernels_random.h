// Dropout masks from the very stream of torch's CPU generator (MT19937), drawn many at a time:
// tensor.bernoulli_(p) makes one call per number and takes ten times as long. masks.py checks
// against torch, at first use, that the numbers and the generator's state come out the same.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// What torch.get_rng_state() holds: seed, left, seeded, next, then the words, 64 bits for each.
struct Mt19937 {
    static constexpr int N = 624, M = 397;
    uint32_t word[N];
    int32_t left;   // words until the next refill, plus one
    uint64_t next;

    explicit Mt19937(const uint8_t* state) {
        std::memcpy(&left, state + 8, sizeof left);
        std::memcpy(&next, state + 16, sizeof next);
        for (int i = 0; i < N; ++i) std::memcpy(&word[i], state + 24 + 8 * i, sizeof word[i]);
    }
    void store(uint8_t* state) const {
        std::memcpy(state + 8, &left, sizeof left);
        std::memcpy(state + 16, &next, sizeof next);
        for (int i = 0; i < N; ++i) {
            const uint64_t wide = word[i];
            std::memcpy(state + 24 + 8 * i, &wide, sizeof wide);
        }
    }
    static uint32_t twist(uint32_t u, uint32_t v) {
        return (((u & 0x80000000u) | (v & 0x7fffffffu)) >> 1) ^ (v & 1u ? 0x9908b0dfu : 0u);
    }
    void refill() {  // two loops, because each may read only words that it does not write
        for (int i = 0; i < N - M; ++i) word[i] = word[i + M] ^ twist(word[i], word[i + 1]);
        for (int i = N - M; i < N - 1; ++i)
            word[i] = word[i + M - N] ^ twist(word[i], word[i + 1]);
        word[N - 1] = word[M - 1] ^ twist(word[N - 1], word[0]);
        left = N + 1;
        next = 0;
    }
    void draw(uint32_t* out, long count) {
        while (count > 0) {
            if (left == 1) refill();
            const long n = left - 1 < count ? left - 1 : count;
            for (long i = 0; i < n; ++i) {
                uint32_t y = word[next + i];
                y ^= y >> 11;
                y ^= (y << 7) & 0x9d2c5680u;
                y ^= (y << 15) & 0xefc60000u;
                out[i] = y ^ (y >> 18);
            }
            out += n, count -= n, next += n, left -= n;
        }
    }
};

// mask[i] = value with probability keep, else 0: two words make 53 bits of a uniform number, which
// is compared with keep as torch's double-precision bernoulli does.
inline void draw_mask(uint8_t* state, long n, double keep, float value, float* mask) {
    constexpr long CHUNK = 2048;
    const int64_t below = int64_t(std::ceil(std::ldexp(keep, 53)));
    Mt19937 engine(state);
    uint32_t words[2 * CHUNK];
    for (long start = 0; start < n; start += CHUNK) {
        const long count = n - start < CHUNK ? n - start : CHUNK;
        engine.draw(words, 2 * count);
        for (long i = 0; i < count; ++i) {
            const int64_t bits = int64_t(words[2 * i] & 0x1fffffu) << 32 | words[2 * i + 1];
            mask[start + i] = bits < below ? value : 0.f;
        }
    }
    engine.store(state);
}
