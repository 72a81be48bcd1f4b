#ifndef LLM_KERNELS_CUDA_LINEAR_PACKED_CUH
#define LLM_KERNELS_CUDA_LINEAR_PACKED_CUH

/* Linear layers of packed weights and many rows, on Hopper: y^T = epilogue(w x^T) by tiles of 128 rows of the
 * weight and N rows of x. A block a multiprocessor; one thread keeps a ring in shared memory filled with rows
 * of x and with packed tiles as they are, and two warpgroups, 64 rows each, unpack a step's tile into
 * registers, from where the tensor cores take it, so that the arithmetic of unpacking is done once for N
 * rows. A step of a warpgroup takes some 590 cycles and 2.5 N, of which its products are 2 N. Two blocks form
 * a cluster, one above the other in the weight: each loads half of x's rows for both.
 *
 * A cluster takes whole tiles in turn. What is left for a last turn that would not fill the device is dealt
 * out in equal ranges of consecutive steps, as linear_stream.cuh does: a range that begins inside a tile
 * leaves its sums in memory, and whoever has the tile's beginning adds them up, in order, and finishes it.
 *
 * Results leave transposed through shared memory, stored by the TMA unit during the next tile. What they are
 * added to is brought there beforehand. */

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/partial.cuh"

struct packed_args {
    int32_t n_tokens, n_out;             /* rows and columns of y */
    int32_t k_steps, k_tiles;            /* of 64; k_tiles: as the weight is laid out */
    int32_t n_row_tiles, n_column_tiles; /* of a cluster: 256 rows of the weight, N of x */
    int32_t band;                        /* see tile_at */
    int32_t n_whole;                     /* of the tiles; the steps of the others are dealt out */
    const uint8_t *w;
    float *partial;                /* [blocks, PACKED_PARTIAL] */
    uint32_t *ready;               /* [blocks]: its partial sums are there; its reader takes the flag down */
    const float *bias, *up_bias;   /* null: none */
    enum linear_epilogue epilogue; /* gated: act is SiLU or tanh's GELU; else there is none */
    enum activation act;
    float *y; /* f32, with strides of y_stride; null: by y_map, of the activation type */
    int64_t y_stride;
};

enum { PACKED_CLUSTER = 2, PACKED_ROWS = 128, PACKED_PARTIAL = 128 * 256 };

#ifdef __CUDACC__

template <int FORMAT, int N> struct packed_tile {
    static constexpr int CONSUMERS = 256, THREADS = 384, WARPS = CONSUMERS / 32;
    static constexpr int TILE_BYTES = packing<FORMAT>::TILE_BYTES; /* of 64 rows */
    static constexpr int X_BYTES = N * 128, W_BYTES = 2 * TILE_BYTES;
    static constexpr int SUMS = N / 2; /* a thread */
    /* Results: boxes of 64 columns of y and N rows. */
    static constexpr int BOX_BYTES = N * 128, BOXES = 2, BARRIER_BYTES = 256;
    static constexpr int ROOM = (227 * 1024 - BARRIER_BYTES - BOXES * BOX_BYTES) / (X_BYTES + W_BYTES);
    static constexpr int PLACES = ROOM < 12 ? ROOM : 12;
    static constexpr int SHARED = BOXES * BOX_BYTES + PLACES * (X_BYTES + W_BYTES) + BARRIER_BYTES;
};

#if HOPPER

/* Addresses; a barrier has 8 bytes. */
struct packed_ring {
    uint32_t x, w, full, empty;
    uint32_t boxes, boxes_full;
    int32_t place;
    uint32_t parity, boxes_parity;
};

template <typename S> static __device__ __forceinline__ void advance(packed_ring *r)
{
    if (++r->place == S::PLACES) r->place = 0, r->parity ^= 1;
}

/* ---- who does what ----------------------------------------------------------------------------------------
 */

/* Steps [k, k + n) of a cluster's tile. */
struct piece {
    int32_t row, column, k, n;
};

/* Where a cluster is in its work: the next whole tile, and the steps of its range. */
struct pieces {
    int32_t whole, step, end;
};

static __device__ __forceinline__ int32_t n_clusters()
{
    return (int32_t)gridDim.x / PACKED_CLUSTER;
}

