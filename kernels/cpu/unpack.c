/* Panels of the stored types that have no layout of their own, unpacked to bytes when they are multiplied:
 * once a panel and a batch of rows, so the cost is shared by the rows. */

#include "kernels/cpu/dequant.h"
#include "kernels/cpu/pack.h"

/* A block of 32 elements of one row: value = d[half] * q + m[half]; q unsigned, or signed (IQ4) and m 0. */
struct block {
    uint8_t q[32];
    float d[2], m[2];
};

static float half_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

static void one_scale(struct block *b, float d, float m)
{
    b->d[0] = b->d[1] = d;
    b->m[0] = b->m[1] = m;
}

static void fifth_bits(struct block *b, const uint8_t *high, const uint8_t *nibbles)
{
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    for (int i = 0; i < 16; i++) {
        b->q[i] = (uint8_t)((nibbles[i] & 15) | (bits >> i & 1) << 4);
        b->q[i + 16] = (uint8_t)((nibbles[i] >> 4) | (bits >> (i + 16) & 1) << 4);
    }
}

static void unpack_q5_0(const uint8_t *p, struct block *b)
{
    const float d = half_at(p);
    one_scale(b, d, -16 * d);
    fifth_bits(b, p + 2, p + 6);
}

static void unpack_q5_1(const uint8_t *p, struct block *b)
{
    one_scale(b, half_at(p), half_at(p + 2));
    fifth_bits(b, p + 4, p + 8);
}

static void iq4_nibbles(struct block *b, const uint8_t *nibbles)
{
    for (int i = 0; i < 16; i++) {
        b->q[i] = (uint8_t)iq4_values[nibbles[i] & 15];
        b->q[i + 16] = (uint8_t)iq4_values[nibbles[i] >> 4];
    }
}

static void unpack_iq4_nl(const uint8_t *p, struct block *b)
{
    one_scale(b, half_at(p), 0);
    iq4_nibbles(b, p + 2);
}

static void unpack_iq4_xs(const uint8_t *p, struct block *b)
{
    const float d = half_at(p);
    for (int j = 0; j < 8; j++, b++) {
        one_scale(b, d * (float)iq4_xs_scale(p, j), 0);
        iq4_nibbles(b, p + 8 + 16 * j);
    }
}

static void unpack_q2_k(const uint8_t *p, struct block *b)
{
    const float d = half_at(p + 80), dmin = half_at(p + 82);
    for (int j = 0; j < 8; j++, b++) {
        const uint8_t *q = p + 16 + j / 4 * 32;
        for (int h = 0; h < 2; h++) {
            b->d[h] = d * (float)(p[2 * j + h] & 15);
            b->m[h] = -dmin * (float)(p[2 * j + h] >> 4);
        }
        for (int i = 0; i < 32; i++) b->q[i] = q[i] >> (j % 4 * 2) & 3;
    }
}

static void unpack_q3_k(const uint8_t *p, struct block *b)
{
    const float d = half_at(p + 108);
    int8_t scales[16];
    q3_k_scales(p + 96, scales);
    for (int j = 0; j < 8; j++, b++) {
        const uint8_t *q = p + 32 + j / 4 * 32;
        for (int h = 0; h < 2; h++) {
            b->d[h] = d * (float)scales[2 * j + h];
            b->m[h] = -4 * b->d[h];
        }
        for (int i = 0; i < 32; i++) b->q[i] = (uint8_t)((q[i] >> (j % 4 * 2) & 3) | (p[i] >> j & 1) << 2);
    }
}

static void unpack_q5_k(const uint8_t *p, struct block *b)
{
    const float d = half_at(p), dmin = half_at(p + 2);
    for (int j = 0; j < 8; j++, b++) {
        uint8_t scale, min;
        q4_k_scale(p + 4, j, &scale, &min);
        one_scale(b, d * (float)scale, -dmin * (float)min);
        const uint8_t *q = p + 48 + j / 2 * 32;
        for (int i = 0; i < 32; i++)
            b->q[i] = (uint8_t)((q[i] >> (j % 2 * 4) & 15) | (p[16 + i] >> j & 1) << 4);
    }
}

static void unpack_q6_k(const uint8_t *p, struct block *b)
{
    const float d = half_at(p + 208);
    for (int j = 0; j < 8; j++, b++) {
        const uint8_t *low = p + j / 4 * 64 + j % 2 * 32, *high = p + 128 + j / 4 * 32;
        const int low_shift = j % 4 / 2 * 4, high_shift = j % 4 * 2;
        for (int h = 0; h < 2; h++) {
            b->d[h] = d * (float)(int8_t)p[192 + 2 * j + h];
            b->m[h] = -32 * b->d[h];
        }
        for (int i = 0; i < 32; i++)
            b->q[i] = (uint8_t)((low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4);
    }
}

size_t unpack_panel_bytes(int32_t n_in, int32_t rows)
{
    return (size_t)n_in / 32 * (size_t)rows * (32 + 16);
}

void unpack_panel(enum llm_dtype dtype, const uint8_t *panel, int32_t n_in, int32_t rows, uint8_t *dst)
{
    static void (*const unpack[DTYPE_COUNT])(const uint8_t *, struct block *) = {
        [DTYPE_Q5_0] = unpack_q5_0,     [DTYPE_Q5_1] = unpack_q5_1,     [DTYPE_Q2_K] = unpack_q2_k,
        [DTYPE_Q3_K] = unpack_q3_k,     [DTYPE_Q5_K] = unpack_q5_k,     [DTYPE_Q6_K] = unpack_q6_k,
        [DTYPE_IQ4_NL] = unpack_iq4_nl, [DTYPE_IQ4_XS] = unpack_iq4_xs,
    };
    const struct dtype_info *info = &dtype_table[dtype];
    const int32_t n_blocks = info->block / 32;
    for (int32_t r = 0; r < rows; r++) {
        uint8_t *to = dst;
        for (int32_t k = 0; k < n_in; k += info->block, panel += info->bytes) {
            struct block blocks[8];
            unpack[dtype](panel, blocks);
            for (int32_t b = 0; b < n_blocks; b++, to += 48 * rows) {
                for (int j = 0; j < 8; j++) memcpy(to + 4 * (j * rows + r), blocks[b].q + 4 * j, 4);
                float *scales = (float *)(void *)(to + 32 * rows);
                for (int h = 0; h < 2; h++) {
                    scales[h * rows + r] = blocks[b].d[h];
                    scales[(2 + h) * rows + r] = blocks[b].m[h];
                }
            }
        }
    }
}
