#ifndef LLM_KERNELS_CUDA_LINEAR_SPLIT_CUH
#define LLM_KERNELS_CUDA_LINEAR_SPLIT_CUH

/* Linear layers of some 65 to 512 rows, on Hopper, where tiles are few: y = epilogue(x w^T) by tiles of up to
 * 128 rows and COLUMNS rows of the weight. A tile's k may be cut into PARTS, a block each, which hand each
 * other their sums through shared memory when all are done: each finishes some of the columns. Or two tiles,
 * one ABOVE the other, form a cluster, and each block loads half of the weight's rows for both. Both at once
 * would make clusters of four, of which an H200 takes fewer at a time than its multiprocessors have room for.
 *
 * Weights do not depend on earlier kernels: the ring is filled with them before the block waits for its
 * predecessor to end. */

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear.cuh"

struct split_args {
    int32_t m, n_out, k_steps;   /* steps of 64 */
    int32_t n_row_tiles, n_rows; /* tiles of a cluster; rows of a block's tile, at most 128 */
    const float *bias, *up_bias; /* null: none */
    void *y;
    int64_t y_stride;
    enum linear_epilogue epilogue;
    enum activation act;
    int f32_out;
};

#ifdef __CUDACC__

template <int COLUMNS_, int ABOVE_, int PARTS_> struct split {
    static constexpr int COLUMNS = COLUMNS_, ABOVE = ABOVE_, PARTS = PARTS_;
    static constexpr int ROWS = 128, CONSUMERS = 256, CLUSTER = ABOVE * PARTS;
    static constexpr int X_BYTES = ROWS * 128, W_BYTES = COLUMNS * 128, PLACE_BYTES = X_BYTES + W_BYTES;
    static constexpr int SUMS = COLUMNS / 2, MINE = SUMS / PARTS; /* a thread; groups of 4 are 8 columns */
    static constexpr int MOST_BYTES = 227 * 1024 - 2048;          /* the start is aligned to 1024; barriers */
    static constexpr int PLACES = MOST_BYTES / PLACE_BYTES;
    static constexpr int SHARED = PLACES * PLACE_BYTES + 2048;
    static_assert(COLUMNS % (16 * PARTS) == 0, "gate and up go together");
    static_assert((PARTS - 1) * MINE * CONSUMERS * 4 <= PLACES * PLACE_BYTES, "sums have room in the ring");
};

#if HOPPER

struct split_ring {
    uint32_t data, full, empty; /* addresses; a barrier has 8 bytes */
};

/* What a block does. */
struct split_position {
    int32_t row, w_row; /* where its tile begins */
    int32_t first, n;   /* its steps along k */
    int32_t above, part;
};

template <typename S> static __device__ __forceinline__ split_position split_position_of(const split_args &a)
{
    const int32_t rank = (int32_t)cluster_rank(), cluster = (int32_t)blockIdx.x / S::CLUSTER;
    split_position p;
    p.above = rank % S::ABOVE;
    p.part = rank / S::ABOVE;
    p.row = (cluster % a.n_row_tiles * S::ABOVE + p.above) * a.n_rows;
    p.w_row = cluster / a.n_row_tiles * S::COLUMNS;
    p.first = a.k_steps * p.part / S::PARTS;
    p.n = a.k_steps * (p.part + 1) / S::PARTS - p.first;
    return p;
}

/* Step i's weights, for this block and the other that shares them. x_bytes: what else comes to this place. */
template <typename S>
static __device__ __forceinline__ void split_load_w(const split_ring &r, const CUtensorMap *map,
                                                    const split_position &p, int32_t x_bytes, int32_t i,
                                                    uint64_t policy)
{
    constexpr int SHARE = S::COLUMNS / S::ABOVE;
    const int32_t place = i % S::PLACES, k = (p.first + i) * 64, w_row = p.w_row + p.above * SHARE;
    const uint32_t full = r.full + 8 * place,
                   to = r.data + place * S::PLACE_BYTES + S::X_BYTES + p.above * SHARE * 128;
    barrier_expect(full, (uint32_t)x_bytes + S::W_BYTES);
    if (S::ABOVE == 1)
        tma_load(to, map, k, w_row, full, policy);
    else
        tma_load_multicast(to, map, k, w_row, full, ((1 << S::ABOVE) - 1) << p.part * S::ABOVE, policy);
}

template <typename S>
static __device__ __forceinline__ void split_load_x(const split_ring &r, const CUtensorMap *map,
                                                    const split_position &p, int32_t i, uint64_t policy)
{
    const int32_t place = i % S::PLACES;
    tma_load(r.data + place * S::PLACE_BYTES, map, (p.first + i) * 64, p.row, r.full + 8 * place, policy);
}

