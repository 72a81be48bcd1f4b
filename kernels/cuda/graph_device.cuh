/* What the kernels of policy graphs have in common; graph_emit.c writes the rest, which includes this after
 * it has defined VOCAB, the sizes N_… and the places AT_… of shared memory. Compiled at run time, without
 * contraction, for one architecture.
 *
 * A cluster of blocks works on a row (of one block before Hopper). The row is cut into tiles of 1,024
 * tokens, a warp a tile: lane j of a half warp has the tokens j, j + 16, j + 32 … of 512, so that it adds up
 * by itself what core/graph calls a lane of a block, and sums come out to the bit as the interpreter's. What
 * a sweep over the row finds is pushed into the shared memory of all blocks of the cluster (there are two
 * halves by turns, so that the next sweep may begin while a slow block still reads), and each block goes
 * on by itself with the same numbers. Numbers are computed by the first warp, all lanes alike. */

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
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(v) : "r"(address_in(p, rank)) : "memory");
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

/* ---- sweeps -------------------------------------------------------------------------------------------- */

#define TILES(r) for (int tile = (r).rank + WARP * (r).n_ranks; tile < N_TILES; tile += N_WARPS * (r).n_ranks)

/* The 32 tokens of a lane, UNROLL at a time: i is always a token, `in` says whether it is the lane's. */
#define STEPS    _Pragma("unroll 1") for (int step = 0; step < 32; step += UNROLL)
#define ELEMENTS _Pragma("unroll") for (int u = 0; u < UNROLL; u++)
#define ELEMENT_AT(i, in, k)                                                                                 \
    const int own_##i = tile * TILE + (k);                                                                   \
    const bool in = own_##i < VOCAB;                                                                         \
    const int i = in ? own_##i : VOCAB - 1
/* As sums want it; and as memory does, where there is none. */
#define ELEMENT_IN_LANES(i, in) ELEMENT_AT(i, in, LANE / 16 * 512 + LANE % 16 + (step + u) * 16)
#define ELEMENT(i, in)          ELEMENT_AT(i, in, LANE + (step + u) * 32)

