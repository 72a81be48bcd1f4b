#ifndef LLM_KERNELS_CUDA_ATTENTION_ROWS_CUH
#define LLM_KERNELS_CUDA_ATTENTION_ROWS_CUH

/* The running softmax of 16 rows in the fragments of a warp, for the mma.sync kernels. */

#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/attention.cuh"

/* Of rows lane / 4 (index 0) and lane / 4 + 8 (index 1): weighted sums of V, the maximum so far, and this
 * lane's share of the sum of weights. */
template <int HD> struct row_state {
    float sum[HD / 8][4], top[2], weight[2];
};

template <int HD> __device__ __forceinline__ void rows_clear(struct row_state<HD> &st)
{
#pragma unroll
    for (int d = 0; d < HD / 8; d++) st.sum[d][0] = st.sum[d][1] = st.sum[d][2] = st.sum[d][3] = 0;
    st.top[0] = st.top[1] = -INFINITY;
    st.weight[0] = st.weight[1] = 0;
}

/* Keys [low, end) that a lane's two rows see. */
struct key_range {
    int32_t low[2], end[2];
};

/* s [16 rows, 8 N keys], products of q and k, becomes weights; the sums so far are scaled to the new maximum.
 * `key`: of s[0][0]. `edge`: some row does not see some key. */
template <int N, int HD>
__device__ __forceinline__ void rows_weigh(struct row_state<HD> &st, float (&s)[N][4],
                                           const struct attention_call &a, const struct key_range &range,
                                           int32_t key, bool edge)
{
    float top[2] = {st.top[0], st.top[1]};
    if (a.cap_log2 == 0) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] *= a.scale_log2;
    } else {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = attention_score(a, s[n][i]);
    }
    if (edge) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int32_t k = key + n * 8 + i % 2;
                if (k < range.low[i / 2] || k >= range.end[i / 2]) s[n][i] = -INFINITY;
            }
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    top[0] = quad_max(top[0]), top[1] = quad_max(top[1]);
    /* A row that has seen no key yet keeps weights of 0. */
    const float base[2] = {top[0] == -INFINITY ? 0 : top[0], top[1] == -INFINITY ? 0 : top[1]};
    if (__any_sync(0xffffffffu, top[0] > st.top[0] || top[1] > st.top[1])) {
        const float keep[2] = {exp2_fast(st.top[0] - base[0]), exp2_fast(st.top[1] - base[1])};
#pragma unroll
        for (int d = 0; d < HD / 8; d++)
#pragma unroll
            for (int i = 0; i < 4; i++) st.sum[d][i] *= keep[i / 2];
        st.weight[0] *= keep[0], st.weight[1] *= keep[1];
        st.top[0] = top[0], st.top[1] = top[1];
    }
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = exp2_fast(s[n][i] - base[i / 2]);
            st.weight[i / 2] += s[n][i];
        }
}

/* Matrices for load_matrices of rows ROW bytes apart. K as the second factor of q k^T: keys 0-7 and 8-15
 * every two, coordinates 0-7 and 8-15 every one. V, transposed, of p v: keys 0-7 and 8-15 every one. */
template <int ROW> __device__ __forceinline__ uint32_t k_lane_offset(int32_t lane)
{
    return static_cast<uint32_t>((lane % 8 + lane / 16 * 8) * ROW + lane / 8 % 2 * 16);
}

template <int ROW> __device__ __forceinline__ uint32_t v_lane_offset(int32_t lane)
{
    return static_cast<uint32_t>(lane % 16 * ROW + lane / 16 * 16);
}

/* sum += p v for 16 keys: p in two fragments of weights, v in shared memory at `v_lane`. */
template <typename T, int HD>
__device__ __forceinline__ void rows_add(struct row_state<HD> &st, const float (&s0)[4], const float (&s1)[4],
                                         uint32_t v_lane)
{
    const uint32_t p[4] = {pack<T>(s0[0], s0[1]), pack<T>(s0[2], s0[3]), pack<T>(s1[0], s1[1]),
                           pack<T>(s1[2], s1[3])};
#pragma unroll
    for (int d = 0; d < HD / 16; d++) {
        uint32_t b[4];
        load_matrices_transposed(b, v_lane + d * 32);
        multiply<T>(st.sum[2 * d], p, b[0], b[1]);
        multiply<T>(st.sum[2 * d + 1], p, b[2], b[3]);
    }
}

#endif
