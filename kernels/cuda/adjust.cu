/* What requests ask of their logits, as sampler_adjust of core/engine/sampler.c does it, and what a seat
 * keeps for that: its history, and how often it has each token.
 *
 * A row is cut into parts, a block each, so that one wave of blocks keeps the device busy, be they few rows
 * or many. The blocks of a row have nothing to say to each other but whether any finite logit is left: they
 * vote in the row's state, and the last to vote settles the row. */

#include "kernels/cuda/row.cuh"

#include <algorithm>

enum { LEAST_PART = 2048, MOST_PART = 65536, PART_THREADS = 256, PART_BLOCKS = 4 /* an SM */ };
enum : unsigned { VOTED_SOME = 1u << 30, VOTED_INFINITE = 1u << 31 }; /* below: how many blocks */

/* ---- seats ----------------------------------------------------------------------------------------------
 */

static __global__ void __launch_bounds__(ROW_THREADS)
    fill_kernel(const struct seat_fill *fills, const struct seats seats)
{
    pdl_launch();
    pdl_wait();
    const struct seat_fill f = fills[blockIdx.x];
    const struct seat *seat = &seats.seat[f.seat];
    if (!(seat->flags & SEAT_COUNTED)) return;
    const int32_t *history = seats.history + (size_t)f.seat * (size_t)seats.max_len;
    uint32_t *counts = seats.counts + (size_t)f.seat * (size_t)seats.vocab_size;
    for (int i = threadIdx.x; i < seats.vocab_size; i += ROW_THREADS) counts[i] = 0;
    __threadfence();
    __syncthreads();
    for (int i = threadIdx.x; i < f.n - 1; i += ROW_THREADS) {
        if (i < seat->n_prompt)
            atomicOr(&counts[history[i]], SEAT_IN_PROMPT);
        else
            atomicAdd(&counts[history[i]], 1u);
    }
}

llm_status cuda_fill_seats(struct backend *be, const struct seat_fill *fills, int32_t n,
                           const struct seats *seats)
{
    return cuda_launch(cuda_of(be), "fill_seats", fill_kernel, dim3(n), dim3(ROW_THREADS), 0, fills, *seats);
}

/* ---- adjust ---------------------------------------------------------------------------------------------
 */

/* A row with a seat, and the part of it that is the block's. */
struct part {
    const struct seat *seat;
    int32_t *history;
    uint32_t *counts;
    const uint32_t *allowed;
    const float *raw;
    float *to;
    int begin, end;      /* tokens */
    int position, token; /* the last token, at position - 1 */
    int penalized;
    float repetition, frequency, presence;
};

static __device__ struct part part_of(const struct sample_args *a, const struct sample_row *p, int row,
                                      int size)
{
    const struct seats *s = &a->seats;
    const struct seat *seat = &s->seat[p->seat];
    size_t n = (size_t)a->vocab_size;
    struct part q = {};
    q.seat = seat;
    q.history = s->history + (size_t)p->seat * (size_t)s->max_len;
    q.counts = s->counts + (size_t)p->seat * n;
    q.allowed = s->allowed + (size_t)p->seat * ((n + 31) / 32); /* seat_bit_words, for devices */
    q.raw = a->logits + row * a->logits_stride;
    q.to = s->work + (size_t)p->seat * 2 * n;
    q.begin = (int)blockIdx.x * size;
    q.end = min(q.begin + size, a->vocab_size);
    q.position = (int)p->position;
    q.token = a->tokens[p->row];
    q.repetition = seat->repetition_penalty;
    q.frequency = seat->frequency_penalty;
    q.presence = seat->presence_penalty;
    q.penalized = q.repetition != 1 || q.frequency != 0 || q.presence != 0;
    return q;
}

/* The last token comes into the seat: its count by the block that has it in its part. */
static __device__ void note_token(const struct part *q)
{
    if (threadIdx.x != 0) return;
    int at = q->position - 1;
    if (blockIdx.x == 0) q->history[at] = q->token;
    if (!(q->seat->flags & SEAT_COUNTED) || q->token < q->begin || q->token >= q->end) return;
    uint32_t count = q->counts[q->token];
    q->counts[q->token] = at < q->seat->n_prompt ? count | SEAT_IN_PROMPT : count + 1;
}

static __device__ void ban(const struct part *q, int token, uint32_t *banned)
{
    if (token < q->begin || token >= q->end) return;
    atomicOr(&banned[(token - q->begin) / 32], 1u << (token - q->begin) % 32);
}

