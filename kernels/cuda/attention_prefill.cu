/* Prompt chunks by mma.sync: a block takes 64 rows of one head, a warp 16 of them; K and V come in tiles of
 * keys, two in shared memory. What attention_hopper.cu does not take, and all of it before sm_90. */

#include "kernels/cuda/attention_rows.cuh"

enum { PREFILL_WARPS = PREFILL_ROWS / 16, PREFILL_THREADS = 32 * PREFILL_WARPS };

template <int HD> struct prefill_layout {
    static constexpr int KEYS = HD <= 128 ? 64 : 32; /* a tile */
    static constexpr int ROW = 2 * HD + 16;          /* bytes; an odd number of 16-byte units: no conflicts */
    static constexpr int HALF = KEYS * ROW;          /* K, then as much V */
    static constexpr int STAGE = 2 * HALF;
};

/* Starts the copy of keys [key, key + KEYS) of a head; those that do not exist become zeros. */
template <int HD>
__device__ __forceinline__ void copy_tile(const struct prefill_tile &r, const struct attention_call &a,
                                          int32_t head, int32_t key, uint32_t to)
{
    using layout = prefill_layout<HD>;
    constexpr int UNITS = HD / 8; /* of 16 bytes, a row */
    const int32_t *table = a.block_table + r.seq * a.block_table_stride;
#pragma unroll
    for (int i = 0; i < UNITS * layout::KEYS / PREFILL_THREADS; i++) {
        const int32_t unit = threadIdx.x + i * PREFILL_THREADS, row = unit / UNITS,
                      column = unit % UNITS * 16;
        const int32_t k = min(key + row, r.len - 1);
        const char *from = a.k + table[k >> a.page_shift] * a.page_bytes + head * a.head_bytes +
                           static_cast<int64_t>(k & ((1 << a.page_shift) - 1)) * (2 * HD) + column;
        copy_async_16(to + row * layout::ROW + column, from, key + row < r.len);
        copy_async_16(to + layout::HALF + row * layout::ROW + column, from + a.v_bytes, key + row < r.len);
    }
}

/* q of a warp's 16 rows as the fragments of a product; rows past the chunk are zero. */
template <typename T, int HD>
__device__ __forceinline__ void load_q(uint32_t (&q)[HD / 16][4], const struct prefill_tile &r,
                                       const struct attention_call &a, int32_t head, int32_t warp,
                                       int32_t lane)
{
    const int32_t row = warp * 16 + lane / 4;
    const T *from = static_cast<const T *>(a.q) + (r.first_row + row) * a.q_stride +
                    static_cast<int64_t>(head) * HD + lane % 4 * 2;
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            q[k][i] =
                row + i % 2 * 8 < r.n_rows
                    ? *reinterpret_cast<const uint32_t *>(from + i % 2 * 8 * a.q_stride + k * 16 + i / 2 * 8)
                    : 0;
}

template <typename T, int HD>
__device__ __forceinline__ void attend_tile(struct row_state<HD> &st, const uint32_t (&q)[HD / 16][4],
                                            const struct attention_call &a, const struct key_range &range,
                                            int32_t key, bool edge, uint32_t tile, int32_t lane)
{
    using layout = prefill_layout<HD>;
    float s[layout::KEYS / 8][4] = {};
    const uint32_t k_lane = tile + k_lane_offset<layout::ROW>(lane);
#pragma unroll
    for (int k = 0; k < HD / 16; k++)
#pragma unroll
        for (int n = 0; n < layout::KEYS / 16; n++) {
            uint32_t b[4];
            load_matrices(b, k_lane + n * 16 * layout::ROW + k * 32);
            multiply<T>(s[2 * n], q[k], b[0], b[1]);
            multiply<T>(s[2 * n + 1], q[k], b[2], b[3]);
        }
    rows_weigh(st, s, a, range, key + lane % 4 * 2, edge);
    const uint32_t v_lane = tile + layout::HALF + v_lane_offset<layout::ROW>(lane);
#pragma unroll
    for (int n = 0; n < layout::KEYS / 16; n++)
        rows_add<T, HD>(st, s[2 * n], s[2 * n + 1], v_lane + n * 16 * layout::ROW);
}

template <typename T, int HD>
__device__ __forceinline__ void store_rows(struct row_state<HD> &st, const struct prefill_tile &r,
                                           const struct attention_call &a, int32_t head, int32_t warp,
                                           int32_t lane)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float inverse = 1 / quad_sum(st.weight[i]);
        const int32_t row = warp * 16 + lane / 4 + 8 * i;
        if (row >= r.n_rows) continue;
        T *to = static_cast<T *>(a.out) + (r.first_row + row) * a.out_stride +
                static_cast<int64_t>(head) * HD + lane % 4 * 2;
