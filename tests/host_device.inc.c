/* A device made of the host: the CPU backend's ops and the host's own sampler behind the tables of a device.
 * What is queued runs when somebody waits for it, not sooner, so that who reads what has not been made yet,
 * or writes what has not been read, gets other tokens. Recorded steps are lists of what was queued. */

#include "base/rng.h"
#include "engine/counts.h"
#include "engine/sampler.h"
#include "graph/args.h"
#include "kernels/device.h"
#include "seat_input.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* In every build. */
#define must(x) ((x) ? (void)0 : abort())

/* One piece of work: a function and its arguments, which are its own. */
typedef void host_fn(void *args);
struct host_work {
    struct host_work *next;
    host_fn *run;
    _Alignas(16) char args[256];
};

struct device_recording {
    struct host_work *first, **end;
};

struct host_exchange {
    void *to;
    const void *from;
    size_t bytes;
    int begun; /* 1: fetched, not given back */
};

struct host_device {
    struct backend *be;                /* the CPU's, whose table this device wraps */
    struct backend cpu;                /* its table as it was */
    struct host_work *first, **end;    /* queued */
    struct device_recording *recorder; /* not null: being recorded */
    struct host_exchange tickets[EXCHANGE_TICKETS];
    struct sampler sampler;
    struct graph_scratch *scratch;
    float *row;
    int32_t vocab_size;
    _Atomic int32_t n_open; /* graphs and arguments */
    int32_t n_recordings, n_replays, n_fetches, n_fills, n_scored, n_most_scored;
    uint64_t n_ids;
};

static struct host_device *host; /* one at a time */

/* ---- the queue ----------------------------------------------------------------------------------------- */

static void host_put(host_fn *run, const void *args, size_t bytes)
{
    struct host_work *w = calloc(1, sizeof *w);
    must(bytes <= sizeof w->args);
    w->run = run;
    memcpy(w->args, args, bytes);
    struct host_work ***end = host->recorder ? &host->recorder->end : &host->end;
    **end = w;
    *end = &w->next;
}

static void host_work_off(void)
{
    must(!host->recorder);
    while (host->first) {
        struct host_work *w = host->first;
        w->run(w->args);
        host->first = w->next;
        free(w);
    }
    host->end = &host->first;
}

