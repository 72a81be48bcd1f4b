#include "engine/policy_sample.h"

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/output.h"
#include "engine/rowmath.h"

#include <math.h>
#include <string.h>

/* ---- memory -------------------------------------------------------------------------------------------- */

static size_t row_bytes(const struct policy_desk *d)
{
    return sizeof(float) * (size_t)d->vocab_size;
}

static size_t candidate_bytes(const struct policy_desk *d)
{
    return sizeof(struct llm_candidate) * LLM_MAX_CANDIDATES * (size_t)d->n_rows;
}

llm_status policy_desk_init(struct policy_desk *d, int32_t vocab_size, int32_t n_workers, int32_t n_rows,
                            struct llm_error *err)
{
    *d = (struct policy_desk){.vocab_size = vocab_size, .n_workers = n_workers, .n_rows = n_rows};
    d->rows = mem_map(row_bytes(d) * (size_t)n_rows);
    d->backup = mem_map(row_bytes(d));
    d->candidates = mem_map(candidate_bytes(d));
    d->scratch = mem_array((size_t)n_workers, sizeof *d->scratch);
    if (!d->rows || !d->backup || !d->candidates || !d->scratch)
        return llm_fail(err, LLM_ENOMEM, "no memory for policies over %d tokens", vocab_size);
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < n_workers && !status; i++)
        status = graph_scratch_open(vocab_size, NULL, &d->scratch[i], err);
    return status;
}

void policy_desk_deinit(struct policy_desk *d)
{
    for (int32_t i = 0; d->scratch && i < d->n_workers; i++) graph_scratch_close(d->scratch[i]);
    mem_free(d->scratch);
    if (d->rows) mem_unmap(d->rows, row_bytes(d) * (size_t)d->n_rows);
    if (d->backup) mem_unmap(d->backup, row_bytes(d));
    if (d->candidates) mem_unmap(d->candidates, candidate_bytes(d));
}

/* ---- counting ------------------------------------------------------------------------------------------ */

/* The engine's thread is the only writer. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
    uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, now + n, memory_order_relaxed);
}

/* The hooks of p run from now on (null: none): one look at the clock where the policy changes, not one for
 * each call, which would cost more than a call does. */
static void time_goes_to(struct policy_desk *d, struct policy *p)
{
    if (p == d->timed) return;
    int64_t now = clock_ns();
    if (d->timed) add(&d->timed->ns, (uint64_t)(now - d->since));
    d->timed = p;
    d->since = now;
}

void policy_hooks_pause(struct policy_desk *d)
{
    time_goes_to(d, NULL);
}

/* ---- on the workers ------------------------------------------------------------------------------------ */

struct round {
    struct llm_engine *engine;
    struct policy_job *jobs;
    int32_t n;
};

static int has(const struct policy_job *j, unsigned what)
{
    const struct policy_chain *c = j->output->request->chain;
    return c && !c->error.status && (c->has & what);
}

static void adjust_rows(void *arg, int32_t worker, int32_t n_workers)
{
    const struct round *r = arg;
    struct sampler *sampler = &r->engine->samplers[worker];
    for (int32_t k = worker; k < r->n; k += n_workers) {
        struct policy_job *j = &r->jobs[k];
        if (!has(j, POLICY_HAS_LOGITS)) continue;
        struct sample_input in = output_input(r->engine, j->output);
        const float *x = sampler_adjust(sampler, j->logits, &in);
        memcpy(j->row, x, sizeof *x * (size_t)sampler->vocab_size);
        j->barren = !isfinite(row_max(x, sampler->vocab_size));
    }
}

