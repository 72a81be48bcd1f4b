/* Sampling: a block a row, nothing sorted. As core/engine/sampler.c defines it: of the weights
 * w = exp((x - max) / temperature), those at least as large as min_p, as the k-th largest and as the one that
 * completes top_p of the mass are kept; the token is where their running sum in order of ids passes u of it.
 *
 * A small top_k is found among the largest elements of each thread. Other thresholds come from histograms
 * over d = (max - x) / temperature: of numbers, which are exact, or of mass, which is summed in integers of
 * 2^-14 of the bin's largest weight (less in vocabularies beyond 2^17), so that it does not depend on the
 * order of the atomics. The bin that a threshold falls into is divided again while it holds more than can be
 * gathered; then its elements are gathered and ranked exactly.
 */

#include "kernels/cuda/row.cuh"

extern "C" {
#include "base/rng.h"
}

enum {
    N_BINS = 2048,
    MOST_GATHERED = 2048,
    MOST_FEW = 512,  /* candidates that are compared with each other; more: level by level */
    MOST_LEVELS = 3, /* a bin of the third is narrower than floats are apart, but near 0 */
    SOME = 256,      /* that many are looked for among the threads' largest elements */
};
static __device__ const float first_scale =
    64; /* bins for a unit of d; the first level's last bin has no end */
static __device__ const double crowd_error = 1.02; /* more than exp(1 / first_scale) */

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
    uint32_t sum[N_BINS];
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
    int n_gathered, chunk, token;
    double left;
};

/* A token of those from `least` on, whose weights add up to `total`; -1: none. */
struct choice {
    int token;
    float least;
    double total;
};

/* ---- passes over the row ---------------------------------------------------------------------------------
 */

static __device__ __forceinline__ float weight(const struct row *r, float v)
{
    return expf((v - r->max) * r->inverse);
}

static __device__ __forceinline__ float depth(const struct row *r, float v)
{
    return (r->max - v) * r->inverse;
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

/* The gathered element at which the walk from the largest down reaches `missing`. Equal ones stand and fall
 * together: an element belongs to the walk if what is larger does not complete it. */
static __device__ float rank_gathered(float least, double missing, int by_count, struct scratch *s)
{
    float smallest = FLT_MAX;
    int n = min(s->n_gathered, (int)MOST_GATHERED);
    for (int i = threadIdx.x; i < n; i += ROW_THREADS) {
        float v = s->gathered[i];
        double larger = 0;
        if (v < least) continue;
        for (int j = 0; j < n; j++)
            if (s->gathered[j] > v) larger += by_count ? 1.0 : (double)s->weight[j];
        if (larger < missing) smallest = fminf(smallest, v);
    }
    smallest = block_min(smallest, &s->sums);
    return smallest == FLT_MAX ? least : smallest;
}

/* ---- few candidates: the rest is done on what was gathered ------------------------------------------------
 */

static __device__ double gathered_mass(float least, struct scratch *s)
{
    double mass = 0;
    for (int i = threadIdx.x; i < s->n_gathered; i += ROW_THREADS)
        if (s->gathered[i] >= least) mass += (double)s->weight[i];
    return block_sum(mass, &s->sums);
}

/* The token: the one kept element whose predecessors in order of ids do not reach u of the mass, but with it.
 */
static __device__ struct choice draw_gathered(float least, double u, struct scratch *s)
{
    double total = gathered_mass(least, s), left = u * total;
    if (threadIdx.x == 0) s->token = -1;
    __syncthreads();
    for (int i = threadIdx.x; i < s->n_gathered; i += ROW_THREADS) {
        if (s->gathered[i] < least) continue;
        double before = 0;
        int later = 0;
        for (int j = 0; j < s->n_gathered; j++) {
            if (s->gathered[j] < least) continue;
            if (s->id[j] < s->id[i]) before += (double)s->weight[j];
            later += s->id[j] > s->id[i];
        }
        if (before <= left && (left < before + (double)s->weight[i] || !later)) s->token = s->id[i];
    }
    __syncthreads();
    return {s->token, least, total};
}

/* ---- many candidates: thresholds from levels of histograms, and a draw from the whole row
 * ------------------ */

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
    return rank_gathered(r->least, s->n_gathered > MOST_GATHERED ? DBL_MAX : target, by_count, s);
}