/* One thread. A place is free when both blocks that share weights say so. */
template <typename S>
static __device__ __forceinline__ void split_produce(const split_ring &r, const CUtensorMap *x_map,
                                                     const CUtensorMap *w_map, const split_args &a,
                                                     const split_position &p)
{
    const uint64_t once = evict_first_policy(), often = evict_last_policy();
    const uint64_t w_policy = a.n_row_tiles > 1 ? evict_normal_policy() : once;
    const int32_t early = min(p.n, (int32_t)S::PLACES), x_bytes = a.n_rows * 128;
    for (int32_t i = 0; i < early; i++) split_load_w<S>(r, w_map, p, x_bytes, i, w_policy);
    pdl_wait();
    for (int32_t i = 0; i < early; i++) split_load_x<S>(r, x_map, p, i, often);
    for (int32_t i = early; i < p.n; i++) {
        barrier_wait(r.empty + 8 * (i % S::PLACES), (uint32_t)(i / S::PLACES - 1) & 1);
        split_load_w<S>(r, w_map, p, x_bytes, i, w_policy);
        split_load_x<S>(r, x_map, p, i, often);
    }
}

/* The sums over this block's steps; thread: of the warpgroup. */
template <typename T, typename S>
static __device__ __forceinline__ void split_multiply(const split_ring &r, const split_position &p,
                                                      int32_t group, int32_t thread, float (&sums)[S::SUMS])
{
    int32_t place = 0, before = -1;
    uint32_t parity = 0;
    for (int32_t i = 0; i < p.n; i++) {
        const uint32_t at = r.data + place * S::PLACE_BYTES;
        const uint64_t x = wgmma_descriptor(at + group * (S::X_BYTES / 2)),
                       w = wgmma_descriptor(at + S::X_BYTES);
        barrier_wait(r.full + 8 * place, parity);
        wgmma_fence();
#pragma unroll
        for (int kk = 0; kk < 4; kk++) wgmma_wide<T>(sums, x + 2 * kk, w + 2 * kk, i | kk);
        wgmma_commit();
        wgmma_wait<1>();
        if (before >= 0 && thread < 32 * S::ABOVE && thread % 32 == 0)
            barrier_arrive_at(r.empty + 8 * before, (uint32_t)(p.part * S::ABOVE + thread / 32));
        before = place;
        if (++place == S::PLACES) place = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    wgmma_pin(sums);
}

/* Hands each other block of the tile its columns' sums, and adds what the others have of this block's: mine =
 * the sum over all parts. All threads of the cluster meet here twice; `consumer`: of 256, or beyond. */
template <typename S>
static __device__ __forceinline__ void split_exchange(uint32_t buffer, const split_position &p,
                                                      int32_t consumer, const float (&sums)[S::SUMS],
                                                      float (&mine)[S::MINE])
{
    constexpr uint32_t QUAD = S::CONSUMERS * 16, SLOT = S::MINE / 4 * QUAD;
    cluster_sync(); /* all have multiplied: the rings are free */
#pragma unroll
    for (int to = 0; to < S::PARTS; to++) {
        if (to == p.part) {
#pragma unroll
            for (int i = 0; i < S::MINE; i++) mine[i] = sums[to * S::MINE + i];
            continue;
        }
        const uint32_t slot = (uint32_t)(p.part < to ? p.part : p.part - 1);
        const uint32_t at = remote_address(buffer + slot * SLOT + (uint32_t)consumer * 16,
                                           (uint32_t)(to * S::ABOVE + p.above));
#pragma unroll
        for (int i = 0; i < S::MINE; i += 4) {
            const float *v = &sums[to * S::MINE + i];
            remote_quad_set(at + i / 4 * QUAD, v[0], v[1], v[2], v[3]);
        }
    }
    cluster_sync();
#pragma unroll
    for (int slot = 0; slot < S::PARTS - 1; slot++)
#pragma unroll
        for (int i = 0; i < S::MINE; i += 4) {
            const float4 v = shared_quad(buffer + slot * SLOT + i / 4 * QUAD + (uint32_t)consumer * 16);
            mine[i] += v.x, mine[i + 1] += v.y, mine[i + 2] += v.z, mine[i + 3] += v.w;
        }
}

template <typename T> static __device__ __forceinline__ void store_pair(T *to, float a, float b)
{
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float2 *>(to) = make_float2(a, b);
    } else {
        const T both[2] = {from_f32<T>(a), from_f32<T>(b)};
        *reinterpret_cast<uint32_t *>(to) = *reinterpret_cast<const uint32_t *>(both);
    }
}

/* Columns of y from `column`, rows `row` and 8 below if they are before `end`, of 8 columns a group of 4 of
 * v. */
template <typename T, typename S, typename F>
static __device__ __forceinline__ void split_store(const split_args &a, float (&v)[S::MINE], int32_t row,
                                                   int32_t end, int32_t column, F act)
{
#pragma unroll
    for (int i = 0; i < S::MINE; i += 4) {
        const int32_t c = column + 2 * i;
        if (c >= a.n_out) continue;
        const float b0 = a.bias ? __ldg(a.bias + c) : 0, b1 = a.bias ? __ldg(a.bias + c + 1) : 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (row + 8 * half >= end) continue;
            T *y = static_cast<T *>(a.y) + (row + 8 * half) * a.y_stride + c;
            float r0 = act(v[i + 2 * half] + b0), r1 = act(v[i + 2 * half + 1] + b1);
            if (a.epilogue == LINEAR_ADD) r0 += to_f32(y[0]), r1 += to_f32(y[1]);
            store_pair(y, r0, r1);
        }
    }
}

