#ifndef LLM_KERNELS_CUDA_SAMPLE_LEVELS_CUH
#define LLM_KERNELS_CUDA_SAMPLE_LEVELS_CUH

/* Where many elements are kept: the smallest of them, from histograms over d = (max - x) / temperature, of
 * numbers, which are exact, or of mass, which is summed in integers of 2^-14 of the bin's largest weight
 * (less in vocabularies beyond 2^17), so that it does not depend on the order of the atomics. The bin that
 * the threshold falls into is divided again while it holds more than can be gathered; then its elements are
 * gathered and put in order. */

#include "kernels/cuda/sample.cuh"

static __device__ const float first_scale =
    64; /* bins for a unit of d; the first level's last bin has no end */
static __device__ const double crowd_error = 1.02; /* more than exp(1 / first_scale) */

static __device__ __forceinline__ int bin_of(const struct level *l, float d)
{
    return max(0, min((int)((d - l->d0) * l->scale), N_BINS - 1));
}

/* 1 if each level above has put it into the bin that was divided further. */
static __device__ __forceinline__ int is_inside(const struct scratch *s, int n_levels, float d)
{
    int inside = 1;
    for (int l = 0; l < n_levels; l++) inside &= bin_of(&s->level[l], d) == s->level[l].bin;
    return inside;
}

static __device__ float bin_top(const struct level *l, int bin)
{
    return expf(-(l->d0 + (float)bin / l->scale));
}

/* In a bin, 1 is this large: as fine as lets the sum of a whole row of such fit. */
static __device__ __forceinline__ float unit_of(int n)
{
    return (float)(1u << (n <= 1 << 17 ? 14 : __clz(n - 1) - 1));
}

/* The elements that lie inside all levels above, by bins of this one: their number, or their weights over
 * that of the bin's top, which lie between exp(-1 / first_scale) and 1, so that they tell the number too. */
static __device__ void histogram(const struct row *r, int level, int by_count, struct scratch *s)
{
    __syncthreads();
    for (int b = threadIdx.x; b < N_BINS; b += ROW_THREADS) s->sum[b] = 0;
    const struct level now = s->level[level];
    const float unit = unit_of(r->n), width = 1 / now.scale;
    __syncthreads();
    each(r->x, r->n, [&](int, float v) {
        float d = depth(r, v);
        if (!(v >= r->least) || !is_inside(s, level, d)) return;
        int b = bin_of(&now, d);
        float t = by_count ? 0 : fmaxf(now.d0 + (float)b * width - d, -1 / first_scale);
        float w = 1 + t * (1 + t * (1.0f / 2 + t * (1.0f / 6))); /* exp(t), within 3e-9 */
        atomicAdd(&s->sum[b], __float2uint_rn(w * unit));
    });
    __syncthreads();
}

/* Walks the bins from the largest weights on until `target` is reached, by count or by mass; or until `share`
 * of all is, where that is not 0. Leaves in s the bin where that is, and what lies before it. */
static __device__ void find_bin(const struct row *r, const struct level *level, double target, double share,
                                int by_count, struct scratch *s)
{
    const double unit = 1 / (double)unit_of(r->n);
    double number[2], sum[2];
    for (int k = 0; k < 2; k++) {
        int b = 2 * (int)threadIdx.x + k;
        number[k] = unit * (double)s->sum[b];
        sum[k] = by_count ? number[k] : number[k] * (double)bin_top(level, b);
    }
    struct range numbers = block_scan(number[0] + number[1], &s->sums);
    struct range sums = block_scan(sum[0] + sum[1], &s->sums);
    /* Rounding may leave all of them a little short of it: then it is the last that has any. */
    target = fmin(share > 0 ? share * sums.total : target, sums.total);
    if (sums.before < target && target <= sums.upto) {
        int second = sums.before + sum[0] < target && sum[1] > 0;
        s->bin = 2 * (int)threadIdx.x + second;
        s->before = sums.before + (second ? sum[0] : 0);
        s->target = target;
        s->crowd = (float)(number[second] * crowd_error + 1);
        s->crowd_upto = (float)((numbers.before + number[0] + (second ? number[1] : 0)) * crowd_error + 1);
    }
    __syncthreads();
}

/* The logit at which the walk down the row ends. Its bin of the first level has been found. */
static __device__ float walk_down(const struct row *r, int by_count, struct scratch *s)
{
    double target = s->target;
    int level = 0;
    for (;;) {
        int crowded = s->crowd > MOST_GATHERED && level + 1 < MOST_LEVELS;
        target -= s->before;
        __syncthreads();
        if (threadIdx.x == 0) {
            struct level *l = &s->level[level];
            l->bin = s->bin;
            if (crowded)
                s->level[level + 1] = {l->d0 + (float)s->bin / l->scale, l->scale * (float)N_BINS, 0};
        }
        __syncthreads();
        if (!crowded) break;
        histogram(r, ++level, by_count, s);
        find_bin(r, &s->level[level], target, 0, by_count, s);
        target = s->target;
    }
    gather(r, s, true, [&](float v) { return is_inside(s, level + 1, depth(r, v)); });
    /* Still too many: equal numbers, which are kept together. */
    int n = min(s->n_gathered, (int)MOST_GATHERED), many = s->n_gathered > n;
    return walk_gathered(order_by_value(n, s), many ? DBL_MAX : target, by_count, r->least, s);
}

#endif
