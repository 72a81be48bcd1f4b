/* Sampling: a block a row, nothing sorted. As core/engine/sampler.c defines it: of the weights
 * w = exp((x - max) / temperature), those at least as large as min_p, as the k-th largest and as the one that
 * completes top_p of the mass are kept; the token is where their running sum in order of ids passes u of it.
 *
 * Thresholds come from histograms over d = (max - x) / temperature. Counts are exact. The mass of a bin is
 * summed in integers of 2^-14 of the bin's largest weight, so that it does not depend on the order of the
 * atomics. The bin that a threshold falls into is divided again while it holds more than can be gathered;
 * then its elements are gathered and ranked exactly. */

#include "kernels/cuda/cuda.cuh"

#include <cfloat>

extern "C" {
#include "base/rng.h"
}

enum {
    THREADS = 1024,
    N_WARPS = THREADS / 32,
    N_BINS = 2048,
    MOST_IN_BIN = 2048, /* gathered */
    MOST_LEVELS = 3,    /* a bin of the third is narrower than floats are apart, but near 0 */
};
static __device__ const float first_scale =
    64; /* bins for a unit of d; the first level's last bin has no end */
static __device__ const float mass_unit = 1.0f / 16384;

/* Bins from d0 on, `scale` of them a unit of d. */
struct level {
    float d0, scale;
    int bin; /* the one that was divided further */
};

/* What a row's passes have in common. */
struct row {
    const float *x;
    int n;
    float max, inverse; /* 1 / temperature */
    float least;        /* only elements x >= least count */
};

struct scratch {
    uint32_t count[N_BINS], mass[N_BINS];
    float gathered[MOST_IN_BIN];
    float warp_f[N_WARPS];
    int warp_i[N_WARPS];
    double warp_d[N_WARPS];
    struct level level[MOST_LEVELS];
    double mass_before; /* of the bins before the one found, on this level */
    int bin, count_before, n_gathered;
    int token;
};

/* ---- block-wide helpers: results are in every thread -----------------------------------------------------
 */

static __device__ double block_sum(double v, struct scratch *s)
{
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->warp_d[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < N_WARPS; i++) sum += s->warp_d[i];
    return sum;
}

/* The largest and its lowest index. A NaN is never larger. */
static __device__ void block_argmax(float *value, int *index, struct scratch *s)
{
    for (int d = 16; d > 0; d /= 2) {
        float v = __shfl_xor_sync(~0u, *value, d);
        int i = __shfl_xor_sync(~0u, *index, d);
        if (v > *value || (v == *value && i < *index)) {
            *value = v;
            *index = i;
        }
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        s->warp_f[threadIdx.x / 32] = *value;
        s->warp_i[threadIdx.x / 32] = *index;
    }
    __syncthreads();
    *value = s->warp_f[0];
    *index = s->warp_i[0];
    for (int w = 1; w < N_WARPS; w++)
        if (s->warp_f[w] > *value || (s->warp_f[w] == *value && s->warp_i[w] < *index)) {
            *value = s->warp_f[w];
            *index = s->warp_i[w];
        }
}

/* ---- passes over the row ---------------------------------------------------------------------------------
 */

/* Calls f(i, x) for each element, four at a time where the row is aligned for it. */
template <typename F> static __device__ __forceinline__ void each(const float *x, int n, F f)
{
    int n4 = (reinterpret_cast<uintptr_t>(x) & 15) == 0 ? n / 4 : 0;
    const float4 *x4 = reinterpret_cast<const float4 *>(x);
    for (int i = threadIdx.x; i < n4; i += THREADS) {
        float4 v = x4[i];
        f(4 * i, v.x);
        f(4 * i + 1, v.y);
        f(4 * i + 2, v.z);
        f(4 * i + 3, v.w);
    }
    for (int i = 4 * n4 + threadIdx.x; i < n; i += THREADS) f(i, x[i]);
}

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

/* The elements that lie inside all levels above, by bins of this one. What is beyond the first level's bins
 * weighs less than 2^-46 and is counted only. */
static __device__ void histogram(const struct row *r, int level, struct scratch *s)
{
    __syncthreads();
    for (int b = threadIdx.x; b < N_BINS; b += THREADS) s->count[b] = s->mass[b] = 0;
    struct level now = s->level[level];
    __syncthreads();
    each(r->x, r->n, [&](int, float v) {
        float d = (r->max - v) * r->inverse;
        if (!(v >= r->least) || !is_inside(s, level, d)) return;
        int b = bin_of(&now, d);
        atomicAdd(&s->count[b], 1u);
        float w = level == 0 && b == N_BINS - 1 ? 0 : expf(now.d0 + (float)b / now.scale - d);
        atomicAdd(&s->mass[b], (uint32_t)rintf(w * (1.0f / mass_unit)));
    });
    __syncthreads();
}

