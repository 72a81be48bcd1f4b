/* Of the kernels of policy graphs (graph_device.cuh): the shared memory of a block, the row it works on, and
 * what is the device's own of a cluster of blocks. */

#pragma once

#include "graph/elementary.h"
#include "graph/failure.h"
#include "graph/hash.h"
#include "kernels/cuda/graph_kernel.h"
#include "kernels/sampling.h"

typedef unsigned long long word64;

#define N_WARPS    (THREADS / 32)
#define TILE       1024
#define N_TILES    ((VOCAB + TILE - 1) / TILE)
#define N_BLOCKS   ((VOCAB + 511) / 512)
#define N_BINS     2048
#define LOWEST_ROW (-INFINITY)
#define WARP       ((int)threadIdx.x / 32)
#define LANE       ((int)threadIdx.x % 32)
#define MOST_RANKS 8

/* ---- shared memory ------------------------------------------------------------------------------------- */

struct verdict {
    int failure, where;
    double number;
};

#define NUM(i)  (((double *)(shared_memory() + AT_NUMS))[i])
#define VEC(i)  ((double *)(shared_memory() + AT_VECS) + (i))
#define KEY(i)  (((struct hash_key *)(shared_memory() + AT_KEYS))[i])
#define VERDICT ((struct verdict *)(shared_memory() + AT_VERDICT))

/* Of a sweep: the sums of the blocks of 512 tokens [N_BLOCKS]; what each block of the cluster found
 * [MOST_RANKS]; what each warp found [32]. */
#define SUMS(half, slot)  ((double *)(shared_memory() + AT_SUMS) + ((half)*N_SUMS + (slot)) * N_BLOCKS)
#define FOUND(half, slot) ((word64 *)(shared_memory() + AT_FOUND) + ((half)*N_FOUND + (slot)) * MOST_RANKS)
#define PARTS(slot)       ((word64 *)(shared_memory() + AT_PARTS) + (slot)*32)

/* Of a selection: bins [2][N_BINS], low words and high words; and a list. */
#define BINS         ((uint32_t *)(shared_memory() + AT_BINS))
#define LIST_SIZE    ((uint32_t *)(shared_memory() + AT_LIST_SIZE))
#define LIST_KEYS    ((uint32_t *)(shared_memory() + AT_LIST_KEYS))
#define LIST_WEIGHTS ((word64 *)(shared_memory() + AT_LIST_WEIGHTS))

/* ---- the cluster --------------------------------------------------------------------------------------- */

struct row {
    int rank, n_ranks; /* this block, of so many on the row */
    int half;          /* of shared memory that the sweep now fills */
    int index;         /* of the step's rows */
    const struct sample_row *p;
    const float *at;
    float *out;
    const struct graph_arg *args;
    double *variables;
    const int32_t *history;
    int n_history, n_prompt;
    const uint32_t *counts, *constants;
    uint32_t *tables;
};

#ifdef __CUDA_ARCH__
static __device__ __forceinline__ char *shared_memory()
{
    extern __shared__ double graph_shared[];
    return (char *)graph_shared;
}

#if __CUDA_ARCH__ >= 900
static __device__ __forceinline__ int cluster_rank()
{
    uint32_t v;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(v));
    return (int)v;
}

static __device__ __forceinline__ int cluster_size()
{
    uint32_t v;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(v));
    return (int)v;
}

static __device__ __forceinline__ void cluster_barrier()
{
    asm volatile("barrier.cluster.arrive;\n\tbarrier.cluster.wait;" ::: "memory");
}

static __device__ __forceinline__ uint32_t address_in(const void *p, int rank)
{
    uint32_t at;
    asm("mapa.shared::cluster.u32 %0, %1, %2;"
        : "=r"(at)
        : "r"((uint32_t)__cvta_generic_to_shared(p)), "r"(rank));
    return at;
}

static __device__ __forceinline__ void push(word64 *p, int rank, word64 v)
{
    asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(address_in(p, rank)), "l"(v) : "memory");
}

static __device__ __forceinline__ uint32_t pull(const uint32_t *p, int rank)
{
    uint32_t v;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(address_in(p, rank)));
    return v;
}

static __device__ __forceinline__ void begin_kernel()
{
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
}
#else
static __device__ __forceinline__ int cluster_rank()
{
    return 0;
}

static __device__ __forceinline__ int cluster_size()
{
    return 1;
}

static __device__ __forceinline__ void cluster_barrier()
{
    __syncthreads();
}

static __device__ __forceinline__ void push(word64 *p, int, word64 v)
{
    *p = v;
}

static __device__ __forceinline__ uint32_t pull(const uint32_t *p, int)
{
    return *p;
}

static __device__ __forceinline__ void begin_kernel() {}
#endif

/* As it is; but to be kept in a register, not computed again from what it was made of. */
static __device__ __forceinline__ float pinned(float v)
{
    asm volatile("" : "+f"(v));
    return v;
}

template <typename T> static __device__ __forceinline__ T *pinned(T *p)
{
    asm volatile("" : "+l"(p));
    return p;
}

/* The larger; NaN if one is. */
static __device__ __forceinline__ float top_of(float a, float b)
{
    float v;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(v) : "f"(a), "f"(b));
    return v;
}

/* Of what this kernel itself writes to memory: past the first-level cache, and where it stands. */
static __device__ __forceinline__ uint32_t load_word(const uint32_t *p)
{
    uint32_t v;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}
#endif

static __device__ __forceinline__ void cluster_sync(const struct row &r)
{
    if (r.n_ranks == 1)
        __syncthreads();
    else
        cluster_barrier();
}