static llm_status run_graph(struct policy_job *j, int32_t i, float *row, const struct sample_input *in,
                            struct graph_scratch *scratch)
{
    struct policy_chain *c = j->output->request->chain;
    struct policy_run *run = &policy_chain_runs(c, j->output->sequence.index)[i];
    struct graph_call call = {.row = row,
                              .variables = run->variables,
                              .args = c->links[i].args.graph,
                              .prompt = run->view.prompt,
                              .n_prompt = run->view.n_prompt,
                              .output = in->output,
                              .n_output = in->n_output,
                              .seed = in->seed,
                              .stream = in->stream,
                              .position = in->position,
                              .temperature = in->params->temperature,
                              .top_p = in->params->top_p,
                              .min_p = in->params->min_p,
                              .top_k = in->params->top_k,
                              .token = -1};
    llm_status status = graph_run(c->links[i].policy->table.graph, scratch, &call, &j->error);
    if (!status) j->token = call.token;
    return status;
}

/* The graphs of a chain, one after the other. 1: one has sampled, or failed. */
static int run_graphs(struct llm_engine *e, struct policy_job *j, float *row, const struct sample_input *in,
                      int32_t worker)
{
    struct policy_chain *c = j->output->request->chain;
    const struct policy_run *runs = policy_chain_runs(c, j->output->sequence.index);
    size_t bytes = sizeof *row * (size_t)e->model.vocab_size;
    float *backup = e->samplers[worker].rest;
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct llm_policy *t = &c->links[i].policy->table;
        if (!t->graph || runs[i].off) continue;
        if (t->ignore_errors) memcpy(backup, row, bytes);
        if (run_graph(j, i, row, in, e->desk.scratch[worker])) {
            if (!t->ignore_errors) {
                j->failed = i;
                return 1;
            }
            j->forgiven |= 1u << i;
            memcpy(row, backup, bytes);
        } else if (t->graph->gives == GRAPH_GIVES_TOKEN) {
            j->chosen = 1;
            return 1;
        }
    }
    return 0;
}

/* The first graph samples, and so only reads the row; or fails, and the request with it. */
static int samples_at_once(const struct policy_job *j)
{
    const struct policy_chain *c = j->output->request->chain;
    const struct policy_run *runs = policy_chain_runs(c, j->output->sequence.index);
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct llm_policy *t = &c->links[i].policy->table;
        if (t->graph && !runs[i].off) return t->graph->gives == GRAPH_GIVES_TOKEN && !t->ignore_errors;
    }
    return 0;
}

/* A token for a job, or candidates for its hooks. */
static void choose(struct llm_engine *e, struct policy_job *j, int32_t worker)
{
    struct sampler *s = &e->samplers[worker];
    struct sample_input in = output_input(e, j->output);
    int seen = has(j, POLICY_HAS_LOGITS);
    const float *x = seen ? j->row : sampler_adjust(s, j->logits, &in);
    if (!seen) j->barren = !isfinite(row_max(x, s->vocab_size));
    if (j->barren) {
        j->token = row_argmax(j->logits, s->vocab_size);
        j->chosen = 1;
        return;
    }
    if (has(j, POLICY_HAS_GRAPH)) {
        if (x == j->logits && !samples_at_once(j)) x = memcpy(s->work, x, sizeof *x * (size_t)s->vocab_size);
        /* Written only where it is a copy. */
        if (run_graphs(e, j, (float *)x, &in, worker)) return;
    }
    if (has(j, POLICY_HAS_CANDIDATES)) j->best.n = j->output->request->chain->max_candidates;
    j->token = sampler_choose(s, x, &in, j->best.n ? &j->best : NULL);
    j->chosen = !j->best.n;
}

static void choose_all(void *arg, int32_t worker, int32_t n_workers)
{
    const struct round *r = arg;
    struct sampler *sampler = &r->engine->samplers[worker];
    for (int32_t k = worker; k < r->n; k += n_workers) {
        struct policy_job *j = &r->jobs[k];
        const struct policy_chain *c = j->output->request->chain;
        if (!c) {
            struct sample_input in = output_input(r->engine, j->output);
            j->token = sampler_pick(sampler, j->logits, &in);
            j->chosen = 1;
        } else if (!c->error.status) {
            choose(r->engine, j, worker);
        }
        if (!j->chosen) continue;
        output_record(j->output, sampler, j->logits, j->token);
        j->recorded = 1;
    }
}

