#include "engine/select.h"

#include <string.h>

enum { DIGIT_BITS = 11, DIGITS = 1 << DIGIT_BITS };

/* Those with w >= least, packed. */
static int32_t gather(const float *w, int32_t n, float least, float *rest)
{
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        rest[m] = w[i];
        m += w[i] >= least; /* no branch: what is written and not counted is written over */
    }
    return m;
}

/* Bits of a float that is not negative order as the float does. */
static inline uint32_t digit(float v, int32_t shift)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits >> shift & (DIGITS - 1);
}

/* Walks from the largest down until the sum reaches `mass`, each element counting as itself, or as 1 if
 * by_count; returns the element it ends at. Digit by digit: the sum of each digit's elements says which of
 * them the walk ends in, and the others are dropped. n >= 1. */
static float walk_down(float *v, int32_t n, double mass, int by_count)
{
    double sums[DIGITS];
    uint8_t seen[DIGITS];
    for (int32_t shift = 32 - DIGIT_BITS; n > 1; shift = shift > DIGIT_BITS ? shift - DIGIT_BITS : 0) {
        memset(sums, 0, sizeof sums);
        memset(seen, 0, sizeof seen);
        for (int32_t i = 0; i < n; i++) {
            uint32_t d = digit(v[i], shift);
            sums[d] += by_count ? 1 : (double)v[i];
            seen[d] = 1;
        }
        /* Rounding may leave the sum of all a little short of the mass: then it ends at the smallest. */
        int32_t end = DIGITS;
        for (int32_t d = DIGITS - 1; d >= 0; d--) {
            if (!seen[d]) continue;
            if (end < DIGITS) mass -= sums[end];
            end = d;
            if (sums[d] >= mass) break;
        }
        int32_t m = 0;
        for (int32_t i = 0; i < n; i++) {
            float x = v[i];
            v[m] = x;
            m += digit(x, shift) == (uint32_t)end;
        }
        n = m;
        if (shift == 0) break;
    }
    return v[0];
}

float select_kth(const float *w, int32_t n, int32_t k, float *rest)
{
    float guess = 0x1p-8f;
    int32_t m = gather(w, n, guess, rest);
    while (m < k) {
        guess = guess > 0x1p-60f ? guess * 0x1p-12f : 0;
        m = gather(w, n, guess, rest);
    }
    return walk_down(rest, m, k, 1);
}

float select_mass(const float *w, int32_t n, float least, double mass, float *rest)
{
    for (float guess = 0x1p-6f;; guess = guess > 0x1p-60f ? guess * 0x1p-8f : 0) {
        if (guess < least) guess = least;
        int32_t m = gather(w, n, guess, rest);
        double sum = 0;
        for (int32_t i = 0; i < m; i++) sum += rest[i];
        if (sum >= mass || guess <= least) return walk_down(rest, m, mass, 0);
    }
}
