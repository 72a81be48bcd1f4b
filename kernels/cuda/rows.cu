/* Ops on independent rows: norm, embedding, gathering, scaling of logits, feeding of tokens, random weights.
 */

#include "kernels/cuda/cuda.cuh"

enum { ROW_THREADS = 256 };

/* The sum over a block of ROW_THREADS threads, in each of them. */
static __device__ float block_sum(float v)
{
    __shared__ float partial[ROW_THREADS / 32];
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = v;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < ROW_THREADS / 32; i++) sum += partial[i];
    return sum;
}

/* Two passes over the row, which lies in the L1 cache by the second. */
template <typename T> static __global__ void norm_kernel(struct norm_args a)
{
    pdl_launch();
    pdl_wait();
    const T *x = static_cast<const T *>(a.x) + blockIdx.x * a.x_stride;
    T *y = static_cast<T *>(a.y) + blockIdx.x * a.y_stride;
    float mean = 0, scale = 1;
    if (a.norm.kind == NORM_LAYER) {
        float sum = 0;
        for (int i = threadIdx.x; i < a.n; i += ROW_THREADS) sum += to_f32(x[i]);
        mean = block_sum(sum) / (float)a.n;
    }
    if (a.norm.kind != NORM_NONE) {
        float squares = 0;
        for (int i = threadIdx.x; i < a.n; i += ROW_THREADS) {
            float d = to_f32(x[i]) - mean;
            squares += d * d;
        }
        scale = rsqrtf(block_sum(squares) / (float)a.n + a.norm.eps);
    }
    for (int i = threadIdx.x; i < a.n; i += ROW_THREADS) {
        float v = (to_f32(x[i]) - mean) * scale;
        if (a.norm.weight) v *= a.norm.weight[i];
        if (a.norm.bias) v += a.norm.bias[i];
        if (a.add) v += to_f32(y[i]);
        y[i] = from_f32<T>(v);
    }
}

/* Blocks a multiprocessor, as many as registers allow. */
static constexpr int norm_blocks(int vectors)
{
    return vectors == 1 ? 6 : vectors == 2 ? 4 : 2;
}

/* A thread's part of a row of n vectors; zeros past its end. */
template <int VECTORS>
static __device__ __forceinline__ void fetch_row(uint4 (&v)[VECTORS], const void *row, int n)
{
#pragma unroll
    for (int k = 0; k < VECTORS; k++) {
        int i = threadIdx.x + k * ROW_THREADS;
        v[k] = i < n ? static_cast<const uint4 *>(row)[i] : make_uint4(0, 0, 0, 0);
    }
}

/* 16-bit rows of at most 8 * ROW_THREADS * VECTORS elements, held in registers between the two passes; so is
 * the weight, which a block reads once for all its rows. While a row is summed up, the block's next one is on
 * its way. PLAIN, the usual kind: RMS, nothing added; at full speed the instructions of the others would be
 * felt. */
template <typename T, int VECTORS, bool PLAIN>
static __global__ void __launch_bounds__(ROW_THREADS, norm_blocks(VECTORS))
    norm_vector_kernel(struct norm_args a)
{
    union vector {
        uint4 all;
        T each[8];
    } v[VECTORS];
    uint4 next[VECTORS];
    float weight[VECTORS][8];
    int n = a.n / 8;
    pdl_launch();
#pragma unroll
    for (int k = 0; k < VECTORS; k++)
#pragma unroll
        for (int j = 0; j < 8; j++) {
            int i = threadIdx.x + k * ROW_THREADS;
            weight[k][j] = a.norm.weight && i < n ? a.norm.weight[8 * i + j] : 1;
        }
    pdl_wait();
    const T *x = static_cast<const T *>(a.x);
    fetch_row<VECTORS>(next, x + blockIdx.x * a.x_stride, n);
    for (int row = blockIdx.x; row < a.n_rows; row += gridDim.x) {
        uint4 *y = reinterpret_cast<uint4 *>(static_cast<T *>(a.y) + row * a.y_stride);
        float sum = 0, mean = 0, squares = 0;
#pragma unroll
        for (int k = 0; k < VECTORS; k++) v[k].all = next[k];
        if (row + (int)gridDim.x < a.n_rows)
            fetch_row<VECTORS>(next, x + (int64_t)(row + (int)gridDim.x) * a.x_stride, n);
        if (!PLAIN && a.norm.kind == NORM_LAYER) {
#pragma unroll
            for (int k = 0; k < VECTORS; k++)
#pragma unroll
                for (int j = 0; j < 8; j++) sum += to_f32(v[k].each[j]);
            mean = block_sum(sum) / (float)a.n;
        }
#pragma unroll
        for (int k = 0; k < VECTORS; k++)
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float d = to_f32(v[k].each[j]);
                if (!PLAIN) d = threadIdx.x + k * ROW_THREADS < n ? d - mean : 0;
                squares += d * d;
            }
        float scale = 1;
        if (PLAIN || a.norm.kind != NORM_NONE) scale = rsqrtf(block_sum(squares) / (float)a.n + a.norm.eps);
#pragma unroll
        for (int k = 0; k < VECTORS; k++) {
            int i = threadIdx.x + k * ROW_THREADS;
            if (i >= n) continue;
            union vector old;
            if (!PLAIN && a.add) old.all = y[i];
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float r = (to_f32(v[k].each[j]) - mean) * scale * weight[k][j];
                if (!PLAIN && a.norm.bias) r += a.norm.bias[8 * i + j];
                if (!PLAIN && a.add) r += to_f32(old.each[j]);
                v[k].each[j] = from_f32<T>(r);
            }
            y[i] = v[k].all;
        }
    }
}