/* Clusters take the ranges from the last to the first: one waits only for clusters that started before it. */
static __device__ __forceinline__ int32_t cluster_index()
{
    return n_clusters() - 1 - (int32_t)blockIdx.x / PACKED_CLUSTER;
}

static __device__ __forceinline__ int32_t block_of(int32_t cluster)
{
    return (n_clusters() - 1 - cluster) * PACKED_CLUSTER + (int32_t)blockIdx.x % PACKED_CLUSTER;
}

static __device__ __forceinline__ int32_t range_begin(const packed_args &a, int32_t cluster)
{
    const int32_t n_dealt = a.n_row_tiles * a.n_column_tiles - a.n_whole;
    return (int32_t)((int64_t)n_dealt * a.k_steps * cluster / n_clusters());
}

/* Tiles that are multiplied at the same time should share rows of x and of the weight, and 256 rows of the
 * packed weight are a quarter as large as of x: bands of some columns, row after row. */
static __device__ __forceinline__ void tile_at(const packed_args &a, int32_t i, piece *p)
{
    const int32_t first = i / (a.band * a.n_row_tiles) * a.band, in_band = i - first * a.n_row_tiles;
    const int32_t columns = min(a.band, a.n_column_tiles - first);
    p->row = in_band / columns;
    p->column = first + in_band % columns;
}

static __device__ __forceinline__ pieces all_pieces(const packed_args &a)
{
    const int32_t c = cluster_index();
    return {c, range_begin(a, c), range_begin(a, c + 1)};
}

static __device__ __forceinline__ bool next_piece(const packed_args &a, pieces *all, piece *p)
{
    if (all->whole < a.n_whole) {
        tile_at(a, all->whole, p);
        p->k = 0, p->n = a.k_steps;
        all->whole += n_clusters();
        return true;
    }
    if (all->step >= all->end) return false;
    const int32_t tile = all->step / a.k_steps;
    tile_at(a, a.n_whole + tile, p);
    p->k = all->step - tile * a.k_steps;
    p->n = min(a.k_steps - p->k, all->end - all->step);
    all->step += p->n;
    return true;
}

/* ---- loading ----------------------------------------------------------------------------------------------
 */

/* The producer's: a step after the other, of all pieces. */
struct packed_steps {
    pieces all;
    piece p;
    bool valid;
};

static __device__ __forceinline__ void next_step(const packed_args &a, packed_steps *s)
{
    s->p.k++;
    if (--s->p.n == 0) s->valid = next_piece(a, &s->all, &s->p);
}

template <typename S>
static __device__ __forceinline__ void load_packed(const packed_ring &r, int32_t place, const packed_args &a,
                                                   const piece &p, uint32_t rank, uint64_t policy)
{
    const int64_t tile = ((int64_t)(p.row * PACKED_CLUSTER + rank) * 2 * a.k_tiles) + p.k;
    const uint8_t *from = a.w + tile * S::TILE_BYTES;
    const uint32_t full = r.full + 8 * place, to = r.w + place * S::W_BYTES;
    barrier_expect(full, S::X_BYTES + S::W_BYTES);
    bulk_load(to, from, S::TILE_BYTES, full, policy);
    bulk_load(to + S::TILE_BYTES, from + (int64_t)a.k_tiles * S::TILE_BYTES, S::TILE_BYTES, full, policy);
}

/* Half of the rows, for both blocks. */
template <typename S>
static __device__ __forceinline__ void load_x(const packed_ring &r, int32_t place, const CUtensorMap *map,
                                              const piece &p, uint32_t rank)
{
    constexpr int HALF = S::X_BYTES / PACKED_CLUSTER, N = S::X_BYTES / 128;
    tma_load_multicast_plain(r.x + place * S::X_BYTES + rank * HALF, map, p.k * 64,
                             p.column * N + (int32_t)rank * (N / PACKED_CLUSTER), r.full + 8 * place,
                             (1 << PACKED_CLUSTER) - 1);
}

/* One thread. A place is free when both blocks say so. The weights do not depend on earlier kernels: the ring
 * is filled with them before those have ended. */
