/* Prompt chunks by wgmma and TMA (sm_90a). A block has 128 rows of one head at a time: a producer warp copies
 * tiles of K and V into rings in shared memory, a page a box of a tensor map over the whole pool, and two
 * warpgroups of 64 rows each compute. While a warpgroup does the softmax of one tile its products with V of
 * the tile before run, and the other warpgroup's products fill what is left. The grid is persistent; tiles
 * come longest first (attention_plan.cu). */

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

#include <cuda.h>

#include <cstring>

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAVE_WGMMA 1
#endif

enum { HOPPER_THREADS = 384, HOPPER_STAGES = 2, UNIT_BYTES = 128 /* of a row in a swizzled matrix */ };
/* A row's maximum is taken over only when it grows by this much (log2): weights up to 2^8 instead of 1 cost
 * no precision, and sums are scaled rarely. */
#define HOPPER_SLACK 8.0f

/* Shared memory, bytes. A matrix of n rows is [COLUMNS][n][128 bytes]; past HD a tensor copy leaves zeros. */
template <int HD> struct hopper_layout {
    static constexpr int COLUMNS = (HD + 63) / 64;
    static constexpr int KEYS = HD <= 128 ? 128 : 64; /* a tile */
    static constexpr int Q = COLUMNS * HOPPER_ROWS * UNIT_BYTES;
    static constexpr int TILE = COLUMNS * KEYS * UNIT_BYTES;
    static constexpr int K_AT = Q, V_AT = K_AT + HOPPER_STAGES * TILE;
    static constexpr int BARRIERS_AT = V_AT + HOPPER_STAGES * TILE;
    static constexpr int BYTES = BARRIERS_AT + 8 * 4 * HOPPER_STAGES + 1024 /* to align the start */;
};

/* Named barriers of warpgroup 0 or 1: of its own threads; and of both, to take turns at the tensor cores. */
__device__ __forceinline__ int32_t own_barrier(int32_t group)
{
    return 1 + group;
}

__device__ __forceinline__ int32_t turn_barrier(int32_t group)
{
    return 3 + group;
}

/* Barriers: tiles of K and V that have arrived, and that have been used. */
struct hopper_barriers {
    uint32_t k_full, v_full, k_empty, v_empty; /* addresses of HOPPER_STAGES each */
};

/* What a block computes at a time: rows of one head of one sequence, and the tiles of keys they see. */
struct hopper_item {
    struct prefill_tile rows;
    int32_t head, first_key, n_tiles;
};

/* A stage of a ring and the parity of its phase. */
struct ring_place {
    uint32_t stage, phase;
    __device__ __forceinline__ void next()
    {
        if (++stage == HOPPER_STAGES) stage = 0, phase ^= 1;
    }
};

/* Item number `round` of this block; -1: none. Rounds go to and fro over the blocks, so that each gets long
 * and short ones. */
__device__ __forceinline__ int32_t item_number(int32_t round, int32_t n_items)
{
    const int32_t n = gridDim.x, b = blockIdx.x, i = round * n + (round % 2 ? n - 1 - b : b);
    return i < n_items ? i : -1;
}

__device__ __forceinline__ struct prefill_tile item_rows(const struct attention_plan &plan, int32_t n_heads,
                                                         int32_t i)
{
    return i < 0 ? prefill_tile{} : plan.tiles[i / n_heads];
}

template <int HD>
__device__ __forceinline__ struct hopper_item item_of(const struct prefill_tile &rows,
                                                      const struct attention_call &a, int32_t i)
{
    constexpr int KEYS = hopper_layout<HD>::KEYS;
    struct hopper_item it;
    it.rows = rows;
    it.head = i % a.n_heads;
    it.first_key = first_key(rows.first_position, a.window) / KEYS * KEYS;
    it.n_tiles = (rows.first_position + rows.n_rows - it.first_key + KEYS - 1) / KEYS;
    return it;
}

/* What a lane of the producer warp copies: box `lane` of each tile, the keys of one page (or of a part). */
struct hopper_source {
    const void *map;
    int32_t lane, n_boxes, box_rows;
};

