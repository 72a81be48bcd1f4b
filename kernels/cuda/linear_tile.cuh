#ifndef LLM_KERNELS_CUDA_LINEAR_TILE_CUH
#define LLM_KERNELS_CUDA_LINEAR_TILE_CUH

/* Linear layers of many rows, on Hopper: y = epilogue(x w^T) by tiles of 128 rows and COLUMNS rows of the
 * weight. A block a multiprocessor takes tiles in turn; one thread keeps a ring in shared memory filled by
 * the TMA unit, and two warpgroups, 64 rows each, multiply. Two blocks form a cluster, and take two tiles one
 * above the other: each loads half of the weight's rows for both.
 *
 * Results leave through shared memory, stored by the TMA unit during the first steps of the next tile, whose
 * loads are under way all the time. What of them has no room beside the ring goes into a place of it, which
 * the ring then has once a tile after the last step. What results are added to is brought there beforehand.
 */

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear.cuh"

struct tile_args {
    int32_t n_row_tiles, n_column_tiles, k_steps; /* row tiles: of a cluster; steps of 64 */
    int32_t band;                                 /* see tile_at */
    int32_t n_out;                                /* of the bias */
    const float *bias, *up_bias;                  /* null: none */
};

#ifdef __CUDACC__

template <int COLUMNS, int EPILOGUE> struct tile {
    static constexpr int ROWS = 128, CLUSTER = 2, CONSUMERS = 256, THREADS = 384;
    static constexpr int X_BYTES = ROWS * 128, W_BYTES = COLUMNS * 128, PLACE_BYTES = X_BYTES + W_BYTES;
    static constexpr int SUMS = COLUMNS / 2;                                       /* a thread */
    static constexpr int WIDTH = EPILOGUE == LINEAR_GATED ? COLUMNS / 2 : COLUMNS; /* of y */
    /* Results lie in boxes of 64 columns, or 16 where those do not fit, and 128 rows, so many beside the ring
     * and in a place of it. */
    static constexpr int BOX_COLUMNS = WIDTH % 64 ? 16 : 64, BOX_ROW = BOX_COLUMNS * 2;
    static constexpr int BOX_BYTES = ROWS * BOX_ROW, BOXES = WIDTH / BOX_COLUMNS;
    static constexpr int OWN_BOXES = BOXES * BOX_COLUMNS < 256 ? BOXES : 2, RING_BOXES = BOXES - OWN_BOXES;
    static constexpr int MOST_BYTES = 227 * 1024 - 2048; /* the start is aligned to 1024; barriers */
    static constexpr int PLACES = (MOST_BYTES - OWN_BOXES * BOX_BYTES) / PLACE_BYTES;
    static constexpr int SHARED = PLACES * PLACE_BYTES + OWN_BOXES * BOX_BYTES + 2048;
};

#if HOPPER

struct ring {
    uint32_t data, full, empty; /* addresses; a barrier has 8 bytes */
    uint32_t own, own_full, own_empty;
    int32_t place;
    uint32_t parity, own_parity;
};

template <typename S> static __device__ __forceinline__ void advance(ring *r)
{
    if (++r->place == S::PLACES) r->place = 0, r->parity ^= 1;
}

struct tile_position {
    int32_t row, column; /* in tiles of a cluster */
};

/* Tiles that are multiplied at the same time should share rows and columns: bands of 8 tiles of rows, column
 * after column. */
static __device__ __forceinline__ tile_position tile_at(const tile_args &a, int32_t i)
{
    const int32_t first = i / (a.band * a.n_column_tiles) * a.band, in_band = i - first * a.n_column_tiles;
    const int32_t rows = min(a.band, a.n_row_tiles - first);
    return {first + in_band % rows, in_band / rows};
}

/* What boxes [first, first + n) of y hold, to `to`. */
template <typename S>
static __device__ __forceinline__ void load_boxes(const CUtensorMap *y_map, uint32_t to, int32_t row,
                                                  int32_t column, int first, int n, uint32_t full)
{
    barrier_expect(full, n * S::BOX_BYTES);
    for (int i = 0; i < 2 * n; i++)
        tma_load_plain(to + i * (S::BOX_BYTES / 2), y_map, column + (first + i / 2) * S::BOX_COLUMNS,
                       row + i % 2 * 64, full);
}

