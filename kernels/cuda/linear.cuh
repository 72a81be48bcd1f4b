#ifndef LLM_KERNELS_CUDA_LINEAR_CUH
#define LLM_KERNELS_CUDA_LINEAR_CUH

/* What the files of the linear layer share. A layer is done in one of two ways: few rows by kernels of our
 * own that stream the weights once at the speed of memory (linear_stream.cu, Hopper), many rows by cuBLASLt
 * (linear_lt.cu) with passes of our own for what it cannot fuse (linear_rows.cu). */

#include "kernels/cuda/cuda.cuh"

#include <cuda.h>

/* How a block of rows lies in device memory.
 *
 * FORMAT_DENSE: [n_rows, ld] of the activation type, ld a multiple of 8, zeros beyond n_in.
 *
 * The others, of quantized types, are unsigned numbers of that many bits, with scales of the activation type:
 * S, one for 32 numbers; M, one for 32 and a minimum that is added; 6: one for 16. They come in tiles of 64
 * rows by 64, in the order in which the threads of a warpgroup need them (packed.cuh), [row tile][k tile],
 * padded to 256 rows and 128 along k with numbers whose scale is 0. */
enum weight_format {
    FORMAT_DENSE,
    FORMAT_4S,
    FORMAT_4M,
    FORMAT_5S,
    FORMAT_5M,
    FORMAT_6,
    FORMAT_8,
    N_FORMATS
};

/* Consecutive rows of one format. WEIGHT_GATED: all rows; eight of gate, then the same eight of up, and so
 * on, so that the two numbers of a product lie in one thread of a tensor-core tile; n_rows is then a multiple
 * of 16. */
struct weight_block {
    enum weight_format format;
    enum llm_dtype dtype; /* dense */
    int32_t first, n_out; /* rows as the specification counts them */
    int32_t n_rows, ld;
    int32_t k_tiles; /* packed */
    void *data;
    size_t bytes;
    CUtensorMap map; /* dense, of boxes of 64 rows by 64; unset where there is no TMA */
};

struct weight {
    struct cuda_backend *cu;
    enum weight_layout layout;
    int32_t n_in, n_out;
    int32_t n_blocks;
    struct weight_block block[3];
    size_t bytes;
};

enum { GATED_GROUP = 8 };

/* Row of the layout for row r of part `part`. */
__host__ __device__ static inline int32_t gated_row(int32_t part, int32_t r)
{
    return r / GATED_GROUP * 2 * GATED_GROUP + part * GATED_GROUP + r % GATED_GROUP;
}

/* y [m, n] = x [m, k] w [n, k]^T (+ y). Strides in elements. x and w are of the activation type, y too or
 * f32.
 */
struct product {
    int32_t m, n, k;
    const void *x, *w;
    int64_t x_stride, w_stride;
    void *y;
    int64_t y_stride;
    int add, f32_out;
};

/* The buffers through which weights are loaded: while one travels, several threads fill the next, as one
 * alone reads a mapped file at a tenth of the bus's speed. */
struct staging {
    struct pool *pool;
    void *host[2], *device[2]; /* pinned; of `bytes` each */
    cudaEvent_t free[2];       /* the device has passed the last use of the buffer */
    size_t bytes;
    int next;
};

/* Stored rows on the device, and where they go. */
struct place {
    const uint8_t *from; /* row_bytes each */
    size_t row_bytes;
    enum llm_dtype dtype;
    int block_bytes; /* of dtype_table */
    int32_t n_in;
    int32_t first;      /* row of the part (gated) or of the block (plain) where from[0] goes */
    int32_t gated_part; /* -1: plain */
};

/* Row of the block for row r of `from`. */
__host__ __device__ static inline int32_t place_row(const struct place *p, int32_t r)
{
    return p->gated_part < 0 ? p->first + r : gated_row(p->gated_part, p->first + r);
}

struct lt_state;     /* linear_lt.cu's */
struct stream_state; /* linear_stream.cu's */

enum { DENSE_BYTES = 128 << 20 };