static void record_rest(void *arg, int32_t worker, int32_t n_workers)
{
    const struct round *r = arg;
    for (int32_t k = worker; k < r->n; k += n_workers) {
        struct policy_job *j = &r->jobs[k];
        const struct policy_chain *c = j->output->request->chain;
        if (j->recorded || c->error.status) continue;
        output_record(j->output, &r->engine->samplers[worker], j->logits, j->token);
    }
}

/* ---- on the engine's thread ---------------------------------------------------------------------------- */

static void on_workers(struct round *r, pool_fn *fn)
{
    const struct engine_model *m = &r->engine->model;
    if (m->run && r->n > 1)
        m->run(m->self, fn, r);
    else
        fn(r, 0, 1);
}

llm_status policy_row_unusable(struct llm_error *err)
{
    return llm_fail(err, LLM_EFAILED,
                    "after the logits hook the row has NaN or +inf, or every token is masked: leave at least "
                    "one logit finite");
}

int32_t policy_last_logits_hook(const struct policy_chain *c, int32_t sequence)
{
    const struct policy_run *runs = policy_chain_runs(c, sequence);
    int32_t i = c->n_links - 1;
    while (i >= 0 && (!c->links[i].policy->table.logits || runs[i].off)) i--;
    return i;
}

static llm_status call_logits(struct policy_desk *d, const struct llm_policy *t, struct policy_run *run,
                              float *row, int check, struct llm_error *err)
{
    run->view.changed_from = 0;
    run->view.changed_end = d->vocab_size;
    llm_status status = t->logits(t->self, &run->view, row, d->vocab_size, err);
    if (status || !check || row_is_usable(row, d->vocab_size)) return status;
    return policy_row_unusable(err);
}

/* Tokens of an output that hooks may see. */
static int32_t n_known(const struct output *o)
{
    return o->sequence.n_output - o->sequence.n_pending;
}

static void note_change(struct policy_job *j, const struct llm_policy_run *run, int32_t n)
{
    int32_t from = run->changed_from > 0 ? run->changed_from : 0;
    int32_t end = run->changed_end < n ? run->changed_end : n;
    if (from >= end) return;
    if (j->from >= j->end || from < j->from) j->from = from;
    if (end > j->end) j->end = end;
}

/* The device tells only that the row is bad in the end: whose fault it is, and what was there before, has to
 * be known here. */
void policy_logits_hooks(struct policy_desk *d, struct policy_job *j, int checked_later)
{
    if (!has(j, POLICY_HAS_LOGITS)) return;
    struct policy_chain *c = j->output->request->chain;
    struct policy_run *runs = policy_chain_runs(c, j->output->sequence.index);
    struct llm_error err = {0};
    int32_t last = policy_last_logits_hook(c, j->output->sequence.index);
    for (int32_t i = 0; i < c->n_links; i++) {
        struct policy *p = c->links[i].policy;
        if (!p->table.logits || runs[i].off) continue;
        int check = !checked_later || p->table.ignore_errors || i < last;
        if (p->table.ignore_errors) memcpy(d->backup, j->row, row_bytes(d));
        time_goes_to(d, p);
        add(&p->n_calls, 1);
        runs[i].view.n_output = n_known(j->output);
        if (call_logits(d, &p->table, &runs[i], j->row, check, &err) == LLM_OK) {
            note_change(j, &runs[i].view, d->vocab_size);
            continue;
        }
        if (policy_chain_fail(c, j->output->sequence.index, i, &err)) return;
        memcpy(j->row, d->backup, row_bytes(d));
    }
}

