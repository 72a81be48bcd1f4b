#ifndef LLM_KERNELS_CPU_PACK_H
#define LLM_KERNELS_CPU_PACK_H

/* clang-format off: tables
 *
 * Layouts of the matrix products: the inside of a panel of R weight rows (R lanes: lane r is row r), and of
 * the rows it is multiplied by.
 *
 * k runs over a row's elements, b over its blocks of 32, j over groups of 4 elements. A "group vector" has
 * the 4 elements of group j of lane r at bytes 4r .. 4r+3, so that one 32-bit broadcast of a token's 4
 * elements meets all rows.
 *
 *  F32 F16 BF16  [k][R]
 *  Q4_0          [b] { d [R] f16, [4] vectors of nibbles: group j in the low halves, j + 4 in the high }
 *  Q4_1          [b] { d [R], m [R] f16, the same }
 *  Q4_K          [k / 256] { d [R], dmin [R] f16, scale [8][R], min [8][R] u8, [8] times the same }
 *  Q8_0          [b] { d [R] f16, [8] group vectors }
 *  others        R rows as stored, made into an unpacked panel when they are multiplied:
 *  unpacked      [b] { [8] group vectors, d [2][R], m [2][R] f32 }, one pair for each 16 elements
 *
 * Scales lie with their block, so that a panel is one stream of memory, as prefetchers like it.
 *
 * A lane accumulates over k in order, whatever the number of tokens: hence the invariance that kernels.h
 * promises. */
/* clang-format on */

#include "kernels/kernels.h"

/* What a product reads. The last three are unpacked: value = d * q + m, q unsigned of at most 5 bits with one
 * scale a block, of at most 6 with two; or value = d * q, q signed bytes. */
enum panel_kind {
    PANEL_F32,
    PANEL_F16,
    PANEL_BF16,
    PANEL_Q4_0,
    PANEL_Q4_1,
    PANEL_Q4_K,
    PANEL_Q8_0,
    PANEL_U5,
    PANEL_U6,
    PANEL_S8,
    PANEL_KINDS
};

enum panel_kind pack_kind(enum llm_dtype dtype);

static inline int pack_is_unpacked(enum panel_kind kind)
{
    return kind >= PANEL_U5;
}

/* R = 1: the stored row, unchanged (the reference). */
size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows);

/* Writes the panel of rows first_row .. first_row + rows - 1 of t to dst, which is zeroed memory. */
void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst);

/* Unpacked panels: bytes, and the making of one from a panel of stored rows. */
size_t unpack_panel_bytes(int32_t n_in, int32_t rows);
void unpack_panel(enum llm_dtype dtype, const uint8_t *panel, int32_t n_in, int32_t rows, uint8_t *dst);

/* ---- rows -----------------------------------------------------------------------------------------------
 * A tile holds T tokens' rows: f32 [k][T], or rounded to 8 bits:
 *
 *   [b] { q [T][32] s8, d [T] f32, d_sum [T] f32, minus_sum [T] i32, d_sum16 [T][2] f32 }
 *
 * with d = largest magnitude / 127, q = round(x / d), d_sum = d * (sum of q), minus_sum = -(sum of q),
 * d_sum16 the same of each half. */

enum {
    PANEL_ROWS = 16,       /* the largest R of any instruction set */
    TILE_ROWS = 12,        /* the largest T */
    TILE_BLOCK_BYTES = 52, /* a token */
};

#define TILE_D(T)       (32 * (T))
#define TILE_D_SUM(T)   (36 * (T))
#define TILE_SUM(T)     (40 * (T))
#define TILE_D_SUM16(T) (44 * (T))

#endif