/* How rows get their kernel; anything but PATH_AUTO is for tests and benchmarks. PATH_STREAM:
 * linear_stream.cuh, also where PATH_AUTO takes linear_thin.cu. */
enum linear_path { PATH_AUTO, PATH_LT, PATH_STREAM };

enum { MOST_STREAMED = 64 }; /* rows; above, cuBLASLt is faster (on an H200: docs/performance.md) */

struct cuda_linear {
    enum linear_path path;
    int32_t chunk_rows; /* rows that the buffers below hold */
    void *normed;       /* [chunk_rows, max_n] */
    void *wide;         /* [chunk_rows, max_n]: what precedes a gated product or an activation */
    size_t buffer_bytes;
    void *dense; /* DENSE_BYTES: packed rows as cuBLASLt wants them; null until there is a packed weight */
    struct staging staging;
    struct lt_state *lt;
    struct stream_state *stream;
};

/* cu->linear, made at the first call: weights may be loaded before or after linear_open. Null: no memory. */
struct cuda_linear *linear_state(struct cuda_backend *cu);
void staging_close(struct staging *s);
/* Copies through the buffers; returns when all is there. For more than STAGED_BYTES. */
enum { STAGED_BYTES = 4 << 20 };
llm_status staged_upload(struct cuda_backend *cu, void *to, const void *from, size_t bytes);

llm_status lt_open(struct cuda_backend *cu, struct lt_state **out, struct llm_error *err);
void lt_close(struct lt_state *lt);
/* scratch: memory that a trial of `add` may spoil, at least y's size. */
llm_status lt_product(struct cuda_backend *cu, struct lt_state *lt, const struct product *p, void *scratch);

/* linear_rows.cu. In wide, [n_rows, 2 * n] in the order of a gated layout; y [n_rows, n]. */
llm_status gated_rows(struct cuda_backend *cu, const struct linear_args *a, const void *wide, int64_t stride,
                      int32_t n);
/* y = act(v + bias) (+ y): v may be y. [n_rows, n] */
llm_status finish_rows(struct cuda_backend *cu, const struct linear_args *a, const void *v, int64_t v_stride,
                       int32_t n);

/* linear_stream.cu. `able`: whether this layer with these arguments can be done here; x as after the norm. */
llm_status stream_open(struct cuda_backend *cu, struct stream_state **out, struct llm_error *err);
void stream_close(struct stream_state *s);
int stream_able(const struct linear_args *a, const void *x, int64_t x_stride);
llm_status stream_linear(struct cuda_backend *cu, struct stream_state *s, const struct linear_args *a,
                         const void *x, int64_t x_stride);
/* packed.cu. Stored rows `from`, which are rows first… of the part, into a block; and rows [first, first + n)
 * of a block as dense ones, ld numbers each. first and n are multiples of 64, or the block's end. */
enum weight_format packed_format(enum llm_dtype dtype);
size_t packed_bytes(enum weight_format format, int32_t n_rows, int32_t k_tiles);
struct place;
llm_status pack_rows(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                     const struct weight_block *b);
llm_status unpack_rows(struct cuda_backend *cu, const struct weight_block *b, int32_t n_in, int32_t first,
                       int32_t n, void *to);

/* Describes [n_rows, n] of the activation type to the TMA unit, for boxes of box_rows by 64. */
llm_status stream_map(struct cuda_backend *cu, CUtensorMap *map, const void *data, int32_t n_rows, int32_t n,
                      int64_t stride, int32_t box_rows);

#ifdef __CUDACC__
/* As kernels/cpu/ref.c has them. */
static __device__ __forceinline__ float activate(enum activation act, float v)
{
    switch (act) {
    case ACT_NONE:
        return v;
    case ACT_SILU:
        return v / (1 + __expf(-v));
    case ACT_GELU:
        return 0.5f * v * (1 + erff(v * 0.70710678f));
    case ACT_GELU_TANH:
        return 0.5f * v * (1 + tanhf(0.79788456f * (v + 0.044715f * v * v * v)));
    case ACT_RELU:
        return fmaxf(v, 0);
    }
    return v;
}
#endif

#endif
