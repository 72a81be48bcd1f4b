/* Of the kernels of policy graphs (graph_device.cuh): draws, and order statistics without sorting. */

#pragma once

#include "kernels/cuda/graph_sweep.cuh"

/* ---- draws --------------------------------------------------------------------------------------------- */

static __device__ __noinline__ struct rng_block random_of(const struct sample_row *p, int site)
{
    return rng_philox_at(p->seed, p->stream, p->position, (uint32_t)site);
}

static __device__ __forceinline__ struct rng_block random_block(const struct row &r, int site)
{
    return random_of(r.p, site);
}

static __device__ __noinline__ struct hash_key hash_of(const double *key, int n)
{
    return hash_fold(key, n);
}

static __device__ __forceinline__ double random_number(const struct row &r, int site)
{
    return (double)hash_uniform(random_block(r, site).word[0]);
}

static __device__ __forceinline__ struct hash_key random_key(const struct row &r, int site)
{
    const struct rng_block b = random_block(r, site);
    struct hash_key k;
    k.k[0] = b.word[2];
    k.k[1] = b.word[3];
    return k;
}

/* The block of 512 tokens in which `left` runs out; *left becomes what is left there. It is the subtractions
 * one after the other that take the time: sixteen are done before the sign is looked at, which then is
 * negative for good, as no sum is. */
static __device__ __noinline__ int block_at(const double *sums, double *left)
{
    int b = 0;
    double now = *left;
    for (; b + 16 < N_BLOCKS; b += 16) {
        double after = now;
#pragma unroll
        for (int k = 0; k < 16; k++) after -= sums[b + k];
        if (after < 0) break;
        now = after;
    }
    for (; b + 1 < N_BLOCKS && now >= sums[b]; b++) now -= sums[b];
    *left = now;
    return b;
}

/* The first of a block's 512 tokens at which `left` runs out; else -1, and *last the last with a weight. */
static __device__ __noinline__ int token_at(const float *weights, int begin, double *left, int *last)
{
#pragma unroll 1
    for (int at = 0; at < 512; at += 32) {
        const float w = weights[at + LANE];
        for (uint32_t some = __ballot_sync(~0u, w > 0); some; some &= some - 1) {
            const int lane = __ffs((int)some) - 1;
            *left -= (double)__shfl_sync(~0u, w, lane);
            *last = begin + at + lane;
            if (*left < 0) return *last;
        }
    }
    return -1;
}

/* As the interpreter: over the sums of 512 tokens, then over the tokens of one; rounding may carry it past
 * their end, then it goes on to the next token with a weight, or back to the last. By all threads, which
 * compute the weights of a block together. */
template <typename F> static __device__ double walk(const double *sums, double left, F weight)
{
    float *weights = (float *)(shared_memory() + AT_WEIGHTS);
    double *token = (double *)(shared_memory() + AT_WHOLE);
    int *go_on = (int *)(shared_memory() + AT_DIGIT); /* the block to look at next; -1: done */
    const int first = block_at(sums, &left);
    int block = first, last = -1, is_back = 0;
#pragma unroll 1
    for (;;) {
#pragma unroll 1
        for (int k = (int)threadIdx.x; k < 512; k += THREADS)
            weights[k] = block * 512 + k < VOCAB ? weight(block * 512 + k) : 0.0f;
        __syncthreads();
        if (WARP == 0) {
            const int found = token_at(weights, block * 512, &left, &last);
            int next = -1;
            if (found < 0 && !is_back && block + 1 < N_BLOCKS) next = block + 1;
            if (found < 0 && next < 0 && last < 0) {
                next = (is_back ? block : first) - 1;
                left = (double)INFINITY;
            }
            *token = (double)(found < 0 ? last : found);
            *go_on = next;
        }
        __syncthreads();
        const int next = *go_on;
        __syncthreads();
        if (next < 0) return *token;
        is_back = next < block;
        block = next;
    }
}

/* bad: some weight is negative or NaN. By all threads, alike; the first warp has the token. */
template <typename F>
static __device__ double draw(const struct row &r, int node, int site, int sum_slot, int bad_slot, F weight)
{
    __syncthreads();
    if (failed()) return 0;
    const double sum = add_up_once(r, sum_slot);
    const bool bad = found(false, r, bad_slot) || !(sum < (double)INFINITY && sum > -(double)INFINITY);
    if (bad || !(sum > 0)) {
        __syncthreads();
        if (WARP == 0) fail(bad ? GRAPH_DRAW_BAD : GRAPH_DRAW_EMPTY, node, 0);
        return 0;
    }
    const struct rng_block b = random_block(r, site);
    const uint64_t u53 = ((uint64_t)b.word[0] << 21) ^ (b.word[1] >> 11);
    return walk(SUMS(r.half ^ 1, sum_slot), (double)u53 * 0x1p-53 * sum, weight);
}

