#ifndef LLM_KERNELS_CUDA_LINEAR_CUH
#define LLM_KERNELS_CUDA_LINEAR_CUH

/* What the files of the linear layer share. Few rows go by kernels of our own that stream the weights once at
 * the speed of memory (linear_stream.cu, linear_thin.cu, Hopper); more by tiles of our own (linear_split.cu,
 * linear_tile.cu, Hopper) or by cuBLASLt with passes of our own for what it cannot fuse (linear_lt.cu,
 * linear_rows.cu), whichever was faster when tried (linear_ways.cu), or, with packed weights, by tiles that
 * unpack them on the way (linear_packed.cu, Hopper, where alone weights are packed). */

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

/* y = epilogue(x [m, k] w [n, k]^T), as struct linear_args says; n: rows of w, n_out: columns of y. Strides
 * in elements. x and w are of the activation type, y too or f32. */
struct product {
    int32_t m, n, k, n_out;
    const void *x, *w;
    int64_t x_stride, w_stride;
    void *y;
    int64_t y_stride;
    enum linear_epilogue epilogue; /* gated: w in the order of WEIGHT_GATED */
    enum activation act;
    const float *bias, *up_bias; /* [n_out], or null; gated: of gate and of up */
    int f32_out;
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
struct ways_state;   /* linear_ways.cu's */
struct stream_state; /* linear_stream.cu's */
struct packed_state; /* linear_packed.cu's */

/* How rows get their kernel; anything but PATH_AUTO is for tests and benchmarks. PATH_LT: cuBLASLt alone.
 * PATH_STREAM: linear_stream.cuh, also where PATH_AUTO takes linear_thin.cu. PATH_OWN + i: kernel i of
 * tile_kernels and, after those, split_kernels. What a path cannot do goes through cuBLASLt, with packed
 * weights through linear_packed.cuh. PATH_PACKED + i: those with the i-th width. */
enum linear_path { PATH_AUTO, PATH_LT, PATH_STREAM, PATH_OWN, PATH_PACKED = 64 };

enum { MOST_STREAMED = 64 }; /* rows (on an H200: docs/performance.md) */

struct cuda_linear {
    enum linear_path path;
    int tuning; /* products are not done: their ways are chosen */
    void *normed,
        *wide; /* x after the norm; what cuBLASLt leaves to a pass of our own, and trials overwrite */
    size_t buffer_bytes;         /* of each: at least 256 rows of max_n */
    struct packed_state *packed; /* null until there is a packed weight */
    struct staging staging;
    struct lt_state *lt;
    struct ways_state *ways;
    struct stream_state *stream;
};

/* cu->linear, made at the first call: weights may be loaded before or after linear_open. Null: no memory. */
struct cuda_linear *linear_state(struct cuda_backend *cu);
void staging_close(struct staging *s);
/* Copies through the buffers; returns when all is there. For more than STAGED_BYTES. */
enum { STAGED_BYTES = 4 << 20 };
llm_status staged_upload(struct cuda_backend *cu, void *to, const void *from, size_t bytes);

/* In how many rows at a time n_rows are done, so that rows of n of the activation type fit into a buffer:
 * equal parts. */
int32_t rows_at_once(const struct cuda_backend *cu, int32_t n_rows, int32_t n);

/* linear_ways.cu: products of many rows, each in the way that was fastest when tried. */
llm_status ways_open(struct cuda_backend *cu, struct ways_state **out, struct llm_error *err);
void ways_close(struct ways_state *s);
llm_status ways_product(struct cuda_backend *cu, const struct product *p);

/* linear_lt.cu: by an algorithm of cuBLASLt, of which it guesses up to n that may be good, the best first;
 * and what it cannot fuse after that. p has no more rows than the wide buffer holds, if it goes through that.
 * lt_run gives LLM_EUNSUP where the algorithm does not do. */
enum { LT_MAX_GUESSES = 8 };
llm_status lt_open(struct cuda_backend *cu, struct lt_state **out, struct llm_error *err);
void lt_close(struct lt_state *lt);
int lt_guesses(struct lt_state *lt, const struct product *p, cublasLtMatmulAlgo_t *out, int n);
llm_status lt_run(struct lt_state *lt, const struct product *p, const cublasLtMatmulAlgo_t *algo);
uint32_t lt_alignment(const struct lt_state *lt,
                      const struct product *p); /* bytes, at most 16: of all operands */
void lt_clear_cache(struct lt_state *lt);       /* leaves no weights in the L2 cache */

/* linear_rows.cu. In wide, [m, n] in the order of a gated layout. */
llm_status gated_rows(struct cuda_backend *cu, const struct product *p, const void *wide, int64_t stride);
/* y = act(v + bias) (+ y): v [m, n] may be y. */
llm_status finish_rows(struct cuda_backend *cu, const struct product *p, const void *v, int64_t v_stride);

/* linear_tile.cu, linear_split.cu: kernels by their numbers, which stay as they are, since files have them:
 * of a tile the rows of the weight, of linear_split.cu see there. The lists end with 0. `able`: whether this
 * product can be done so; `worth`: whether it may be fast. */
enum { SPLIT_NUMBERS = 1000 };
extern const int32_t tile_kernels[], split_kernels[];
llm_status tile_open(struct cuda_backend *cu, struct llm_error *err);
int tile_able(const struct cuda_backend *cu, const struct product *p, int32_t kernel);
llm_status tile_product(struct cuda_backend *cu, const struct product *p, int32_t kernel);
llm_status split_open(struct cuda_backend *cu, struct llm_error *err);
int split_able(const struct cuda_backend *cu, const struct product *p, int32_t kernel);
int split_worth(const struct cuda_backend *cu, const struct product *p, int32_t kernel);
llm_status split_product(struct cuda_backend *cu, const struct product *p, int32_t kernel);

/* linear_stream.cu. `able`: whether this layer with these arguments can be done here; x as after the norm. */
llm_status stream_open(struct cuda_backend *cu, struct stream_state **out, struct llm_error *err);
void stream_close(struct stream_state *s);
int stream_able(const struct linear_args *a, const void *x, int64_t x_stride);
llm_status stream_linear(struct cuda_backend *cu, struct stream_state *s, const struct linear_args *a,
                         const void *x, int64_t x_stride);

/* packed.cu. Stored rows `from`, which are rows first… of the part, into a block. */
enum weight_format packed_format(enum llm_dtype dtype);
size_t packed_bytes(enum weight_format format, int32_t n_rows, int32_t k_tiles);
llm_status pack_rows(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                     const struct weight_block *b);

/* linear_packed.cu: products of packed weights and any number of rows; x aligned to 16 bytes and a stride of
 * 8. p->w is not used. */
llm_status packed_open(struct cuda_backend *cu, struct packed_state **out, struct llm_error *err);
void packed_close(struct packed_state *s);
llm_status packed_product(struct cuda_backend *cu, const struct packed_state *s, const struct weight_block *b,
                          const struct product *p);

/* Describes [n_rows, n] of the activation type to the TMA unit, for boxes of box_rows by box_columns: 64 or
 * 16, which is also how far the unit swizzles. */
llm_status stream_map(struct cuda_backend *cu, CUtensorMap *map, const void *data, int32_t n_rows, int32_t n,
                      int64_t stride, int32_t box_rows, int32_t box_columns = 64);

#ifdef __CUDACC__
/* 1 / (1 + e^-v) to some 2^-21, in four instructions: an exact division takes ten, and gated products of many
 * rows are short of them. */
static __device__ __forceinline__ float sigmoid(float v)
{
    float power, inverse;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-1.44269504f * v));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1 + power));
    return inverse;
}

/* As kernels/cpu/ref.c has them; (1 + tanh u) / 2 is the sigmoid of 2 u. */
static __device__ __forceinline__ float activate(enum activation act, float v)
{
    switch (act) {
    case ACT_NONE:
        return v;
    case ACT_SILU:
        return v * sigmoid(v);
    case ACT_GELU:
        return 0.5f * v * (1 + erff(v * 0.70710678f));
    case ACT_GELU_TANH:
        return v * sigmoid(1.59576912f * (v + 0.044715f * v * v * v));
    case ACT_RELU:
        return fmaxf(v, 0);
    }
    return v;
}
#endif

#endif
