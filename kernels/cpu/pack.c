#include "kernels/cpu/pack.h"
#include "kernels/cpu/dequant.h"

size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows)
{
    const struct quant_format *f = &quant_formats[dtype];
    if (rows == 1 || f->n_blocks == 0)
        return rows == 1 ? dtype_bytes(dtype, n_in)
                         : (dtype_bytes(dtype, n_in) * (size_t)rows + 63) / 64 * 64;
    const size_t unit = (size_t)f->header + (size_t)f->n_blocks * f->numbers;
    return ((size_t)n_in / (32 * (size_t)f->n_blocks) * unit * (size_t)rows + 63) / 64 * 64;
}

/* ---- numbers of a stored block of 32, number j of its superblock, as they are: unsigned, or signed bytes
 * ---- */

static void read_nibbles(const uint8_t *nibbles, uint8_t q[32])
{
    for (int i = 0; i < 16; i++) {
        q[i] = nibbles[i] & 15;
        q[i + 16] = nibbles[i] >> 4;
    }
}

static void read_five(const uint8_t *high, const uint8_t *nibbles, uint8_t q[32])
{
    uint32_t bits;
    memcpy(&bits, high, sizeof bits);
    read_nibbles(nibbles, q);
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((bits >> i & 1) << 4);
}

static void read_q2_k(const uint8_t *p, int j, uint8_t q[32])
{
    for (int i = 0; i < 32; i++) q[i] = p[16 + j / 4 * 32 + i] >> (j % 4 * 2) & 3;
}

static void read_q3_k(const uint8_t *p, int j, uint8_t q[32])
{
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)((p[32 + j / 4 * 32 + i] >> (j % 4 * 2) & 3) | (p[i] >> j & 1) << 2);
}