/* One thread. A place is free when both blocks say so: the other block fills it too. */
template <int COLUMNS, int EPILOGUE>
static __device__ __forceinline__ void produce_tiles(ring r, const CUtensorMap *x_map,
                                                     const CUtensorMap *w_map, const CUtensorMap *y_map,
                                                     const tile_args &a, int32_t rank)
{
    using S = tile<COLUMNS, EPILOGUE>;
    constexpr int HALF = COLUMNS / S::CLUSTER;
    const int32_t n_tiles = a.n_row_tiles * a.n_column_tiles, n_clusters = (int32_t)gridDim.x / S::CLUSTER;
    r.parity = r.own_parity = 1; /* places begin empty */
    for (int32_t i = (int32_t)blockIdx.x / S::CLUSTER; i < n_tiles; i += n_clusters) {
        const tile_position at = tile_at(a, i);
        const int32_t row = (at.row * S::CLUSTER + rank) * S::ROWS, w_row = at.column * COLUMNS + rank * HALF;
        for (int32_t k = 0; k < a.k_steps; k++) {
            const uint32_t full = r.full + 8 * r.place, to = r.data + r.place * S::PLACE_BYTES;
            barrier_wait(r.empty + 8 * r.place, r.parity);
            barrier_expect(full, S::PLACE_BYTES);
            tma_load_plain(to, x_map, k * 64, row, full);
            tma_load_multicast_plain(to + S::X_BYTES + rank * HALF * 128, w_map, k * 64, w_row, full,
                                     (1 << S::CLUSTER) - 1);
            advance<S>(&r);
        }
        if (EPILOGUE == LINEAR_ADD) {
            barrier_wait(r.own_empty, r.own_parity);
            load_boxes<S>(y_map, r.own, row, at.column * S::WIDTH, 0, S::OWN_BOXES, r.own_full);
            r.own_parity ^= 1;
        }
        if (S::RING_BOXES) {
            const uint32_t full = r.full + 8 * r.place;
            barrier_wait(r.empty + 8 * r.place, r.parity);
            if (EPILOGUE == LINEAR_ADD)
                load_boxes<S>(y_map, r.data + r.place * S::PLACE_BYTES, row, at.column * S::WIDTH,
                              S::OWN_BOXES, S::RING_BOXES, full);
            else
                barrier_arrive(full);
            advance<S>(&r);
        }
    }
}

/* Both blocks learn that this warpgroup is done with a place: a thread tells one of them. */
template <typename S>
static __device__ __forceinline__ void release(const ring &r, int32_t place, int32_t thread)
{
    if (thread < 32 * S::CLUSTER && thread % 32 == 0)
        barrier_arrive_at(r.empty + 8 * place, (uint32_t)thread / 32);
}

template <typename T> static __device__ __forceinline__ uint32_t pack_pair(float low, float high)
{
    if constexpr (is_bf16<T>) {
        const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&v);
    } else {
        const __half2 v = __floats2half2_rn(low, high);
        return *reinterpret_cast<const uint32_t *>(&v);
    }
}

template <typename T> static __device__ __forceinline__ float2 unpack_pair(uint32_t v)
{
    if constexpr (is_bf16<T>)
        return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&v));
    else
        return __half22float2(*reinterpret_cast<const __half2 *>(&v));
}

/* Numbers `first` and the next of n; 0 beyond. */
static __device__ __forceinline__ float2 bias_pair(const float *bias, int32_t n, int32_t first)
{
    return {first < n ? __ldg(bias + first) : 0, first + 1 < n ? __ldg(bias + first + 1) : 0};
}

