#ifndef LLM_KERNELS_CPU_ATTENTION_H
#define LLM_KERNELS_CPU_ATTENTION_H

/* The pieces of attention that are compiled for each instruction set.
 *
 * Keys are taken in chunks of ATTN_CHUNK positions, cut at multiples of it counted from the sequence's start.
 * Of a chunk each query row gets its largest score m, the sum l of e^(score - m), and the sum o of those
 * times V (flash attention: Dao et al., 2022); chunks are then merged in order. A row's arithmetic therefore
 * depends on its own position alone: not on the other rows, not on how a prompt was cut, not on which thread
 * took a chunk. A position that a row does not see has probability exactly 0 and changes no bit of l or o. */

#include "kernels/kernels.h"

enum {
    ATTN_CHUNK = 128,
    ATTN_ROWS = 24,                     /* query rows (tokens x heads of one KV head) taken together */
    ATTN_SCORE_STRIDE = ATTN_CHUNK + 16 /* a vector may be stored past the last score */
};

/* Largest score of a row that sees nothing; finite, so that differences are not NaN. */
#define ATTN_NOTHING (-1e30f)

struct attn_rows {
    int32_t n_rows;
    float *m, *l; /* [n_rows] */
    float *o;     /* [n_rows][head_dim] */
};

struct attn_chunk {
    const struct kv_cache *kv;
    size_t head_offset;   /* of the layer's and head's K from the start of a page */
    const int32_t *table; /* the sequence's pages */
    int32_t begin, end;   /* positions, within one chunk */
    int32_t kv_len;       /* of the sequence: what may be asked for ahead */
    int32_t n_rows;
    const float *q;          /* [head_dim][ATTN_ROWS], times the scale */
    const int32_t *position; /* [n_rows] */
    int32_t window;          /* 0: none */
    float softcap;           /* 0: none */
    float *scores;           /* scratch [n_rows][ATTN_SCORE_STRIDE] */
};

/* out.n_rows is chunk.n_rows. */
typedef void attn_chunk_fn(const struct attn_chunk *chunk, const struct attn_rows *out);

/* into = into and from together. */
typedef void attn_merge_fn(const struct attn_rows *into, const struct attn_rows *from, int32_t head_dim);

#endif