/* ---- selections ---------------------------------------------------------------------------------------- */

/* Adds w to a bin of 64 bits in two words: whatever the order, each carry is seen by one thread. */
template <bool counted> static __device__ __forceinline__ void add_to_bin(uint32_t bin, word64 w)
{
    if (counted) {
        atomicAdd(&BINS[bin], 1u);
        return;
    }
    const uint32_t low = (uint32_t)w, before = atomicAdd(&BINS[bin], low);
    const uint32_t high = (uint32_t)(w >> 32) + (before + low < before);
    if (high) atomicAdd(&BINS[N_BINS + bin], high);
}

struct digit {
    word64 before; /* weight of the bins above, */
    word64 all;    /* and of all bins */
    int bin;       /* -1: there is none */
};

/* The bin in which the walk from the highest down reaches `need`; of weights at the latest the lowest that
 * has any, of counts none. */
template <bool counted> static __device__ __noinline__ struct digit find_digit(int n_ranks, word64 need)
{
    const int each = N_BINS / THREADS;
    word64 own[each], sum = 0;
    for (int k = 0; k < each; k++) own[k] = 0;
#pragma unroll 2
    for (int rank = 0; rank < n_ranks; rank++) {
        for (int k = 0; k < each; k++) {
            const int bin = N_BINS - 1 - ((int)threadIdx.x * each + k);
            own[k] += pull(&BINS[bin], rank);
            if (!counted) own[k] += (word64)pull(&BINS[N_BINS + bin], rank) << 32;
        }
    }
    for (int k = 0; k < each; k++) sum += own[k];
    word64 upto = sum, all = 0, before = 0;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const word64 v = __shfl_up_sync(~0u, upto, d);
        if (LANE >= d) upto += v;
    }
    word64 *parts = PARTS(0);
    if (LANE == 31) parts[WARP] = upto;
    __syncthreads();
    for (int w = 0; w < N_WARPS; w++) {
        if (w == WARP) before = all;
        all += parts[w];
    }
    struct digit *chosen = (struct digit *)(shared_memory() + AT_DIGIT);
    if (threadIdx.x == 0) {
        chosen->bin = -1;
        chosen->all = all;
    }
    __syncthreads();
    if (!counted && need > all) need = all; /* weights were rounded */
    before += upto - sum;
    for (int k = 0; k < each; k++) {
        if (own[k] && before < need && need <= before + own[k]) {
            chosen->bin = N_BINS - 1 - ((int)threadIdx.x * each + k);
            chosen->before = before;
        }
        before += own[k];
    }
    __syncthreads();
    return *chosen;
}

/* Elements of a selection, and their weights, that this block remembers: all it has met, unless there were
 * more than there is room for. */
static __device__ __noinline__ void remember(uint32_t x, word64 w)
{
    if (*(volatile uint32_t *)LIST_SIZE > N_LIST) return;
    const uint32_t at = atomicAdd(LIST_SIZE, 1u);
    if (at >= N_LIST) return;
    LIST_KEYS[at] = x;
    if (LIST_HAS_WEIGHTS) LIST_WEIGHTS[at] = w;
}

/* What a level of a selection looks at: elements x with x >> top == prefix (top 32: all), by the `bits` bits
 * from `low` on; those from `least` on are remembered. */
struct level {
    uint32_t prefix, least;
    int top, low, bits;
};

static __device__ __forceinline__ bool is_inside(const struct level &l, uint32_t x)
{
    return l.top == 32 || x >> l.top == l.prefix;
}

static __device__ __forceinline__ bool is_everything(const struct level &l)
{
    return l.top == 32 && l.least == 0;
}

static __device__ __forceinline__ uint32_t bin_of(const struct level &l, uint32_t x)
{
    return x >> l.low & ((1u << l.bits) - 1);
}

template <bool counted>
static __device__ __forceinline__ void add_element(const struct level &l, uint32_t x, word64 w)
{
    if (!w || x < l.least || !is_inside(l, x)) return;
    add_to_bin<counted>(bin_of(l, x), w);
    if (!is_everything(l)) remember(x, w);
}