#define OP(op)                                                                                               \
    static void host_run_##op(void *args)                                                                    \
    {                                                                                                        \
        host->cpu.op(host->be, args);                                                                        \
    }                                                                                                        \
    static llm_status host_##op(struct backend *be, const struct op##_args *a)                               \
    {                                                                                                        \
        (void)be;                                                                                            \
        host_put(host_run_##op, a, sizeof *a);                                                               \
        return LLM_OK;                                                                                       \
    }
OP(embed)
OP(norm)
OP(linear)
OP(gather)
OP(logits)
OP(rope_kv)
OP(attention)

struct host_page {
    struct kv_cache kv;
    int32_t from, to;
};

static void host_run_page(void *args)
{
    struct host_page *p = args;
    host->cpu.kv_copy(host->be, &p->kv, p->from, p->to);
}

static llm_status host_kv_copy(struct backend *be, const struct kv_cache *kv, int32_t from, int32_t to)
{
    struct host_page p = {*kv, from, to};
    (void)be;
    host_put(host_run_page, &p, sizeof p);
    return LLM_OK;
}

/* ---- copies, marks, recordings ------------------------------------------------------------------------- */

static size_t host_memory_left(struct backend *be, size_t *total)
{
    (void)be;
    *total = (size_t)8 << 30;
    return (size_t)4 << 30;
}

static void *host_alloc_pinned(struct backend *be, size_t bytes)
{
    (void)be;
    return calloc(1, bytes ? bytes : 1);
}

/* As CUDA's, it waits for what may use the memory. */
static void host_free_pinned(struct backend *be, void *p)
{
    (void)be;
    host_work_off();
    free(p);
}

struct host_copy {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, bytes;
    int32_t rows;
};

static void host_run_copy(void *args)
{
    const struct host_copy *c = args;
    for (int32_t i = 0; i < c->rows; i++)
        memcpy(c->to + (size_t)i * c->to_pitch, c->from + (size_t)i * c->from_pitch, c->bytes);
}

static llm_status host_copy_rows(struct backend *be, void *to, size_t to_pitch, const void *from,
                                 size_t from_pitch, size_t bytes, int32_t rows)
{
    struct host_copy c = {to, from, to_pitch, from_pitch, bytes, rows};
    (void)be;
    host_put(host_run_copy, &c, sizeof c);
    return LLM_OK;
}

static llm_status host_copy(struct backend *be, void *to, const void *from, size_t bytes)
{
    return host_copy_rows(be, to, bytes, from, bytes, bytes, 1);
}

static llm_status host_copy_now(struct backend *be, void *to, const void *from, size_t bytes)
{
    llm_status status = host_copy(be, to, from, bytes);
    host_work_off();
    return status;
}

static llm_status host_set_mark(struct backend *be, int mark)
{
    (void)be;
    must(mark == 0 || mark == 1);
    return LLM_OK;
}

static llm_status host_wait_mark(struct backend *be, int mark)
{
    (void)be;
    (void)mark;
    host_work_off();
    return LLM_OK;
}

static llm_status host_begin(struct backend *be, const struct step_shape *shape)
{
    (void)be;
    (void)shape;
    return LLM_OK;
}

static void host_run_intake(void *args)
{
    const struct intake_args *a = args;
    const char *from = a->from[*a->turn];
    for (int32_t i = 0; i < a->n_pieces; i++)
        memcpy(a->to + a->pieces[i].offset, from + a->pieces[i].offset, a->pieces[i].bytes);
    const int32_t *table = (const int32_t *)(const void *)(from + a->table), width = table[0];
    for (int32_t i = 0; i < a->n_rows; i++)
        memcpy(a->to + a->table + sizeof(int32_t) * (size_t)i * (size_t)a->table_stride,
               table + INTAKE_TABLE_HEAD + (size_t)i * (size_t)width, sizeof(int32_t) * (size_t)width);
}

static llm_status host_intake(struct backend *be, const struct intake_args *a)
{
    (void)be;
    host_put(host_run_intake, a, sizeof *a);
    return LLM_OK;
}

static void host_run_deliver(void *args)
{
    const struct deliver_args *a = args;
    memcpy(a->to[*a->turn], a->from, a->bytes);
    *a->turn = !*a->turn;
}

static llm_status host_deliver(struct backend *be, const struct deliver_args *a)
{
    (void)be;
    host_put(host_run_deliver, a, sizeof *a);
    return LLM_OK;
}

static void host_run_feed(void *args)
{
    const struct feed_args *a = args;
    for (int32_t i = 0; i < a->n; i++) {
        a->tokens[i] = a->from[i] >= 0 ? a->from[i] : a->last[-1 - a->from[i]];
        must(a->tokens[i] >= 0 && a->tokens[i] < host->vocab_size);
    }
}

static llm_status host_feed(struct backend *be, const struct feed_args *a)
{
    (void)be;
    host_put(host_run_feed, a, sizeof *a);
    return LLM_OK;
}

static llm_status host_record(struct backend *be)
{
    (void)be;
    host->recorder = calloc(1, sizeof *host->recorder);
    host->recorder->end = &host->recorder->first;
    host->n_recordings++;
    return LLM_OK;
}

static llm_status host_recorded(struct backend *be, struct device_recording **out)
{
    (void)be;
    *out = host->recorder;
    host->recorder = NULL;
    return LLM_OK;
}

static llm_status host_replay(struct backend *be, struct device_recording *r)
{
    (void)be;
    host->n_replays++;
    for (const struct host_work *w = r->first; w; w = w->next) host_put(w->run, w->args, sizeof w->args);
    return LLM_OK;
}

static void host_recording_free(struct backend *be, struct device_recording *r)
{
    (void)be;
    for (struct host_work *w = r ? r->first : NULL, *next; w; w = next) {
        next = w->next;
        free(w);
    }
    free(r);
}

static const char *host_failure(struct backend *be)
{
    (void)be;
    return "no failure";
}

/* ---- exchanges: a piece comes when it is awaited, and is back when the exchange ends ------------------- */

static llm_status host_begin_exchange(struct backend *be)
{
    (void)be;
    host_work_off();
    return LLM_OK;
}

static llm_status host_fetch(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes)
{
    struct host_exchange *x = &host->tickets[ticket];
    (void)be;
    must(!x->begun);
    *x = (struct host_exchange){to, from, bytes, 1};
    memset(to, 0xff, bytes);
    host->n_fetches++;
    return LLM_OK;
}

static llm_status host_await(struct backend *be, int32_t ticket)
{
    struct host_exchange *x = &host->tickets[ticket];
    (void)be;
    must(x->begun);
    memcpy(x->to, x->from, x->bytes);
    return LLM_OK;
}

static llm_status host_give_back(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes)
{
    struct host_exchange *x = &host->tickets[ticket];
    (void)be;
    ptrdiff_t at = (const char *)from - (const char *)x->to;
    must(x->begun && at >= 0 && (size_t)at + bytes <= x->bytes);
    must((const char *)to - (const char *)x->from == at);
    memcpy(to, from, bytes);
    x->begun = 0;
    return LLM_OK;
}

static llm_status host_end_exchange(struct backend *be)
{
    (void)be;
    for (int32_t i = 0; i < EXCHANGE_TICKETS; i++) must(!host->tickets[i].begun);
    return LLM_OK;
}

/* ---- stages of sampling -------------------------------------------------------------------------------- */

static const int32_t *history_of(const struct seats *s, int32_t seat)
{
    return s->history + (size_t)seat * (size_t)s->max_len;
}

static uint32_t *counts_of(const struct seats *s, int32_t seat)
{
    return s->counts + (size_t)seat * (size_t)s->vocab_size;
}

static float *half_of(const struct seats *s, int32_t seat, int half)
{
    return s->work + (2 * (size_t)seat + (size_t)half) * (size_t)s->vocab_size;
}

static void count_token(const struct seats *s, int32_t seat, int32_t i)
{
    uint32_t *count = &counts_of(s, seat)[history_of(s, seat)[i]];
    if (i < s->seat[seat].n_prompt)
        *count |= SEAT_IN_PROMPT;
    else
        ++*count;
}

struct fill_call {
    const struct seat_fill *fills;
    int32_t n;
    struct seats seats;
};

static void host_run_fill(void *args)
{
    const struct fill_call *c = args;
    for (int32_t i = 0; i < c->n; i++) {
        int32_t seat = c->fills[i].seat;
        must(seat >= 0 && seat < c->seats.n && c->fills[i].n >= 1);
        memset(counts_of(&c->seats, seat), 0, sizeof(uint32_t) * (size_t)c->seats.vocab_size);
        for (int32_t k = 0; k < c->fills[i].n - 1; k++) count_token(&c->seats, seat, k);
        host->n_fills++;
    }
}

static llm_status host_fill_seats(struct backend *be, const struct seat_fill *fills, int32_t n,
                                  const struct seats *seats)
{
    struct fill_call c = {fills, n, *seats};
    (void)be;
    host_put(host_run_fill, &c, sizeof c);
    return LLM_OK;
}

/* What the sampler is told: from the row, and from its seat. */
struct remembered {
    struct seat_input input;
    int32_t allowed[4096], slots[8192];
    struct token_count list[4096];
    struct token_counts counts;
};

static void remember_counts(struct remembered *m, const struct seats *s, int32_t seat)
{
    memset(m->slots, 0, sizeof m->slots);
    counts_init(&m->counts, m->list, m->slots, 4096);
    for (int32_t t = 0; t < s->vocab_size; t++) {
        uint32_t n = counts_of(s, seat)[t];
        if (n & SEAT_IN_PROMPT) counts_add_prompt(&m->counts, t);
        for (n &= ~SEAT_IN_PROMPT; n > 0; n--) counts_add_output(&m->counts, t);
    }
    m->input.in.counts = &m->counts;
}

static void remember_seat(struct remembered *m, const struct seats *s, const struct sample_row *r)
{
    const struct seat *t = &s->seat[r->seat];
    struct llm_sampling *p = &m->input.p;
    const uint32_t *bits = s->allowed + (size_t)r->seat * (size_t)seat_bit_words(s->vocab_size);
    seat_input_seat(&m->input, t);
    p->allowed_token_ids = m->allowed;
    for (int32_t i = 0; i < s->vocab_size && (t->flags & SEAT_ALLOWED); i++)
        if (bits[i / 32] >> i % 32 & 1) m->allowed[p->n_allowed_token_ids++] = i;
    m->input.in.output = history_of(s, r->seat) + t->n_prompt;
    m->input.in.n_output = (int32_t)r->position - t->n_prompt;
    if ((t->flags & SEAT_COUNTED) && sampler_counts_needed(p)) remember_counts(m, s, r->seat);
}

static const struct sample_input *remember(const struct sample_args *a, int32_t i)
{
    static struct remembered m;
    const struct sample_row *r = &a->rows[i];
    seat_input_row(&m.input, r);
    if (r->seat >= 0) remember_seat(&m, &a->seats, r);
    return &m.input.in;
}

static const float *raw_row(const struct sample_args *a, int32_t i)
{
    return a->logits + (size_t)i * (size_t)a->logits_stride;
}

static int row_is_bad(const float *x, int32_t n)
{
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(x[i])) return 1;
        if (x[i] > max) max = x[i];
    }
    return !isfinite(max);
}