/* Results of 8 columns: columns 8j… of WIDTH, column `first`… of y. v: of rows r and r + 8. */
template <typename S, int EPILOGUE, int ACT, bool BIAS>
static __device__ __forceinline__ void finish_columns(const float (&sums)[S::SUMS], int j, const tile_args &a,
                                                      int32_t first, float2 (&v)[2])
{
    const float2 b = BIAS ? bias_pair(a.bias, a.n_out, first) : float2{};
    if constexpr (EPILOGUE == LINEAR_GATED) {
        const float2 u = BIAS ? bias_pair(a.up_bias, a.n_out, first) : float2{};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float *gate = &sums[8 * j + 2 * i], *up = gate + 4;
            v[i].x = activate((enum activation)ACT, gate[0] + b.x) * (up[0] + u.x);
            v[i].y = activate((enum activation)ACT, gate[1] + b.y) * (up[1] + u.y);
        }
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) v[i] = {sums[4 * j + 2 * i] + b.x, sums[4 * j + 2 * i + 1] + b.y};
    }
}

/* Results of a warpgroup into boxes [first, first + n), as the TMA unit swizzles them: the 16 bytes i of row
 * r at i ^ r % 8, in narrow boxes at i ^ r / 4 % 2. column: of y, where the tile begins. */
template <typename T, typename S, int EPILOGUE, int ACT, bool BIAS>
static __device__ __forceinline__ void finish_boxes(const float (&sums)[S::SUMS], uint32_t boxes, int first,
                                                    int n, const tile_args &a, int32_t column, int32_t group)
{
    const int32_t thread = threadIdx.x % 128, lane = thread % 32;
    constexpr int GROUPS = S::BOX_COLUMNS / 8;
    const int32_t swizzle = GROUPS == 8 ? lane / 4 : lane / 16;
    const uint32_t at =
        boxes + (uint32_t)(group * 64 + thread / 32 * 16 + lane / 4) * S::BOX_ROW + lane % 4 * 4;
#pragma unroll
    for (int j = 0; j < n * GROUPS; j++) {
        const uint32_t to = at + j / GROUPS * S::BOX_BYTES + ((j % GROUPS ^ swizzle) << 4);
        float2 v[2];
        finish_columns<S, EPILOGUE, ACT, BIAS>(sums, first * GROUPS + j, a,
                                               column + (first * GROUPS + j) * 8 + lane % 4 * 2, v);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            if (EPILOGUE == LINEAR_ADD) {
                const float2 y = unpack_pair<T>(shared_word(to + i * 8 * S::BOX_ROW));
                v[i].x += y.x, v[i].y += y.y;
            }
            shared_word_set(to + i * 8 * S::BOX_ROW, pack_pair<T>(v[i].x, v[i].y));
        }
    }
}

/* The same, with the bias, and begins to store them. */
template <typename T, typename S, int EPILOGUE, int ACT>
static __device__ __forceinline__ void store_boxes(const float (&sums)[S::SUMS], uint32_t boxes, int first,
                                                   int n, const CUtensorMap *y_map, const tile_args &a,
                                                   int32_t row, int32_t column, int32_t group)
{
    if (a.bias)
        finish_boxes<T, S, EPILOGUE, ACT, true>(sums, boxes, first, n, a, column, group);
    else
        finish_boxes<T, S, EPILOGUE, ACT, false>(sums, boxes, first, n, a, column, group);
    async_fence();
    named_sync(1 + group, 128);
    if (threadIdx.x % 128 == 0) {
        for (int b = 0; b < n; b++)
            tma_store(y_map, column + (first + b) * S::BOX_COLUMNS, row + group * 64,
                      boxes + b * S::BOX_BYTES + group * (S::BOX_BYTES / 2));
        tma_store_commit();
    }
    __syncwarp();
}

/* One thread of a warpgroup, a while after store_boxes: what was stored from may be overwritten. */
template <typename S, int EPILOGUE>
static __device__ __forceinline__ void release_stored(const ring &r, int32_t place)
{
    tma_store_wait();
    if (EPILOGUE == LINEAR_ADD) barrier_arrive(r.own_empty);
    for (int rank = 0; S::RING_BOXES && rank < S::CLUSTER; rank++)
        barrier_arrive_at(r.empty + 8 * place, (uint32_t)rank);
}

