#include "kernels/cpu/pack.h"
#include "kernels/cpu/dequant.h"

enum panel_kind pack_kind(enum llm_dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return PANEL_F32;
    case DTYPE_F16:
        return PANEL_F16;
    case DTYPE_BF16:
        return PANEL_BF16;
    case DTYPE_Q4_0:
        return PANEL_Q4_0;
    case DTYPE_Q4_1:
        return PANEL_Q4_1;
    case DTYPE_Q4_K:
        return PANEL_Q4_K;
    case DTYPE_Q8_0:
        return PANEL_Q8_0;
    case DTYPE_Q5_0:
    case DTYPE_Q5_1:
    case DTYPE_Q5_K:
        return PANEL_U5;
    case DTYPE_Q2_K:
    case DTYPE_Q3_K:
    case DTYPE_Q6_K:
        return PANEL_U6;
    default:
        return PANEL_S8; /* IQ4_NL, IQ4_XS: no other type becomes a weight */
    }
}

size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows)
{
    const enum panel_kind kind = pack_kind(dtype);
    size_t row = dtype_bytes(dtype, n_in);
    if (rows == 1) return row;
    if (kind == PANEL_Q4_K) row = (size_t)n_in / 256 * (20 + 128); /* scales of 6 bits become bytes */
    return (row * (size_t)rows + 63) / 64 * 64;
}

/* ---- one block of one row into a panel: dst is the block's first vector, at the row's lane ------------- */

/* 16 bytes of nibbles, element e low and e + 16 high: already paired as the panel wants them. */
static void put_nibbles(const uint8_t *q, int32_t rows, uint8_t *dst)
{
    for (int j = 0; j < 4; j++) memcpy(dst + j * 4 * rows, q + 4 * j, 4);
}

static void put_bytes(const uint8_t *q, int32_t rows, uint8_t *dst)
{
    for (int j = 0; j < 8; j++) memcpy(dst + j * 4 * rows, q + 4 * j, 4);
}

/* Blocks of 32 in the formats that begin with f16 scales: q4_0, q4_1, q8_0. */
static void pack_row_32(enum panel_kind kind, const uint8_t *src, int32_t n_in, int32_t rows, int32_t lane,
                        uint8_t *dst)
{
    const int n_scales = kind == PANEL_Q4_1 ? 2 : 1, q_bytes = kind == PANEL_Q8_0 ? 32 : 16;
    for (int b = 0; b < n_in / 32; b++) {
        for (int s = 0; s < n_scales; s++, src += 2, dst += 2 * rows) memcpy(dst + 2 * lane, src, 2);
        if (kind == PANEL_Q8_0)
            put_bytes(src, rows, dst + 4 * lane);
        else
            put_nibbles(src, rows, dst + 4 * lane);
        src += q_bytes;
        dst += q_bytes * rows;
    }
}

/* The nibbles of 64 elements share 32 bytes in the file, those of 32 share 16 here. */
static void pack_row_q4_k(const uint8_t *src, int32_t n_in, int32_t rows, int32_t lane, uint8_t *dst)
{
    for (int b = 0; b < n_in / 256; b++, src += 144) {
        memcpy(dst + 2 * lane, src, 2);
        memcpy(dst + 2 * rows + 2 * lane, src + 2, 2);
        uint8_t *scale = dst + 4 * rows + lane;
        dst += 20 * rows;
        for (int j = 0; j < 8; j++, scale += rows, dst += 16 * rows) {
            q4_k_scale(src + 4, j, scale, scale + 8 * rows);
            const uint8_t *from = src + 16 + j / 2 * 32;
            const int shift = j % 2 * 4;
            uint8_t nibbles[16];
            for (int i = 0; i < 16; i++)
                nibbles[i] = (uint8_t)((from[i] >> shift & 15) | (from[i + 16] >> shift & 15) << 4);
            put_nibbles(nibbles, rows, dst + 4 * lane);
        }
    }
}

static void pack_row_floats(enum llm_dtype dtype, const uint8_t *src, int32_t n_in, int32_t rows,
                            int32_t lane, uint8_t *dst)
{
    const int size = dtype_table[dtype].bytes;
    for (int32_t k = 0; k < n_in; k++)
        memcpy(dst + (size_t)(k * rows + lane) * (size_t)size, src + (size_t)k * (size_t)size, (size_t)size);
}

void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst)
{
    const enum panel_kind kind = pack_kind(t->dtype);
    const int32_t n_in = (int32_t)t->dims[1];
    const size_t row_bytes = dtype_bytes(t->dtype, n_in);
    for (int32_t r = 0; r < rows && first_row + r < t->dims[0]; r++) {
        const uint8_t *src = (const uint8_t *)t->data + (size_t)(first_row + r) * row_bytes;
        if (rows == 1 || pack_is_unpacked(kind))
            memcpy(dst + (size_t)r * row_bytes, src, row_bytes);
        else if (kind == PANEL_Q4_K)
            pack_row_q4_k(src, n_in, rows, r, dst);
        else if (kind <= PANEL_BF16)
            pack_row_floats(t->dtype, src, n_in, rows, r, dst);
        else
            pack_row_32(kind, src, n_in, rows, r, dst);
    }
}