template <typename S>
static __device__ __forceinline__ void produce_packed(packed_ring r, const CUtensorMap *x_map,
                                                      const packed_args &a, uint32_t rank)
{
    const uint64_t policy = a.n_column_tiles == 1 ? evict_first_policy() : evict_normal_policy();
    packed_steps s = {all_pieces(a), {}, false};
    s.valid = next_piece(a, &s.all, &s.p);
    packed_steps early = s;
    for (int32_t i = 0; i < S::PLACES && early.valid; i++, next_step(a, &early))
        load_packed<S>(r, i, a, early.p, rank, policy);
    pdl_wait();
    r.parity = 1; /* places begin empty */
    for (int32_t i = 0; s.valid; i++, next_step(a, &s)) {
        if (i >= S::PLACES) {
            barrier_wait(r.empty + 8 * r.place, r.parity);
            load_packed<S>(r, r.place, a, s.p, rank, policy);
        }
        load_x<S>(r, r.place, x_map, s.p, rank);
        advance<S>(&r);
    }
}

/* ---- multiplying ------------------------------------------------------------------------------------------
 */

/* A thread of the two warpgroups that multiply. */
struct packed_thread {
    int32_t group, warp, lane; /* warp: of the group */
    uint32_t rank;
};

static __device__ __forceinline__ bool is_first(const packed_thread &t)
{
    return (t.group | t.warp | t.lane) == 0;
}

/* What a thread needs of a step's tile, when it has come. */
template <int FORMAT, typename S>
static __device__ __forceinline__ void take_tile(const packed_ring &r, const uint8_t *w_data,
                                                 const packed_thread &t, uint32_t (&words)[8],
                                                 uint32_t (&scales)[4])
{
    barrier_wait(r.full + 8 * r.place, r.parity);
    load_tile<FORMAT>(w_data + r.place * S::W_BYTES + t.group * S::TILE_BYTES, t.warp * 32 + t.lane, words,
                      scales);
}

/* A quarter of a tile, here and not later: products follow. */
template <typename T, int FORMAT>
static __device__ __forceinline__ void unpack_quarter(const uint32_t (&words)[8], const uint32_t (&scales)[4],
                                                      int k, uint32_t (&w)[4])
{
#pragma unroll
    for (int i = 0; i < 4; i++) w[i] = unpack<T, FORMAT>(words, scales, k, i);
    asm volatile("" : "+r"(w[0]), "+r"(w[1]), "+r"(w[2]), "+r"(w[3]));
}

/* Each warp has read its part of the packed tile: both blocks learn of each. */
static __device__ __forceinline__ void release_place(const packed_ring &r, int32_t place,
                                                     const packed_thread &t)
{
    if (t.lane < PACKED_CLUSTER) barrier_arrive_at(r.empty + 8 * place, (uint32_t)t.lane);
    __syncwarp();
}

/* Step i: multiplies what was unpacked before, and with MORE unpacks the next step's tile. A warp that issues
 * a product waits until the one before has read its registers, so a quarter is unpacked after each. The ring
 * stands at step i and is moved on. */
template <typename T, int FORMAT, typename S, bool MORE>
static __device__ __forceinline__ void multiply_step(float (&sums)[S::SUMS], uint32_t (&w)[4][4],
                                                     uint32_t (&next)[4][4], packed_ring *r,
                                                     const uint8_t *w_data, const packed_thread &t, int32_t i)
{
    const int32_t place = r->place;
    const uint64_t x = wgmma_descriptor(r->x + place * S::X_BYTES);
    uint32_t words[8], scales[4];
    advance<S>(r);
    if (MORE) take_tile<FORMAT, S>(*r, w_data, t, words, scales);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        wgmma_fence(); /* each time, as registers have been written: else ptxas waits for each product */
        wgmma_wide<T>(sums, w[k], x + 2 * k, i | k);
        if (k == 3) wgmma_commit();
        if (MORE) unpack_quarter<T, FORMAT>(words, scales, k, next[k]);
    }
    wgmma_wait<0>();
    /* The products read these registers until now. */
#pragma unroll
    for (int k = 0; k < 4; k++) asm volatile("" : "+r"(w[k][0]), "+r"(w[k][1]), "+r"(w[k][2]), "+r"(w[k][3]));
    release_place(*r, place, t);
}