/* Masses of the chunks, each relative to the largest that its warp has met there, or to r->max. */
static __device__ struct own weigh_chunks(const struct row *r, struct scratch *s)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, size = chunk_size(r->n);
    struct own own = {-INFINITY, 0};
    __syncthreads();
    for (int c = warp; c < (r->n + size - 1) / size; c += ROW_WARPS) {
        struct exp_sum e = {r->max, 0};
        for (int base = c * size; base < min((c + 1) * size, r->n); base += ROW_PIECE) {
            const struct piece p = load_piece(r->x, r->n, base);
            exp_sum_add(&e, &p, r->least, r->scale);
            if (e.max > own.max) own = {e.max, base};
        }
        float max = e.max;
        for (int d = 16; d > 0; d /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
        double mass = exp_sum_from(max, e, r->scale);
        for (int d = 16; d > 0; d /= 2) mass += __shfl_xor_sync(~0u, mass, d);
        if (lane == 0) {
            s->chunk_max[c] = max;
            s->chunk_mass[c] = mass;
        }
    }
    __syncthreads();
    return own;
}

/* Makes the masses relative to r->max, which is known now. Returns their sum. */
static __device__ double row_mass(const struct row *r, struct scratch *s)
{
    const int c = threadIdx.x, size = chunk_size(r->n);
    double mass = 0;
    if (c < (r->n + size - 1) / size) {
        if (s->chunk_mass[c] > 0)
            mass = s->chunk_mass[c] * (double)exp2_fast((s->chunk_max[c] - r->max) * r->scale);
        s->chunk_mass[c] = mass;
    }
    return block_sum(mass, &s->sums);
}

/* Sixteen neighbours from `first` on, as weights. */
static __device__ __forceinline__ void weigh_neighbours(const struct row *r, int first, float w[16])
{
    if ((reinterpret_cast<uintptr_t>(r->x) & 15) == 0 && first + 16 <= r->n)
#pragma unroll
        for (int k = 0; k < 4; k++)
            reinterpret_cast<float4 *>(w)[k] = *reinterpret_cast<const float4 *>(r->x + first + 4 * k);
    else
#pragma unroll
        for (int k = 0; k < 16; k++) w[k] = first + k < r->n ? r->x[first + k] : -INFINITY;
#pragma unroll
    for (int k = 0; k < 16; k++) w[k] = w[k] >= r->least ? exp2_fast((w[k] - r->max) * r->scale) : 0;
}

/* By one warp: the element of the chunk with which the sum in order of ids exceeds `left`; the last that has
 * any weight if none does, -1 if none has any. */
static __device__ int draw_chunk(const struct row *r, int chunk, double left)
{
    const int lane = threadIdx.x % 32, size = chunk_size(r->n);
    int token = -1;
    for (int base = chunk * size; base < min((chunk + 1) * size, r->n); base += ROW_PIECE) {
        float w[16], own = 0;
        int first = base + 16 * lane, mine = -1;
        weigh_neighbours(r, first, w);
#pragma unroll
        for (int k = 0; k < 16; k++) own += w[k];
        double upto = (double)own;
        for (int d = 1; d < 32; d *= 2) {
            double o = __shfl_up_sync(~0u, upto, d);
            upto += lane >= d ? o : 0;
        }
        unsigned past = __ballot_sync(~0u, own > 0 && upto > left), any = __ballot_sync(~0u, own > 0);
        if (any) {
            int owner = past ? __ffs((int)past) - 1 : 31 - __clz((int)any);
            double sum = upto - (double)own;
#pragma unroll
            for (int k = 0; k < 16; k++) {
                if (w[k] > 0 && (mine < 0 || sum <= left)) mine = first + k;
                sum += (double)w[k];
            }
            token = __shfl_sync(~0u, mine, owner);
        }
        if (past) break;
        left -= __shfl_sync(~0u, upto, 31);
    }
    return token;
}

