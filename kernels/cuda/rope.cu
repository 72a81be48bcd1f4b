/* Norm of q and k heads, rotation, and the writing of k and v to the cache: a warp a head. */

#include "kernels/cuda/cuda.cuh"

enum { WARPS = 4, MOST_PER_LANE = 8, WHOLE_THREADS = 256 }; /* head_dim <= 256 */

/* What the kernel needs of rope_kv_args, with all pointers on the device. */
struct rope_job {
    int32_t n_tokens, n_heads, n_kv_heads, head_dim, page_size, rotary_dim, rope;
    void *qkv;
    int64_t qkv_stride;
    struct norm q_norm, k_norm;
    const float *table;
    const int32_t *positions, *slots;
    char *base;
    size_t page_bytes;
    int64_t k_offset, v_offset, head_stride; /* elements */
};

/* In a lane: the elements lane, lane + 32, … of a head, or for rotation pairs of them. The head lies in
 * shared memory between the steps, as pairs may be far apart. */
template <typename T, typename KV> static __global__ void rope_kernel(struct rope_job a)
{
    __shared__ float heads[WARPS][256];
    pdl_launch();
    pdl_wait();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, dim = a.head_dim;
    int n_all = a.n_heads + 2 * a.n_kv_heads;
    int64_t job = (int64_t)blockIdx.x * WARPS + warp;
    if (job >= (int64_t)a.n_tokens * n_all) return;
    int token = (int)(job / n_all), head = (int)(job % n_all);
    int is_q = head < a.n_heads, is_k = !is_q && head < a.n_heads + a.n_kv_heads;
    T *x = static_cast<T *>(a.qkv) + token * a.qkv_stride + (int64_t)head * dim;
    float *h = heads[warp], v[MOST_PER_LANE];
    float squares = 0;
#pragma unroll
    for (int i = 0; i < MOST_PER_LANE; i++) {
        int e = lane + 32 * i;
        v[i] = e < dim ? to_f32(x[e]) : 0;
        squares += v[i] * v[i];
    }
    const struct norm *norm = is_q ? &a.q_norm : &a.k_norm;
    if ((is_q || is_k) && norm->kind == NORM_RMS) {
        for (int d = 16; d > 0; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
        float scale = rsqrtf(squares / (float)dim + norm->eps);
#pragma unroll
        for (int i = 0; i < MOST_PER_LANE; i++) {
            int e = lane + 32 * i;
            if (e < dim) v[i] *= scale * (norm->weight ? norm->weight[e] : 1);
        }
    }
#pragma unroll
    for (int i = 0; i < MOST_PER_LANE; i++)
        if (lane + 32 * i < dim) h[lane + 32 * i] = v[i];
    __syncwarp();
    if ((is_q || is_k) && a.rope != ROPE_NONE) {
        int half = a.rotary_dim / 2;
        const float *cosines = a.table + (int64_t)a.positions[token] * a.rotary_dim, *sines = cosines + half;
        for (int p = lane; p < half; p += 32) {
            int i = a.rope == ROPE_NEOX ? p : 2 * p, j = a.rope == ROPE_NEOX ? p + half : 2 * p + 1;
            float c = cosines[p], s = sines[p], vi = h[i], vj = h[j];
            h[i] = vi * c - vj * s;
            h[j] = vj * c + vi * s;
        }
        __syncwarp();
    }
    if (is_q) {
        for (int e = lane; e < dim; e += 32) x[e] = from_f32<T>(h[e]);
    } else {
        int slot = a.slots[token], kv_head = is_k ? head - a.n_heads : head - a.n_heads - a.n_kv_heads;
        KV *to = reinterpret_cast<KV *>(a.base + a.page_bytes * (size_t)(slot / a.page_size)) +
                 (is_k ? a.k_offset : a.v_offset) + kv_head * a.head_stride +
                 (int64_t)(slot % a.page_size) * dim;
        for (int e = lane; e < dim; e += 32) to[e] = from_f32<KV>(h[e]);
    }
}

/* The common case: 16-bit heads of DIM elements, rotated whole. A block has a token and every gridDim.y-th
 * group of its heads. A lane has eight elements in a row, so a head is DIM / 8 lanes, and a lane turns by the
 * same angles in all heads; of a pair that is half a head apart the other one lies in another lane. */
template <typename T, int DIM> static __global__ void whole_kernel(struct rope_job a)
{
    const int lanes = DIM / 8, half = DIM / 2, group = WHOLE_THREADS / lanes;
    pdl_launch();
    pdl_wait();
    int lane = threadIdx.x % lanes, n_all = a.n_heads + 2 * a.n_kv_heads, token = blockIdx.x;
    int neox = a.rope == ROPE_NEOX, n_pairs = neox ? 8 : 4,
        first_pair = neox ? 8 * (lane % (lanes / 2)) : 4 * lane;
    const float *cosines = a.table + (int64_t)a.positions[token] * DIM + first_pair, *sines = cosines + half;
    float c[8], t[8];
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        if (i >= n_pairs) continue;
        *reinterpret_cast<float4 *>(c + i) = *reinterpret_cast<const float4 *>(cosines + i);
        *reinterpret_cast<float4 *>(t + i) = *reinterpret_cast<const float4 *>(sines + i);
    }
    int slot = a.slots[token];
    char *page = a.base + a.page_bytes * (size_t)(slot / a.page_size);
    for (int at = blockIdx.y * group; at < n_all; at += gridDim.y * group) {
        int head = at + threadIdx.x / lanes, is_real = head < n_all; /* all lanes go on: they shuffle */
        if (!is_real) head = 0;
        int is_q = head < a.n_heads, turns = head < a.n_heads + a.n_kv_heads;
        T *x = static_cast<T *>(a.qkv) + token * a.qkv_stride + (int64_t)head * DIM + 8 * lane;
        union {
            uint4 all;
            T each[8];
        } u;
        u.all = *reinterpret_cast<const uint4 *>(x);
        float v[8], squares = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = to_f32(u.each[i]);
        const struct norm *norm = is_q ? &a.q_norm : &a.k_norm;
        if (a.q_norm.kind == NORM_RMS || a.k_norm.kind == NORM_RMS) {
#pragma unroll
            for (int i = 0; i < 8; i++) squares += v[i] * v[i];
#pragma unroll
            for (int d = lanes / 2; d > 0; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
            float scale = turns && norm->kind == NORM_RMS ? rsqrtf(squares / (float)DIM + norm->eps) : 1;
#pragma unroll
            for (int i = 0; i < 8; i++)
                v[i] *= scale *
                        (turns && norm->kind == NORM_RMS && norm->weight ? norm->weight[8 * lane + i] : 1);
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float across = __shfl_xor_sync(~0u, v[i], lanes / 2), other = neox ? across : v[i ^ 1];
            int first = neox ? lane < lanes / 2 : i % 2 == 0;
            float ci = neox ? c[i] : c[i / 2], ti = neox ? t[i] : t[i / 2];
            if (turns) u.each[i] = from_f32<T>(first ? v[i] * ci - other * ti : v[i] * ci + other * ti);
        }
        if (!is_real) continue;
        if (is_q) {
            *reinterpret_cast<uint4 *>(x) = u.all;
        } else {
            int kv_head = head - a.n_heads - (turns ? 0 : a.n_kv_heads);
            T *to = reinterpret_cast<T *>(page) + (turns ? a.k_offset : a.v_offset) +
                    kv_head * a.head_stride + (int64_t)(slot % a.page_size) * DIM;
            *reinterpret_cast<uint4 *>(to + 8 * lane) = u.all;
        }
    }
}

template <typename T> static void (*whole_kernel_for(int32_t dim))(struct rope_job)
{
    return dim == 64 ? whole_kernel<T, 64> : dim == 128 ? whole_kernel<T, 128> : whole_kernel<T, 256>;
}

static int is_whole(const struct backend *be, const struct rope_job *job, enum llm_dtype kv)
{
    int d = job->head_dim;
    return be->act_dtype == kv && kv != DTYPE_F32 && (d == 64 || d == 128 || d == 256) &&
           job->rope != ROPE_NONE && job->rotary_dim == d && job->qkv_stride % 8 == 0 &&
           (reinterpret_cast<uintptr_t>(job->qkv) & 15) == 0;
}

template <typename T> static void (*kernel_for(enum llm_dtype kv))(struct rope_job)
{
    if (kv == DTYPE_F32) return rope_kernel<T, float>;
    return kv == DTYPE_F16 ? rope_kernel<T, __half> : rope_kernel<T, __nv_bfloat16>;
}

llm_status cuda_rope_kv(struct backend *be, const struct rope_kv_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    const struct kv_cache *kv = a->kv;
    struct rope_job job = {a->n_tokens,
                           a->n_heads,
                           kv->n_kv_heads,
                           kv->head_dim,
                           kv->page_size,
                           a->rotary_dim,
                           a->rope,
                           a->qkv,
                           a->qkv_stride,
                           a->q_norm,
                           a->k_norm,
                           a->rope_table,
                           a->positions,
                           a->slots,
                           static_cast<char *>(kv->base),
                           kv->page_bytes,
                           kv_offset(kv, a->layer, 0, 0),
                           kv_offset(kv, a->layer, 1, 0),
                           (int64_t)kv->page_size * kv->head_dim};
    int64_t jobs = (int64_t)a->n_tokens * (a->n_heads + 2 * kv->n_kv_heads);
    if (is_whole(be, &job, kv->dtype)) {
        /* Few tokens: blocks for groups of heads; many: a block turns all heads by the angles it has read
         * once. */
        int group = WHOLE_THREADS / (kv->head_dim / 8),
            n_groups = (a->n_heads + 2 * kv->n_kv_heads + group - 1) / group;
        dim3 grid((unsigned)a->n_tokens, a->n_tokens < 4 * cu->n_sms ? (unsigned)n_groups : 1);
        auto whole = kv->dtype == DTYPE_F16 ? whole_kernel_for<__half>(kv->head_dim)
                                            : whole_kernel_for<__nv_bfloat16>(kv->head_dim);
        return cuda_launch(cu, "rope_kv", whole, grid, dim3(WHOLE_THREADS), 0, job);
    }
    auto kernel = be->act_dtype == DTYPE_F32   ? kernel_for<float>(kv->dtype)
                  : be->act_dtype == DTYPE_F16 ? kernel_for<__half>(kv->dtype)
                                               : kernel_for<__nv_bfloat16>(kv->dtype);
    return cuda_launch(cu, "rope_kv", kernel, dim3((unsigned)((jobs + WARPS - 1) / WARPS)), dim3(32 * WARPS),
                       0, job);
}
