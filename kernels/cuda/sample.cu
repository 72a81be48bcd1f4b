/* Sampling: a block a row, nothing sorted. As core/engine/sampler.c defines it: of the weights
 * w = exp((x - max) / temperature), those at least as large as min_p, as the k-th largest and as the one that
 * completes top_p of the mass are kept; the token is where their running sum in order of ids passes u of it.
 *
 * Mostly few are kept, and are found among the largest elements of each thread; else histograms tell the
 * threshold (sample_levels.cuh), and the draw goes over the row: first to a chunk, then into it. */

#include "kernels/cuda/sample_levels.cuh"

extern "C" {
#include "base/rng.h"
}

/* ---- the row by chunks -----------------------------------------------------------------------------------
 */

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
    struct pick pick = pick_thread(own, u, s);
    if (c < 32) {
        int token = pick.thread >= 0 ? draw_chunk(r, pick.thread, pick.left) : -1;
        if (c == 0) s->token = token;
    }
    __syncthreads();
    return {s->token, r->least, pick.total};
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* What top_k (if not 0) and top_p leave of what is gathered. mass: of all that top_p is a share of; 0: of
 * what top_k leaves. */
static __device__ struct choice choose_gathered(const struct row *r, int top_k, float top_p, double mass,
                                                double u, struct scratch *s)
{
    const int n = s->n_gathered;
    float least = r->least;
    struct element e = order_by_value(n, s);
    if (top_k) least = fmaxf(least, s->gathered[min(top_k, n) - 1]);
    if (top_p < 1 && mass == 0) mass = block_sum(e.v >= least ? (double)e.weight : 0, &s->sums);
    if (top_p < 1) least = walk_gathered(e, (double)top_p * mass, 0, least, s);
    const int n_kept = __syncthreads_count(e.v >= least);
    e = put_in_order(n_kept, e, (uint32_t)~e.id, s);
    const struct pick pick = pick_thread(e.v >= least ? (double)e.weight : 0, u, s);
    return {pick.thread >= 0 ? s->id[pick.thread] : -1, least, pick.total};
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

/* own: the largest of the thread's elements; mass: of the row, without top_k and min_p. Mostly few are kept,
 * and found among the threads' largest: all that min_p keeps, the top_k, or the SOME likeliest. */
static __device__ struct choice choose(struct row *r, const struct sample_row *p, int top_k, double u,
                                       float own, double mass, struct scratch *s)
{
    struct choice c;
    const int by_p = p->top_p < 1;
    const int by_min = p->min_p > 0;
    const int few = top_k && top_k <= SOME;
    if (!top_k && !by_p && !by_min) return draw_row(r, u, s);
    if (by_min) r->least = r->max + p->temperature * logf(p->min_p);
    if (few || by_min || !top_k) {
        const int all = few || by_min; /* that are kept will be gathered */
        uint32_t cut = few ? block_kth(ordered(own), top_k) : by_min ? 0 : block_kth(ordered(own), SOME);
        float reached = fmaxf(r->least, from_ordered(max(cut, ordered(-FLT_MAX))));
        const double share = all ? 0 : (double)p->top_p * mass;
        const int looks = own >= reached;
        /* The threads' largest alone tell whether it is worth a pass. */
        int hopeful = all ? __syncthreads_count(looks) <= MOST_FEW
                          : 2 * block_sum(looks ? (double)weight(r, own) : 0, &s->sums) >= share;
        if (hopeful) {
            gather(r, s, looks, [&](float v) { return v >= reached; });
            if (s->n_gathered <= MOST_FEW && (all || gathered_mass(s) >= share))
                return choose_gathered(r, top_k, p->top_p, all ? 0 : mass, u, s);
        }
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
    /* The mass of the row matters to a list's probabilities, to top_p of all, and to a draw from all. */
    const int weighed = greedy ? lists : !top_k && !(p.min_p > 0);
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