static int is_padding(const struct sample_args *a, int32_t i)
{
    return a->rows[i].slot < 0;
}

static void host_run_adjust(void *args)
{
    const struct sample_args *a = args;
    const struct seats *s = &a->seats;
    for (int32_t i = 0; i < a->n; i++) {
        const struct sample_row *r = &a->rows[i];
        if (is_padding(a, i) || r->seat < 0) continue;
        int32_t at = (int32_t)r->position - 1;
        s->history[(size_t)r->seat * (size_t)s->max_len + (size_t)at] = a->tokens[r->row];
        if (s->seat[r->seat].flags & SEAT_COUNTED) count_token(s, r->seat, at);
        const float *x = sampler_adjust(&host->sampler, raw_row(a, i), remember(a, i));
        a->out[i] = (struct sampled){.flags = row_is_bad(x, a->vocab_size) ? SAMPLED_BARREN : 0};
        a->state[i].at = memcpy(half_of(s, r->seat, 0), x, sizeof *x * (size_t)a->vocab_size);
    }
}

static void host_run_check(void *args)
{
    const struct sample_args *a = args;
    for (int32_t i = 0; i < a->n; i++) {
        if (is_padding(a, i) || !(a->rows[i].flags & SAMPLE_HOOKED)) continue;
        if ((a->out[i].flags & SAMPLED_BARREN) || !row_is_bad(a->state[i].at, a->vocab_size)) continue;
        a->out[i].flags |= SAMPLED_FAILED;
        a->out[i].place = -1;
    }
}

