#ifndef LLM_KERNELS_CUDA_BEST_CUH
#define LLM_KERNELS_CUDA_BEST_CUH

/* The k best elements of a row, in order, ties by lower id, without sorting the row: a bound that few more
 * than k elements reach, a pass that gathers those, and the rank of each among them.
 *
 * The bound is the k-th largest of the threads' own best: k threads reach it, so k elements do, and as the
 * elements of a thread lie all over the row, hardly more. Where many do after all (equal numbers, mostly),
 * the bound is made sharper by counting.
 *
 * An element's key is a number that orders as it does; 0: it is out. */

#include "kernels/cuda/row.cuh"

enum {
    MOST_GATHERED_BEST = 1024,
    BEST_SLACK = 16 /* ulp: the key may be computed, and not be monotonic to the last bit */
};

/* In shared memory. */
struct best {
    struct row_sums sums;
    uint64_t list[MOST_GATHERED_BEST]; /* key, then what is larger for lower ids */
    int n;                             /* that were to be gathered */
};

/* k of the row's keys are at least what this returns; `own`: the key of the thread's best element. Elements
 * of threads whose own is below best_own_bound need not be looked at. k <= ROW_THREADS / 2. */
static __device__ uint32_t best_bound(uint32_t own, int k, uint32_t least, struct best *b)
{
    if (threadIdx.x == 0) b->n = 0;
    uint32_t bound = block_kth(own, k); /* and waits for b->n */
    bound = bound > BEST_SLACK ? bound - BEST_SLACK : 1;
    return max(max(bound, least), 1u);
}

static __device__ __forceinline__ uint32_t best_own_bound(uint32_t bound)
{
    return bound > BEST_SLACK ? bound - BEST_SLACK : 0;
}

static __device__ __forceinline__ void best_add(struct best *b, uint32_t key, int id)
{
    int i = atomicAdd(&b->n, 1);
    if (i < MOST_GATHERED_BEST) b->list[i] = (uint64_t)key << 32 | (uint32_t)~id;
}

/* Gathers those of the elements equal to `key` that come first, until there are k. */
template <typename F>
static __device__ void best_add_equal(const float *x, int n, int k, uint32_t key, F key_of, struct best *b)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_now = b->n;
    for (int base = 0; base < n && n_now < k; base += ROW_THREADS) {
        int i = base + (int)threadIdx.x, equal = i < n && key_of(x[i]) == key, before = n_now, all = 0;
        unsigned vote = __ballot_sync(~0u, equal);
        __syncthreads();
        if (lane == 0) b->sums.i[warp] = __popc(vote);
        __syncthreads();
        for (int w = 0; w < ROW_WARPS; w++) {
            before += w < warp ? b->sums.i[w] : 0;
            all += b->sums.i[w];
        }
        before += __popc(vote & ((1u << lane) - 1));
        if (equal && before < k) b->list[before] = (uint64_t)key << 32 | (uint32_t)~i;
        n_now += all;
    }
    __syncthreads();
    if (threadIdx.x == 0) b->n = min(n_now, k);
    __syncthreads();
}

/* After all threads have gathered what reaches the bound: if that was too much, gathers again, from a sharper
 * one. */
template <typename F>
static __device__ void best_narrow(const float *x, int n, int k, F key_of, struct best *b)
{
    __syncthreads();
    if (b->n <= MOST_GATHERED_BEST) return;
    uint32_t cut = 0;
    int reach = b->n;
    for (uint32_t bit = 1u << 31; bit && reach > MOST_GATHERED_BEST; bit /= 2) {
        int own = 0;
        each(x, n, [&](int, float v) { own += key_of(v) >= (cut | bit); });
        int count = block_count(own, &b->sums);
        if (count < k) continue;
        cut |= bit;
        reach = count;
    }
    int tied = reach > MOST_GATHERED_BEST; /* then `cut` is the k-th key itself */
    if (threadIdx.x == 0) b->n = 0;
    __syncthreads();
    each(x, n, [&](int i, float v) {
        uint32_t key = key_of(v);
        if (key > cut || (key == cut && !tied)) best_add(b, key, i);
    });
    __syncthreads();
    if (tied) best_add_equal(x, n, k, cut, key_of, b);
}

/* Calls emit(rank, id, key) for the k best, by any threads. Returns how many there are. */
template <typename F> static __device__ int best_emit(const struct best *b, int k, F emit)
{
    for (int i = threadIdx.x; i < b->n; i += ROW_THREADS) {
        uint64_t mine = b->list[i];
        int rank = 0;
#pragma unroll 8
        for (int j = 0; j < b->n; j++) rank += b->list[j] > mine;
        if (rank < k) emit(rank, (int)~(uint32_t)mine, (uint32_t)(mine >> 32));
    }
    return min(b->n, k);
}

#endif
