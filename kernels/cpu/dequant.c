/* Stored types to f32, one row at a time: the scalar definition of every type in dtype.h. Rounding follows
 * the reference implementation of GGUF operation by operation, so that results are equal to the bit
 * (tests/test_kernels_dequant.c holds the proof); the build forbids the compiler to fuse them. */

#include "kernels/cpu/dequant.h"

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

static void from_f32(const uint8_t *p, int64_t n, float *out)
{
    memcpy(out, p, (size_t)n * sizeof *out);
}

static void from_f16(const uint8_t *p, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) out[i] = half_at(p + 2 * i);
}

static void from_bf16(const uint8_t *p, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        out[i] = bf16_to_f32(h);
    }
}

static void from_i32(const uint8_t *p, int64_t n, float *out)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t v;
        memcpy(&v, p + 4 * i, sizeof v);
        out[i] = (float)v;
    }
}

/* ---- blocks of 32 ---------------------------------------------------------------------------------------
 * Nibble j of 16 bytes: element j is the low half of byte j, element j + 16 its high half. */

/* f16 d, 16 bytes of nibbles */
static void from_q4_0(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 18, out += 32) {
        const float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)((p[2 + j] & 15) - 8) * d;
            out[j + 16] = (float)((p[2 + j] >> 4) - 8) * d;
        }
    }
}

/* f16 d, f16 m, 16 bytes of nibbles */
static void from_q4_1(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 20, out += 32) {
        const float d = half_at(p), m = half_at(p + 2);
        for (int j = 0; j < 16; j++) {
            out[j] = (float)(p[4 + j] & 15) * d + m;
            out[j + 16] = (float)(p[4 + j] >> 4) * d + m;
        }
    }
}

/* Fifth bits: 32 bits, element j's is bit j. */
static int five_bits(const uint8_t *high, const uint8_t *nibbles, int j)
{
    const int low = j < 16 ? nibbles[j] & 15 : nibbles[j - 16] >> 4;
    return low | ((high[j / 8] >> (j % 8)) & 1) << 4;
}

/* f16 d, 4 bytes of fifth bits, 16 bytes of nibbles */
static void from_q5_0(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 22, out += 32) {
        const float d = half_at(p);
        for (int j = 0; j < 32; j++) out[j] = (float)(five_bits(p + 2, p + 6, j) - 16) * d;
    }
}

/* f16 d, f16 m, 4 bytes of fifth bits, 16 bytes of nibbles */
static void from_q5_1(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 24, out += 32) {
        const float d = half_at(p), m = half_at(p + 2);
        for (int j = 0; j < 32; j++) out[j] = (float)five_bits(p + 4, p + 8, j) * d + m;
    }
}

/* f16 d, 32 signed bytes */
static void from_q8_0(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 34, out += 32) {
        const float d = half_at(p);
        for (int j = 0; j < 32; j++) out[j] = (float)(int8_t)p[2 + j] * d;
    }
}

const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* f16 d, 16 bytes of nibbles: indices into iq4_values */
static void from_iq4_nl(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 32, p += 18, out += 32) {
        const float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            out[j] = d * (float)iq4_values[p[2 + j] & 15];
            out[j + 16] = d * (float)iq4_values[p[2 + j] >> 4];
        }
    }
}

/* ---- superblocks of 256 -------------------------------------------------------------------------------- */

/* 16 bytes: low nibble a scale, high nibble a minimum, each of 16 elements; 64 bytes of 2-bit numbers; f16 d;
 * f16 dmin. A half of 128 elements has 32 bytes: element 32 j + l is bits 2j.. of byte l. */
static void from_q2_k(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 84, out += 256) {
        const float d = half_at(p + 80), dmin = half_at(p + 82);
        for (int i = 0; i < 256; i++) {
            const uint8_t scale = p[i / 16];
            const int q = p[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            const float s = d * (float)(scale & 15), m = dmin * (float)(scale >> 4);
            out[i] = s * (float)q - m;
        }
    }
}

void q3_k_scales(const uint8_t *p, int8_t scales[16])
{
    for (int i = 0; i < 16; i++) {
        const int low = i < 8 ? p[i] & 15 : p[i - 8] >> 4;
        const int high = p[8 + i % 4] >> (i / 4 * 2) & 3;
        scales[i] = (int8_t)((low | high << 4) - 32);
    }
}

/* 32 bytes of high bits (element 32 j + l: bit j of byte l), 64 bytes of 2-bit numbers as in Q2_K, 12 bytes
 * of 6-bit scales, f16 d. The high bit is stored inverted: 0 takes 4 away. */
static void from_q3_k(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 110, out += 256) {
        const float d = half_at(p + 108);
        int8_t scales[16];
        q3_k_scales(p + 96, scales);
        for (int i = 0; i < 256; i++) {
            const int low = p[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
            const int high = p[i % 32] >> (i / 32) & 1;
            out[i] = d * (float)scales[i / 16] * (float)(low - (high ? 0 : 4));
        }
    }
}

