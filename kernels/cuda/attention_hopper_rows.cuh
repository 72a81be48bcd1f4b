#ifndef LLM_KERNELS_CUDA_ATTENTION_HOPPER_ROWS_CUH
#define LLM_KERNELS_CUDA_ATTENTION_HOPPER_ROWS_CUH

/* The running softmax of a warpgroup's 64 rows, for the kernel of chunks on Hopper. */

#include "kernels/cuda/attention_hopper.cuh"

/* A row's maximum is taken over only when it grows by this much (log2): weights up to 2^8 instead of 1 cost
 * no precision, and sums are scaled rarely. */
#define HOPPER_SLACK 8.0f

/* Rows of V from `from` on become zero: a weight of 0 times what the page held before may be NaN. */
template <int HD> __device__ __forceinline__ void clear_rows(char *v, int32_t from)
{
    using layout = hopper_layout<HD>;
    for (int32_t i = from * 8 + threadIdx.x % 128; i < layout::KEYS * 8; i += 128)
#pragma unroll
        for (int c = 0; c < layout::COLUMNS; c++)
            *reinterpret_cast<uint4 *>(v + c * layout::KEYS * UNIT_BYTES + i * 16) = make_uint4(0, 0, 0, 0);
}

/* A warpgroup's sums of 64 rows; of a lane's two rows, maximum and share of the sum of weights. */
template <int HD> struct hopper_state {
    float sum[HD / 8][4], top[2], weight[2], keep[2];
    int rescale;
};

template <int HD> __device__ __forceinline__ void state_clear(struct hopper_state<HD> &st)
{
#pragma unroll
    for (int d = 0; d < HD / 8; d++) st.sum[d][0] = st.sum[d][1] = st.sum[d][2] = st.sum[d][3] = 0;
    st.top[0] = st.top[1] = -INFINITY;
    st.weight[0] = st.weight[1] = 0;
}

#if HOPPER
template <typename T, int HD>
__device__ __forceinline__ void begin_scores(float (&s)[hopper_layout<HD>::KEYS / 8][4], uint32_t q,
                                             uint32_t k)
{
    using layout = hopper_layout<HD>;
    wgmma_pin(s);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < HD / 16; i++) {
        const uint64_t a = wgmma_descriptor(q + i / 4 * HOPPER_ROWS * UNIT_BYTES + i % 4 * 32);
        const uint64_t b = wgmma_descriptor(k + i / 4 * layout::KEYS * UNIT_BYTES + i % 4 * 32);
        product_shared<T>(s, a, b, i != 0);
    }
    wgmma_commit();
    wgmma_pin(s);
}

template <typename T, int HD>
__device__ __forceinline__ void begin_sums(float (&sum)[HD / 8][4],
                                           const uint32_t (&p)[hopper_layout<HD>::KEYS / 16][4], uint32_t v)
{
    using layout = hopper_layout<HD>;
    constexpr int COLUMN = layout::KEYS * UNIT_BYTES;
    wgmma_pin(sum);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < layout::KEYS / 16; i++) {
        const uint64_t b = wgmma_descriptor(v + i * 16 * UNIT_BYTES, COLUMN);
        product_registers<T, 0, (HD < 128 ? HD : 128) / 8>(sum, p[i], b);
        if constexpr (HD == 256)
            product_registers<T, 16, 16>(sum, p[i],
                                         wgmma_descriptor(v + 2 * COLUMN + i * 16 * UNIT_BYTES, COLUMN));
    }
    wgmma_commit();
    wgmma_pin(sum);
}
#endif