static void read_q4_k(const uint8_t *nibbles, int j, uint8_t q[32])
{
    for (int i = 0; i < 32; i++) q[i] = nibbles[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
}

static void read_q5_k(const uint8_t *p, int j, uint8_t q[32])
{
    read_q4_k(p + 48, j, q);
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((p[16 + i] >> j & 1) << 4);
}

static void read_q6_k(const uint8_t *p, int j, uint8_t q[32])
{
    const uint8_t *low = p + j / 4 * 64 + j % 2 * 32, *high = p + 128 + j / 4 * 32;
    for (int i = 0; i < 32; i++)
        q[i] = (uint8_t)((low[i] >> (j % 4 / 2 * 4) & 15) | (high[i] >> (j % 4 * 2) & 3) << 4);
}

static void read_numbers(enum llm_dtype dtype, const uint8_t *p, int j, uint8_t q[32])
{
    switch (dtype) {
    case DTYPE_Q4_0:
    case DTYPE_IQ4_NL:
        read_nibbles(p + 2, q);
        break;
    case DTYPE_Q4_1:
        read_nibbles(p + 4, q);
        break;
    case DTYPE_Q5_0:
        read_five(p + 2, p + 6, q);
        break;
    case DTYPE_Q5_1:
        read_five(p + 4, p + 8, q);
        break;
    case DTYPE_Q8_0:
        memcpy(q, p + 2, 32);
        break;
    case DTYPE_Q2_K:
        read_q2_k(p, j, q);
        break;
    case DTYPE_Q3_K:
        read_q3_k(p, j, q);
        break;
    case DTYPE_Q4_K:
        read_q4_k(p + 16, j, q);
        break;
    case DTYPE_Q5_K:
        read_q5_k(p, j, q);
        break;
    case DTYPE_Q6_K:
        read_q6_k(p, j, q);
        break;
    case DTYPE_IQ4_XS:
        read_nibbles(p + 8 + 16 * j, q);
        break;
    default:
        break; /* float types have no numbers */
    }
}

/* ---- into a panel, at a row's lane --------------------------------------------------------------------- */

/* A group's 4 bytes at the row's lane of a vector. */
static void put_group(uint32_t group, int32_t rows, int32_t lane, int vector, uint8_t *dst)
{
    memcpy(dst + 4 * (vector * rows + lane), &group, 4);
}

/* dst: the block's numbers in the panel. */
static void put_numbers(const struct quant_format *f, const uint8_t q[32], int32_t rows, int32_t lane,
                        uint8_t *dst)
{
    uint32_t g[8], pairs[2] = {0}, bits = 0; /* groups: 4 numbers a word, handled at once */
    memcpy(g, q, 32);
    for (int j = 0; j < 8; j++) {
        if (f->bytes) put_group(g[j], rows, lane, j, dst);
        if (f->pairs) pairs[j / 4] |= (g[j] >> (f->pairs - 1) & 0x03030303u) << (j % 4 * 2);
        if (f->bits) bits |= (g[j] >> (f->bits - 1) & 0x01010101u) << j;
    }
    int vector = 0;
    for (int j = 0; j < 4 && f->low; j++)
        put_group((g[j] & 0x0f0f0f0fu) | (g[j + 4] & 0x0f0f0f0fu) << 4, rows, lane, vector++, dst);
    for (int j = 0; j < 2 && f->pairs; j++) put_group(pairs[j], rows, lane, vector++, dst);
    if (f->bits) put_group(bits, rows, lane, vector, dst);
}

static void put_header(enum llm_dtype dtype, const uint8_t *p, int32_t rows, int32_t lane, uint8_t *dst)
{
    static const uint8_t d_at[DTYPE_COUNT] = {[DTYPE_Q2_K] = 80, [DTYPE_Q3_K] = 108, [DTYPE_Q6_K] = 208};
    const int two = dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1 || dtype == DTYPE_Q2_K ||
                    dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K;
    for (int i = 0; i <= two; i++, dst += 2 * rows) memcpy(dst + 2 * lane, p + d_at[dtype] + 2 * i, 2);
    uint8_t *scale = dst + lane;
    int8_t scales[16];
    switch (dtype) {
    case DTYPE_Q2_K:
        for (int j = 0; j < 16; j++) scale[j * rows] = p[j];
        break;
    case DTYPE_Q3_K:
        q3_k_scales(p + 96, scales);
        for (int j = 0; j < 16; j++) scale[j * rows] = (uint8_t)scales[j];
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        for (int j = 0; j < 8; j++) q4_k_scale(p + 4, j, &scale[j * rows], &scale[(8 + j) * rows]);
        break;
    case DTYPE_Q6_K:
        for (int j = 0; j < 16; j++) scale[j * rows] = p[192 + j];
        break;
    case DTYPE_IQ4_XS:
        for (int j = 0; j < 8; j++) scale[j * rows] = (uint8_t)iq4_xs_scale(p, j);
        break;
    default:
        break; /* d, m are all */
    }
}

static void pack_row_quantized(enum llm_dtype dtype, const uint8_t *src, int32_t n_in, int32_t rows,
                               int32_t lane, uint8_t *dst)
{
    const struct quant_format *f = &quant_formats[dtype];
    for (int32_t k = 0; k < n_in; k += 32 * f->n_blocks, src += dtype_table[dtype].bytes) {
        put_header(dtype, src, rows, lane, dst);
        dst += f->header * rows;
        for (int j = 0; j < f->n_blocks; j++, dst += f->numbers * rows) {
            uint8_t q[32];
            read_numbers(dtype, src, j, q);
            put_numbers(f, q, rows, lane, dst);
        }
    }
}

static void pack_row_floats(enum llm_dtype dtype, const uint8_t *src, int32_t n_in, int32_t rows,
                            int32_t lane, uint8_t *dst)
{
    const size_t size = (size_t)dtype_table[dtype].bytes;
    for (int32_t k = 0; k < n_in; k++)
        memcpy(dst + ((size_t)k * (size_t)rows + (size_t)lane) * size, src + (size_t)k * size, size);
}

void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst)
{
    const int32_t n_in = (int32_t)t->dims[1];
    const size_t row_bytes = dtype_bytes(t->dtype, n_in);
    for (int32_t r = 0; r < rows && first_row + r < t->dims[0]; r++) {
        const uint8_t *src = (const uint8_t *)t->data + (size_t)(first_row + r) * row_bytes;
        if (rows == 1)
            memcpy(dst, src, row_bytes);
        else if (dtype_is_quantized(t->dtype))
            pack_row_quantized(t->dtype, src, n_in, rows, r, dst);
        else
            pack_row_floats(t->dtype, src, n_in, rows, r, dst);
    }
}