/* A warpgroup. */
template <typename T, int COLUMNS, int EPILOGUE, int ACT>
static __device__ __forceinline__ void consume_tiles(ring r, const CUtensorMap *y_map, const tile_args &a,
                                                     int32_t rank)
{
    using S = tile<COLUMNS, EPILOGUE>;
    const int32_t n_tiles = a.n_row_tiles * a.n_column_tiles, n_clusters = (int32_t)gridDim.x / S::CLUSTER;
    const int32_t thread = threadIdx.x % 128;
    const int32_t group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    float sums[S::SUMS];
    int32_t before = -1; /* the place before this */
    for (int32_t i = (int32_t)blockIdx.x / S::CLUSTER; i < n_tiles; i += n_clusters) {
        const tile_position at = tile_at(a, i);
        const int32_t row = (at.row * S::CLUSTER + rank) * S::ROWS, column = at.column * S::WIDTH;
        for (int32_t k = 0; k < a.k_steps; k++) {
            const uint32_t place = r.data + r.place * S::PLACE_BYTES;
            const uint64_t x = wgmma_descriptor(place + group * (S::X_BYTES / 2)),
                           w = wgmma_descriptor(place + S::X_BYTES);
            barrier_wait(r.full + 8 * r.place, r.parity);
            wgmma_fence();
#pragma unroll
            for (int kk = 0; kk < 4; kk++) wgmma_wide<T>(sums, x + 2 * kk, w + 2 * kk, k | kk);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0) {
                release<S>(r, before, thread);
            } else if (before >= 0) {
                if (thread == 0) release_stored<S, EPILOGUE>(r, before);
                __syncwarp();
            }
            before = r.place;
            advance<S>(&r);
        }
        wgmma_wait<0>();
        wgmma_pin(sums);
        release<S>(r, before, thread);
        if (EPILOGUE == LINEAR_ADD)
            barrier_wait(r.own_full, r.own_parity);
        else
            named_sync(1 + group, 128); /* after release_stored */
        r.own_parity ^= 1;
        store_boxes<T, S, EPILOGUE, ACT>(sums, r.own, 0, S::OWN_BOXES, y_map, a, row, column, group);
        if (S::RING_BOXES) {
            barrier_wait(r.full + 8 * r.place, r.parity);
            store_boxes<T, S, EPILOGUE, ACT>(sums, r.data + r.place * S::PLACE_BYTES, S::OWN_BOXES,
                                             S::RING_BOXES, y_map, a, row, column, group);
            before = r.place;
            advance<S>(&r);
        }
    }
    if (thread == 0) tma_store_wait();
}

#endif

/* x_map, w_map: boxes of 128 rows and COLUMNS / 2, y_map: of 64 rows. */
template <typename T, int COLUMNS, int EPILOGUE, int ACT>
static __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(384, 1)
    tile_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                const __grid_constant__ CUtensorMap y_map, const tile_args a)
{
#if HOPPER
    using S = tile<COLUMNS, EPILOGUE>;
    extern __shared__ uint8_t unaligned[];
    ring r = {};
    r.data = (shared_address(unaligned) + 1023) & ~1023u;
    r.own = r.data + S::PLACES * S::PLACE_BYTES;
    r.own_full = r.own + S::OWN_BOXES * S::BOX_BYTES;
    r.own_empty = r.own_full + 8;
    r.full = r.own_empty + 8;
    r.empty = r.full + 8 * S::PLACES;
    const int32_t rank = (int32_t)cluster_rank();
    if (threadIdx.x == 0) {
        tma_prefetch_map(&x_map);
        tma_prefetch_map(&w_map);
        tma_prefetch_map(&y_map);
        for (int i = 0; i < S::PLACES; i++) {
            barrier_init(r.full + 8 * i, 1);
            barrier_init(r.empty + 8 * i, 2 * S::CLUSTER);
        }
        barrier_init(r.own_full, 1);
        barrier_init(r.own_empty, 2);
        barrier_init_fence();
    }
    cluster_sync();
    pdl_wait();
    pdl_launch();
    if (threadIdx.x < 128) {
        registers_give<24>();
        if (threadIdx.x == 0) produce_tiles<COLUMNS, EPILOGUE>(r, &x_map, &w_map, &y_map, a, rank);
    } else {
        registers_take<240>();
        consume_tiles<T, COLUMNS, EPILOGUE, ACT>(r, &y_map, a, rank);
    }
    cluster_sync(); /* the other block may write here until it ends */
#endif
}

#endif
#endif