static __device__ __forceinline__ uint32_t ordered(float v)
{
    const uint32_t bits = __float_as_uint(v);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

static __device__ __forceinline__ float unordered(uint32_t v)
{
    return __uint_as_float(v & 0x80000000u ? v ^ 0x80000000u : ~v);
}

/* At the end of a tile: v is what this lane has added up. */
static __device__ __forceinline__ void sum_tile(const struct row &r, int slot, int tile, float v)
{
    double sum = 0;
#pragma unroll
    for (int j = 0; j < 16; j++) sum += (double)__shfl_sync(~0u, v, j, 16);
    const int block = 2 * tile + LANE / 16;
    /* As many lanes as there are blocks in the cluster push it, each to another. */
    const int rank = LANE % 16;
    if (block < N_BLOCKS && rank < r.n_ranks)
        push((word64 *)(SUMS(r.half, slot) + block), rank, (word64)__double_as_longlong(sum));
}

template <bool added> static __device__ __forceinline__ word64 both(word64 a, word64 b)
{
    return added ? a + b : a > b ? a : b;
}

/* At the end of a sweep: the largest or the sum of what all threads found. */
template <bool added> static __device__ __forceinline__ void note(int slot, word64 v)
{
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v = both<added>(v, __shfl_xor_sync(~0u, v, d));
    if (LANE == 0) PARTS(slot)[WARP] = v;
}

template <bool added> static __device__ __forceinline__ void tell(const struct row &r, int slot)
{
    word64 v = LANE < N_WARPS ? PARTS(slot)[LANE] : 0;
#pragma unroll
    for (int d = 16; d > 0; d /= 2) v = both<added>(v, __shfl_xor_sync(~0u, v, d));
    if (LANE < r.n_ranks) push(FOUND(r.half, slot) + r.rank, LANE, v);
}

/* After it each block has what the whole row gave. added: bits of the slots that are sums. */
static __device__ __forceinline__ void meet(struct row &r, int n_slots, uint32_t added)
{
    __syncthreads();
    for (int slot = WARP; slot < n_slots; slot += N_WARPS) {
        if (added >> slot & 1)
            tell<true>(r, slot);
        else
            tell<false>(r, slot);
    }
    cluster_sync(r);
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

template <bool added> static __device__ __forceinline__ word64 found(const struct row &r, int slot)
{
    word64 v = 0;
    for (int rank = 0; rank < r.n_ranks; rank++) v = both<added>(v, FOUND(r.half ^ 1, slot)[rank]);
    return v;
}

static __device__ __forceinline__ double found_max(const struct row &r, int slot)
{
    return (double)unordered((uint32_t)found<false>(r, slot));
}

static __device__ __forceinline__ double found_min(const struct row &r, int slot)
{
    return (double)unordered(~(uint32_t)found<false>(r, slot));
}

static __device__ __forceinline__ word64 best_key(float best, int token)
{
    return best > LOWEST_ROW ? (word64)ordered(best + 0.0f) << 32 | (uint32_t)~token : 0;
}

static __device__ __forceinline__ double found_best(const struct row &r, int slot)
{
    const word64 v = found<false>(r, slot);
    return v ? (double)~(uint32_t)v : 0;
}

/* ---- failures ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void fail(int failure, int where, double number)
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

/* ---- draws --------------------------------------------------------------------------------------------- */

static __device__ __forceinline__ struct rng_block random_block(const struct row &r, int site)
{
    return rng_philox_at(r.p->seed, r.p->stream, r.p->position, (uint32_t)site);
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

/* The first of 512 tokens from `begin` on at which `left` runs out; else -1, and *last the last with a
 * weight. */
template <typename F> static __device__ int token_at(int begin, double *left, int *last, F weight)
{
    for (int at = begin; at < begin + 512 && at < VOCAB; at += 32) {
        const float w = at + LANE < VOCAB ? weight(at + LANE) : 0.0f;
        for (uint32_t some = __ballot_sync(~0u, w > 0); some; some &= some - 1) {
            const int lane = __ffs((int)some) - 1;
            *left -= (double)__shfl_sync(~0u, w, lane);
            *last = at + lane;
            if (*left < 0) return *last;
        }
    }
    return -1;
}

/* As the interpreter: over the sums of 512 tokens, then over the tokens of one; rounding may carry it past
 * their end, then it goes on to the next token with a weight, or back to the last. By all threads, which
 * compute the weights of the block together; the first warp has the token. */
template <typename F> static __device__ double walk(const double *sums, double left, F weight)
{
    float *weights = (float *)(shared_memory() + AT_WEIGHTS);
    const int b = block_at(sums, &left), begin = b * 512;
    for (int k = (int)threadIdx.x; k < 512; k += THREADS)
        weights[k] = begin + k < VOCAB ? weight(begin + k) : 0.0f;
    __syncthreads();
    if (WARP != 0) return 0;
    int last = -1, token = token_at(begin, &left, &last, [&](int i) { return weights[i - begin]; });
    for (int at = begin + 512; token < 0 && at < VOCAB; at += 512) token = token_at(at, &left, &last, weight);
    for (int at = begin - 32; token < 0 && last < 0 && at >= 0; at -= 32) {
        const uint32_t some = __ballot_sync(~0u, weight(at + LANE) > 0);
        if (some) last = at + 31 - __clz((int)some);
    }
    return (double)(token < 0 ? last : token);
}

/* bad: some weight is negative or NaN. By all threads, alike; the first warp has the token. */
template <typename F>
static __device__ double draw(const struct row &r, int node, int site, int sum_slot, int bad_slot, F weight)
{
    __syncthreads();
    if (failed()) return 0;
    const double sum = add_up_once(r, sum_slot);
    const bool bad = found<false>(r, bad_slot) || !(sum < (double)INFINITY && sum > -(double)INFINITY);
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
    word64 before; /* weight of the bins above */
    int bin;       /* -1: there is none */
};

/* The bin in which the walk from the highest down reaches `need`; of weights at the latest the lowest that
 * has any, of counts none. */
template <bool counted> static __device__ __noinline__ struct digit find_digit(int n_ranks, word64 need)
{
    const int each = N_BINS / THREADS;
    word64 own[each], sum = 0;
    for (int k = 0; k < each; k++) {
        const int bin = N_BINS - 1 - ((int)threadIdx.x * each + k);
        own[k] = 0;
        for (int rank = 0; rank < n_ranks; rank++) {
            own[k] += pull(&BINS[bin], rank);
            if (!counted) own[k] += (word64)pull(&BINS[N_BINS + bin], rank) << 32;
        }
        sum += own[k];
    }
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
    if (threadIdx.x == 0) chosen->bin = -1;
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
static __device__ __forceinline__ void remember(uint32_t x, word64 w)
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

static __device__ __forceinline__ uint32_t bin_of(const struct level &l, uint32_t x)
{
    return x >> l.low & ((1u << l.bits) - 1);
}

template <bool counted, typename F>
static __device__ __forceinline__ void sweep_level(const struct row &r, const struct level &l, F weigh)
{
    TILES(r) STEPS
    {
        uint32_t x[UNROLL];
        word64 w[UNROLL];
        ELEMENTS
        {
            ELEMENT(i, in);
            float v = 0;
            w[u] = weigh(i, &v);
            x[u] = ordered(v);
            if (!in || !is_inside(l, x[u])) w[u] = 0;
        }
        ELEMENTS
        {
            if (!w[u]) continue;
            add_to_bin<counted>(bin_of(l, x[u]), w[u]);
            if (x[u] >= l.least) remember(x[u], w[u]);
        }
    }
}

template <bool counted> static __device__ void list_level(const struct level &l)
{
    for (int k = (int)threadIdx.x; k < (int)*LIST_SIZE; k += THREADS)
        if (is_inside(l, LIST_KEYS[k]))
            add_to_bin<counted>(bin_of(l, LIST_KEYS[k]), counted ? 1 : LIST_WEIGHTS[k]);
}

static __device__ __forceinline__ void clear_bins(int n, bool forget)
{
    for (int b = (int)threadIdx.x; b < n; b += THREADS) BINS[b] = 0;
    if (forget && threadIdx.x == 0) *LIST_SIZE = 0;
    __syncthreads();
}

/* Walks the elements from the largest down until the weights passed reach `need`, and gives where it ends:
 * radix selection, 11 bits of the elements a level. weigh(i, &x): the weight of element x of token i; 0: it
 * does not count. Weights are integers, so that their sums do not depend on the order. A level sweeps the row
 * only where what it needs was not remembered: from `guess` on by the first, then what is in its bin. first:
 * what weighs in the first level. */
template <bool counted, typename F, typename G>
static __device__ double select(const struct row &r, word64 need, float guess, F first, G weigh)
{
    const int n_bins = (counted ? 1 : 2) * N_BINS;
    struct level l = {0, ordered(guess), 32, 21, 11};
    clear_bins(n_bins, true);
    sweep_level<counted>(r, l, first);
#pragma unroll 1
    for (;;) {
        cluster_sync(r);
        const struct digit d = find_digit<counted>(r.n_ranks, need);
        cluster_sync(r);
        if (d.bin < 0) return -(double)INFINITY;
        need = need > d.before ? need - d.before : 1;
        l.prefix = l.prefix << l.bits | (uint32_t)d.bin;
        if (l.low == 0) return (double)unordered(l.prefix);
        const bool all = l.low == 10 || l.prefix << 21 >= l.least; /* in the list, if they had room */
        l.top = l.low;
        l.low = l.low == 21 ? 10 : 0;
        l.bits = l.low ? 11 : 10;
        l.least = 0;
        const bool listed = all && *LIST_SIZE <= N_LIST;
        __syncthreads();
        clear_bins(n_bins, !listed);
        if (listed)
            list_level<counted>(l);
        else
            sweep_level<counted>(r, l, weigh);
    }
}

/* Weights of a quantile as integers: multiples of 2^-61 of the sum, rounded to a power of two. */
static __device__ __forceinline__ double quantile_scale(double sum)
{
    if (!(sum > 0 && sum < (double)INFINITY)) return 1;
    const int exponent = (int)(__double_as_longlong(sum) >> 52 & 0x7ff) - 1023;
    return __longlong_as_double((long long)(61 - exponent + 1023) << 52);
}

static __device__ __forceinline__ word64 quantile_need(double mass, double scale)
{
    if (mass != mass) return ~(word64)0;
    const double need = ceil(mass * scale);
    return need >= 1 ? __double2ull_rn(need) : 1;
}

static __device__ __forceinline__ word64 quantile_weight(float x, float w, double scale)
{
    if (!(w > 0) || x != x) return 0;
    const word64 v = __double2ull_rn((double)w * scale);
    return v ? v : 1;
}

/* ---- one element --------------------------------------------------------------------------------------- */

/* As exp_core and exp_large, of which one polynomial does for both. */
static __device__ __forceinline__ float exp_element(float x)
{
    const bool large = !(x < 87.0f);
    const float y = exp_core(large ? x - 2 : x);
    const float above = x < 88.7228394f ? y * 7.38905609893f : INFINITY;
    return large ? x != x ? x : above : y;
}

static __device__ __forceinline__ bool has_bit(const uint32_t *bits, int i)
{
    return __ldg(bits + i / 32) >> (i % 32) & 1;
}

static __device__ __forceinline__ float scattered(const struct graph_arg &a, int i)
{
    const uint32_t word = __ldg(a.bits + i / 32), below = (1u << (i % 32)) - 1;
    return word >> (i % 32) & 1 ? a.values[a.ranks[i / 32] + __popc(word & below)] : 0.0f;
}

static __device__ __forceinline__ float in_prompt(const struct row &r, int i)
{
    return __ldcg(r.counts + i) & SEAT_IN_PROMPT ? 1.0f : 0.0f;
}

static __device__ __forceinline__ float in_output(const struct row &r, int i)
{
    return (float)(__ldcg(r.counts + i) & ~SEAT_IN_PROMPT);
}

/* A row that an earlier sweep has left where the result will be. */
static __device__ __forceinline__ float load_kept(const struct row &r, int i)
{
    return __uint_as_float(load_word((const uint32_t *)r.out + i));
}

static __device__ __forceinline__ float in_table(const struct row &r, int table, int i)
{
    return (float)load_word(r.tables + (size_t)table * VOCAB + i);
}

/* The line of a state; null: it accepts nothing. */
static __device__ __forceinline__ const int32_t *line_of(const struct graph_arg &a, double state)
{
    return a.next && state >= 0 && state < a.n_states ? a.next + (size_t)state * (size_t)a.n_classes : 0;
}

static __device__ __forceinline__ bool accepts(const struct graph_arg &a, const int32_t *line, int i)
{
    return line && __ldg(line + __ldg(a.class_of + i)) >= 0;
}

/* ---- numbers and arrays: by the first warp, all lanes alike ----------------------------------------------
 */

/* i rounded down, if that is in [0, n); else -1. */
static __device__ __forceinline__ int index_of(double i, int n)
{
    const double f = floor(i);
    return f >= 0 && f < n ? (int)f : -1;
}

static __device__ __forceinline__ double token_at_end(const struct row &r, double i)
{
    const int back = index_of(i - 1, r.n_history);
    return back < 0 ? -1 : r.history[r.n_history - 1 - back];
}

static __device__ __forceinline__ double step_of(const struct graph_arg &a, double state, double token)
{
    if (!a.next) return -1;
    const int s = index_of(state, a.n_states), t = index_of(token, VOCAB);
    return s < 0 || t < 0 ? -1 : a.next[(size_t)s * (size_t)a.n_classes + (size_t)a.class_of[t]];
}

template <typename F> static __device__ __forceinline__ double gather(double at, F element)
{
    const int i = index_of(at, VOCAB);
    return i < 0 ? (double)NAN : (double)element(i);
}

static __device__ __forceinline__ void copy(double *to, const double *from, int n)
{
    for (int i = LANE; i < n; i += 32) to[i] = from[i];
    __syncwarp();
}

static __device__ __forceinline__ void put(double *to, const double *from, int n, double i, double x)
{
    const int at = index_of(i - 1, n);
    for (int k = LANE; k < n; k += 32) to[k] = k == at ? x : from[k];
    __syncwarp();
}

static __device__ __forceinline__ void push_back(double *to, const double *from, int n, double x)
{
    for (int k = LANE; k < n; k += 32) to[k] = k == n - 1 ? x : from[k + 1];
    __syncwarp();
}

static __device__ __forceinline__ double at(const double *from, int n, double i)
{
    const int k = index_of(i - 1, n);
    return k < 0 ? (double)NAN : from[k];
}

/* ---- tables of the history: by all blocks ----------------------------------------------------------------
 */

/* The index in the history of the first of the last `window` tokens. */
static __device__ __forceinline__ int window_begin(const struct row &r, double window)
{
    if (window >= r.n_history) return 0;
    return window >= 1 ? r.n_history - (int)window : r.n_history;
}

#define HISTORY(r, i, begin, end)                                                                            \
    for (int i = (begin) + (r).rank * THREADS + (int)threadIdx.x; i < (end); i += (r).n_ranks * THREADS)

static __device__ void count_recent(const struct row &r, int table, double window)
{
    uint32_t *t = r.tables + (size_t)table * VOCAB;
    HISTORY(r, i, window_begin(r, window), r.n_history)
    {
        if ((uint32_t)r.history[i] < VOCAB) atomicAdd(&t[r.history[i]], 1u);
    }
    __threadfence();
    cluster_sync(r);
}

template <typename F>
static __device__ void find_repeats(const struct row &r, int table, int most, double window, F breaks)
{
    uint32_t *t = r.tables + (size_t)table * VOCAB;
    const int begin = window_begin(r, window), n = r.n_history;
    const int newest = n ? r.history[n - 1] : -1;
    HISTORY(r, end, begin, n - 1)
    {
        if (r.history[end] != newest) continue;
        int length = 0;
        while (length < most && end - length >= begin) {
            const int token = r.history[end - length];
            if (token != r.history[n - 1 - length] || (uint32_t)token >= VOCAB || breaks(token)) break;
            length++;
        }
        const int next = r.history[end + 1];
        if (length && (uint32_t)next < VOCAB) atomicMax(&t[next], (uint32_t)length);
    }
    __threadfence();
    cluster_sync(r);
}

static __device__ void clear_tables(const struct row &r)
{
    cluster_sync(r);
    HISTORY(r, i, 0, r.n_history)
    {
        for (int table = 0; table < N_TABLES && (uint32_t)r.history[i] < VOCAB; table++)
            r.tables[(size_t)table * VOCAB + r.history[i]] = 0;
    }
    __threadfence();
    cluster_sync(r);
}

/* ---- the ends of a row -----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ struct row begin_rows(const struct graph_launch &l)
{
    begin_kernel();
    struct row r = {};
    r.rank = cluster_rank();
    r.n_ranks = cluster_size();
    r.constants = l.constants;
    r.tables = l.tables + (size_t)(blockIdx.x / r.n_ranks) * N_TABLES * VOCAB;
    return r;
}

/* Whether the row is this graph's to run, and then all that running it needs. */
static __device__ bool begin_row(struct row &r, const struct sample_args &a, const struct graph_launch &l,
                                 int index, int n_variables)
{
    /* All that does not depend on each other is asked for at once. */
    const struct sample_row *p = &a.rows[index];
    const struct graph_link link = a.links[index * SAMPLE_MAX_ROUNDS + l.round];
    const uint32_t flags = a.out[index].flags;
    const int slot = p->slot, seat = p->seat;
    r.index = index;
    r.p = p;
    r.at = a.state[index].at;
    r.n_history = (int)p->position;
    r.args = (const struct graph_arg *)link.args;
    if (slot < 0 || seat < 0 || link.graph != l.id) return false;
    if (flags & (SAMPLED_BARREN | SAMPLED_CHOSEN | SAMPLED_FAILED)) return false;
    r.variables = a.seats.variables + (size_t)seat * SEAT_VARIABLES + link.variables;
    r.n_prompt = a.seats.seat[seat].n_prompt;
    if (link.forgiving && r.variables[n_variables] != 0) return false;
    float *work = a.seats.work + 2 * (size_t)seat * VOCAB;
    r.out = r.at == work ? work + VOCAB : work;
    r.history = a.seats.history + (size_t)seat * (size_t)a.seats.max_len;
    r.counts = a.seats.counts + (size_t)seat * VOCAB;
    __syncthreads();
    if (threadIdx.x == 0) VERDICT->failure = GRAPH_RAN;
    __syncthreads();
    return true;
}

static __device__ __forceinline__ void check_row(const struct row &r, int node, int bad_slot, int any_slot)
{
    if (found<false>(r, bad_slot))
        fail(GRAPH_ROW_BAD, node, 0);
    else if (!found<false>(r, any_slot))
        fail(GRAPH_ROW_MASKED, node, 0);
}

static __device__ __forceinline__ void check_variable(int state, const double *v, int n)
{
    bool bad = false;
    for (int i = LANE; i < n; i += 32) bad |= v[i] != v[i];
    if (__any_sync(~0u, bad)) fail(GRAPH_VARIABLE_NAN, state, 0);
}

static __device__ __forceinline__ void check_token(int node, double token)
{
    if (!(token >= 0 && token < VOCAB) || token != floor(token)) fail(GRAPH_TOKEN_BAD, node, token);
}

static __device__ __forceinline__ void give_row(const struct row &r, const struct sample_args &a)
{
    if (LANE == 0) a.state[r.index].at = r.out;
}

static __device__ __forceinline__ void give_token(const struct row &r, const struct sample_args &a,
                                                  double token)
{
    if (LANE != 0) return;
    a.out[r.index].token = (int32_t)token;
    a.out[r.index].flags |= SAMPLED_CHOSEN;
}

/* When all blocks have done with the row. */
static __device__ void end_row(const struct row &r, const struct sample_args &a, const struct graph_launch &l,
                               int n_variables)
{
    __syncthreads();
    if (N_TABLES) clear_tables(r);
    if (!failed() || r.rank != 0 || threadIdx.x != 0) return;
    const struct graph_link *link = &a.links[r.index * SAMPLE_MAX_ROUNDS + l.round];
    struct sampled *out = &a.out[r.index];
    if (link->forgiving) {
        out->forgiven |= 1u << link->place;
        r.variables[n_variables] = 1;
    } else {
        out->flags |= SAMPLED_FAILED;
    }
    out->place = link->place;
    out->failure = VERDICT->failure;
    out->where = VERDICT->where;
    out->number = VERDICT->number;
}