/* 1 if the output ends with these tokens. Of the last one the seat may not have heard yet. */
static __device__ int ends_with(const struct part *q, const int32_t *ids, int n)
{
    if (n > q->position - q->seat->n_prompt) return 0;
    if (n > 0 && ids[n - 1] != q->token) return 0;
    const int32_t *end = q->history + q->position - n;
    for (int i = 0; i < n - 1; i++)
        if (end[i] != ids[i]) return 0;
    return 1;
}

/* Sets the bits of the part's tokens that may not come. 1 if the row has any such, here or elsewhere. */
static __device__ int find_banned(const struct part *q, uint32_t *banned)
{
    const struct seat *seat = q->seat;
    int masked = seat->flags & SEAT_ALLOWED, any = 0;
    for (int w = threadIdx.x; 32 * w < q->end - q->begin; w += PART_THREADS)
        banned[w] = masked ? ~q->allowed[q->begin / 32 + w] : 0;
    __syncthreads();
    const int32_t *young = seat->words + 2 * seat->n_bias, *ends = young + seat->n_young;
    const int32_t *ids = ends + seat->n_bad_words;
    if (q->position - seat->n_prompt < seat->min_tokens)
        for (int i = threadIdx.x; i < seat->n_young; i += PART_THREADS) {
            ban(q, young[i], banned);
            any = 1;
        }
    for (int i = threadIdx.x; i < seat->n_bad_words; i += PART_THREADS) {
        int begin = i > 0 ? ends[i - 1] : 0, last = ends[i] - 1;
        if (!ends_with(q, ids + begin, last - begin)) continue;
        ban(q, ids[last], banned);
        any = 1;
    }
    return __syncthreads_or(any || masked);
}

/* As the host rounds it: nothing contracted. */
static __device__ __forceinline__ float penalize(const struct part *q, float v, uint32_t count)
{
    if (!count) return v;
    uint32_t in_output = count & ~SEAT_IN_PROMPT;
    v = v > 0 ? __fdiv_rn(v, q->repetition) : __fmul_rn(v, q->repetition);
    v = __fsub_rn(v, __fmul_rn(q->frequency, (float)in_output));
    return in_output ? __fsub_rn(v, q->presence) : v;
}

/* Writes the part's row; returns what it votes. */
static __device__ unsigned adjust_part(const struct part *q, const uint32_t *banned)
{
    unsigned vote = 0;
    auto adjusted = [&](float v, uint32_t count, unsigned is_banned) {
        v = is_banned ? -INFINITY : penalize(q, v, count);
        vote |= (v > -INFINITY ? VOTED_SOME : 0u) | (v == INFINITY ? VOTED_INFINITE : 0u);
        return v;
    };
    uintptr_t all = reinterpret_cast<uintptr_t>(q->raw) | reinterpret_cast<uintptr_t>(q->to) |
                    reinterpret_cast<uintptr_t>(q->counts);
    int n4 = (all & 15) == 0 ? (q->end - q->begin) / 4 : 0;
    const float4 *from4 = reinterpret_cast<const float4 *>(q->raw + q->begin);
    const uint4 *counts4 = reinterpret_cast<const uint4 *>(q->counts + q->begin);
    float4 *to4 = reinterpret_cast<float4 *>(q->to + q->begin);
    const int ahead = 4; /* are loaded before the first is used */
    for (int first = threadIdx.x; first < n4; first += ahead * PART_THREADS) {
        float4 v[ahead];
        uint4 c[ahead];
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            int i = first + k * PART_THREADS;
            if (i < n4) v[k] = from4[i];
            c[k] = q->penalized && i < n4 ? counts4[i] : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            int i = first + k * PART_THREADS;
            if (i >= n4) break;
            unsigned bits = banned[i / 8] >> 4 * (i % 8);
            to4[i] = make_float4(adjusted(v[k].x, c[k].x, bits & 1), adjusted(v[k].y, c[k].y, bits & 2),
                                 adjusted(v[k].z, c[k].z, bits & 4), adjusted(v[k].w, c[k].w, bits & 8));
        }
    }
    for (int t = q->begin + 4 * n4 + (int)threadIdx.x; t < q->end; t += PART_THREADS) {
        int i = t - q->begin;
        q->to[t] = adjusted(q->raw[t], q->penalized ? q->counts[t] : 0, banned[i / 32] >> i % 32 & 1);
    }
    return vote;
}