/* Walks the bins from the largest weights on until `target` is reached, by count or by mass, and leaves in s
 * the bin where that is, with what lies before it. One warp does it: N_BINS / 32 bins a lane. */
static __device__ void find_bin(const struct level *level, double target, int by_count, struct scratch *s)
{
    const int each_lane = N_BINS / 32;
    if (threadIdx.x < 32) {
        int first = threadIdx.x * each_lane, count = 0;
        double mass = 0;
        for (int b = first; b < first + each_lane; b++) {
            if (!s->count[b]) continue;
            count += (int)s->count[b];
            mass += (double)s->mass[b] * (double)(mass_unit * bin_top(level, b));
        }
        double mass_upto = mass;
        int count_upto = count;
        for (int d = 1; d < 32; d *= 2) {
            double m = __shfl_up_sync(~0u, mass_upto, d);
            int c = __shfl_up_sync(~0u, count_upto, d);
            if (threadIdx.x >= (unsigned)d) {
                mass_upto += m;
                count_upto += c;
            }
        }
        unsigned reached = __ballot_sync(~0u, (by_count ? (double)count_upto : mass_upto) >= target);
        /* Rounding may leave all of them a little short of the mass: then it is the last that has any. */
        unsigned any = __ballot_sync(~0u, count > 0);
        int lane = reached ? __ffs((int)reached) - 1 : 31 - __clz((int)any);
        if ((int)threadIdx.x == lane) {
            double m = mass_upto - mass;
            int c = count_upto - count, found = 0;
            for (int b = first; b < first + each_lane && !found; b++) {
                if (!s->count[b]) continue;
                s->bin = b;
                s->mass_before = m;
                s->count_before = c;
                m += (double)s->mass[b] * (double)(mass_unit * bin_top(level, b));
                c += (int)s->count[b];
                found = (by_count ? (double)c : m) >= target;
            }
        }
    }
    __syncthreads();
}

/* The elements inside `n_levels` levels; more than there is room for are counted only. */
static __device__ void gather_inside(const struct row *r, int n_levels, struct scratch *s)
{
    if (threadIdx.x == 0) s->n_gathered = 0;
    __syncthreads();
    each(r->x, r->n, [&](int, float v) {
        if (!(v >= r->least) || !is_inside(s, n_levels, (r->max - v) * r->inverse)) return;
        int i = atomicAdd(&s->n_gathered, 1);
        if (i < MOST_IN_BIN) s->gathered[i] = v;
    });
    __syncthreads();
}

/* The smallest over the block. */
static __device__ float block_min(float v, struct scratch *s)
{
    for (int d = 16; d > 0; d /= 2) v = fminf(v, __shfl_xor_sync(~0u, v, d));
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->warp_f[threadIdx.x / 32] = v;
    __syncthreads();
    for (int w = 0; w < N_WARPS; w++) v = fminf(v, s->warp_f[w]);
    return v;
}

/* The gathered element at which the walk from the largest down reaches `missing`. Equal ones stand and fall
 * together: an element belongs to the walk if what is larger does not complete it. */
static __device__ float rank_gathered(const struct row *r, double missing, int by_count, struct scratch *s)
{
    float smallest = FLT_MAX;
    int n = min(s->n_gathered, (int)MOST_IN_BIN);
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float v = s->gathered[i];
        double larger = 0;
        for (int j = 0; j < n; j++)
            if (s->gathered[j] > v)
                larger += by_count ? 1.0 : (double)expf((s->gathered[j] - r->max) * r->inverse);
        if (larger < missing) smallest = fminf(smallest, v);
    }
    smallest = block_min(smallest, s);
    return smallest == FLT_MAX ? r->least : smallest;
}

/* The logit at which the walk down the row reaches `target`. The first level's histogram is there. */
static __device__ float walk_down(const struct row *r, double target, int by_count, struct scratch *s)
{
    int level = 0;
    for (;; level++) {
        find_bin(&s->level[level], target, by_count, s);
        target -= by_count ? (double)s->count_before : s->mass_before;
        int crowd = (int)s->count[s->bin];
        __syncthreads();
        if (threadIdx.x == 0) {
            struct level *l = &s->level[level];
            l->bin = s->bin;
            if (level + 1 < MOST_LEVELS)
                s->level[level + 1] = {l->d0 + (float)s->bin / l->scale, l->scale * (float)N_BINS, 0};
        }
        __syncthreads();
        if (crowd <= MOST_IN_BIN || level + 1 == MOST_LEVELS) break;
        histogram(r, level + 1, s);
    }
    gather_inside(r, level + 1, s);
    /* Still too many: equal numbers, which are kept together. */
    return rank_gathered(r, s->n_gathered > MOST_IN_BIN ? DBL_MAX : target, by_count, s);
}