static int is_settled(const struct sample_args *a, int32_t i)
{
    return a->out[i].flags & (SAMPLED_BARREN | SAMPLED_CHOSEN | SAMPLED_FAILED);
}

static void host_run_sample(void *args)
{
    const struct sample_args *a = args;
    for (int32_t i = 0; i < a->n; i++) {
        const struct sample_row *r = &a->rows[i];
        if (is_padding(a, i)) continue;
        struct sampled *out = &a->out[i];
        if (r->seat < 0)
            out->token = sampler_pick(&host->sampler, raw_row(a, i), remember(a, i));
        else if (out->flags & SAMPLED_BARREN)
            out->token = sampler_choose(
                &host->sampler, raw_row(a, i),
                &(struct sample_input){.params = &(struct llm_sampling){.temperature = 0, .top_p = 1}}, NULL);
        else if (!is_settled(a, i))
            out->token = sampler_choose(&host->sampler, a->state[i].at, remember(a, i), NULL);
        if (out->flags & SAMPLED_FAILED && r->seat >= 0) out->token = 0;
        a->last[r->slot] = out->token;
    }
}

static void host_run_candidates(void *args)
{
    const struct sample_args *a = args;
    for (int32_t i = 0; i < a->n; i++) {
        struct llm_candidate list[LLM_MAX_CANDIDATES];
        struct sample_best best = {list, a->rows[i].n_candidates};
        if (is_padding(a, i) || a->rows[i].seat < 0 || !best.n || is_settled(a, i)) continue;
        sampler_choose(&host->sampler, a->state[i].at, remember(a, i), &best);
        a->out[i].n_candidates = best.n;
        memcpy(a->candidates + (size_t)i * SAMPLE_MAX_CANDIDATES, list, sizeof *list * (size_t)best.n);
    }
}

static void host_run_logprobs(void *args)
{
    const struct sample_args *a = args;
    for (int32_t i = 0; i < a->n; i++) {
        if (is_padding(a, i) || a->rows[i].n_logprobs < 0) continue;
        struct sample_logprob *to = a->logprobs + (size_t)i * (1 + SAMPLE_MAX_LOGPROBS);
        sampler_logprobs(&host->sampler, raw_row(a, i), a->out[i].token, a->rows[i].n_logprobs,
                         (struct llm_logprob *)to);
    }
}

