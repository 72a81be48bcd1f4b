#ifndef LLM_KERNELS_CUDA_ATTENTION_HOPPER_CUH
#define LLM_KERNELS_CUDA_ATTENTION_HOPPER_CUH

/* The kernel for chunks on Hopper (attention_hopper.cu): what its warps share, and the warp that copies. */

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_wgmma.cuh"

enum { HOPPER_STAGES = 2, UNIT_BYTES = 128 /* of a row in a swizzled matrix */ };

/* Shared memory, bytes. A matrix of n rows is [COLUMNS][n][128 bytes]; past HD a tensor copy of K or V leaves
 * zeros. Where there is room q has two places: an item's rows are there before the item ahead has ended. */
template <int HD> struct hopper_layout {
    static constexpr int COLUMNS = (HD + 63) / 64;
    static constexpr int KEYS = HD <= 128 ? 128 : 64; /* a tile */
    static constexpr int Q_STAGES = HD <= 128 ? 2 : 1;
    static constexpr int Q = COLUMNS * HOPPER_ROWS * UNIT_BYTES;
    static constexpr int TILE = COLUMNS * KEYS * UNIT_BYTES;
    static constexpr int K_AT = Q_STAGES * Q, V_AT = K_AT + HOPPER_STAGES * TILE;
    static constexpr int BARRIERS_AT = V_AT + HOPPER_STAGES * TILE;
    static constexpr int BYTES =
        BARRIERS_AT + 8 * (4 * HOPPER_STAGES + 2 * Q_STAGES) + 1024 /* to align the start */;
};

/* Of q, and tiles of K and V: those that have arrived, and those that have been used. Addresses, of as many
 * barriers as there are stages. */
struct hopper_barriers {
    uint32_t k_full, v_full, q_full, k_empty, v_empty, q_empty;
};

template <int HD> __device__ __forceinline__ struct hopper_barriers barriers_at(uint32_t smem)
{
    using layout = hopper_layout<HD>;
    const uint32_t at = smem + layout::BARRIERS_AT, ring = 8 * HOPPER_STAGES, q_ring = 8 * layout::Q_STAGES;
    return {
        at, at + ring, at + 2 * ring, at + 2 * ring + q_ring, at + 3 * ring + q_ring, at + 4 * ring + q_ring};
}

template <int HD> __device__ __forceinline__ void barriers_init(const struct hopper_barriers &bar)
{
    constexpr int HALF = 2 * HOPPER_STAGES + hopper_layout<HD>::Q_STAGES;
    for (int i = 0; i < HALF; i++) barrier_init(bar.k_full + 8 * i, 1);
    for (int i = 0; i < 2 * HOPPER_STAGES; i++) barrier_init(bar.k_empty + 8 * i, 8 /* warps */);
    for (int i = 0; i < hopper_layout<HD>::Q_STAGES; i++)
        barrier_init(bar.q_empty + 8 * i, hopper_layout<HD>::Q_STAGES > 1 ? 8 : 256 /* threads */);
    async_fence();
    barrier_init_fence();
}

/* What a block computes at a time: rows of one head of one sequence, and the tiles of keys they see. */
struct hopper_item {
    struct prefill_tile rows;
    int32_t head, first_key, n_tiles; /* n_tiles 0: there is no more */
};