/* The steps of a piece; calls at_third after two of them, or at the end. */
template <typename T, int FORMAT, typename S, typename F>
static __device__ __forceinline__ void multiply_piece(float (&sums)[S::SUMS], packed_ring *r,
                                                      const uint8_t *w_data, const packed_thread &t,
                                                      const piece &p, F at_third)
{
    uint32_t even[4][4], odd[4][4], words[8], scales[4];
    int32_t i = 0;
    take_tile<FORMAT, S>(*r, w_data, t, words, scales);
#pragma unroll
    for (int k = 0; k < 4; k++) unpack_quarter<T, FORMAT>(words, scales, k, even[k]);
    for (; i + 2 < p.n; i += 2) {
        multiply_step<T, FORMAT, S, true>(sums, even, odd, r, w_data, t, i);
        if (i == 2) at_third();
        multiply_step<T, FORMAT, S, true>(sums, odd, even, r, w_data, t, i + 1);
    }
    if (i <= 2) at_third();
    if (i + 2 == p.n) {
        multiply_step<T, FORMAT, S, true>(sums, even, odd, r, w_data, t, i);
        multiply_step<T, FORMAT, S, false>(sums, odd, even, r, w_data, t, i + 1);
    } else {
        multiply_step<T, FORMAT, S, false>(sums, even, odd, r, w_data, t, i);
    }
    wgmma_pin(sums);
}

/* ---- tiles that several clusters have a part of -----------------------------------------------------------
 */

/* Adds what the clusters after this one have left of the last `missing` steps of its last tile. */
template <typename S>
static __device__ __forceinline__ void collect_sums(const packed_args &a, int32_t missing,
                                                    float (&sums)[S::SUMS])
{
    const int32_t thread = threadIdx.x % S::CONSUMERS, cluster = cluster_index();
    const int32_t from_step = range_begin(a, cluster + 1);
    int32_t last = cluster + 1; /* has the tile's last step */
    while (range_begin(a, last + 1) - from_step < missing) last++;
    partial_wait<S::CONSUMERS>(a.ready, cluster + 1, last, thread, block_of);
    for (int32_t other = cluster + 1; other <= last; other++)
        partial_add<S::CONSUMERS, S::SUMS>(a.partial + (int64_t)block_of(other) * PACKED_PARTIAL, thread,
                                           sums);
}

/* ---- finishing a tile -------------------------------------------------------------------------------------
 *
 * A thread's sums 4 j … are of its feature and the one 8 rows below, two tokens 8 j + … each. A box holds 64
 * columns of y, a row a token, as the TMA unit swizzles them: the 16 bytes i of row r at i ^ r % 8. */

static __device__ __forceinline__ float bias_at(const float *bias, int32_t i, int32_t n)
{
    return bias && i < n ? __ldg(bias + i) : 0;
}

/* Begins to bring what the results are added to. */
template <typename S>
static __device__ __forceinline__ void load_boxes(const packed_ring &r, const CUtensorMap *y_map,
                                                  int32_t column, int32_t row)
{
    tma_store_wait();
    barrier_expect(r.boxes_full, S::BOXES * S::BOX_BYTES);
    for (int b = 0; b < S::BOXES; b++)
        tma_load_plain(r.boxes + b * S::BOX_BYTES, y_map, column + 64 * b, row, r.boxes_full);
}

template <typename T, typename S, bool ADD>
static __device__ __forceinline__ void fill_boxes(const float (&sums)[S::SUMS], const packed_ring &r,
                                                  const packed_thread &t, const packed_args &a,
                                                  int32_t feature)
{
    const uint32_t token = t.lane / 16 * 8 + t.lane % 8, chunk = 2 * t.warp + t.lane / 8 % 2;
    const uint32_t at = r.boxes + t.group * S::BOX_BYTES + token * 128 + ((chunk ^ t.lane % 8) << 4);
    const float bias[2] = {bias_at(a.bias, feature, a.n_out), bias_at(a.bias, feature + 8, a.n_out)};
#pragma unroll
    for (int j = 0; j < S::SUMS / 4; j += 2) {
        uint32_t v[4];
        if (ADD) load_matrices_transposed(v, at + j * 1024);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *from = &sums[4 * j + 2 * i];
            float2 add = {bias[i % 2], bias[i % 2]};
            if (ADD) {
                const auto old = as_pair<T>(v[i]);
                add.x += to_f32<T>(old.x), add.y += to_f32<T>(old.y);
            }
            v[i] = pack<T>(from[0] + add.x, from[1] + add.y);
        }
        store_matrices_transposed(v, at + j * 1024);
    }
}

