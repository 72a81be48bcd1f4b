/* Sampling: a block a row, nothing sorted. As core/engine/sampler.c defines it: of the weights
 * w = exp((x - max) / temperature), those at least as large as min_p, as the k-th largest and as the one that
 * completes top_p of the mass are kept; the token is where their running sum in order of ids passes u of it.
 *
 * Thresholds come from a histogram over d = (max - x) / temperature. Counts are exact. The mass of a bin is
 * summed in integers of 2^-14 of the bin's largest weight, so that it does not depend on the order of the
 * atomics. The elements of the one bin that a threshold falls into are gathered and ranked exactly. */

#include "kernels/cuda/cuda.cuh"

#include <cfloat>

extern "C" {
#include "base/rng.h"
}

enum {
    THREADS = 1024,
    N_WARPS = THREADS / 32,
    N_BINS = 2048, /* of width BIN_WIDTH; the last one has no lower end */
    MOST_IN_BIN = 2048,
};
static __device__ const float bin_width = 1.0f / 64;
static __device__ const float mass_unit = 1.0f / 16384;

struct scratch {
    uint32_t count[N_BINS], mass[N_BINS];
    float gathered[MOST_IN_BIN];
    float warp_f[N_WARPS];
    int warp_i[N_WARPS];
    double warp_d[N_WARPS];
    double mass_before; /* of bins before the one found */
    int bin, count_before, n_gathered;
    float threshold;
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

static __device__ __forceinline__ int bin_of(float d)
{
    return min((int)(d * (1.0f / bin_width)), N_BINS - 1);
}

static __device__ double bin_mass(const struct scratch *s, int bin)
{
    return (double)s->mass[bin] * (double)mass_unit * (double)expf(-(float)bin * bin_width);
}

/* Elements with x >= least, by bin. Weights of the last bin are below 2^-46 and counted as its top. */
static __device__ void histogram(const float *x, int n, float max, float inverse, float least,
                                 struct scratch *s)
{
    for (int b = threadIdx.x; b < N_BINS; b += THREADS) s->count[b] = s->mass[b] = 0;
    __syncthreads();
    each(x, n, [&](int, float v) {
        if (!(v >= least)) return;
        float d = (max - v) * inverse;
        int b = bin_of(d);
        atomicAdd(&s->count[b], 1u);
        float w = b == N_BINS - 1 ? 0 : expf((float)b * bin_width - d);
        atomicAdd(&s->mass[b], (uint32_t)rintf(w * (1.0f / mass_unit)));
    });
    __syncthreads();
}

/* Walks the bins from the largest weights on until `target` is reached, by count or by mass, and leaves in s
 * the bin where that is, with what lies before it. One warp does it: N_BINS / 32 bins a lane. */
static __device__ void find_bin(double target, int by_count, struct scratch *s)
{
    const int each_lane = N_BINS / 32;
    if (threadIdx.x < 32) {
        int first = threadIdx.x * each_lane;
        double own = 0, mass = 0;
        int count = 0;
        for (int b = first; b < first + each_lane; b++) {
            count += (int)s->count[b];
            mass += bin_mass(s, b);
        }
        own = by_count ? (double)count : mass;
        double upto = own, mass_upto = mass;
        int count_upto = count;
        for (int d = 1; d < 32; d *= 2) {
            double o = __shfl_up_sync(~0u, upto, d), m = __shfl_up_sync(~0u, mass_upto, d);
            int c = __shfl_up_sync(~0u, count_upto, d);
            if (threadIdx.x >= (unsigned)d) {
                upto += o;
                mass_upto += m;
                count_upto += c;
            }
        }
        unsigned reached = __ballot_sync(~0u, upto >= target);
        /* Rounding may leave all of them a little short of the mass: then it is the last that has any. */
        unsigned any = __ballot_sync(~0u, count > 0);
        int lane = reached ? __ffs((int)reached) - 1 : 31 - __clz((int)any);
        if ((int)threadIdx.x == lane) {
            double before = upto - own, m = mass_upto - mass;
            int c = count_upto - count, last = first, found = 0;
            double last_m = m;
            int last_c = c;
            for (int b = first; b < first + each_lane && !found; b++) {
                if (!s->count[b]) continue;
                last = b;
                last_m = m;
                last_c = c;
                double amount = by_count ? (double)s->count[b] : bin_mass(s, b);
                found = before + amount >= target;
                before += amount;
                m += bin_mass(s, b);
                c += (int)s->count[b];
            }
            s->bin = last;
            s->mass_before = last_m;
            s->count_before = last_c;
        }
    }
    __syncthreads();
}

/* The elements of the bin found that are at least `least`; more than there is room for are left out. */
static __device__ void gather_bin(const float *x, int n, float max, float inverse, float least,
                                  struct scratch *s)
{
    if (threadIdx.x == 0) s->n_gathered = 0;
    __syncthreads();
    int bin = s->bin;
    each(x, n, [&](int, float v) {
        if (!(v >= least) || bin_of((max - v) * inverse) != bin) return;
        int i = atomicAdd(&s->n_gathered, 1);
        if (i < MOST_IN_BIN) s->gathered[i] = v;
    });
    __syncthreads();
}

/* The value of the gathered at which the walk from the largest down reaches what is missing. An element's
 * standing is what is larger; equal ones stand and fall together. A bin with more elements than were gathered
 * (a row of equal logits, say) is kept whole: its weights differ by less than 2 percent. */
static __device__ float threshold_in_bin(double missing, int by_count, float max, float inverse, float least,
                                         struct scratch *s)
{
    if (threadIdx.x == 0) s->threshold = s->n_gathered > MOST_IN_BIN ? least : FLT_MAX;
    __syncthreads();
    int n = s->n_gathered;
    if (n > MOST_IN_BIN) {
        float lowest = max - (float)(s->bin + 1) * bin_width / inverse;
        return s->bin == N_BINS - 1 || lowest < least ? least : lowest;
    }
    float smallest = FLT_MAX;
    for (int i = threadIdx.x; i < n; i += THREADS) {
        float v = s->gathered[i];
        double larger = 0;
        for (int j = 0; j < n; j++)
            if (s->gathered[j] > v)
                larger += by_count ? 1.0 : (double)expf((s->gathered[j] - max) * inverse);
        if (larger < missing) smallest = fminf(smallest, v);
    }
    for (int d = 16; d > 0; d /= 2) smallest = fminf(smallest, __shfl_xor_sync(~0u, smallest, d));
    if (threadIdx.x % 32 == 0) s->warp_f[threadIdx.x / 32] = smallest;
    __syncthreads();
    for (int w = 0; w < N_WARPS; w++) smallest = fminf(smallest, s->warp_f[w]);
    __syncthreads();
    return smallest == FLT_MAX ? least : smallest;
}

/* The smallest logit that min_p, top_k and top_p keep. */
static __device__ float find_threshold(const float *x, int n, float max, const struct sample_row *r,
                                       struct scratch *s)
{
    float inverse = 1 / r->temperature;
    float least = r->min_p > 0 ? max + r->temperature * logf(r->min_p) : -FLT_MAX;
    int by_k = r->top_k > 0 && r->top_k < n;
    if (by_k || r->top_p < 1) histogram(x, n, max, inverse, least, s);
    if (by_k) {
        find_bin((double)r->top_k, 1, s);
        gather_bin(x, n, max, inverse, least, s);
        float kth = threshold_in_bin((double)(r->top_k - s->count_before), 1, max, inverse, least, s);
        if (kth > least) least = kth;
    }
    if (r->top_p < 1) {
        if (by_k) histogram(x, n, max, inverse, least, s);
        double mass = 0;
        for (int b = threadIdx.x; b < N_BINS; b += THREADS) mass += bin_mass(s, b);
        double target = (double)r->top_p * block_sum(mass, s);
        find_bin(target, 0, s);
        gather_bin(x, n, max, inverse, least, s);
        float v = threshold_in_bin(target - s->mass_before, 0, max, inverse, least, s);
        if (v > least) least = v;
    }
    return least;
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
        float least = find_threshold(x, n, max, &r, &s);
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
