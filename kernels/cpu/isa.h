#ifndef LLM_KERNELS_CPU_ISA_H
#define LLM_KERNELS_CPU_ISA_H

/* What is compiled once for each instruction set: loops over rows, tiles and panels. How work is cut and
 * shared between threads is above this (linear.c, rows.c, attention.c) and does not know vectors. */

#include "kernels/cpu/attention.h"
#include "kernels/cpu/pack.h"
#include "kernels/kernels.h"

/* out [T][R] = tile of T rows times a panel. x: the tile (pack.h). */
typedef void gemm_fn(const uint8_t *panel, int32_t n_in, const void *x, float *out);

/* Where a tile of results goes. */
struct tile_store {
    enum linear_epilogue epilogue;
    enum activation act;
    const float *bias, *up_bias; /* of the panel's first row; null: none */
    float *y;                    /* row 0, first column of the panel */
    int64_t y_stride;
    int32_t n_cols; /* of the panel that exist */
};

struct cpu_isa {
    int32_t panel_rows;       /* R */
    const int8_t *tile_sizes; /* descending, ending with 1: the T that products are made for */

    /* y = norm(x), y may be x. */
    void (*norm_row)(const struct norm *norm, const float *x, float *y, int32_t n);
    /* x rounded into row t of a tile of T rows. */
    void (*quantize_row)(const float *x, int32_t n, uint8_t *tile, int32_t tile_rows, int32_t t);
    gemm_fn *gemm[DTYPE_COUNT][TILE_ROWS + 1];
    /* v, up [T][R]; up only if gated. */
    void (*store_tile)(const struct tile_store *to, int32_t tile_rows, const float *v, const float *up);
    /* Token i: norms and rotates its q and k heads, writes k and v to the cache. */
    void (*rope_kv_row)(const struct rope_kv_args *a, int32_t i);
    attn_chunk_fn *attend_f32, *attend_f16, *attend_bf16;
    attn_merge_fn *attend_merge;
};

extern const struct cpu_isa cpu_isa_avx2, cpu_isa_avx512;

#endif