static void host_run_score(void *args)
{
    const struct score_args *a = args;
    for (int32_t i = 0; i < a->n; i++)
        sampler_logprobs(&host->sampler, a->logits + (size_t)i * (size_t)a->logits_stride, a->tokens[i],
                         a->n_logprobs,
                         (struct llm_logprob *)a->out + (size_t)i * (size_t)(1 + a->n_logprobs));
    host->n_scored += a->n;
    if (a->n > host->n_most_scored) host->n_most_scored = a->n;
}

static llm_status host_score(struct backend *be, const struct score_args *a)
{
    (void)be;
    host_put(host_run_score, a, sizeof *a);
    return LLM_OK;
}

#define STAGE(stage)                                                                                         \
    static llm_status host_##stage(struct backend *be, const struct sample_args *a)                          \
    {                                                                                                        \
        (void)be;                                                                                            \
        host_put(host_run_##stage, a, sizeof *a);                                                            \
        return LLM_OK;                                                                                       \
    }
STAGE(adjust)
STAGE(check)
STAGE(sample)
STAGE(candidates)
STAGE(logprobs)

/* ---- graphs -------------------------------------------------------------------------------------------- */

/* Both are kept to the end: what was closed may still be queued. */
struct device_graph {
    struct graph *graph;
    uint64_t id;
    struct device_graph *next;
};

struct device_graph_args {
    struct graph_args *args;
    struct device_graph_args *next;
};

struct graph_call_args {
    const struct device_graph *graph;
    int32_t round;
    struct sample_args a;
};

static void run_graph_on(const struct sample_args *a, int32_t i, const struct device_graph *g,
                         const struct graph_link *link)
{
    const struct sample_row *r = &a->rows[i];
    const struct seats *s = &a->seats;
    const struct seat *t = &s->seat[r->seat];
    double *variables = s->variables + (size_t)r->seat * SEAT_VARIABLES + link->variables;
    size_t bytes = sizeof(float) * (size_t)a->vocab_size;
    struct llm_error err;
    if (variables[g->graph->n_variables] != 0) return;
    memcpy(host->row, a->state[i].at, bytes);
    struct graph_call call =
        seat_input_graph(r, host->row, history_of(s, r->seat), t->n_prompt, (int32_t)r->position);
    call.variables = variables;
    call.args = link->args;
    if (graph_run(g->graph, host->scratch, &call, &err)) {
        must(link->forgiving); /* the test's others do not fail */
        variables[g->graph->n_variables] = 1;
        a->out[i].forgiven |= 1u << link->place;
    } else if (g->graph->gives == GRAPH_GIVES_TOKEN) {
        a->out[i].token = call.token;
        a->out[i].flags |= SAMPLED_CHOSEN;
    } else {
        int half = a->state[i].at == half_of(s, r->seat, 0);
        a->state[i].at = memcpy(half_of(s, r->seat, half), host->row, bytes);
    }
}

static void host_run_graphs(void *args)
{
    const struct graph_call_args *c = args;
    for (int32_t i = 0; i < c->a.n; i++) {
        const struct graph_link *link = &c->a.links[i * SAMPLE_MAX_ROUNDS + c->round];
        if (is_padding(&c->a, i) || link->graph != c->graph->id || is_settled(&c->a, i)) continue;
        run_graph_on(&c->a, i, c->graph, link);
    }
}

static llm_status host_run_graph(struct backend *be, const struct device_graph *g, int32_t round,
                                 const struct sample_args *a)
{
    struct graph_call_args c = {g, round, *a};
    (void)be;
    host_put(host_run_graphs, &c, sizeof c);
    return LLM_OK;
}

static llm_status host_graph_compile(struct backend *be, const struct graph *g, int32_t vocab_size,
                                     struct device_graph **out, struct llm_error *err)
{
    char *text;
    (void)be;
    must(vocab_size == host->vocab_size);
    *out = calloc(1, sizeof **out);
    if (graph_dump(g, &text, NULL, err) || graph_parse(text, strlen(text), &(*out)->graph, err)) abort();
    mem_free(text);
    (*out)->id = ++host->n_ids;
    host->n_open++;
    return LLM_OK;
}

static struct device_graph *_Atomic host_closed_graphs;
static struct device_graph_args *_Atomic host_closed_args;

static void host_graph_close(struct backend *be, struct device_graph *g)
{
    (void)be;
    host->n_open--;
    g->next = host_closed_graphs;
    while (!atomic_compare_exchange_weak(&host_closed_graphs, &g->next, g)) continue;
}

static uint64_t host_graph_id(const struct device_graph *g)
{
    return g->id;
}

static llm_status host_args_open(struct backend *be, const struct device_graph *g,
                                 const struct graph_args *args, struct device_graph_args **out,
                                 struct llm_error *err)
{
    (void)be;
    *out = calloc(1, sizeof **out);
    if (graph_args_copy(args, &(*out)->args, err)) abort();
    (*out)->args->graph = g->graph;
    host->n_open++;
    return LLM_OK;
}

static void host_args_close(struct backend *be, struct device_graph_args *a)
{
    (void)be;
    host->n_open--;
    a->next = host_closed_args;
    while (!atomic_compare_exchange_weak(&host_closed_args, &a->next, a)) continue;
}

static const void *host_args_block(const struct device_graph_args *a)
{
    return a->args;
}

/* ---- opening and closing ------------------------------------------------------------------------------- */

static const struct sampling_ops host_sampling = {.fill_seats = host_fill_seats,
                                                  .adjust = host_adjust,
                                                  .check = host_check,
                                                  .run_graph = host_run_graph,
                                                  .sample = host_sample,
                                                  .candidates = host_candidates,
                                                  .logprobs = host_logprobs,
                                                  .score = host_score,
                                                  .graph_compile = host_graph_compile,
                                                  .graph_close = host_graph_close,
                                                  .graph_id = host_graph_id,
                                                  .graph_args_open = host_args_open,
                                                  .graph_args_close = host_args_close,
                                                  .graph_args_block = host_args_block};

static const struct device_ops host_ops = {.memory_left = host_memory_left,
                                           .alloc_pinned = host_alloc_pinned,
                                           .free_pinned = host_free_pinned,
                                           .upload = host_copy_now,
                                           .download = host_copy_now,
                                           .copy_in = host_copy,
                                           .copy_out = host_copy,
                                           .copy_out_rows = host_copy_rows,
                                           .begin_exchange = host_begin_exchange,
                                           .fetch = host_fetch,
                                           .await = host_await,
                                           .give_back = host_give_back,
                                           .end_exchange = host_end_exchange,
                                           .set_mark = host_set_mark,
                                           .wait_mark = host_wait_mark,
                                           .begin = host_begin,
                                           .intake = host_intake,
                                           .feed = host_feed,
                                           .deliver = host_deliver,
                                           .sampling = &host_sampling,
                                           .record = host_record,
                                           .recorded = host_recorded,
                                           .replay = host_replay,
                                           .recording_free = host_recording_free,
                                           .failure = host_failure};

static void host_close(struct backend *be)
{
    host_work_off();
    must(host->n_open == 0);
    for (struct device_graph_args *a = host_closed_args, *next; a; a = next) {
        next = a->next;
        graph_args_free(a->args);
        free(a);
    }
    for (struct device_graph *g = host_closed_graphs, *next; g; g = next) {
        next = g->next;
        graph_free(g->graph);
        free(g);
    }
    host_closed_args = NULL;
    host_closed_graphs = NULL;
    sampler_deinit(&host->sampler);
    graph_scratch_close(host->scratch);
    free(host->row);
    void (*close)(struct backend *) = host->cpu.close;
    free(host);
    host = NULL;
    close(be);
}

/* A CPU backend with a device's tables. */
static struct backend *host_device_open(int32_t vocab_size)
{
    struct backend *be;
    struct cpu_options options = {.n_threads = 1};
    if (cpu_backend_open(&options, &be, NULL)) abort();
    host = calloc(1, sizeof *host);
    host->be = be;
    host->cpu = *be;
    host->end = &host->first;
    host->vocab_size = vocab_size;
    host->row = malloc(sizeof *host->row * (size_t)vocab_size);
    if (sampler_init(&host->sampler, vocab_size, NULL) ||
        graph_scratch_open(vocab_size, NULL, &host->scratch, NULL))
        abort();
    be->device = &host_ops;
    be->close = host_close;
    be->kv_copy = host_kv_copy;
    be->embed = host_embed;
    be->norm = host_norm;
    be->linear = host_linear;
    be->gather = host_gather;
    be->logits = host_logits;
    be->rope_kv = host_rope_kv;
    be->attention = host_attention;
    return be;
}
