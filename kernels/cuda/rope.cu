/* Norm of q and k heads, rotation, and the writing of k and v to the cache: a warp a head. */

#include "kernels/cuda/cuda.cuh"

enum { WARPS = 4, MOST_PER_LANE = 8, WHOLE_THREADS = 256, AT_ONCE = 4 }; /* head_dim <= 256 */

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

/* Of a head, a lane's part: four pairs. NEOX: four elements of each half, else eight in a row. */
template <typename T, int DIM, bool NEOX> struct lane_part {
    union {
        uint4 all;
        uint2 halves[2];
        T each[8];
    };
    static __device__ __forceinline__ int element(int lane, int i)
    {
        return NEOX ? i / 4 * (DIM / 2) + 4 * lane + i % 4 : 8 * lane + i;
    }
    static __device__ __forceinline__ int first(int pair) { return NEOX ? pair : 2 * pair; }
    static __device__ __forceinline__ int second(int pair) { return NEOX ? pair + 4 : 2 * pair + 1; }
    __device__ __forceinline__ void load(const T *head, int lane)
    {
        if (NEOX) {
            halves[0] = *reinterpret_cast<const uint2 *>(head + 4 * lane);
            halves[1] = *reinterpret_cast<const uint2 *>(head + DIM / 2 + 4 * lane);
        } else {
            all = *reinterpret_cast<const uint4 *>(head + 8 * lane);
        }
    }
    __device__ __forceinline__ void store(T *head, int lane) const
    {
        if (NEOX) {
            *reinterpret_cast<uint2 *>(head + 4 * lane) = halves[0];
            *reinterpret_cast<uint2 *>(head + DIM / 2 + 4 * lane) = halves[1];
        } else {
            *reinterpret_cast<uint4 *>(head + 8 * lane) = all;
        }
    }
};

/* The common case: 16-bit heads of DIM elements, rotated whole. A block has a token and every gridDim.y-th
 * group of its heads. A lane has both elements of its pairs, and the same pairs in all heads: it turns them
 * by the angles that it has read once. AT_ONCE heads are fetched before the first is turned. */
template <typename T, int DIM, bool NEOX>
static __global__ void __launch_bounds__(WHOLE_THREADS, 4) whole_kernel(struct rope_job a)
{
    const int lanes = DIM / 8, half = DIM / 2, group = WHOLE_THREADS / lanes;
    using part = lane_part<T, DIM, NEOX>;
    pdl_launch();
    pdl_wait();
    int lane = threadIdx.x % lanes, n_all = a.n_heads + 2 * a.n_kv_heads, token = blockIdx.x;
    int begin = blockIdx.y * group, stride = gridDim.y * group;
    T *row = static_cast<T *>(a.qkv) + token * a.qkv_stride;
    part fetched[AT_ONCE];
    auto fetch = [&](int at) {
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++) {
            int head = at + k * stride + threadIdx.x / lanes;
            fetched[k].all = make_uint4(0, 0, 0, 0);
            if (head < n_all) fetched[k].load(row + head * DIM, lane);
        }
    };
    fetch(begin);
    const float *cosines = a.table + (int64_t)a.positions[token] * DIM + 4 * lane;
    float4 c = *reinterpret_cast<const float4 *>(cosines),
           s = *reinterpret_cast<const float4 *>(cosines + half);
    const float cosine[4] = {c.x, c.y, c.z, c.w}, sine[4] = {s.x, s.y, s.z, s.w};
    int slot = a.slots[token];
    T *page = reinterpret_cast<T *>(a.base + a.page_bytes * (size_t)(slot / a.page_size)) +
              (int64_t)(slot % a.page_size) * DIM;
    auto turn = [&](part &p, int head) {
        int is_real = head < n_all; /* all lanes go on: they shuffle */
        int is_q = head < a.n_heads, turns = head < a.n_heads + a.n_kv_heads;
        const struct norm *norm = is_q ? &a.q_norm : &a.k_norm;
        float v[8], squares = 0;
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = to_f32(p.each[i]);
        if (a.q_norm.kind == NORM_RMS || a.k_norm.kind == NORM_RMS) {
#pragma unroll
            for (int i = 0; i < 8; i++) squares += v[i] * v[i];
#pragma unroll
            for (int d = lanes / 2; d > 0; d /= 2) squares += __shfl_xor_sync(~0u, squares, d);
            float scale = rsqrtf(squares / (float)DIM + norm->eps);
            if (turns && norm->kind == NORM_RMS)
#pragma unroll
                for (int i = 0; i < 8; i++)
                    v[i] *= scale * (norm->weight ? norm->weight[part::element(lane, i)] : 1);
        }
        if (turns)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float x = v[part::first(i)], y = v[part::second(i)];
                p.each[part::first(i)] = from_f32<T>(x * cosine[i] - y * sine[i]);
                p.each[part::second(i)] = from_f32<T>(y * cosine[i] + x * sine[i]);
            }
        if (is_q)
            p.store(row + head * DIM, lane);
        else if (is_real)
            p.store(page + (turns ? a.k_offset : a.v_offset) +
                        (head - a.n_heads - (turns ? 0 : a.n_kv_heads)) * a.head_stride,
                    lane);
    };
    for (int at = begin; at < n_all; at += AT_ONCE * stride) {
        if (at != begin) fetch(at);
#pragma unroll
        for (int k = 0; k < AT_ONCE; k++)
            if (at + k * stride < n_all) turn(fetched[k], at + k * stride + threadIdx.x / lanes);
    }
}

template <typename T, bool NEOX> static void (*whole_kernel_of(int32_t dim))(struct rope_job)
{
    return dim == 64    ? whole_kernel<T, 64, NEOX>
           : dim == 128 ? whole_kernel<T, 128, NEOX>
                        : whole_kernel<T, 256, NEOX>;
}

template <typename T> static void (*whole_kernel_for(int32_t dim, int32_t rope))(struct rope_job)
{
    return rope == ROPE_NEOX ? whole_kernel_of<T, true>(dim) : whole_kernel_of<T, false>(dim);
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
        auto whole = kv->dtype == DTYPE_F16 ? whole_kernel_for<__half>(kv->head_dim, a->rope)
                                            : whole_kernel_for<__nv_bfloat16>(kv->head_dim, a->rope);
        return cuda_launch(cu, "rope_kv", whole, grid, dim3(WHOLE_THREADS), 0, job);
    }
    auto kernel = be->act_dtype == DTYPE_F32   ? kernel_for<float>(kv->dtype)
                  : be->act_dtype == DTYPE_F16 ? kernel_for<__half>(kv->dtype)
                                               : kernel_for<__nv_bfloat16>(kv->dtype);
    return cuda_launch(cu, "rope_kv", kernel, dim3((unsigned)((jobs + WARPS - 1) / WARPS)), dim3(32 * WARPS),
                       0, job);
}
