#include "model/dummy.h"

/* Steele et al., "Fast splittable pseudorandom number generators", 2014. */
static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

uint64_t dummy_state(const char *name, uint64_t seed)
{
    uint64_t h = 0xCBF29CE484222325u ^ seed; /* FNV-1a */
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 0x100000001B3u;
    return splitmix64(&h);
}

enum { LEVEL_BITS = 12, N_LEVELS = 1 << LEVEL_BITS, LEVELS_A_DRAW = 64 / LEVEL_BITS };

/* The values a tensor can take, already encoded: one look-up makes a value of any type. */
union levels {
    float f32[N_LEVELS];
    uint32_t u32[N_LEVELS];
    uint16_t u16[N_LEVELS];
};

static void make_levels(enum llm_dtype dtype, float deviation, union levels *out)
{
    float scale = 1.7320508f * deviation / N_LEVELS; /* uniform on [-a, a] deviates by a / sqrt(3) */
    for (int32_t i = 0; i < N_LEVELS; i++) {
        float v = scale * (float)(2 * i + 1 - N_LEVELS);
        if (dtype == DTYPE_F32)
            out->f32[i] = v;
        else
            out->u16[i] = dtype == DTYPE_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    }
}

#define FILL(type, level)                                                                                    \
    do {                                                                                                     \
        type *y = out;                                                                                       \
        for (int64_t i = 0; i < n;) {                                                                        \
            uint64_t bits = splitmix64(&state);                                                              \
            for (int k = 0; k < LEVELS_A_DRAW && i < n; k++, bits >>= LEVEL_BITS)                            \
                y[i++] = level[bits & (N_LEVELS - 1)];                                                       \
        }                                                                                                    \
    } while (0)

void dummy_fill(const char *name, uint64_t seed, enum llm_dtype dtype, float deviation, int64_t n, void *out)
{
    union levels levels;
    make_levels(dtype, deviation, &levels);
    uint64_t state = dummy_state(name, seed);
    if (dtype == DTYPE_F32)
        FILL(uint32_t, levels.u32);
    else
        FILL(uint16_t, levels.u16);
}