template <typename T, typename S, typename F>
static __device__ __forceinline__ void split_store_gated(const split_args &a, float (&v)[S::MINE],
                                                         int32_t row, int32_t end, int32_t column, F act)
{
#pragma unroll
    for (int i = 0; i < S::MINE; i += 8) {
        const int32_t c = column + i;
        if (c >= a.n_out) continue;
        const float b0 = a.bias ? __ldg(a.bias + c) : 0, b1 = a.bias ? __ldg(a.bias + c + 1) : 0;
        const float u0 = a.bias ? __ldg(a.up_bias + c) : 0, u1 = a.bias ? __ldg(a.up_bias + c + 1) : 0;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            if (row + 8 * half >= end) continue;
            const float *gate = &v[i + 2 * half], *up = gate + 4;
            store_pair(static_cast<T *>(a.y) + (row + 8 * half) * a.y_stride + c,
                       act(gate[0] + b0) * (up[0] + u0), act(gate[1] + b1) * (up[1] + u1));
        }
    }
}

/* Not inlined: there are many calls. */
static __device__ __noinline__ float split_activate_any(enum activation act, float v)
{
    return activate(act, v);
}

template <typename T, typename S>
static __device__ __forceinline__ void split_finish(const split_args &a, const split_position &p,
                                                    float (&v)[S::MINE], int32_t consumer)
{
    const auto none = [](float u) { return u; };
    const auto silu = [](float u) { return activate(ACT_SILU, u); };
    const auto any = [&a](float u) { return split_activate_any(a.act, u); };
    const int32_t row = p.row + consumer / 32 * 16 + consumer % 32 / 4, pair = consumer % 4 * 2;
    const int32_t end = min(a.m, p.row + a.n_rows), w_row = p.w_row + p.part * (S::COLUMNS / S::PARTS);
    if (a.epilogue == LINEAR_GATED && a.act == ACT_SILU)
        split_store_gated<T, S>(a, v, row, end, w_row / 2 + pair, silu);
    else if (a.epilogue == LINEAR_GATED)
        split_store_gated<T, S>(a, v, row, end, w_row / 2 + pair, any);
    else if (a.f32_out)
        split_store<float, S>(a, v, row, end, w_row + pair, none);
    else if (a.act == ACT_NONE)
        split_store<T, S>(a, v, row, end, w_row + pair, none);
    else
        split_store<T, S>(a, v, row, end, w_row + pair, any);
}

#endif

/* x_map: boxes of n_rows, w_map: of COLUMNS / ABOVE. */
template <typename T, int COLUMNS, int ABOVE, int PARTS>
static __global__ void __cluster_dims__(ABOVE *PARTS, 1, 1) __launch_bounds__(384, 1)
    split_kernel(const __grid_constant__ CUtensorMap x_map, const __grid_constant__ CUtensorMap w_map,
                 const split_args a)
{
#if HOPPER
    using S = split<COLUMNS, ABOVE, PARTS>;
    extern __shared__ uint8_t unaligned[];
    split_ring r;
    r.data = (shared_address(unaligned) + 1023) & ~1023u;
    r.full = r.data + S::PLACES * S::PLACE_BYTES;
    r.empty = r.full + 8 * S::PLACES;
    const split_position p = split_position_of<S>(a);
    if (threadIdx.x == 0) {
        tma_prefetch_map(&x_map);
        tma_prefetch_map(&w_map);
        for (int i = 0; i < S::PLACES; i++) {
            barrier_init(r.full + 8 * i, 1);
            barrier_init(r.empty + 8 * i, 2 * S::ABOVE);
        }
        barrier_init_fence();
    }
    if (S::CLUSTER > 1)
        cluster_sync();
    else
        __syncthreads();
    pdl_launch();
    if (threadIdx.x < 128) {
        registers_give<24>();
        if (threadIdx.x == 0) split_produce<S>(r, &x_map, &w_map, a, p);
        __syncwarp();
        for (int i = 0; S::CLUSTER > 1 && i < (S::PARTS > 1 ? 2 : 1); i++) cluster_sync();
    } else {
        registers_take<240>();
        pdl_wait();
        const int32_t consumer = (int32_t)threadIdx.x - 128;
        const int32_t group = __shfl_sync(0xffffffffu, consumer / 128, 0);
        float sums[S::SUMS];
        split_multiply<T, S>(r, p, group, consumer % 128, sums);
        if constexpr (S::PARTS > 1) {
            float mine[S::MINE];
            split_exchange<S>(r.data, p, consumer, sums, mine);
            split_finish<T, S>(a, p, mine, consumer);
        } else {
            if (S::CLUSTER > 1) cluster_sync(); /* the other block may write here until it has multiplied */
            split_finish<T, S>(a, p, sums, consumer);
        }
    }
#endif
}

#endif
#endif
