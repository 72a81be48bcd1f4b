/* Loops over one row: norms, rounding to 8 bits, the end of a linear layer. Included by isa_impl.h. */

#include "base/dtype.h"

#include <math.h>

static double sum_row(const float *x, int32_t n)
{
    vf a = vf_zero(), b = vf_zero();
    int32_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        a = vf_add(a, vf_load(x + i));
        b = vf_add(b, vf_load(x + i + VW));
    }
    double sum = vf_sum(vf_add(a, b));
    for (; i < n; i++) sum += x[i];
    return sum;
}

/* Sum of (x - mean)^2. */
static double sum_squares(const float *x, int32_t n, float mean)
{
    const vf m = vf_set1(mean);
    vf a = vf_zero(), b = vf_zero();
    int32_t i = 0;
    for (; i + 2 * VW <= n; i += 2 * VW) {
        const vf u = vf_sub(vf_load(x + i), m), v = vf_sub(vf_load(x + i + VW), m);
        a = vf_fma(u, u, a);
        b = vf_fma(v, v, b);
    }
    double sum = vf_sum(vf_add(a, b));
    for (; i < n; i++) sum += (double)(x[i] - mean) * (x[i] - mean);
    return sum;
}

static void norm_row(const struct norm *norm, const float *x, float *y, int32_t n)
{
    if (norm->kind == NORM_NONE) {
        if (y != x) memcpy(y, x, (size_t)n * sizeof *y);
        return;
    }
    const float mean = norm->kind == NORM_LAYER ? (float)(sum_row(x, n) / n) : 0;
    const float scale = (float)(1 / sqrt(sum_squares(x, n, mean) / n + (double)norm->eps));
    const vf m = vf_set1(mean), s = vf_set1(scale);
    for (int32_t i = 0; i < n; i += VW) {
        const int left = n - i < VW ? n - i : VW;
        vf v = vf_mul(vf_sub(vf_load_n(x + i, left), m), s);
        if (norm->weight) v = vf_mul(v, vf_load_n(norm->weight + i, left));
        if (norm->bias) v = vf_add(v, vf_load_n(norm->bias + i, left));
        vf_store_n(y + i, v, left);
    }
}

/* Sums of the two halves of 32 signed bytes: sad adds unsigned bytes in eights. */
INLINE void sum_halves(__m256i q, int32_t sum[2])
{
    const __m256i v = _mm256_xor_si256(q, _mm256_set1_epi8((char)0x80));
    const __m256i s = _mm256_sad_epu8(v, _mm256_setzero_si256());
    const __m128i low = _mm256_castsi256_si128(s), high = _mm256_extracti128_si256(s, 1);
    sum[0] = _mm_cvtsi128_si32(low) + _mm_extract_epi16(low, 4) - 16 * 128;
    sum[1] = _mm_cvtsi128_si32(high) + _mm_extract_epi16(high, 4) - 16 * 128;
}

static void quantize_row(const float *x, int32_t n, uint8_t *tile, int32_t tile_rows, int32_t t)
{
    enum { VECTORS = 32 / VW };
    uint8_t *q = tile + 32 * t, *d_at = tile + TILE_D(tile_rows) + 4 * t;
    uint8_t *d_sum_at = tile + TILE_D_SUM(tile_rows) + 4 * t, *sum_at = tile + TILE_SUM(tile_rows) + 4 * t;
    uint8_t *d_sum16_at = tile + TILE_D_SUM16(tile_rows) + 8 * t;
    const size_t step = (size_t)(TILE_BLOCK_BYTES * tile_rows);
    for (size_t at = 0; n > 0; n -= 32, x += 32, at += step) {
        vf v[VECTORS], largest = vf_zero();
        vi rounded[VECTORS];
        for (int i = 0; i < VECTORS; i++) {
            v[i] = vf_load(x + i * VW);
            largest = vf_max(largest, vf_abs(v[i]));
        }
        const float top = vf_largest(largest), d = top / 127;
        const vf inverse =
            vf_set1(top > 1e-30f ? 127 / top : 0); /* smaller: 0, for 1 / top may be infinite */
        for (int i = 0; i < VECTORS; i++) rounded[i] = vi_from_vf(vf_mul(v[i], inverse));
        const __m256i bytes = pack_32(rounded);
        _mm256_storeu_si256((__m256i *)(void *)(q + at), bytes);
        int32_t sum[2];
        sum_halves(bytes, sum);
        const int32_t minus_sum = -(sum[0] + sum[1]);
        const float d_sum = d * (float)-minus_sum, d_sum16[2] = {d * (float)sum[0], d * (float)sum[1]};
        memcpy(d_at + at, &d, 4);
        memcpy(d_sum_at + at, &d_sum, 4);
        memcpy(sum_at + at, &minus_sum, 4);
        memcpy(d_sum16_at + at, d_sum16, 8);
    }
}

INLINE vf activate(enum activation act, vf v)
{
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_SILU:
        return vf_mul(v, vf_sigmoid(v));
    case ACT_GELU: {
        const vf half = vf_mul(vf_set1(0.5f), v);
        return vf_fma(half, vf_erf(vf_mul(v, vf_set1(0.70710678f))), half);
    }
    case ACT_GELU_TANH: { /* (1 + tanh u) / 2 = sigmoid(2 u) */
        const vf cube = vf_mul(vf_mul(v, v), v);
        const vf u = vf_mul(vf_set1(2 * 0.79788456f), vf_fma(vf_set1(0.044715f), cube, v));
        return vf_mul(v, vf_sigmoid(u));
    }
    case ACT_RELU:
        return vf_max(v, vf_zero());
    }
    return v;
}

static void store_tile(const struct tile_store *to, int32_t tile_rows, const float *v, const float *up)
{
    const int n = to->n_cols;
    const vf bias = to->bias ? vf_load_n(to->bias, n) : vf_zero();
    const vf up_bias = to->up_bias ? vf_load_n(to->up_bias, n) : vf_zero();
    float *y = to->y;
    for (int32_t t = 0; t < tile_rows; t++, v += VW, up += VW, y += to->y_stride) {
        vf r = activate(to->act, vf_add(vf_load(v), bias));
        if (to->epilogue == LINEAR_GATED) r = vf_mul(r, vf_add(vf_load(up), up_bias));
        if (to->epilogue == LINEAR_ADD) r = vf_add(vf_load_n(y, n), r);
        vf_store_n(y, r, n);
    }
}