/* Gate and up lie 8 rows apart: half as many columns of y, one box. */
template <typename T, typename S, int ACT>
static __device__ __forceinline__ void fill_gated(const float (&sums)[S::SUMS], const packed_ring &r,
                                                  const packed_thread &t, const packed_args &a,
                                                  int32_t feature)
{
    const uint32_t chunk = 4 * t.group + t.warp;
    const uint32_t at = r.boxes + t.lane * 128 + ((chunk ^ t.lane % 8) << 4);
    const float bias = bias_at(a.bias, feature, a.n_out), up_bias = bias_at(a.up_bias, feature, a.n_out);
#pragma unroll
    for (int j = 0; j < S::SUMS / 4; j += 4) {
        uint32_t v[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *gate = &sums[4 * (j + i)], *up = gate + 2;
            v[i] = pack<T>(activate((enum activation)ACT, gate[0] + bias) * (up[0] + up_bias),
                           activate((enum activation)ACT, gate[1] + bias) * (up[1] + up_bias));
        }
        store_matrices_transposed(v, at + j * 1024);
    }
}

/* Results that stay f32, 32 bytes of a row beside each other. */
template <typename S>
static __device__ __forceinline__ void store_f32(const float (&sums)[S::SUMS], const packed_thread &t,
                                                 const packed_args &a, int32_t feature, int32_t token)
{
    const int32_t add = a.epilogue == LINEAR_ADD;
    token += t.lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++, feature += 8) {
        const float bias = bias_at(a.bias, feature, a.n_out);
        const int32_t n_tokens = feature < a.n_out ? a.n_tokens : 0;
        float *y = a.y + token * a.y_stride + feature;
#pragma unroll
        for (int i = 0; i < S::SUMS / 2; i++) {
            const float v = sums[i / 2 * 4 + 2 * half + i % 2] + bias;
            if (token + i / 2 * 8 + i % 2 < n_tokens) *y = add ? *y + v : v;
            y += i % 2 ? 7 * a.y_stride : a.y_stride;
        }
    }
}

template <typename T, typename S>
static __device__ __forceinline__ void finish_packed(const float (&sums)[S::SUMS], packed_ring *r,
                                                     const CUtensorMap *y_map, const packed_thread &t,
                                                     const packed_args &a, const piece &p)
{
    constexpr int N = S::X_BYTES / 128;
    const int gated = a.epilogue == LINEAR_GATED;
    const int32_t row = (p.row * PACKED_CLUSTER + (int32_t)t.rank) * PACKED_ROWS,
                  column = gated ? row / 2 : row;
    const int32_t in_tile = gated ? t.group * 32 + t.warp * 8 : t.group * 64 + t.warp * 16;
    const int32_t feature = column + in_tile + t.lane / 4;
    if (a.y) {
        store_f32<S>(sums, t, a, feature, p.column * N);
        return;
    }
    if (a.epilogue == LINEAR_ADD) {
        barrier_wait(r->boxes_full, r->boxes_parity);
        r->boxes_parity ^= 1;
        fill_boxes<T, S, true>(sums, *r, t, a, feature);
    } else {
        if (is_first(t)) tma_store_wait();
        named_sync(1, S::CONSUMERS);
        if (!gated)
            fill_boxes<T, S, false>(sums, *r, t, a, feature);
        else if (a.act == ACT_SILU)
            fill_gated<T, S, ACT_SILU>(sums, *r, t, a, feature);
        else
            fill_gated<T, S, ACT_GELU_TANH>(sums, *r, t, a, feature);
    }
    async_fence();
    named_sync(1, S::CONSUMERS);
    if (is_first(t)) {
        for (int b = 0; b < (gated ? 1 : S::BOXES); b++)
            tma_store(y_map, column + 64 * b, p.column * N, r->boxes + b * S::BOX_BYTES);
        tma_store_commit();
    }
    __syncwarp();
}

