#ifndef LLM_KERNELS_CUDA_LINEAR_CUH
#define LLM_KERNELS_CUDA_LINEAR_CUH

/* What the files of the linear layer share. A layer is done in one of two ways: few rows by kernels of our
 * own that stream the weights once at the speed of memory (linear_stream.cu, Hopper), many rows by cuBLASLt
 * (linear_lt.cu) with passes of our own for what it cannot fuse (linear_rows.cu). */

#include "kernels/cuda/cuda.cuh"

#include <cuda.h>

/* Rows of a weight as the device has them: [n_rows, ld] of the activation type, ld a multiple of 8, zeros
 * beyond n_in. WEIGHT_GATED: eight rows of gate, then the same eight of up, and so on, so that the two
 * numbers of a product lie in one thread of a tensor-core tile; n_rows is then a multiple of 16. */
struct weight {
    struct cuda_backend *cu;
    enum weight_layout layout;
    int32_t n_in, n_out; /* as the specification has them */
    int32_t n_rows, ld;
    void *data;
    size_t bytes;
    CUtensorMap map; /* boxes of 64 rows by 64; unset where there is no TMA */
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

/* The buffers through which weights are loaded: while one travels, the next is filled. */
struct staging {
    void *host[2], *device[2]; /* pinned; of `bytes` each */
    cudaEvent_t free[2];       /* the device has passed the last use of the buffer */
    size_t bytes;
    int next;
};

struct lt_state;     /* linear_lt.cu's */
struct stream_state; /* linear_stream.cu's */

/* How rows get their kernel; anything but PATH_AUTO is for tests and benchmarks. From PATH_VARIANT on: the
 * variants of our own kernels. */
enum linear_path { PATH_AUTO, PATH_LT, PATH_STREAM, PATH_VARIANT = 16 };

struct cuda_linear {
    enum linear_path path;
    int32_t chunk_rows; /* rows that the buffers below hold */
    void *normed;       /* [chunk_rows, max_n] */
    void *wide;         /* [chunk_rows, max_n]: what precedes a gated product or an activation */
    size_t buffer_bytes;
    struct staging staging;
    struct lt_state *lt;
    struct stream_state *stream;
};

/* cu->linear, made at the first call: weights may be loaded before or after linear_open. Null: no memory. */
struct cuda_linear *linear_state(struct cuda_backend *cu);
void staging_close(struct staging *s);

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
int stream_able(const struct cuda_backend *cu, const struct linear_args *a, const void *x, int64_t x_stride);
llm_status stream_linear(struct cuda_backend *cu, struct stream_state *s, const struct linear_args *a,
                         const void *x, int64_t x_stride);
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