/* Waits until the stage is free, then starts the copy of a tile of plane `plane`. */
template <int HD>
__device__ __forceinline__ void copy_tile(const struct hopper_source &from, uint32_t empty, uint32_t full,
                                          const struct ring_place &at, uint32_t ring, int32_t row,
                                          int32_t plane, int32_t page)
{
    using layout = hopper_layout<HD>;
    const uint32_t to = ring + at.stage * layout::TILE + from.lane * from.box_rows * UNIT_BYTES;
    barrier_wait(empty + 8 * at.stage, at.phase);
    if (from.lane == 0) barrier_expect(full + 8 * at.stage, layout::TILE);
    __syncwarp();
    if (from.lane >= from.n_boxes) return;
#pragma unroll
    for (int c = 0; c < layout::COLUMNS; c++)
        copy_box(to + c * layout::KEYS * UNIT_BYTES, from.map, full + 8 * at.stage, c * 64, row, plane, page);
}

/* One warp. K of a tile goes before V of the tile before, as they are used. */
template <int HD>
__device__ __forceinline__ void produce(const struct attention_call &a, const struct attention_plan &plan,
                                        const void *map, int32_t plane, const struct hopper_barriers &bar,
                                        uint32_t smem, int32_t n_items)
{
    using layout = hopper_layout<HD>;
    const int32_t box_rows = min(1 << a.page_shift, static_cast<int32_t>(layout::KEYS));
    const struct hopper_source from = {map, static_cast<int32_t>(threadIdx.x % 32), layout::KEYS / box_rows,
                                       box_rows};
    const int32_t key_in_tile = from.lane * box_rows, row_mask = (1 << a.page_shift) - 1;
    struct ring_place k_at = {0, 1}, v_at = {0, 1}; /* stages begin empty */
    for (int32_t round = 0, i; (i = item_number(round, n_items)) >= 0; round++) {
        const struct hopper_item it = item_of<HD>(item_rows(plan, a.n_heads, i), a, i);
        const int32_t *table = a.block_table + it.rows.seq * a.block_table_stride;
        const int32_t k_plane = plane + it.head / a.group, v_plane = k_plane + a.n_kv_heads;
        int32_t key = it.first_key + key_in_tile, page = 0, page_before = 0;
        if (from.lane < from.n_boxes) page = table[min(key, it.rows.len - 1) >> a.page_shift];
        for (int32_t t = 0; t < it.n_tiles; t++) {
            copy_tile<HD>(from, bar.k_empty, bar.k_full, k_at, smem + layout::K_AT, key & row_mask, k_plane,
                          page);
            k_at.next();
            if (t) {
                copy_tile<HD>(from, bar.v_empty, bar.v_full, v_at, smem + layout::V_AT,
                              (key - layout::KEYS) & row_mask, v_plane, page_before);
                v_at.next();
            }
            key += layout::KEYS;
            page_before = page;
            if (t + 1 < it.n_tiles && from.lane < from.n_boxes)
                page = table[min(key, it.rows.len - 1) >> a.page_shift];
        }
        copy_tile<HD>(from, bar.v_empty, bar.v_full, v_at, smem + layout::V_AT,
                      (key - layout::KEYS) & row_mask, v_plane, page_before);
        v_at.next();
    }
}

/* A warpgroup's 64 rows of q, in 16-byte units; rows past the chunk are zero. */
template <typename T, int HD>
__device__ __forceinline__ void load_q(uint4 (&v)[HD / 16], const struct prefill_tile &rows, int32_t head,
                                       const struct attention_call &a, int32_t group_row)
{
    constexpr int UNITS = HD / 8; /* a row */
    const T *q = static_cast<const T *>(a.q) + static_cast<int64_t>(head) * HD;
#pragma unroll
    for (int i = 0; i < UNITS / 2; i++) {
        const int32_t unit = threadIdx.x % 128 + i * 128, row = group_row + unit / UNITS;
        const T *from = q + (rows.first_row + row) * a.q_stride + unit % UNITS * 8;
        v[i] = row < rows.n_rows ? *reinterpret_cast<const uint4 *>(from) : make_uint4(0, 0, 0, 0);
    }
}

/* Into shared memory, swizzled, when all warps of the warpgroup are done with the rows before. */
template <int HD>
__device__ __forceinline__ void put_q(const uint4 (&v)[HD / 16], char *to, int32_t group_row, int32_t own)
{
    constexpr int UNITS = HD / 8;
    named_sync(own, 128);
#pragma unroll
    for (int i = 0; i < UNITS / 2; i++) {
        const int32_t unit = threadIdx.x % 128 + i * 128, row = group_row + unit / UNITS, c = unit % UNITS;
        *reinterpret_cast<uint4 *>(to + (c / 8 * HOPPER_ROWS + row) * UNIT_BYTES + ((c % 8 ^ row % 8) * 16)) =
            v[i];
    }
    fence_async_proxy();
    named_sync(own, 128);
}

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

