#ifndef LLM_KERNELS_CPU_PACK_H
#define LLM_KERNELS_CPU_PACK_H

/* clang-format off: tables
 *
 * Layouts of the matrix products: the inside of a panel of R weight rows (R lanes: lane r is row r), and of
 * the rows it is multiplied by. Stored quantized numbers keep their bits and scales; they are only moved.
 *
 * k runs over a row's elements, j over the 8 groups of 4 elements of a block of 32. A group's vector has the 4
 * elements of lane r at bytes 4r .. 4r+3, so that one 32-bit broadcast of a token's 4 elements meets all rows.
 *
 *  F32 F16 BF16   [k][R]
 *
 * A quantized panel is a sequence of { header, numbers of 1 or 8 blocks of 32 }. Headers:
 *
 *  Q4_0 Q5_0 Q8_0 IQ4_NL   d [R] f16
 *  Q4_1 Q5_1               d [R], m [R] f16
 *  Q4_K Q5_K               d [R], dmin [R] f16, scale [8][R], min [8][R] u8
 *  Q2_K                    d [R], dmin [R] f16, scale and min [16][R], low and high half of a byte
 *  Q3_K Q6_K               d [R] f16, scale [16][R] s8
 *  IQ4_XS                  d [R] f16, scale [8][R] s8
 *
 * Numbers of a block, by their bits, those present in this order:
 *
 *  low     4 vectors: bits 0..3, group j in the low halves of vector j, group j + 4 in its high halves
 *  pairs   2 vectors: two bits, group j in bits 2 (j % 4) .. of the bytes of vector j / 4
 *  bits    1 vector: one bit, group j in bit j of the bytes
 *  bytes   8 vectors: group j is vector j
 *
 * Headers lie with their numbers, so that a panel is one stream of memory, as prefetchers like it. A lane
 * accumulates over k in order, whatever the number of tokens: hence the invariance that kernels.h promises. */
/* clang-format on */

#include "kernels/kernels.h"

struct quant_format {
    uint8_t n_blocks;        /* of 32, to a header; 0: not a quantized type */
    uint8_t header, numbers; /* bytes a row: of a header, of the numbers of one block */
    uint8_t low, bytes;      /* 1: present */
    uint8_t pairs, bits;     /* 1 + the bit of the number where they begin; 0: absent */
    uint8_t width;           /* bits of a number; 8: signed, else unsigned */
    uint8_t n_scales;        /* a block: 1, or 2 of 16 elements each */
};

static const struct quant_format quant_formats[DTYPE_COUNT] = {
    [DTYPE_Q4_0] = {1, 2, 16, .low = 1, .width = 4, .n_scales = 1},
    [DTYPE_Q4_1] = {1, 4, 16, .low = 1, .width = 4, .n_scales = 1},
    [DTYPE_Q5_0] = {1, 2, 20, .low = 1, .bits = 5, .width = 5, .n_scales = 1},
    [DTYPE_Q5_1] = {1, 4, 20, .low = 1, .bits = 5, .width = 5, .n_scales = 1},
    [DTYPE_Q8_0] = {1, 2, 32, .bytes = 1, .width = 8, .n_scales = 1},
    [DTYPE_Q2_K] = {8, 20, 8, .pairs = 1, .width = 2, .n_scales = 2},
    [DTYPE_Q3_K] = {8, 18, 12, .pairs = 1, .bits = 3, .width = 3, .n_scales = 2},
    [DTYPE_Q4_K] = {8, 20, 16, .low = 1, .width = 4, .n_scales = 1},
    [DTYPE_Q5_K] = {8, 20, 20, .low = 1, .bits = 5, .width = 5, .n_scales = 1},
    [DTYPE_Q6_K] = {8, 18, 24, .low = 1, .pairs = 5, .width = 6, .n_scales = 2},
    [DTYPE_IQ4_NL] = {1, 2, 16, .low = 1, .width = 8, .n_scales = 1}, /* indices of signed bytes */
    [DTYPE_IQ4_XS] = {8, 10, 16, .low = 1, .width = 8, .n_scales = 1},
};

enum {
    PANEL_ROWS = 16, /* the largest R of any instruction set */
    TILE_ROWS = 12,  /* the largest T */
};

/* A multiple of 64. R = 1: the stored row, unchanged (the reference). */
size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows);

/* Writes the panel of rows first_row .. first_row + rows - 1 of t to dst, which is zeroed memory. */
void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst);

/* ---- rows -----------------------------------------------------------------------------------------------
 * A tile holds T tokens' rows: f32 [k][T], or rounded to 8 bits, a block of 32 after the other:
 *
 *   { q [T][32] s8, d [T] f32, d_sum [T] f32, minus_sum [T] i32, d_sum16 [T][2] f32 }
 *
 * with d = largest magnitude / 127, q = round(x / d), d_sum = d * (sum of q), minus_sum = -(sum of q),
 * d_sum16 the same of each half. */

enum { TILE_BLOCK_BYTES = 52 /* a token */ };

#define TILE_D(T)       (32 * (T))
#define TILE_D_SUM(T)   (36 * (T))
#define TILE_SUM(T)     (40 * (T))
#define TILE_D_SUM16(T) (44 * (T))

#endif