/* Scores to weights; the sums are to be scaled by `keep` if `rescale`. */
template <int HD>
__device__ __forceinline__ void weigh_tile(struct hopper_state<HD> &st,
                                           float (&s)[hopper_layout<HD>::KEYS / 8][4],
                                           const struct attention_call &a, const struct hopper_item &it,
                                           int32_t key, int32_t position)
{
    constexpr int N = hopper_layout<HD>::KEYS / 8;
    const int32_t lane = threadIdx.x % 32, warp_position = position - lane / 4;
    float scale = a.scale_log2;
    if (a.cap_log2 != 0) {
        scale = 1;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[n][i] = attention_score(a, s[n][i]);
    }
    if (key + hopper_layout<HD>::KEYS > warp_position + 1 || key < first_key(warp_position + 15, a.window)) {
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int32_t p = position + i / 2 * 8, k = key + n * 8 + lane % 4 * 2 + i % 2;
                if (k < first_key(p, a.window) || k > p || k >= it.rows.len) s[n][i] = -INFINITY;
            }
    }
    float top[2] = {s[0][0], s[0][2]};
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) top[i / 2] = fmaxf(top[i / 2], s[n][i]);
    top[0] = quad_max(top[0]) * scale, top[1] = quad_max(top[1]) * scale;
    st.rescale =
        __any_sync(0xffffffffu, top[0] > st.top[0] + HOPPER_SLACK || top[1] > st.top[1] + HOPPER_SLACK);
    if (st.rescale) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float high = fmaxf(top[i], st.top[i]);
            st.keep[i] = high == -INFINITY ? 1 : exp2_fast(st.top[i] - high);
            st.top[i] = high;
            st.weight[i] *= st.keep[i];
        }
    }
    const float base[2] = {st.top[0] == -INFINITY ? 0 : st.top[0], st.top[1] == -INFINITY ? 0 : st.top[1]};
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = exp2_fast(fmaf(s[n][i], scale, -base[i / 2]));
            st.weight[i / 2] += s[n][i];
        }
}

template <int HD> __device__ __forceinline__ void scale_sums(struct hopper_state<HD> &st)
{
    if (!st.rescale) return;
#pragma unroll
    for (int d = 0; d < HD / 8; d++)
#pragma unroll
        for (int i = 0; i < 4; i++) st.sum[d][i] *= st.keep[i / 2];
}

template <typename T, int N>
__device__ __forceinline__ void pack_tile(uint32_t (&p)[N / 2][4], const float (&s)[N][4])
{
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        p[i][0] = pack<T>(s[2 * i][0], s[2 * i][1]), p[i][1] = pack<T>(s[2 * i][2], s[2 * i][3]);
        p[i][2] = pack<T>(s[2 * i + 1][0], s[2 * i + 1][1]),
        p[i][3] = pack<T>(s[2 * i + 1][2], s[2 * i + 1][3]);
    }
}

/* A warp's 16 rows, scaled, through shared memory that is its own, so that they are written in whole lines.
 * `to`: its first row in a place of q, swizzled as that is; `row`: its first in the item. */
template <typename T, int HD>
__device__ __forceinline__ void store_lines(const struct hopper_state<HD> &st, const struct attention_call &a,
                                            const struct hopper_item &it, char *to, int32_t row)
{
    constexpr int UNITS = HD / 8; /* of 16 bytes, a row */
    const int32_t lane = threadIdx.x % 32;
    auto unit_at = [&](int32_t r, int32_t c) {
        return to + (c / 8 * HOPPER_ROWS + r) * UNIT_BYTES + (c % 8 ^ r % 8) * 16;
    };
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float inverse = 1 / quad_sum(st.weight[i]);
#pragma unroll
        for (int d = 0; d < UNITS; d++)
            *reinterpret_cast<uint32_t *>(unit_at(lane / 4 + 8 * i, d) + lane % 4 * 4) =
                pack<T>(st.sum[d][2 * i] * inverse, st.sum[d][2 * i + 1] * inverse);
    }
    __syncwarp();
    T *out = static_cast<T *>(a.out) + (it.rows.first_row + row) * a.out_stride +
             static_cast<int64_t>(it.head) * HD;
#pragma unroll
    for (int i = 0; i < UNITS / 2; i++) {
        const int32_t unit = lane + 32 * i, r = unit / UNITS, c = unit % UNITS;
        if (row + r < it.rows.n_rows)
            *reinterpret_cast<uint4 *>(out + r * a.out_stride + c * 8) =
                *reinterpret_cast<const uint4 *>(unit_at(r, c));
    }
    async_fence(); /* the next rows of q come here */
    __syncwarp();
}

/* The same from registers, where shared memory is not to spare. `row`: this lane's first. */
template <typename T, int HD>
__device__ __forceinline__ void store_sums(struct hopper_state<HD> &st, const struct attention_call &a,
                                           const struct hopper_item &it, int32_t row)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float inverse = 1 / quad_sum(st.weight[i]);
        if (row + 8 * i >= it.rows.n_rows) continue;
        T *to = static_cast<T *>(a.out) + (it.rows.first_row + row + 8 * i) * a.out_stride +
                static_cast<int64_t>(it.head) * HD + threadIdx.x % 4 * 2;
#pragma unroll
        for (int d = 0; d < HD / 8; d++)
            *reinterpret_cast<uint32_t *>(to + d * 8) =
                pack<T>(st.sum[d][2 * i] * inverse, st.sum[d][2 * i + 1] * inverse);
    }
}

#endif
