#include "engine/rowmath.h"

#include <math.h>

/* Bits of a float without breaking aliasing rules; the compiler sees through it. */
union bits {
    float f;
    int32_t i;
};

static inline float exp_nonpositive(float x)
{
    const float magic = 0x1.8p23f; /* adding it rounds to an integer, found in the low bits */
    union bits z, scale;
    float clamped = x > -87.0f ? x : -87.0f;
    z.f = clamped * 1.44269504088896341f + magic;
    float n = z.f - magic;
    float r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    scale.i = (z.i - 0x4b400000 + 127) << 23;
    float y = p * scale.f;
    return x > -87.0f ? y : 0.0f;
}

float row_exp1(float x)
{
    return exp_nonpositive(x);
}

float row_max(const float *x, int32_t n)
{
    float lane[ROW_LANES];
    for (int32_t j = 0; j < ROW_LANES; j++) lane[j] = -INFINITY;
    int32_t i = 0;
    for (; i + ROW_LANES <= n; i += ROW_LANES)
        for (int32_t j = 0; j < ROW_LANES; j++) lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    float max = -INFINITY;
    for (; i < n; i++) max = x[i] > max ? x[i] : max;
    for (int32_t j = 0; j < ROW_LANES; j++) max = lane[j] > max ? lane[j] : max;
    return max;
}

int32_t row_argmax(const float *x, int32_t n)
{
    float max = row_max(x, n);
    for (int32_t i = 0; i < n; i++)
        if (x[i] == max) return i;
    return 0;
}

static double add_lanes(const float *lane)
{
    double sum = 0;
    for (int32_t j = 0; j < ROW_LANES; j++) sum += lane[j];
    return sum;
}

double row_weights(const float *x, int32_t n, float max, float scale, float *w, double *sums)
{
    double total = 0;
    for (int32_t b = 0, begin = 0; begin < n; b++, begin += ROW_BLOCK) {
        int32_t end = begin + ROW_BLOCK < n ? begin + ROW_BLOCK : n, i = begin;
        float lane[ROW_LANES] = {0};
        for (; i + ROW_LANES <= end; i += ROW_LANES)
            for (int32_t j = 0; j < ROW_LANES; j++) {
                float e = exp_nonpositive((x[i + j] - max) * scale);
                w[i + j] = e;
                lane[j] += e;
            }
        for (int32_t j = 0; i < end; i++, j++) lane[j] += w[i] = exp_nonpositive((x[i] - max) * scale);
        total += sums[b] = add_lanes(lane);
    }
    return total;
}

double row_sum_from(const float *w, int32_t n, float least, double *sums)
{
    double total = 0;
    for (int32_t b = 0, begin = 0; begin < n; b++, begin += ROW_BLOCK) {
        int32_t end = begin + ROW_BLOCK < n ? begin + ROW_BLOCK : n, i = begin;
        float lane[ROW_LANES] = {0};
        for (; i + ROW_LANES <= end; i += ROW_LANES)
            for (int32_t j = 0; j < ROW_LANES; j++) lane[j] += w[i + j] >= least ? w[i + j] : 0.0f;
        for (int32_t j = 0; i < end; i++, j++) lane[j] += w[i] >= least ? w[i] : 0.0f;
        total += sums[b] = add_lanes(lane);
    }
    return total;
}

int32_t row_count_from(const float *w, int32_t n, float least)
{
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += w[i] >= least;
    return count;
}

double row_logsumexp(const float *x, int32_t n, float max)
{
    double total = 0;
    for (int32_t begin = 0; begin < n; begin += ROW_BLOCK) {
        int32_t end = begin + ROW_BLOCK < n ? begin + ROW_BLOCK : n, i = begin;
        float lane[ROW_LANES] = {0};
        for (; i + ROW_LANES <= end; i += ROW_LANES)
            for (int32_t j = 0; j < ROW_LANES; j++) lane[j] += exp_nonpositive(x[i + j] - max);
        for (int32_t j = 0; i < end; i++, j++) lane[j] += exp_nonpositive(x[i] - max);
        total += add_lanes(lane);
    }
    return (double)max + log(total);
}