template <typename T, bool PLAIN> static void (*norm_vector_of(int vectors))(struct norm_args)
{
    return vectors == 1   ? norm_vector_kernel<T, 1, PLAIN>
           : vectors == 2 ? norm_vector_kernel<T, 2, PLAIN>
                          : norm_vector_kernel<T, 4, PLAIN>;
}

template <typename T> static void (*norm_vector_for(int vectors, const struct norm_args *a))(struct norm_args)
{
    int plain = a->norm.kind == NORM_RMS && !a->norm.bias && !a->add;
    return plain ? norm_vector_of<T, true>(vectors) : norm_vector_of<T, false>(vectors);
}

enum { MOST_VECTORS = 4 };

static int vectors_of(int32_t n)
{
    int vectors = (n + 8 * ROW_THREADS - 1) / (8 * ROW_THREADS);
    return vectors == 3 ? 4 : vectors;
}

static int is_vector(const struct backend *be, const struct norm_args *a)
{
    uintptr_t addresses = reinterpret_cast<uintptr_t>(a->x) | reinterpret_cast<uintptr_t>(a->y);
    return be->act_dtype != DTYPE_F32 && a->n % 8 == 0 && a->n <= 8 * ROW_THREADS * MOST_VECTORS &&
           (addresses & 15) == 0 && a->x_stride % 8 == 0 && a->y_stride % 8 == 0;
}

llm_status cuda_norm(struct backend *be, const struct norm_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    if (is_vector(be, a)) {
        int vectors = vectors_of(a->n);
        auto vector = be->act_dtype == DTYPE_F16 ? norm_vector_for<__half>(vectors, a)
                                                 : norm_vector_for<__nv_bfloat16>(vectors, a);
        int32_t most = norm_blocks(vectors) * cu->n_sms, rounds = (a->n_rows + most - 1) / most,
                blocks = (a->n_rows + rounds - 1) / rounds;
        return cuda_launch(cu, "norm", vector, dim3((unsigned)blocks), dim3(ROW_THREADS), 0, *a);
    }
    auto kernel = be->act_dtype == DTYPE_F32   ? norm_kernel<float>
                  : be->act_dtype == DTYPE_F16 ? norm_kernel<__half>
                                               : norm_kernel<__nv_bfloat16>;
    return cuda_launch(cu, "norm", kernel, dim3(a->n_rows), dim3(ROW_THREADS), 0, *a);
}

/* ---- embedding ------------------------------------------------------------------------------------------
 */

static __device__ float table_value(const void *table, enum llm_dtype dtype, int64_t i)
{
    if (dtype == DTYPE_F32) return static_cast<const float *>(table)[i];
    if (dtype == DTYPE_F16) return __half2float(static_cast<const __half *>(table)[i]);
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(table)[i]);
}

struct embed_tables {
    const void *table, *position;
    enum llm_dtype dtype, position_dtype;
};

template <typename T> static __global__ void embed_kernel(struct embed_args a, struct embed_tables t)
{
    pdl_launch();
    pdl_wait();
    int64_t row = (int64_t)a.tokens[blockIdx.x] * a.n;
    int64_t position = t.position ? (int64_t)(a.positions[blockIdx.x] + a.position_offset) * a.n : 0;
    T *x = static_cast<T *>(a.x) + blockIdx.x * a.x_stride;
    for (int i = threadIdx.x; i < a.n; i += ROW_THREADS) {
        float v = table_value(t.table, t.dtype, row + i) * a.scale;
        if (t.position) v += table_value(t.position, t.position_dtype, position + i);
        x[i] = from_f32<T>(v);
    }
}