#ifdef HAVE_WGMMA
template <typename T, int HD>
__device__ __forceinline__ void begin_scores(float (&s)[hopper_layout<HD>::KEYS / 8][4], uint32_t q,
                                             uint32_t k)
{
    using layout = hopper_layout<HD>;
    pin(s);
    products_begin();
#pragma unroll
    for (int i = 0; i < HD / 16; i++) {
        const uint64_t a = matrix_of(q + i / 4 * HOPPER_ROWS * UNIT_BYTES + i % 4 * 32, 16);
        const uint64_t b = matrix_of(k + i / 4 * layout::KEYS * UNIT_BYTES + i % 4 * 32, 16);
        product_shared<T>(s, a, b, i != 0);
    }
    products_commit();
    pin(s);
}

template <typename T, int HD>
__device__ __forceinline__ void begin_sums(float (&sum)[HD / 8][4],
                                           const uint32_t (&p)[hopper_layout<HD>::KEYS / 16][4], uint32_t v)
{
    using layout = hopper_layout<HD>;
    constexpr int COLUMN = layout::KEYS * UNIT_BYTES;
    pin(sum);
    products_begin();
#pragma unroll
    for (int i = 0; i < layout::KEYS / 16; i++) {
        const uint64_t b = matrix_of(v + i * 16 * UNIT_BYTES, COLUMN);
        product_registers<T, 0, (HD < 128 ? HD : 128) / 8>(sum, p[i], b);
        if constexpr (HD == 256)
            product_registers<T, 16, 16>(sum, p[i], matrix_of(v + 2 * COLUMN + i * 16 * UNIT_BYTES, COLUMN));
    }
    products_commit();
    pin(sum);
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

#ifdef HAVE_WGMMA
/* Where a warpgroup is in the rings, and what it computes with. */
struct hopper_group {
    const struct hopper_barriers &bar;
    char *memory;
    uint32_t smem, q; /* addresses: of the memory, of its own rows */
    int32_t own, turn, other_turn;
    struct ring_place k, v;
};

/* Starts the scores of the next tile of K. */
template <typename T, int HD>
__device__ __forceinline__ void next_scores(struct hopper_group &g,
                                            float (&s)[hopper_layout<HD>::KEYS / 8][4])
{
    using layout = hopper_layout<HD>;
    begin_scores<T, HD>(s, g.q, g.smem + layout::K_AT + g.k.stage * layout::TILE);
}

/* Starts the sums of the next tile of V; `left`: keys of the sequence from the tile's first on. */
template <typename T, int HD>
__device__ __forceinline__ void next_sums(struct hopper_group &g, struct hopper_state<HD> &st,
                                          const uint32_t (&p)[hopper_layout<HD>::KEYS / 16][4], int32_t left)
{
    using layout = hopper_layout<HD>;
    barrier_wait(g.bar.v_full + 8 * g.v.stage, g.v.phase);
    if (left < layout::KEYS) {
        clear_rows<HD>(g.memory + layout::V_AT + g.v.stage * layout::TILE, left);
        fence_async_proxy();
        named_sync(g.own, 128);
    }
    begin_sums<T, HD>(st.sum, p, g.smem + layout::V_AT + g.v.stage * layout::TILE);
}

/* The tile of K (of V) is used: the producer may have its stage. */
__device__ __forceinline__ void release_k(struct hopper_group &g)
{
    if (threadIdx.x % 32 == 0) barrier_arrive(g.bar.k_empty + 8 * g.k.stage);
    g.k.next();
}

__device__ __forceinline__ void release_v(struct hopper_group &g)
{
    if (threadIdx.x % 32 == 0) barrier_arrive(g.bar.v_empty + 8 * g.v.stage);
    g.v.next();
}

/* A warpgroup: 64 rows of every item. The products of a tile's V run with those of the next tile's K, be that
 * of the same item or of the next. */
template <typename T, int HD>
__device__ __forceinline__ void consume(const struct attention_call &a, const struct attention_plan &plan,
                                        const struct hopper_barriers &bar, char *memory, int32_t n_items)
{
    using layout = hopper_layout<HD>;
    constexpr int N = layout::KEYS / 8;
    /* Through a shuffle, so that the compiler knows it to be one value a warp. */
    const int32_t group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    const int32_t row = group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    const uint32_t smem = smem_address(memory);
    struct hopper_group g = {bar,
                             memory,
                             smem,
                             smem + group * 64 * UNIT_BYTES,
                             own_barrier(group),
                             turn_barrier(group),
                             turn_barrier(1 - group),
                             {0, 0},
                             {0, 0}};
    float s[N][4];
    uint32_t p[N / 2][4];
    uint4 q_rows[HD / 16];
    struct hopper_state<HD> st;
    if (group == 1) named_arrive(g.other_turn, 256);
    int32_t i = item_number(0, n_items);
    if (i < 0) return;
    struct hopper_item it = item_of<HD>(item_rows(plan, a.n_heads, i), a, i);
    load_q<T, HD>(q_rows, it.rows, it.head, a, group * 64);
    put_q<HD>(q_rows, memory, group * 64, g.own);

    state_clear(st);
    barrier_wait(bar.k_full + 8 * g.k.stage, g.k.phase);
    next_scores<T, HD>(g, s);
    products_wait<0>();
    pin(s);
    release_k(g);
    weigh_tile<HD>(st, s, a, it, it.first_key, it.rows.first_position + row);
    pack_tile<T, N>(p, s);
    for (int32_t round = 1;; round++) {
        i = item_number(round, n_items);
        const struct prefill_tile next_rows = item_rows(plan, a.n_heads, i);
        /* A long time before they are used; with wide heads there are no registers for that. */
        if (HD <= 128) load_q<T, HD>(q_rows, next_rows, i % a.n_heads, a, group * 64);
        int32_t key = it.first_key;
        for (int32_t t = 1; t < it.n_tiles; t++, key += layout::KEYS) {
            barrier_wait(bar.k_full + 8 * g.k.stage, g.k.phase);
            named_sync(g.turn, 256);
            next_scores<T, HD>(g, s);
            next_sums<T, HD>(g, st, p, it.rows.len - key);
            named_arrive(g.other_turn, 256);
            products_wait<1>();
            pin(s);
            release_k(g);
            weigh_tile<HD>(st, s, a, it, key + layout::KEYS, it.rows.first_position + row);
            products_wait<0>();
            pin(st.sum);
            release_v(g);
            scale_sums<HD>(st);
            pack_tile<T, N>(p, s);
        }
        if (i < 0) {
            next_sums<T, HD>(g, st, p, it.rows.len - key);
            products_wait<0>();
            pin(st.sum);
            store_sums<T, HD>(st, a, it, row);
            return;
        }
        if (HD > 128) load_q<T, HD>(q_rows, next_rows, i % a.n_heads, a, group * 64);
        put_q<HD>(q_rows, memory, group * 64, g.own);
        barrier_wait(bar.k_full + 8 * g.k.stage, g.k.phase);
        named_sync(g.turn, 256);
        next_scores<T, HD>(g, s);
        next_sums<T, HD>(g, st, p, it.rows.len - key);
        named_arrive(g.other_turn, 256);
        products_wait<1>();
        pin(s);
        release_k(g);
        products_wait<0>();
        pin(st.sum);
        release_v(g);
        store_sums<T, HD>(st, a, it, row);
        it = item_of<HD>(next_rows, a, i);
        state_clear(st);
        weigh_tile<HD>(st, s, a, it, it.first_key, it.rows.first_position + row);
        pack_tile<T, N>(p, s);
    }
}
#endif

template <typename T, int HD>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    hopper_kernel(const __grid_constant__ CUtensorMap map, const struct attention_call a,
                  const struct attention_plan plan, int32_t plane)
{
#ifdef HAVE_WGMMA
    using layout = hopper_layout<HD>;
    extern __shared__ char unaligned[];
    char *memory = unaligned + (-smem_address(unaligned) & 1023);
    const uint32_t smem = smem_address(memory), at = smem + layout::BARRIERS_AT;
    const struct hopper_barriers bar = {at, at + 8 * HOPPER_STAGES, at + 16 * HOPPER_STAGES,
                                        at + 24 * HOPPER_STAGES};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2 * HOPPER_STAGES; i++) barrier_init(bar.k_full + 8 * i, 1);
        for (int i = 0; i < 2 * HOPPER_STAGES; i++) barrier_init(bar.k_empty + 8 * i, 8 /* warps */);
        fence_async_proxy();
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    pdl_wait();
    pdl_launch();
    const int32_t n_items = *plan.n_tiles * a.n_heads;
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x < 32) produce<HD>(a, plan, &map, plane, bar, smem, n_items);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<T, HD>(a, plan, bar, memory, n_items);
    }