/* The chunk where u of the mass is reached, then the element in it. row_mass has run. */
static __device__ struct choice draw_row(const struct row *r, double u, struct scratch *s)
{
    const int c = threadIdx.x, size = chunk_size(r->n);
    double own = c < (r->n + size - 1) / size ? s->chunk_mass[c] : 0;
    struct range m = block_scan(own, &s->sums);
    double left = u * m.total;
    if (c == 0) s->chunk = -1;
    __syncthreads();
    if (own > 0 && m.before <= left && left < m.upto) {
        s->chunk = c;
        s->left = left - m.before;
    }
    __syncthreads();
    if (s->chunk < 0) { /* rounding: it is the end of the last that has any */
        __syncthreads();
        s->left = DBL_MAX;
        if (own > 0) atomicMax(&s->chunk, c);
        __syncthreads();
    }
    if (c < 32) {
        int token = s->chunk >= 0 ? draw_chunk(r, s->chunk, s->left) : -1;
        if (c == 0) s->token = token;
    }
    __syncthreads();
    return {s->token, r->least, m.total};
}

/* ---- the whole --------------------------------------------------------------------------------------------
 */

/* What top_k (if not 0) and top_p leave of what is gathered. mass: of all that top_p is a share of; 0: of
 * what top_k leaves. */
static __device__ struct choice choose_gathered(const struct row *r, int top_k, float top_p, double mass,
                                                double u, struct scratch *s)
{
    float least = top_k ? rank_gathered(r->least, (double)top_k, 1, s) : r->least;
    if (top_p < 1 && mass == 0) mass = gathered_mass(least, s);
    if (top_p < 1) least = rank_gathered(least, (double)top_p * mass, 0, s);
    return draw_gathered(least, u, s);
}

/* Sets r->least to what top_k and top_p leave, by histograms; or, if that is little, chooses at once: 1. */
static __device__ int narrow(struct row *r, int top_k, float top_p, double u, struct choice *out,
                             struct scratch *s)
{
    __syncthreads();
    if (threadIdx.x == 0) s->level[0] = {0, first_scale, 0};
    histogram(r, 0, top_k > 0, s);
    find_bin(r, &s->level[0], (double)top_k, top_k ? 0 : (double)top_p, top_k > 0, s);
    if (s->crowd_upto <= MOST_FEW) {
        const struct level *first = &s->level[0];
        int bin = s->bin;
        double mass = top_k ? 0 : s->target / (double)top_p;
        gather(r, s, true, [&](float v) { return bin_of(first, depth(r, v)) <= bin; });
        *out = choose_gathered(r, top_k, top_p, mass, u, s);
        return 1;
    }
    r->least = fmaxf(r->least, walk_down(r, top_k > 0, s));
    if (top_k && top_p < 1) {
        histogram(r, 0, 0, s);
        find_bin(r, &s->level[0], 0, (double)top_p, 0, s);
        r->least = fmaxf(r->least, walk_down(r, 0, s));
    }
    return 0;
}

/* own: the largest of the thread's elements; mass: of the row. Mostly few are kept, and found among the
 * threads' largest: all that min_p keeps, the top_k, or the SOME likeliest. */
static __device__ struct choice choose(struct row *r, const struct sample_row *p, int top_k, double u,
                                       float own, double mass, struct scratch *s)
{
    struct choice c;
    const int by_p = p->top_p<1, by_min = p->min_p> 0, few = top_k && top_k <= SOME;
    if (!top_k && !by_p && !by_min) return draw_row(r, u, s);
    if (by_min) r->least = r->max + p->temperature * logf(p->min_p);
    if (few || by_min || !top_k) {
        const int all = few || by_min; /* that are kept will be gathered */
        uint32_t cut = few ? block_kth(ordered(own), top_k) : by_min ? 0 : block_kth(ordered(own), SOME);
        float reached = fmaxf(r->least, from_ordered(max(cut, ordered(-FLT_MAX))));
        gather(r, s, own >= reached, [&](float v) { return v >= reached; });
        if (s->n_gathered <= MOST_FEW && (all || gathered_mass(-FLT_MAX, s) >= (double)p->top_p * mass))
            return choose_gathered(r, top_k, p->top_p, all ? 0 : mass, u, s);
    }
    if ((top_k || by_p) && narrow(r, top_k, p->top_p, u, &c, s)) return c;
    weigh_chunks(r, s);
    row_mass(r, s);
    return draw_row(r, u, s);
}