/* The two warpgroups. */
template <typename T, int FORMAT, typename S>
static __device__ __forceinline__ void consume_packed(packed_ring r, const uint8_t *w_data,
                                                      const CUtensorMap *y_map, const packed_args &a,
                                                      uint32_t rank)
{
    constexpr int N = S::X_BYTES / 128;
    const int32_t warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0) - 4;
    const packed_thread t = {warp / 4, warp % 4, (int32_t)threadIdx.x % 32, rank};
    float sums[S::SUMS];
    pieces all = all_pieces(a);
    for (piece p; next_piece(a, &all, &p);) {
        const bool adds = a.epilogue == LINEAR_ADD && !a.y && p.k == 0 && is_first(t);
        multiply_piece<T, FORMAT, S>(sums, &r, w_data, t, p, [&]() {
            if (adds)
                load_boxes<S>(r, y_map, (p.row * PACKED_CLUSTER + (int32_t)rank) * PACKED_ROWS, p.column * N);
            __syncwarp();
        });
        if (p.k > 0) {
            partial_leave<S::CONSUMERS, S::SUMS>(a.partial + (int64_t)blockIdx.x * PACKED_PARTIAL,
                                                 a.ready + blockIdx.x, threadIdx.x % S::CONSUMERS, sums);
        } else {
            if (p.n < a.k_steps) collect_sums<S>(a, a.k_steps - p.n, sums);
            finish_packed<T, S>(sums, &r, y_map, t, a, p);
        }
    }
    if (is_first(t)) tma_store_wait();
}

#endif

/* x_map: boxes of N / 2 rows; y_map: of N. */
template <typename T, int FORMAT, int N>
static __global__ void __cluster_dims__(PACKED_CLUSTER, 1, 1) __launch_bounds__(384, 1)
    packed_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap y_map,
                  const packed_args a)
{
#if HOPPER
    using S = packed_tile<FORMAT, N>;
    extern __shared__ __align__(1024) uint8_t shared[];
    packed_ring r = {};
    r.boxes = shared_address(shared);
    r.x = r.boxes + S::BOXES * S::BOX_BYTES;
    r.w = r.x + S::PLACES * S::X_BYTES;
    r.boxes_full = r.w + S::PLACES * S::W_BYTES;
    r.full = r.boxes_full + 8;
    r.empty = r.full + 8 * S::PLACES;
    const uint32_t rank = cluster_rank();
    if (threadIdx.x == 0) {
        tma_prefetch_map(&x_map);
        if (!a.y) tma_prefetch_map(&y_map);
        for (int i = 0; i < S::PLACES; i++) {
            barrier_init(r.full + 8 * i, 1);
            barrier_init(r.empty + 8 * i, S::WARPS * PACKED_CLUSTER);
        }
        barrier_init(r.boxes_full, 1);
        barrier_init_fence();
    }
    pdl_launch();
    cluster_sync();
    if (threadIdx.x < 128) {
        registers_give<40>();
        if (threadIdx.x == 0) produce_packed<S>(r, &x_map, a, rank);
    } else {
        registers_take<232>();
        pdl_wait();
        consume_packed<T, FORMAT, S>(r, shared + (r.w - r.boxes), &y_map, a, rank);
    }
    cluster_sync(); /* the other block may write here until it ends */
#endif
}

#endif

typedef void packed_fn(const CUtensorMap, const CUtensorMap, const packed_args);

/* A kernel, for tiles of n_tokens rows of x. */
struct packed_variant {
    int32_t n_tokens, shared;
    packed_fn *kernel;
};

enum { PACKED_WIDTHS = 4 };

/* linear_packed_many_*.cu, by increasing n_tokens. */
void packed_tiles_bf16(enum weight_format format, struct packed_variant out[PACKED_WIDTHS]);
void packed_tiles_f16(enum weight_format format, struct packed_variant out[PACKED_WIDTHS]);

#ifdef __CUDACC__
template <typename T, int FORMAT, int N> static inline struct packed_variant packed_variant_of()
{
    return {N, packed_tile<FORMAT, N>::SHARED, packed_kernel<T, FORMAT, N>};
}

template <typename T, int FORMAT> static inline void packed_tiles_of(struct packed_variant out[PACKED_WIDTHS])
{
    out[0] = packed_variant_of<T, FORMAT, 96>();
    out[1] = packed_variant_of<T, FORMAT, 128>();
    out[2] = packed_variant_of<T, FORMAT, 192>();
    out[3] = packed_variant_of<T, FORMAT, 256>();
}
#endif

#endif