/* A stage of a ring and the parity of its phase. */
template <int STAGES> struct ring_place {
    uint32_t stage, phase;
    __device__ __forceinline__ void next()
    {
        if (++stage == STAGES) stage = 0, phase ^= 1;
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
    struct hopper_item it = {};
    if (i < 0) return it;
    it.rows = rows;
    it.head = i % a.n_heads;
    it.first_key = first_key(rows.first_position, a.window) / KEYS * KEYS;
    it.n_tiles = (rows.first_position + rows.n_rows - it.first_key + KEYS - 1) / KEYS;
    return it;
}

/* What the producer warp works with. A lane copies box `lane` of each tile, the keys of one page (or of a
 * part). */
struct hopper_producer {
    const void *kv_map, *q_map;
    uint32_t smem;
    int32_t lane, n_boxes, box_rows, row_mask;
};

/* The page of this lane's keys, the first of which is `key`. */
__device__ __forceinline__ int32_t page_of(const struct hopper_producer &p, const struct attention_call &a,
                                           const struct prefill_tile &rows, int32_t key)
{
    return p.lane < p.n_boxes
               ? a.block_table[rows.seq * a.block_table_stride + (min(key, rows.len - 1) >> a.page_shift)]
               : 0;
}

/* Waits until the stage is free, then starts the copy of a tile of plane `plane`. */
template <int HD>
__device__ __forceinline__ void copy_tile(const struct hopper_producer &p, uint32_t empty, uint32_t full,
                                          const struct ring_place<HOPPER_STAGES> &at, uint32_t ring,
                                          int32_t key, int32_t plane, int32_t page)
{
    using layout = hopper_layout<HD>;
    const uint32_t to = p.smem + ring + at.stage * layout::TILE + p.lane * p.box_rows * UNIT_BYTES;
    barrier_wait(empty + 8 * at.stage, at.phase);
    if (p.lane == 0) barrier_expect(full + 8 * at.stage, layout::TILE);
    __syncwarp();
    if (p.lane >= p.n_boxes) return;
#pragma unroll
    for (int c = 0; c < layout::COLUMNS; c++)
        copy_box(to + c * layout::KEYS * UNIT_BYTES, p.kv_map, full + 8 * at.stage, c * 64, key & p.row_mask,
                 plane, page);
}

/* The item and its rows of q; those past the chunk are other rows, whose results nobody keeps. */
template <int HD>
__device__ __forceinline__ void copy_item(const struct hopper_producer &p, const struct hopper_barriers &bar,
                                          const struct ring_place<hopper_layout<HD>::Q_STAGES> &at,
                                          struct hopper_item *items, const struct hopper_item &it)
{
    using layout = hopper_layout<HD>;
    if (p.lane != 0) return;
    const uint32_t full = bar.q_full + 8 * at.stage, to = p.smem + at.stage * layout::Q;
    barrier_wait(bar.q_empty + 8 * at.stage, at.phase);
    items[at.stage] = it;
    if (!it.n_tiles) {
        barrier_arrive(full);
        return;
    }
    barrier_expect(full, layout::Q);
#pragma unroll
    for (int c = 0; c < layout::COLUMNS; c++)
        copy_box(to + c * HOPPER_ROWS * UNIT_BYTES, p.q_map, full, c * 64, it.rows.first_row, it.head, 0);
}

/* One warp. K of a tile goes before V of the tile before, as they are used. What is needed of the next item
 * is asked for before this one's last copies wait for room. */
template <int HD>
__device__ __forceinline__ void produce(const struct hopper_producer &p, const struct attention_call &a,
                                        const struct attention_plan &plan, int32_t plane,
                                        const struct hopper_barriers &bar, struct hopper_item *items,
                                        int32_t n_items)
{
    using layout = hopper_layout<HD>;
    struct ring_place<HOPPER_STAGES> k_at = {0, 1}, v_at = {
        0, 1
    }; /* stages begin empty */
    struct ring_place<layout::Q_STAGES> q_at = {
        0, 1
    };
    int32_t i = item_number(0, n_items);
    struct hopper_item it = item_of<HD>(item_rows(plan, a.n_heads, i), a, i);
    int32_t page = it.n_tiles ? page_of(p, a, it.rows, it.first_key + p.lane * p.box_rows) : 0;
    for (int32_t round = 1; it.n_tiles; round++) {
        copy_item<HD>(p, bar, q_at, items, it);
        q_at.next();
        i = item_number(round, n_items);
        const struct prefill_tile next_rows = item_rows(plan, a.n_heads, i);
        const int32_t k_plane = plane + it.head / a.group, v_plane = k_plane + a.n_kv_heads;
        int32_t key = it.first_key + p.lane * p.box_rows, page_before = 0;
        for (int32_t t = 0; t < it.n_tiles; t++) {
            copy_tile<HD>(p, bar.k_empty, bar.k_full, k_at, layout::K_AT, key, k_plane, page);
            k_at.next();
            if (t) {
                copy_tile<HD>(p, bar.v_empty, bar.v_full, v_at, layout::V_AT, key - layout::KEYS, v_plane,
                              page_before);
                v_at.next();
            }
            key += layout::KEYS;
            page_before = page;
            if (t + 1 < it.n_tiles) page = page_of(p, a, it.rows, key);
        }
        it = item_of<HD>(next_rows, a, i);
        if (it.n_tiles) page = page_of(p, a, it.rows, it.first_key + p.lane * p.box_rows);
        copy_tile<HD>(p, bar.v_empty, bar.v_full, v_at, layout::V_AT, key - layout::KEYS, v_plane,
                      page_before);
        v_at.next();
    }
    copy_item<HD>(p, bar, q_at, items, it);
}

#endif