/* The first of the largest elements; 0 if there is no number in the row. */
static __device__ int first_of(const struct row *r, struct own own, struct scratch *s)
{
    __syncthreads();
    if (threadIdx.x == 0) s->token = r->n;
    __syncthreads();
    if (own.max == r->max && own.max > -INFINITY) {
        const struct piece p = load_piece(r->x, r->n, own.base);
        int first = r->n;
#pragma unroll
        for (int k = 15; k >= 0; k--)
            if (p.v[k] == r->max) first = piece_id(&p, k);
        atomicMin(&s->token, first);
    }
    __syncthreads();
    return s->token < r->n ? s->token : 0;
}

static __device__ void leave(const struct sample_args *a, const struct sample_row *p, int token,
                             unsigned flags)
{
    struct sampled *out = &a->out[blockIdx.x];
    if (p->seat < 0) *out = {};
    out->token = a->last[p->slot] = token;
    out->flags |= flags;
}

static __global__ void __launch_bounds__(ROW_THREADS, 1) sample_kernel(const struct sample_args a)
{
    __shared__ struct scratch s;
    pdl_launch();
    pdl_wait();
    const struct sample_row p = a.rows[blockIdx.x];
    if (p.slot < 0) return;
    const float *raw = a.logits + blockIdx.x * a.logits_stride;
    const struct sampled before = a.out[blockIdx.x];
    const unsigned flags = p.seat >= 0 ? before.flags : 0;
    if (flags & (SAMPLED_CHOSEN | SAMPLED_FAILED)) {
        if (threadIdx.x == 0) leave(&a, &p, flags & SAMPLED_FAILED ? 0 : before.token, flags);
        return;
    }
    const float *x = p.seat >= 0 ? a.state[blockIdx.x].at : raw;
    const int n = a.vocab_size, top_k = p.top_k > 0 && p.top_k < n ? p.top_k : 0;
    const int greedy = p.temperature < 1e-5f, lists = p.seat >= 0 && p.n_candidates > 0;
    const float inverse = greedy ? 1 : 1 / p.temperature;
    struct row r = {x, n, -INFINITY, inverse, inverse * 1.44269504088896341f, -FLT_MAX};
    struct choice c = {-1, -FLT_MAX, 0};
    const int weighed = greedy ? lists : !top_k || top_k > SOME;
    const struct own own = weighed ? weigh_chunks(&r, &s) : own_max(x, n);
    r.max = block_max(own.max, &s.sums);
    const int barren = !isfinite(r.max) || (flags & SAMPLED_BARREN);
    if (weighed && !barren) c.total = row_mass(&r, &s);
    if (!greedy && !barren) {
        struct rng_block random = rng_philox(p.seed, p.stream, p.position);
        uint64_t u53 = ((uint64_t)random.word[0] << 21) ^ (random.word[1] >> 11);
        c = choose(&r, &p, top_k, (double)u53 * 0x1p-53, own.max, c.total, &s);
    }
    if (c.token < 0) c.token = first_of(&r, own, &s);
    if (threadIdx.x != 0) return;
    leave(&a, &p, c.token, barren ? SAMPLED_BARREN : 0);
    if (p.seat < 0) return;
    struct sample_state *state = &a.state[blockIdx.x];
    state->least = c.least, state->total = c.total, state->max = r.max, state->inverse = inverse;
}

llm_status cuda_sample(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "sample", sample_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}
