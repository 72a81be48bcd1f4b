#ifndef LLM_KERNELS_CUDA_SAMPLE_CUH
#define LLM_KERNELS_CUDA_SAMPLE_CUH

/* The choice from a row, in one block's hands: what its passes have in common, and the choice among the few
 * elements that were gathered of it, one a thread, which are put in order and summed. */

#include "kernels/cuda/row.cuh"

enum {
    N_BINS = 2048,
    MOST_GATHERED = ROW_THREADS,
    MOST_FEW = 512,  /* elements that are put in order, but where a level leaves more */
    MOST_LEVELS = 3, /* a bin of the third is narrower than floats are apart, but near 0 */
    SOME = 256,      /* that many are looked for among the threads' largest elements */
};

/* Bins from d0 on, `scale` of them a unit of d. */
struct level {
    float d0, scale;
    int bin; /* the one that was divided further */
};

/* What a row's passes have in common. */
struct row {
    const float *x;
    int n;
    float max;            /* -inf: not known yet */
    float inverse, scale; /* 1 / temperature, and over ln 2 */
    float least;          /* only elements x >= least count */
};

struct scratch {
    union {
        uint32_t sum[N_BINS];
        uint64_t key[MOST_GATHERED];
    };
    float gathered[MOST_GATHERED], weight[MOST_GATHERED];
    int id[MOST_GATHERED];
    float chunk_max[MOST_CHUNKS];
    double chunk_mass[MOST_CHUNKS]; /* relative to it; later, to the row's */
    struct row_sums sums;
    struct level level[MOST_LEVELS];
    /* what find_bin has found: a bin, the sum of those before it, what was looked for; at most how many
     * elements the bin has, and all up to it */
    int bin;
    double before, target;
    float crowd, crowd_upto;
    int n_gathered, picked, token;
    float reached;
    double left;
};

/* A token of those from `least` on, whose weights add up to `total`; -1: none. */
struct choice {
    int token;
    float least;
    double total;
};

static __device__ __forceinline__ float weight(const struct row *r, float v)
{
    return expf((v - r->max) * r->inverse);
}

static __device__ __forceinline__ float depth(const struct row *r, float v)
{
    return (r->max - v) * r->inverse;
}

/* Gathers the elements for which keep(x) holds; more than there is room for are counted only. looks: the
 * thread may have any. */
template <typename F>
static __device__ void gather(const struct row *r, struct scratch *s, bool looks, F keep)
{
    __syncthreads();
    if (threadIdx.x == 0) s->n_gathered = 0;
    __syncthreads();
    if (looks)
        each(r->x, r->n, [&](int id, float v) {
            if (!(v >= r->least) || !keep(v)) return;
            int i = atomicAdd(&s->n_gathered, 1);
            if (i >= MOST_GATHERED) return;
            s->gathered[i] = v;
            s->weight[i] = weight(r, v);
            s->id[i] = id;
        });
    __syncthreads();
}

/* ---- what is gathered, one a thread ----------------------------------------------------------------------
 */

struct element {
    float v, weight; /* -inf, 0: none */
    int id;
};

static __device__ struct element gathered_element(int n, const struct scratch *s)
{
    const int i = threadIdx.x;
    if (i >= n) return {-INFINITY, 0, -1};
    return {s->gathered[i], s->weight[i], s->id[i]};
}

/* Hands the first n out anew in order of their keys, which differ: the largest to the first thread. */
static __device__ struct element put_in_order(int n, struct element e, uint64_t key, struct scratch *s)
{
    const int i = threadIdx.x;
    int rank = 0;
    __syncthreads();
    if (i < n) s->key[i] = key;
    __syncthreads();
    if (i < n)
#pragma unroll 8
        for (int j = 0; j < n; j++) rank += s->key[j] > key;
    if (i < n) {
        s->gathered[rank] = e.v;
        s->weight[rank] = e.weight;
        s->id[rank] = e.id;
    }
    __syncthreads();
    return gathered_element(n, s);
}

static __device__ struct element order_by_value(int n, struct scratch *s)
{
    struct element e = gathered_element(n, s);
    return put_in_order(n, e, (uint64_t)ordered(e.v) << 32 | (uint32_t)~e.id, s);
}

/* Where the walk down the ordered elements reaches `missing`, each counting as its weight, or as 1. Equal
 * ones stand and fall together. */
static __device__ float walk_gathered(struct element e, double missing, int by_count, float least,
                                      struct scratch *s)
{
    const double own = e.v < least ? 0 : by_count ? 1 : (double)e.weight;
    if (threadIdx.x == 0) s->reached = least;
    const struct range m = block_scan(own, &s->sums);
    missing = fmin(missing, m.total); /* rounding */
    if (own > 0 && m.before < missing && missing <= m.upto) s->reached = e.v;
    __syncthreads();
    return s->reached;
}

static __device__ double gathered_mass(struct scratch *s)
{
    return block_sum((double)gathered_element(s->n_gathered, s).weight, &s->sums);
}

/* The thread with whose share the sum over the threads, in order, exceeds u of all (-1: they have none);
 * `left`: of u, before its own. */
struct pick {
    int thread;
    double left, total;
};

static __device__ struct pick pick_thread(double own, double u, struct scratch *s)
{
    if (threadIdx.x == 0) s->picked = -1;
    const struct range m = block_scan(own, &s->sums);
    const double left = u * m.total;
    if (own > 0 && m.before <= left && left < m.upto) {
        s->picked = threadIdx.x;
        s->left = left - m.before;
    }
    __syncthreads();
    if (s->picked < 0) { /* rounding: it is the end of the last that has any */
        __syncthreads();
        s->left = DBL_MAX;
        if (own > 0) atomicMax(&s->picked, (int)threadIdx.x);
        __syncthreads();
    }
    return {s->picked, s->left, m.total};
}

#endif