llm_status cuda_embed(struct backend *be, const struct embed_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    struct embed_tables t = {a->table->data, a->position_table ? a->position_table->data : nullptr,
                             a->table->dtype, a->position_table ? a->position_table->dtype : DTYPE_F32};
    auto kernel = be->act_dtype == DTYPE_F32   ? embed_kernel<float>
                  : be->act_dtype == DTYPE_F16 ? embed_kernel<__half>
                                               : embed_kernel<__nv_bfloat16>;
    return cuda_launch(cu, "embed", kernel, dim3(a->n_tokens), dim3(ROW_THREADS), 0, *a, t);
}

/* ---- gather ---------------------------------------------------------------------------------------------
 */

template <typename T> static __global__ void gather_kernel(struct gather_args a)
{
    pdl_launch();
    pdl_wait();
    const T *x = static_cast<const T *>(a.x) + a.rows[blockIdx.x] * a.x_stride;
    T *y = static_cast<T *>(a.y) + blockIdx.x * a.y_stride;
    for (int i = threadIdx.x; i < a.n; i += ROW_THREADS) y[i] = x[i];
}

llm_status cuda_gather(struct backend *be, const struct gather_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    auto kernel = be->act_dtype == DTYPE_F32 ? gather_kernel<float> : gather_kernel<uint16_t>;
    return cuda_launch(cu, "gather", kernel, dim3(a->n_rows), dim3(ROW_THREADS), 0, *a);
}

/* ---- logits ---------------------------------------------------------------------------------------------
 */

static __global__ void logits_kernel(struct logits_args a)
{
    pdl_launch();
    pdl_wait();
    int i = blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < a.n) {
        float *x = a.x + blockIdx.y * a.x_stride + i, v = *x * a.scale;
        *x = a.softcap > 0 ? a.softcap * tanhf(v / a.softcap) : v;
    }
}

llm_status cuda_logits(struct backend *be, const struct logits_args *a)
{
    dim3 grid((a->n + ROW_THREADS - 1) / ROW_THREADS, a->n_rows);
    return cuda_launch(cuda_of(be), "logits", logits_kernel, grid, dim3(ROW_THREADS), 0, *a);
}

/* ---- feed -----------------------------------------------------------------------------------------------
 */

static __global__ void feed_kernel(struct feed_args a)
{
    pdl_launch();
    pdl_wait();
    int i = blockIdx.x * ROW_THREADS + threadIdx.x;
    if (i < a.n) {
        int32_t from = a.from[i];
        a.tokens[i] = from >= 0 ? from : a.last[-1 - from];
    }
}

llm_status cuda_feed(struct backend *be, const struct feed_args *a)
{
    dim3 grid((a->n + ROW_THREADS - 1) / ROW_THREADS);
    return cuda_launch(cuda_of(be), "feed", feed_kernel, grid, dim3(ROW_THREADS), 0, *a);
}

/* ---- random weights -------------------------------------------------------------------------------------
 */

/* model/dummy.c's generator (SplitMix64, 12 bits a value), whose n-th draw is a function of n. */
enum { LEVEL_BITS = 12, N_LEVELS = 1 << LEVEL_BITS, LEVELS_A_DRAW = 64 / LEVEL_BITS };

template <typename T> static __global__ void fill_kernel(T *to, int64_t n, uint64_t state, float scale)
{
    pdl_launch();
    pdl_wait();
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    for (int64_t draw = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; draw * LEVELS_A_DRAW < n;
         draw += stride) {
        uint64_t z = state + (uint64_t)(draw + 1) * 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        for (int k = 0; k < LEVELS_A_DRAW; k++, z >>= LEVEL_BITS) {
            int64_t i = draw * LEVELS_A_DRAW + k;
            int level = (int)(z & (N_LEVELS - 1));
            if (i < n) to[i] = from_f32<T>(scale * (float)(2 * level + 1 - N_LEVELS));
        }
    }
}

llm_status cuda_fill(struct backend *be, void *to, enum llm_dtype dtype, int64_t n, uint64_t state,
                     float deviation)
{
    struct cuda_backend *cu = cuda_of(be);
    float scale = 1.7320508f * deviation / N_LEVELS;
    dim3 grid(cu->n_sms * 8), block(ROW_THREADS);
    if (dtype == DTYPE_F32)
        return cuda_launch(cu, "fill", fill_kernel<float>, grid, block, 0, static_cast<float *>(to), n, state,
                           scale);
    if (dtype == DTYPE_F16)
        return cuda_launch(cu, "fill", fill_kernel<__half>, grid, block, 0, static_cast<__half *>(to), n,
                           state, scale);
    return cuda_launch(cu, "fill", fill_kernel<__nv_bfloat16>, grid, block, 0,
                       static_cast<__nv_bfloat16 *>(to), n, state, scale);
}