/* The smallest logit that min_p, top_k and top_p keep. */
static __device__ float find_threshold(struct row r, const struct sample_row *p, struct scratch *s)
{
    int by_k = p->top_k > 0 && p->top_k < r.n;
    if (p->min_p > 0) r.least = fmaxf(r.least, r.max + p->temperature * logf(p->min_p));
    if (threadIdx.x == 0) s->level[0] = {0, first_scale, 0};
    if (by_k) {
        histogram(&r, 0, s);
        r.least = fmaxf(r.least, walk_down(&r, (double)p->top_k, 1, s));
    }
    if (p->top_p < 1) {
        histogram(&r, 0, s);
        double mass = 0;
        for (int b = threadIdx.x; b < N_BINS; b += THREADS)
            mass += (double)s->mass[b] * (double)(mass_unit * bin_top(&s->level[0], b));
        r.least = fmaxf(r.least, walk_down(&r, (double)p->top_p * block_sum(mass, s), 0, s));
    }
    return r.least;
}

/* ---- the draw --------------------------------------------------------------------------------------------
 */

/* Each warp has a run of the row; sums of runs tell which warp, sums of 32 which group, and so on. */
static __device__ int draw(const float *x, int n, float max, float inverse, float least, double u,
                           struct scratch *s)
{
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int run = ((n + N_WARPS - 1) / N_WARPS + 31) / 32 * 32, begin = min(warp * run, n),
        end = min(begin + run, n);
    double sum = 0;
    for (int i = begin + lane; i < end; i += 32)
        if (x[i] >= least) sum += (double)expf((x[i] - max) * inverse);
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    __syncthreads();
    if (lane == 0) s->warp_d[warp] = sum;
    if (threadIdx.x == 0) s->token = -1;
    __syncthreads();
    double total = 0, before = 0;
    for (int w = 0; w < N_WARPS; w++) total += s->warp_d[w];
    double left = u * total;
    int chosen = 0;
    for (int w = 0; w < N_WARPS; w++) {
        if (s->warp_d[w] > 0)
            chosen = w; /* at the end: the last that has any, should rounding carry past it */
        if (left < before + s->warp_d[w]) break;
        before += s->warp_d[w];
    }
    if (warp == chosen) {
        if (left < before) before = left;
        left -= before;
        int token = -1;
        for (int base = begin; base < end; base += 32) {
            int i = base + lane;
            int keep = i < end && x[i] >= least;
            double w = keep ? (double)expf((x[i] - max) * inverse) : 0, upto = w;
            for (int d = 1; d < 32; d *= 2) {
                double o = __shfl_up_sync(~0u, upto, d);
                if (lane >= d) upto += o;
            }
            unsigned kept = __ballot_sync(~0u, keep), past = __ballot_sync(~0u, keep && upto > left);
            if (kept) token = base + 31 - __clz((int)kept);
            if (past) {
                token = base + __ffs((int)past) - 1;
                break;
            }
            left -= __shfl_sync(~0u, upto, 31);
        }
        if (lane == 0) s->token = token;
    }
    __syncthreads();
    return s->token;
}

static __global__ void __launch_bounds__(THREADS, 1) sample_kernel(struct sample_args a)
{
    __shared__ struct scratch s;
    pdl_launch();
    pdl_wait();
    struct sample_row r = a.rows[blockIdx.x];
    if (r.slot < 0) return;
    const float *x = a.logits + r.row * a.logits_stride;
    int n = a.vocab_size, token = 0x7fffffff;
    float max = -INFINITY;
    each(x, n, [&](int i, float v) {
        if (v > max || (v == max && i < token)) {
            max = v;
            token = i;
        }
    });
    block_argmax(&max, &token, &s);
    if (token >= n) token = 0; /* not one number in the row */
    if (r.temperature >= 1e-5f && isfinite(max)) {
        float least = find_threshold({x, n, max, 1 / r.temperature, -FLT_MAX}, &r, &s);
        struct rng_block random = rng_philox(r.seed, r.stream, r.position);
        uint64_t u53 = ((uint64_t)random.word[0] << 21) ^ (random.word[1] >> 11);
        int drawn = draw(x, n, max, 1 / r.temperature, least, (double)u53 * 0x1p-53, &s);
        if (drawn >= 0) token = drawn;
    }
    if (threadIdx.x == 0) a.out[blockIdx.x] = a.last[r.slot] = token;
}

llm_status cuda_sample(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "sample", sample_kernel, dim3(a->n), dim3(THREADS), 0, *a);
}