#endif
}

/* ---- the host's side ----------------------------------------------------------------------------------- */

typedef void hopper_function(CUtensorMap, struct attention_call, struct attention_plan, int32_t);

struct hopper_choice {
    hopper_function *kernel;
    int32_t bytes, keys;
};

template <typename T, int HD> static struct hopper_choice choice_of()
{
    return {hopper_kernel<T, HD>, hopper_layout<HD>::BYTES, hopper_layout<HD>::KEYS};
}

template <typename T> static struct hopper_choice choose_for(int32_t head_dim)
{
    switch (head_dim) {
    case 64:
        return choice_of<T, 64>();
    case 80:
        return choice_of<T, 80>();
    case 96:
        return choice_of<T, 96>();
    case 128:
        return choice_of<T, 128>();
    case 256:
        return choice_of<T, 256>();
    default:
        return {};
    }
}

static struct hopper_choice choose(const struct cuda_backend *cu, const struct kv_cache *kv)
{
    if (cu->major != 9 || kv->dtype != cu->base.act_dtype || kv->page_size < 8) return {};
    if (kv->dtype == DTYPE_BF16) return choose_for<__nv_bfloat16>(kv->head_dim);
    if (kv->dtype == DTYPE_F16) return choose_for<__half>(kv->head_dim);
    return {};
}