/* Tokens with a bias once more: it comes before the penalties. It is finite, and changes no vote. */
static __device__ void bias_part(const struct part *q, const uint32_t *banned)
{
    const int32_t *tokens = q->seat->words, n = q->seat->n_bias;
    const float *values = reinterpret_cast<const float *>(tokens + n);
    for (int i = threadIdx.x; i < n; i += PART_THREADS) {
        int t = tokens[i], k = t - q->begin;
        if (t < q->begin || t >= q->end || (banned[k / 32] >> k % 32 & 1)) continue;
        q->to[t] = penalize(q, __fadd_rn(q->raw[t], values[i]), q->penalized ? q->counts[t] : 0);
    }
}

static __device__ void settle(const struct sample_args *a, int row, const float *at, int barren)
{
    a->state[row].at = at;
    a->out[row] = {};
    a->out[row].flags = barren ? SAMPLED_BARREN : 0;
}

/* size: tokens of a part. */
static __global__ void __launch_bounds__(PART_THREADS, PART_BLOCKS)
    adjust_kernel(const struct sample_args a, int size)
{
    __shared__ uint32_t banned[MOST_PART / 32];
    pdl_launch();
    pdl_wait();
    int row = blockIdx.y;
    const struct sample_row p = a.rows[row];
    if (p.slot < 0) return;
    const float *raw = a.logits + row * a.logits_stride;
    if (p.seat < 0) {
        if (blockIdx.x == 0 && threadIdx.x == 0) settle(&a, row, raw, 0);
        return;
    }
    const struct part q = part_of(&a, &p, row, size);
    note_token(&q);
    int changed = find_banned(&q, banned); /* and waits for the count */
    changed |= q.penalized || q.seat->n_bias > 0 || (p.flags & SAMPLE_HOOKED);
    if (!changed) {
        if (blockIdx.x == 0 && threadIdx.x == 0) settle(&a, row, raw, 0);
        return;
    }
    unsigned vote = adjust_part(&q, banned);
    int some = __syncthreads_or(vote & VOTED_SOME), infinite = __syncthreads_or(vote & VOTED_INFINITE);
    bias_part(&q, banned);
    if (threadIdx.x != 0) return;
    uint32_t *votes = &a.state[row].votes;
    atomicOr(votes, (some ? VOTED_SOME : 0u) | (infinite ? VOTED_INFINITE : 0u));
    unsigned before = atomicAdd(votes, 1u);
    if ((before & (VOTED_SOME - 1)) != gridDim.x - 1) return;
    *votes = 0;
    int barren = !(before & VOTED_SOME) || (before & VOTED_INFINITE);
    settle(&a, row, barren ? raw : q.to, barren);
}

llm_status cuda_adjust(struct backend *be, const struct sample_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    int parts = std::max(1, PART_BLOCKS * cu->n_sms / a->n), size = (a->vocab_size + parts - 1) / parts;
    size = std::min(std::max((size + 31) / 32 * 32, (int)LEAST_PART), (int)MOST_PART);
    parts = (a->vocab_size + size - 1) / size;
    return cuda_launch(cu, "adjust", adjust_kernel, dim3((unsigned)parts, (unsigned)a->n), dim3(PART_THREADS),
                       0, *a, size);
}

/* ---- check ----------------------------------------------------------------------------------------------
 */

static __global__ void __launch_bounds__(ROW_THREADS, 1) check_kernel(const struct sample_args a)
{
    pdl_launch();
    pdl_wait();
    const struct sample_row p = a.rows[blockIdx.x];
    struct sampled *out = &a.out[blockIdx.x];
    if (p.slot < 0 || p.seat < 0 || !(p.flags & SAMPLE_HOOKED) || (out->flags & SAMPLED_BARREN)) return;
    int bad = 0, good = 0;
    each(a.state[blockIdx.x].at, a.vocab_size, [&](int, float v) {
        bad |= !(v <= FLT_MAX);
        good |= v >= -FLT_MAX;
    });
    bad = __syncthreads_or(bad);
    good = __syncthreads_or(good);
    if (threadIdx.x != 0 || (good && !bad)) return;
    out->flags |= SAMPLED_FAILED;
    out->place = -1;
}

llm_status cuda_check_rows(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "check", check_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}