template <bool counted, typename F>
static __device__ __forceinline__ void sweep_level(const struct row &r, const struct level &l, F weigh)
{
    TILES(r)
    {
        if (IS_FULL(tile)) STEPS
            {
                uint32_t x[UNROLL];
                word64 w[UNROLL];
                ELEMENTS
                {
                    ELEMENT(i, in, ALONG);
                    float v = 0;
                    w[u] = in ? weigh(i, &v) : 0;
                    x[u] = ordered(v);
                }
                ELEMENTS add_element<counted>(l, x[u], w[u]);
            }
        else
            ONE_BY_ONE
            {
                LAST_ELEMENT(i, in, ALONG);
                float v = 0;
                const word64 w = weigh(i, &v);
                add_element<counted>(l, ordered(v), in ? w : 0);
            }
    }
}

template <bool counted> static __device__ __noinline__ void list_level(const struct level &l)
{
    for (int k = (int)threadIdx.x; k < (int)*LIST_SIZE; k += THREADS)
        if (is_inside(l, LIST_KEYS[k]))
            add_to_bin<counted>(bin_of(l, LIST_KEYS[k]), counted ? 1 : LIST_WEIGHTS[k]);
}

static __device__ __noinline__ void clear_bins(int n, bool forget)
{
    for (int b = (int)threadIdx.x; b < n; b += THREADS) BINS[b] = 0;
    if (forget && threadIdx.x == 0) *LIST_SIZE = 0;
    __syncthreads();
}

/* Walks the elements from the largest down until the weights passed reach `need`, and gives where it ends:
 * radix selection, 11 bits of the elements a level. weigh(i, &x): the weight of element x of token i; 0: it
 * does not count. Weights are integers, so that their sums do not depend on the order. A level sweeps the row
 * only where what it needs was not remembered. Elements below `guess` are first left out, which is right if
 * those from it on weigh enough; -inf: there is no guess. */
template <bool counted, typename F>
static __device__ double select(const struct row &r, word64 need, float guess, F weigh)
{
    const int n_bins = (counted ? 1 : 2) * N_BINS;
    struct level l = {0, guess > LOWEST_ROW ? ordered(guess) : 0, 32, 21, 11};
    bool listed = false;
    clear_bins(n_bins, true);
#pragma unroll 1
    for (;;) {
        if (listed)
            list_level<counted>(l);
        else
            sweep_level<counted>(r, l, weigh);
        cluster_sync(r);
        const struct digit d = find_digit<counted>(r.n_ranks, need);
        cluster_sync(r);
        if (l.top == 32 && l.least && d.all < need) {
            l.least = 0;
            clear_bins(n_bins, true);
            continue;
        }
        if (d.bin < 0) return -(double)INFINITY;
        need = need > d.before ? need - d.before : 1;
        l.prefix = l.prefix << l.bits | (uint32_t)d.bin;
        if (l.low == 0) return (double)unordered(l.prefix);
        const bool remembered = !is_everything(l); /* if they had room */
        l.top = l.low;
        l.low = l.low == 21 ? 10 : 0;
        l.bits = l.low ? 11 : 10;
        listed = remembered && *LIST_SIZE <= N_LIST;
        __syncthreads();
        clear_bins(n_bins, !listed);
    }
}

/* Weights of a quantile as integers: multiples of 2^-shift, so that their sum is below 2^62. */
static __device__ __forceinline__ int quantile_shift(double sum)
{
    if (!(sum > 0 && sum < (double)INFINITY)) return 0;
    return 61 - ((int)(__double_as_longlong(sum) >> 52 & 0x7ff) - 1023);
}

static __device__ __forceinline__ word64 quantile_need(double mass, int shift)
{
    if (mass != mass) return ~(word64)0;
    const double need = ceil(mass * __longlong_as_double((long long)(shift + 1023) << 52));
    return need >= 1 ? __double2ull_rn(need) : 1;
}

/* Rounded to the nearest, and at least 1: what has a weight counts. */
static __device__ __forceinline__ word64 quantile_weight(float x, float w, int shift)
{
    const uint32_t bits = __float_as_uint(w), fraction = bits & 0x7fffff;
    const int exponent = (int)(bits >> 23);
    if (!(w > 0) || x != x) return 0;
    const word64 whole = exponent ? fraction | 0x800000 : fraction;
    const int left = (exponent ? exponent : 1) - 150 + shift;
    if (left >= 0) return left < 40 ? whole << left : ~(word64)0 >> 2;
    const word64 v = left > -40 ? ((whole << 1 >> (-left)) + 1) >> 1 : 0;
    return v ? v : 1;
}