static llm_status call_candidates(struct policy_desk *d, const struct llm_policy *t, struct policy_run *run,
                                  const struct sample_best *best, int32_t *token, struct llm_error *err)
{
    int32_t n = best->n < t->max_candidates ? best->n : t->max_candidates;
    llm_status status = t->candidates(t->self, &run->view, best->list, n, token, err);
    if (status || (*token >= -1 && *token < d->vocab_size)) return status;
    return llm_fail(err, LLM_EFAILED, "the candidates hook chose token %d; the model's tokens are 0 to %d",
                    *token, d->vocab_size - 1);
}

void policy_candidates_hooks(struct policy_desk *d, struct policy_job *j)
{
    if (!has(j, POLICY_HAS_CANDIDATES)) return;
    struct policy_chain *c = j->output->request->chain;
    struct policy_run *runs = policy_chain_runs(c, j->output->sequence.index);
    struct llm_error err = {0};
    for (int32_t i = 0; i < c->n_links; i++) {
        struct policy *p = c->links[i].policy;
        if (!p->table.candidates || runs[i].off) continue;
        time_goes_to(d, p);
        add(&p->n_calls, 1);
        runs[i].view.n_output = n_known(j->output);
        int32_t token = -1;
        if (call_candidates(d, &p->table, &runs[i], &j->best, &token, &err) == LLM_OK) {
            if (token < 0) continue;
            j->token = token;
            return;
        }
        if (policy_chain_fail(c, j->output->sequence.index, i, &err)) return;
    }
}

void policy_count_graphs(struct policy_chain *c)
{
    for (int32_t i = 0; i < c->n_links; i++)
        if (c->links[i].policy->table.graph) add(&c->links[i].policy->n_calls, 1);
}

void policy_forgive_graphs(struct policy_chain *c, int32_t sequence, uint32_t places)
{
    const struct llm_error unsaid = {0};
    for (; places; places &= places - 1) policy_chain_fail(c, sequence, __builtin_ctz(places), &unsaid);
}

/* What the workers could not do for graphs: the policies are shared. */
static void account_graphs(struct policy_job *j)
{
    struct policy_chain *c = j->output->request->chain;
    policy_count_graphs(c);
    policy_forgive_graphs(c, j->output->sequence.index, j->forgiven);
    if (j->failed >= 0) policy_chain_fail(c, j->output->sequence.index, j->failed, &j->error);
}

static unsigned look_at(struct policy_desk *d, struct policy_job *jobs, int32_t n)
{
    unsigned any = 0;
    for (int32_t k = 0; k < n; k++) {
        struct policy_job *j = &jobs[k];
        *j = (struct policy_job){.output = j->output,
                                 .logits = j->logits,
                                 .row = d->rows + (size_t)k * (size_t)d->vocab_size,
                                 .best = {.list = d->candidates + (size_t)k * LLM_MAX_CANDIDATES},
                                 .failed = -1};
        if (j->output->request->chain) any |= j->output->request->chain->has;
    }
    return any;
}

void policy_sample(struct llm_engine *e, struct policy_job *jobs, int32_t n)
{
    struct policy_desk *d = &e->desk;
    struct round r = {e, jobs, n};
    unsigned any = look_at(d, jobs, n);
    if (any & POLICY_HAS_LOGITS) {
        on_workers(&r, adjust_rows);
        for (int32_t k = 0; k < n; k++)
            if (!jobs[k].barren) policy_logits_hooks(d, &jobs[k], 0);
        policy_hooks_pause(d);
    }
    on_workers(&r, choose_all);
    for (int32_t k = 0; any & POLICY_HAS_GRAPH && k < n; k++)
        if (has(&jobs[k], POLICY_HAS_GRAPH) && !jobs[k].barren) account_graphs(&jobs[k]);
    if (!(any & POLICY_HAS_CANDIDATES)) return;
    int logprobs = 0;
    for (int32_t k = 0; k < n; k++) {
        if (!jobs[k].chosen) policy_candidates_hooks(d, &jobs[k]);
        logprobs |= jobs[k].output->request->n_logprobs;
    }
    policy_hooks_pause(d);
    if (logprobs)
        on_workers(&r, record_rest);
    else
        record_rest(&r, 0, 1);
}
