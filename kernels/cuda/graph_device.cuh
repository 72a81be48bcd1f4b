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

#pragma once

#include "kernels/cuda/graph_select.cuh"

/* ---- one element --------------------------------------------------------------------------------------- */

static __device__ __noinline__ float exp_far(float x)
{
    return exp_large(x);
}

/* As exp_core, and exp_large, which is rarely called. */
static __device__ __forceinline__ float exp_element(float x)
{
    float y = fabsf(x) < 87.0f ? exp_inside(x) : 0.0f;
    if (!(x < 87.0f)) y = exp_far(x);
    return y;
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

/* ---- functions of numbers --------------------------------------------------------------------------------
 */

static __device__ __noinline__ double num_exp(double x)
{
    return exp(x);
}

static __device__ __noinline__ double num_log(double x)
{
    return log(x);
}

static __device__ __noinline__ double num_tanh(double x)
{
    return tanh(x);
}

static __device__ __noinline__ double num_pow(double x, double y)
{
    return pow(x, y);
}

static __device__ __noinline__ double num_div(double x, double y)
{
    return x / y;
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
    r.at = pinned(a.state[index].at);
    r.n_history = (int)p->position;
    r.args = (const struct graph_arg *)link.args;
    if (slot < 0 || seat < 0 || link.graph != l.id) return false;
    if (flags & (SAMPLED_BARREN | SAMPLED_CHOSEN | SAMPLED_FAILED)) return false;
    r.variables = a.seats.variables + (size_t)seat * SEAT_VARIABLES + link.variables;
    r.n_prompt = a.seats.seat[seat].n_prompt;
    if (link.forgiving && r.variables[n_variables] != 0) return false;
    float *work = a.seats.work + 2 * (size_t)seat * VOCAB;
    r.out = pinned(r.at == work ? work + VOCAB : work);
    r.history = a.seats.history + (size_t)seat * (size_t)a.seats.max_len;
    r.counts = a.seats.counts + (size_t)seat * VOCAB;
    __syncthreads();
    if (threadIdx.x == 0) VERDICT->failure = GRAPH_RAN;
    __syncthreads();
    return true;
}

/* What check_element has made of the row's elements is noted as the bits of its orders. */
static __device__ __forceinline__ void check_row(const struct row &r, int node, int slot)
{
    const uint32_t top = (uint32_t)found(false, r, slot);
    if (top >= ordered(INFINITY))
        fail(GRAPH_ROW_BAD, node, 0);
    else if (top <= ordered(LOWEST_ROW))
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
