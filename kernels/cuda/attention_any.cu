/* Attention for every shape and type: a block a row and head, its warps take keys in turn. Plain; what the
 * others do not cover (float32, mixed types, odd head sizes) runs here. */

#include "kernels/cuda/attention.cuh"

enum { ANY_WARPS = 4, ANY_KEYS = 4 /* in flight a warp */ };

__device__ __forceinline__ float load_as(const void *p, int64_t i, enum llm_dtype t)
{
    if (t == DTYPE_F32) return static_cast<const float *>(p)[i];
    if (t == DTYPE_F16) return __half2float(static_cast<const __half *>(p)[i]);
    return __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
}

__device__ __forceinline__ void store_as(void *p, int64_t i, enum llm_dtype t, float v)
{
    if (t == DTYPE_F32)
        static_cast<float *>(p)[i] = v;
    else if (t == DTYPE_F16)
        static_cast<__half *>(p)[i] = __float2half_rn(v);
    else
        static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn(v);
}

/* The sequence that has this row: seq_start[s] <= row < seq_start[s + 1]. */
__device__ __forceinline__ int32_t sequence_of(const int32_t *seq_start, int32_t n, int32_t row)
{
    int32_t low = 0, high = n - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (seq_start[middle] <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* A lane has coordinates lane, lane + 32, ...: N of them. */
template <int N> struct any_state {
    float q[N], sum[N], top, weight;
};

/* Adds keys k0, k0 + step, ... (those below `end`) of one batch to the state of a warp. */
template <int N>
__device__ __forceinline__ void attend_keys(struct any_state<N> &st, const struct attention_call &a,
                                            enum llm_dtype kv_dtype, const int32_t *table, int32_t head,
                                            int32_t k0, int32_t step, int32_t end)
{
    const int32_t lane = threadIdx.x % 32;
    const char *rows[ANY_KEYS];
    float s[ANY_KEYS], top = st.top;
    const int64_t row_bytes = a.head_bytes >> a.page_shift;
#pragma unroll
    for (int i = 0; i < ANY_KEYS; i++) {
        const int32_t k = k0 + i * step, safe = min(k, end - 1), page = table[safe >> a.page_shift];
        rows[i] =
            a.k + page * a.page_bytes + head * a.head_bytes + (safe & ((1 << a.page_shift) - 1)) * row_bytes;
        s[i] = 0;
#pragma unroll
        for (int j = 0; j < N; j++)
            if (lane + 32 * j < a.head_dim) s[i] += st.q[j] * load_as(rows[i], lane + 32 * j, kv_dtype);
    }
#pragma unroll
    for (int i = 0; i < ANY_KEYS; i++) {
        for (int mask = 16; mask; mask /= 2) s[i] += __shfl_xor_sync(0xffffffffu, s[i], mask);
        s[i] = k0 + i * step < end ? attention_score(a, s[i]) : -INFINITY;
        top = fmaxf(top, s[i]);
    }
    const float keep = exp2f(st.top - top);
    st.top = top;
    st.weight *= keep;
#pragma unroll
    for (int j = 0; j < N; j++) st.sum[j] *= keep;
#pragma unroll
    for (int i = 0; i < ANY_KEYS; i++) {
        const float p = exp2f(s[i] - top);
        st.weight += p;
#pragma unroll
        for (int j = 0; j < N; j++)
            if (lane + 32 * j < a.head_dim)
                st.sum[j] += p * load_as(rows[i] + a.v_bytes, lane + 32 * j, kv_dtype);
    }
}

template <int N>
__global__ void __launch_bounds__(32 * ANY_WARPS)
    any_kernel(const struct attention_call a, enum llm_dtype act, enum llm_dtype kv_dtype, int32_t first_row,
               int32_t n_rows)
{
    __shared__ float sums[ANY_WARPS][32 * N], tops[ANY_WARPS], weights[ANY_WARPS];
    pdl_wait();
    pdl_launch();
    /* Late rows have the most keys: first. */
    const int32_t row = first_row + n_rows - 1 - static_cast<int32_t>(blockIdx.x), head = blockIdx.y;
    const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int32_t seq = sequence_of(a.seq_start, a.n_seqs, row);
    const int32_t p = a.kv_len[seq] - a.seq_start[seq + 1] + row;
    const int32_t *table = a.block_table + seq * a.block_table_stride;

    struct any_state<N> st;
    st.top = -INFINITY, st.weight = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int32_t d = lane + 32 * j;
        st.q[j] = d < a.head_dim ? load_as(a.q, row * a.q_stride + head * a.head_dim + d, act) : 0;
        st.sum[j] = 0;
    }
    for (int32_t k = first_key(p, a.window) + warp; k <= p; k += ANY_WARPS * ANY_KEYS)
        attend_keys(st, a, kv_dtype, table, head / a.group, k, ANY_WARPS, p + 1);

#pragma unroll
    for (int j = 0; j < N; j++) sums[warp][lane + 32 * j] = st.sum[j];
    if (lane == 0) tops[warp] = st.top, weights[warp] = st.weight;
    __syncthreads();
    float top = tops[0], weight = 0, share[ANY_WARPS];
    for (int w = 1; w < ANY_WARPS; w++) top = fmaxf(top, tops[w]);
#pragma unroll
    for (int w = 0; w < ANY_WARPS; w++) {
        share[w] = exp2f(tops[w] - top);
        weight += share[w] * weights[w];
    }
    for (int32_t d = threadIdx.x; d < a.head_dim; d += 32 * ANY_WARPS) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < ANY_WARPS; w++) sum += share[w] * sums[w][d];
        store_as(a.out, row * a.out_stride + head * a.head_dim + d, act, sum / weight);
    }
}

llm_status attention_any(struct cuda_backend *cu, const struct attention_call *a, enum llm_dtype kv_dtype,
                         int32_t first_row, int32_t n_rows)
{
    const dim3 grid(static_cast<unsigned>(n_rows), static_cast<unsigned>(a->n_heads));
    auto kernel = a->head_dim <= 64    ? any_kernel<2>
                  : a->head_dim <= 128 ? any_kernel<4>
                  : a->head_dim <= 256 ? any_kernel<8>
                                       : any_kernel<MAX_HEAD_DIM / 32>;
    return cuda_launch(cu, "attention", kernel, grid, dim3(32 * ANY_WARPS), 0, *a, cu->base.act_dtype,
                       kv_dtype, first_row, n_rows);
}