void q4_k_scale(const uint8_t *p, int j, uint8_t *scale, uint8_t *min)
{
    if (j < 4) {
        *scale = p[j] & 63;
        *min = p[j + 4] & 63;
    } else {
        *scale = (uint8_t)((p[j + 4] & 15) | (p[j - 4] >> 6) << 4);
        *min = (uint8_t)((p[j + 4] >> 4) | (p[j] >> 6) << 4);
    }
}

/* f16 d, f16 dmin, 12 bytes of 6-bit scales and minima of 32 elements each, 128 bytes of nibbles: 64 elements
 * share 32 bytes, the first 32 in the low halves. */
static void from_q4_k(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 144, out += 256) {
        const float d = half_at(p), dmin = half_at(p + 2);
        for (int j = 0; j < 8; j++) {
            uint8_t scale, min;
            q4_k_scale(p + 4, j, &scale, &min);
            const float s = d * (float)scale, m = dmin * (float)min;
            const uint8_t *q = p + 16 + j / 2 * 32;
            for (int l = 0; l < 32; l++) out[32 * j + l] = s * (float)(q[l] >> (j % 2 * 4) & 15) - m;
        }
    }
}

/* As Q4_K with 32 bytes of fifth bits (element 32 j + l: bit j of byte l) before the nibbles. */
static void from_q5_k(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 176, out += 256) {
        const float d = half_at(p), dmin = half_at(p + 2);
        for (int j = 0; j < 8; j++) {
            uint8_t scale, min;
            q4_k_scale(p + 4, j, &scale, &min);
            const float s = d * (float)scale, m = dmin * (float)min;
            const uint8_t *high = p + 16, *q = p + 48 + j / 2 * 32;
            for (int l = 0; l < 32; l++) {
                const int v = (q[l] >> (j % 2 * 4) & 15) | (high[l] >> j & 1) << 4;
                out[32 * j + l] = s * (float)v - m;
            }
        }
    }
}

/* 128 bytes of low nibbles, 64 bytes of high 2-bit pairs, 16 signed scales of 16 elements, f16 d. In a half
 * of 128 elements, element 32 j + l: nibble j / 2 of byte 32 (j % 2) + l; bits 2j.. of byte l. */
static void from_q6_k(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 210, out += 256) {
        const float d = half_at(p + 208);
        for (int i = 0; i < 256; i++) {
            const int half = i / 128, j = i % 128 / 32, l = i % 32;
            const int low = p[half * 64 + j % 2 * 32 + l] >> (j / 2 * 4) & 15;
            const int high = p[128 + half * 32 + l] >> (2 * j) & 3;
            out[i] = d * (float)(int8_t)p[192 + i / 16] * (float)((low | high << 4) - 32);
        }
    }
}

int iq4_xs_scale(const uint8_t *p, int j)
{
    const int low = p[4 + j / 2] >> (j % 2 * 4) & 15;
    const int high = (p[2] | p[3] << 8) >> (2 * j) & 3;
    return (low | high << 4) - 32;
}

/* f16 d, 16 bits: high pairs of 8 scales, 4 bytes: their low nibbles, 128 bytes of nibbles, 32 elements in 16
 * bytes: indices into iq4_values. */
static void from_iq4_xs(const uint8_t *p, int64_t n, float *out)
{
    for (; n > 0; n -= 256, p += 136, out += 256) {
        const float d = half_at(p);
        for (int j = 0; j < 8; j++) {
            const float s = d * (float)iq4_xs_scale(p, j);
            for (int l = 0; l < 16; l++) {
                const uint8_t q = p[8 + 16 * j + l];
                out[32 * j + l] = s * (float)iq4_values[q & 15];
                out[32 * j + l + 16] = s * (float)iq4_values[q >> 4];
            }
        }
    }
}

void dequantize_row(const struct tensor *t, int64_t row, float *out)
{
    static void (*const from[DTYPE_COUNT])(const uint8_t *, int64_t, float *) = {
        [DTYPE_F32] = from_f32,   [DTYPE_F16] = from_f16,       [DTYPE_BF16] = from_bf16,
        [DTYPE_Q4_0] = from_q4_0, [DTYPE_Q4_1] = from_q4_1,     [DTYPE_Q5_0] = from_q5_0,
        [DTYPE_Q5_1] = from_q5_1, [DTYPE_Q8_0] = from_q8_0,     [DTYPE_Q2_K] = from_q2_k,
        [DTYPE_Q3_K] = from_q3_k, [DTYPE_Q4_K] = from_q4_k,     [DTYPE_Q5_K] = from_q5_k,
        [DTYPE_Q6_K] = from_q6_k, [DTYPE_IQ4_NL] = from_iq4_nl, [DTYPE_IQ4_XS] = from_iq4_xs,
        [DTYPE_I32] = from_i32,
    };
    const int64_t n = t->dims[t->n_dims - 1];
    from[t->dtype]((const uint8_t *)t->data + (size_t)row * dtype_bytes(t->dtype, n), n, out);
}
