#ifndef LLM_GRAPH_ELEMENTARY_H
#define LLM_GRAPH_ELEMENTARY_H

/* exp, log, tanh, pow, min and max of the elements of rows: the same bits wherever this is compiled without
 * contraction, on the CPU for each instruction set and on a device. */

#include <float.h>
#include <math.h>
#include <stdint.h>

union bits {
    float f;
    int32_t i;
};

/* e^x for |x| < 87, within 2 ulp; for others it means nothing. Cephes' polynomial (S. Moshier). */
static inline float exp_inside(float x)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, found in the low bits */
    union bits z, scale;
    z.f = x * 1.44269504088896341f + magic;
    float k = z.f - magic;
    float r = x - k * 0.693359375f;
    r = r - k * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    scale.i = (int32_t)(((uint32_t)z.i - 0x4b400000u + 127) << 23);
    return p * scale.f;
}

/* e^x for |x| < 87, 0 for all others: by bits, as a branch would not be vectorized. */
static inline float exp_core(float x)
{
    union bits v = {x}, y;
    int32_t in_range = -((v.i & 0x7fffffff) < 0x42ae0000); /* |x| < 87 */
    v.i &= in_range;
    y.f = exp_inside(v.f);
    y.i &= in_range;
    return y.f;
}

/* For x that is not below 87. The shift by 2 is exact there. */
static inline float exp_large(float x)
{
    if (x != x) return x;
    return x < 88.7228394f ? exp_core(x - 2) * 7.38905609893f : INFINITY;
}

/* Cephes' logf. Subnormals are scaled into the normal range first. */
static inline float log_core(float x)
{
    int32_t tiny = x < FLT_MIN;
    union bits v = {tiny ? x * 0x1p23f : x}, m;
    float e = (float)((v.i >> 23) - 127 - (tiny ? 23 : 0));
    m.i = (v.i & 0x007fffff) | 0x3f800000;
    int32_t high = m.f > 1.41421356f;
    float f = (high ? m.f * 0.5f : m.f) - 1.0f;
    e = high ? e + 1.0f : e;
    float z = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * z;
    p = p + e * -2.12194440e-4f;
    p = p - 0.5f * z;
    float y = f + p + e * 0.693359375f;
    float edge = x == 0 ? -INFINITY : NAN;
    y = x > 0 ? y : edge;
    return x > FLT_MAX ? x : y;
}

/* 1 - 2 / (e^2x + 1); beyond 10 it is 1 in f32. */
static inline float tanh_core(float x)
{
    float c = x > 10 ? 10 : x;
    c = c < -10 ? -10 : c;
    float y = 1.0f - 2.0f / (exp_core(2 * c) + 1.0f);
    return x != x ? x : y;
}

static inline float pow_core(float x, float y)
{
    float t = y * log_core(x);
    float large = t != t ? t : INFINITY;
    return t < 87 ? exp_core(t) : large;
}

static inline float min_core(float a, float b)
{
    return (a < b) | (b != b) ? a : b;
}

static inline float max_core(float a, float b)
{
    return (a > b) | (b != b) ? a : b;
}

#endif