#pragma unroll
        for (int d = 0; d < HD / 8; d++)
            *reinterpret_cast<uint32_t *>(to + d * 8) =
                pack<T>(st.sum[d][2 * i] * inverse, st.sum[d][2 * i + 1] * inverse);
    }
}

template <typename T, int HD>
__global__ void __launch_bounds__(PREFILL_THREADS, HD <= 96    ? 3
                                                   : HD <= 128 ? 2
                                                               : 1)
    prefill_kernel(const struct attention_call a, const struct attention_plan plan)
{
    using layout = prefill_layout<HD>;
    extern __shared__ __align__(128) char smem[];
    pdl_wait();
    pdl_launch();
    if (static_cast<int32_t>(blockIdx.y) >= *plan.n_tiles) return;
    const int32_t head = blockIdx.x, kv_head = head / a.group, warp = threadIdx.x / 32,
                  lane = threadIdx.x % 32;
    const struct prefill_tile r = plan.tiles[blockIdx.y];
    uint32_t q[HD / 16][4];
    load_q<T, HD>(q, r, a, head, warp, lane);
    struct row_state<HD> st;
    rows_clear(st);
    struct key_range range;
    for (int i = 0; i < 2; i++) {
        const int32_t p = r.first_position + warp * 16 + lane / 4 + 8 * i;
        range.low[i] = first_key(p, a.window);
        range.end[i] = min(p + 1, r.len);
    }
    /* All rows of the warp see keys in [every_low, every_end). */
    const int32_t warp_position = r.first_position + warp * 16;
    const int32_t every_low = first_key(warp_position + 15, a.window), every_end = warp_position + 1;

    const uint32_t stages = shared_address(smem);
    const int32_t end = r.first_position + r.n_rows;
    int32_t key = first_key(r.first_position, a.window) / layout::KEYS * layout::KEYS, stage = 0;
    copy_tile<HD>(r, a, kv_head, key, stages);
    copy_async_commit();
    for (; key < end; key += layout::KEYS, stage ^= 1) {
        if (key + layout::KEYS < end)
            copy_tile<HD>(r, a, kv_head, key + layout::KEYS, stages + (stage ^ 1) * layout::STAGE);
        copy_async_commit();
        copy_async_wait<1>();
        __syncthreads();
        attend_tile<T, HD>(st, q, a, range, key, key < every_low || key + layout::KEYS > every_end,
                           stages + stage * layout::STAGE, lane);
        __syncthreads();
    }
    store_rows<T, HD>(st, r, a, head, warp, lane);
}

/* ---- the host's side ----------------------------------------------------------------------------------- */

typedef void prefill_function(struct attention_call, struct attention_plan);

struct prefill_choice {
    prefill_function *kernel;
    int32_t bytes;
};

template <typename T> static struct prefill_choice choose_for(int32_t head_dim)
{
    switch (head_dim) {
    case 64:
        return {prefill_kernel<T, 64>, 2 * prefill_layout<64>::STAGE};
    case 80:
        return {prefill_kernel<T, 80>, 2 * prefill_layout<80>::STAGE};
    case 96:
        return {prefill_kernel<T, 96>, 2 * prefill_layout<96>::STAGE};
    case 128:
        return {prefill_kernel<T, 128>, 2 * prefill_layout<128>::STAGE};
    case 256:
        return {prefill_kernel<T, 256>, 2 * prefill_layout<256>::STAGE};
    default:
        return {};
    }
}

static struct prefill_choice choose(const struct cuda_backend *cu, const struct kv_cache *kv)
{
    struct prefill_choice c = {};
    if (kv->dtype != cu->base.act_dtype) return c;
    if (kv->dtype == DTYPE_BF16) c = choose_for<__nv_bfloat16>(kv->head_dim);
    if (kv->dtype == DTYPE_F16) c = choose_for<__half>(kv->head_dim);
    if (static_cast<size_t>(c.bytes) > cu->smem_max) return {};
    return c;
}

int attention_prefill_fits(const struct cuda_backend *cu, const struct kv_cache *kv)
{
    return choose(cu, kv).kernel != nullptr;
}

llm_status attention_prefill(struct cuda_backend *cu, const struct attention_call *a,
                             const struct kv_cache *kv, const struct attention_plan *plan, int32_t max_tiles)
{
    const struct prefill_choice c = choose(cu, kv);
    if (cuda_check(cu, cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, c.bytes),
                   "attention of chunks"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention of chunks", c.kernel,
                       dim3(static_cast<unsigned>(a->n_heads), static_cast<unsigned>(max_tiles)),
                       dim3(PREFILL_THREADS), static_cast<size_t>(c.bytes), *a, *plan);
}
