#include "graph/select.h"

#include "graph/block.h"

#include <string.h>

enum {
    MAX_DIGIT_BITS = 11,
    SMALL_DIGIT_BITS = 6,
    FEW = 1024 /* elements: for fewer, clearing large tables takes longer than more digits */
};

/* Unsigned integers in the order of the floats. */
static inline uint32_t ordered(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

/* Weights of the elements with each digit, in two tables by turns: elements in a row mostly have the same
 * digit, and an addition would wait for the one before. weights null: each element counts as 1. */
static void weigh_digits(const float *v, const float *weights, int32_t n, int32_t shift, uint32_t digits,
                         double *sums)
{
    static const float ones[2] = {1, 1};
    double odd[1 << MAX_DIGIT_BITS];
    memset(sums, 0, sizeof *sums * digits);
    memset(odd, 0, sizeof *odd * digits);
    for (int32_t i = 0; i + 1 < n; i += 2) {
        const float *w = weights ? weights + i : ones;
        sums[ordered(v[i]) >> shift & (digits - 1)] += w[0];
        odd[ordered(v[i + 1]) >> shift & (digits - 1)] += w[1];
    }
    if (n % 2) sums[ordered(v[n - 1]) >> shift & (digits - 1)] += weights ? weights[n - 1] : 1;
    for (uint32_t d = 0; d < digits; d++) sums[d] += odd[d];
}

/* The digit in which the walk from the highest down reaches the mass, which becomes what is left of it there.
 * Rounding may leave the sum of all a little short: then it is the lowest digit that has a weight. */
static uint32_t digit_at_mass(const double *sums, uint32_t digits, double *mass)
{
    uint32_t end = digits;
    for (uint32_t d = digits; d-- > 0;) {
        if (!(sums[d] > 0)) continue;
        if (end < digits) *mass -= sums[end];
        end = d;
        if (sums[d] >= *mass) break;
    }
    return end;
}

/* Digit by digit, what does not have the one in which the walk ends is dropped. */
static float walk_down(float *v, float *weights, int32_t n, double mass)
{
    double sums[1 << MAX_DIGIT_BITS];
    for (int32_t shift = 32; n > 1 && shift > 0;) {
        int32_t bits = n < FEW ? SMALL_DIGIT_BITS : MAX_DIGIT_BITS;
        if (bits > shift) bits = shift;
        shift -= bits;
        const uint32_t digits = 1u << bits;
        weigh_digits(v, weights, n, shift, digits, sums);
        uint32_t end = digit_at_mass(sums, digits, &mass);
        int32_t m = 0;
        for (int32_t i = 0; i < n; i++) {
            float x = v[i], w = weights ? weights[i] : 0;
            v[m] = x;
            if (weights) weights[m] = w;
            m += (ordered(x) >> shift & (digits - 1)) == end;
        }
        if (!m) break; /* weights that are NaN: any element is as good */
        n = m;
    }
    return v[0];
}

int32_t select_from(const float *v, int32_t n, float least, float *out)
{
    struct block_acc acc = {.least = least, .kept = out};
    const struct block_op op = {.a = v, .acc = &acc};
    block_isa_find(NULL)->fns[BLOCK_FN_keep](&op, 0, n);
    return acc.n_kept;
}

float select_largest(float *v, int32_t n, int32_t k)
{
    return walk_down(v, NULL, n, k);
}

float select_at_mass(float *v, float *weights, int32_t n, double mass)
{
    return walk_down(v, weights, n, mass);
}
