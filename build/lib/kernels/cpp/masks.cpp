// Dropout masks from the very stream of torch's CPU generator, drawn many at a time:
// tensor.bernoulli_(p) makes one call per number and takes ten times as long. masks.py checks
// against torch, at first use, that the numbers and the generator's state come out the same.
#include <cmath>
#include <cstdint>
#include <cstring>

// The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998; its constants), on a copy of what
// torch.get_rng_state() holds: seed, left, seeded, next, then the 624 words, 64 bits for each.
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
    // word[i] depends on words i + 1 and i + M, modulo N. In two loops neither reads what it has
    // written itself, except 227 words back, so the compiler can work on several words at once.
    void refill() {
        for (int i = 0; i < N - M; ++i) word[i] = word[i + M] ^ twist(word[i], word[i + 1]);
        for (int i = N - M; i < N - 1; ++i)
            word[i] = word[i + M - N] ^ twist(word[i], word[i + 1]);
        word[N - 1] = word[M - 1] ^ twist(word[N - 1], word[0]);
        left = N + 1;
        next = 0;
    }
    // The next `count` numbers, tempered, in runs up to the next refill.
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

// mask[i] = value with probability keep, else 0. torch's bernoulli compares u < keep for a double u
// made of 53 bits of two words, the first the higher: u = bits / 2^53. The same comparison without
// a conversion per number is bits < ceil(keep 2^53), exactly, because bits is an integer.
extern "C" void draw_mask_f32(long n, double keep, double value, uint8_t* state, float* mask) {
    constexpr long CHUNK = 2048;  // the words of a chunk (16 KiB) stay in the first-level cache
    const int64_t below = int64_t(std::ceil(std::ldexp(keep, 53)));
    const float scale = float(value);
    Mt19937 engine(state);
    uint32_t words[2 * CHUNK];
    for (long start = 0; start < n; start += CHUNK) {
        const long count = n - start < CHUNK ? n - start : CHUNK;
        engine.draw(words, 2 * count);
        for (long i = 0; i < count; ++i) {
            const int64_t bits = int64_t(words[2 * i] & 0x1fffffu) << 32 | words[2 * i + 1];
            mask[start + i] = bits < below ? scale : 0.f;
        }
    }
    engine.store(state);
}