int attention_hopper_fits(const struct cuda_backend *cu, const struct kv_cache *kv)
{
    return cu->attention->encode_map && choose(cu, kv).kernel;
}

void attention_hopper_open(struct cuda_attention *at)
{
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at->encode_map, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        at->encode_map = nullptr;
}

/* The tensor map of a pool: coordinates column, row of a page, plane (layer, k or v, head), page. */
static llm_status find_map(struct cuda_backend *cu, const struct kv_cache *kv, int32_t keys, CUtensorMap *out)
{
    struct cuda_attention *at = cu->attention;
    const int32_t n_planes = 2 * kv->n_layers * kv->n_kv_heads;
    struct kv_map_key key;
    memset(&key, 0, sizeof key);
    key.base = kv->base, key.page_bytes = static_cast<int64_t>(kv->page_bytes), key.n_pages = kv->n_pages;
    key.page_size = kv->page_size, key.n_planes = n_planes, key.head_dim = kv->head_dim,
    key.dtype = kv->dtype;
    if (memcmp(&key, &at->map_key, sizeof key)) {
        const cuuint64_t row_bytes = static_cast<cuuint64_t>(kv->head_dim) * 2;
        const cuuint64_t sizes[] = {static_cast<cuuint64_t>(kv->head_dim),
                                    static_cast<cuuint64_t>(kv->page_size), static_cast<cuuint64_t>(n_planes),
                                    static_cast<cuuint64_t>(kv->n_pages)};
        const cuuint64_t strides[] = {row_bytes, row_bytes * sizes[1], kv->page_bytes};
        const cuuint32_t box[] = {64, static_cast<cuuint32_t>(kv->page_size < keys ? kv->page_size : keys), 1,
                                  1};
        const cuuint32_t steps[] = {1, 1, 1, 1};
        const CUresult e = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(at->encode_map)(
            reinterpret_cast<CUtensorMap *>(at->map),
            kv->dtype == DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
            kv->base, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
            CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        if (e != CUDA_SUCCESS) return cuda_check(cu, cudaErrorInvalidValue, "tensor map of the KV pages");
        at->map_key = key;
    }
    memcpy(out, at->map, sizeof *out);
    return LLM_OK;
}

llm_status attention_hopper(struct cuda_backend *cu, const struct attention_call *a,
                            const struct kv_cache *kv, int32_t layer, const struct attention_plan *plan,
                            int32_t max_tiles)
{
    const struct hopper_choice c = choose(cu, kv);
    const int64_t most = static_cast<int64_t>(max_tiles) * a->n_heads;
    CUtensorMap map;
    if (find_map(cu, kv, c.keys, &map) ||
        cuda_check(cu, cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, c.bytes),
                   "attention of chunks"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention of chunks", c.kernel,
                       dim3(static_cast<unsigned>(most < cu->n_sms ? most : cu->n_sms)), dim3(HOPPER_THREADS),
                       static_cast<size_t>(c.bytes), map, *a, *plan, 2 * layer * kv->n_kv_heads);
}
