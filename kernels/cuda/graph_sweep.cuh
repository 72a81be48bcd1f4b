/* Of the kernels of policy graphs (graph_device.cuh): sweeps over the row, and what comes of them. */

#pragma once

#include "kernels/cuda/graph_cluster.cuh"

/* ---- sweeps -------------------------------------------------------------------------------------------- */

#define TILES(r) for (int tile = (r).rank + WARP * (r).n_ranks; tile < N_TILES; tile += N_WARPS * (r).n_ranks)

/* The 32 tokens of a lane in a tile that has all: UNROLL at a time; and in the last, one by one: there i is
 * always a token, `in` says whether it is the lane's. Tokens lie in memory's order, or as sums want them. */
#define IS_FULL(tile) (((tile) + 1) * TILE <= VOCAB)
#define STEPS         _Pragma("unroll 1") for (int step = 0; step < 32; step += UNROLL)
#define ELEMENTS      _Pragma("unroll") for (int u = 0; u < UNROLL; u++)
#define ONE_BY_ONE    _Pragma("unroll 1") for (int step = 0, u = 0; step < 32; step++)
#define ALONG         (tile * TILE + LANE + (step + u) * 32)
#define IN_LANES      (tile * TILE + LANE / 16 * 512 + LANE % 16 + (step + u) * 16)
#define ELEMENT(i, in, place)                                                                                \
    const int i = place;                                                                                     \
    const bool in = true
#define LAST_ELEMENT(i, in, place)                                                                           \
    const bool in = place < VOCAB;                                                                           \
    const int i = in ? place : VOCAB - 1

static __device__ __forceinline__ uint32_t ordered(float v)
{
    const uint32_t bits = __float_as_uint(v);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

static __device__ __forceinline__ float unordered(uint32_t v)
{
    return __uint_as_float(v & 0x80000000u ? v ^ 0x80000000u : ~v);
}

/* Code that is not called is fetched for each of its copies, which takes longer than most of what it does:
 * what is not per element is not inlined. */

/* At the end of a tile: v is what this lane has added up. As many lanes as there are blocks in the cluster
 * push the sum, each to another. */
static __device__ __noinline__ void push_sum(double *sums, int n_ranks, int tile, float v)
{
    double sum = 0;
#pragma unroll
    for (int j = 0; j < 16; j++) sum += (double)__shfl_sync(~0u, v, j, 16);
    const int block = 2 * tile + LANE / 16, rank = LANE % 16;
    if (block < N_BLOCKS && rank < n_ranks)
        push((word64 *)(sums + block), rank, (word64)__double_as_longlong(sum));
}

static __device__ __forceinline__ void sum_tile(const struct row &r, int slot, int tile, float v)
{
    push_sum(SUMS(r.half, slot), r.n_ranks, tile, v);
}

static __device__ __forceinline__ word64 both(bool added, word64 a, word64 b)
{
    return added ? a + b : a > b ? a : b;
}

/* The sum or the largest of a warp's. */
static __device__ __noinline__ word64 of_warp(bool added, word64 v)
{
#pragma unroll 1
    for (int d = 16; d > 0; d /= 2) v = both(added, v, __shfl_xor_sync(~0u, v, d));
    return v;
}

/* At the end of a sweep: what a thread found. */
static __device__ __forceinline__ void note(bool added, int slot, word64 v)
{
    v = of_warp(added, v);
    if (LANE == 0) PARTS(slot)[WARP] = v;
}

/* After it each block has what the whole row gave. added: bits of the slots that are sums. */
static __device__ __noinline__ void gather_found(int half, int rank, int n_ranks, int n_slots, uint32_t added)
{
    __syncthreads();
    for (int slot = WARP; slot < n_slots; slot += N_WARPS) {
        const word64 v = of_warp(added >> slot & 1, LANE < N_WARPS ? PARTS(slot)[LANE] : 0);
        if (LANE < n_ranks) push(FOUND(half, slot) + rank, LANE, v);
    }
    if (n_ranks == 1)
        __syncthreads();
    else
        cluster_barrier();
}

static __device__ __forceinline__ void meet(struct row &r, int n_slots, uint32_t added)
{
    gather_found(r.half, r.rank, r.n_ranks, n_slots, added);
    r.half ^= 1;
}

/* From here on: of the last sweep. */
static __device__ __noinline__ double add_up(const double *sums)
{
    double sum = 0;
#pragma unroll 8
    for (int b = 0; b < N_BLOCKS; b++) sum += sums[b];
    return sum;
}

/* By all threads. */
static __device__ __forceinline__ double add_up_once(const struct row &r, int slot)
{
    double *whole = (double *)(shared_memory() + AT_WHOLE);
    if (WARP == 0) *whole = add_up(SUMS(r.half ^ 1, slot));
    __syncthreads();
    return *whole;
}

static __device__ __forceinline__ double total(const struct row &r, int slot)
{
    return add_up(SUMS(r.half ^ 1, slot));
}

static __device__ __noinline__ word64 find(bool added, const word64 *found, int n_ranks)
{
    word64 v = 0;
#pragma unroll 1
    for (int rank = 0; rank < n_ranks; rank++) v = both(added, v, found[rank]);
    return v;
}

static __device__ __forceinline__ word64 found(bool added, const struct row &r, int slot)
{
    return find(added, FOUND(r.half ^ 1, slot), r.n_ranks);
}

static __device__ __forceinline__ double found_max(const struct row &r, int slot)
{
    return (double)unordered((uint32_t)found(false, r, slot));
}

static __device__ __forceinline__ double found_min(const struct row &r, int slot)
{
    return (double)unordered(~(uint32_t)found(false, r, slot));
}

static __device__ __forceinline__ word64 best_key(float best, int token)
{
    return best > LOWEST_ROW ? (word64)ordered(best + 0.0f) << 32 | (uint32_t)~token : 0;
}

static __device__ __forceinline__ double found_best(const struct row &r, int slot)
{
    const word64 v = found(false, r, slot);
    return v ? (double)~(uint32_t)v : 0;
}

/* ---- failures ------------------------------------------------------------------------------------------ */

static __device__ __noinline__ void fail(int failure, int where, double number)
{
    if (VERDICT->failure) return;
    __syncwarp();
    VERDICT->where = where;
    VERDICT->number = number;
    VERDICT->failure = failure;
    __syncwarp();
}

static __device__ __forceinline__ bool failed()
{
    return VERDICT->failure != GRAPH_RAN;
}
