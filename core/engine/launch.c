#include "engine/launch.h"

#include "engine/output.h"
#include "engine/policy_device.h"

#include <string.h>

_Static_assert(sizeof(struct sample_logprob) == sizeof(struct llm_logprob) &&
                   offsetof(struct sample_logprob, rank) == offsetof(struct llm_logprob, rank) &&
                   offsetof(struct sample_logprob, logprob) == offsetof(struct llm_logprob, logprob),
               "what a device writes is what clients read");

/* ---- who can ------------------------------------------------------------------------------------------- */

int launch_prepare(struct llm_engine *e)
{
    int settle = 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        struct output *o = output_of(e->plan->items[i].sequence);
        if (!e->plan->items[i].last || o->request->max_output == 0 || o->request->by != BY_SEAT) continue;
        for (int32_t k = 0; k < o->sequence.seats; k++)
            settle |=
                seating_take(e, o + k) && o[k].sequence.n_pending && !seating_is_in_step(&e->seating, o + k);
    }
    return settle;
}

/* ---- launching ----------------------------------------------------------------------------------------- */

static void add_turn(struct device_step *d, struct graph_turn *turns, const struct device_graph *graph,
                     int32_t round)
{
    for (int32_t i = 0; i < d->n_turns; i++)
        if (turns[i].graph == graph && turns[i].round == round) return;
    turns[d->n_turns++] = (struct graph_turn){graph, round};
}

/* The row's graphs. Links of rows are written from the first row on that has any. */
static void add_graphs(struct llm_engine *e, struct device_step *d, const struct output *o, int32_t place)
{
    const struct device_graph *graphs[SAMPLE_MAX_ROUNDS];
    struct graph_link *links = e->launcher.links;
    int has = o->seat >= 0 && o->request->chain && (o->request->chain->has & POLICY_HAS_GRAPH);
    struct graph_link *own = links + (size_t)SAMPLE_MAX_ROUNDS * (size_t)place;
    if (!has && d->links) memset(own, 0, sizeof *own * SAMPLE_MAX_ROUNDS);
    if (!has) return;
    if (!d->links) memset(links, 0, sizeof *links * SAMPLE_MAX_ROUNDS * (size_t)place);
    d->links = links;
    int32_t n = seating_links(e, o, own, graphs);
    for (int32_t i = 0; i < n; i++) add_turn(d, e->launcher.turns, graphs[i], i);
}

static unsigned wants(const struct output *o)
{
    const struct policy_chain *c = o->request->chain;
    return c && c->has ? policy_chain_wants(c, o->sequence.index) : 0;
}

static llm_status add_seat(struct llm_engine *e, struct device_step *d, struct output *o,
                           struct sample_row *row, struct llm_error *err)
{
    row->seat = o->seat;
    d->seated = 1;
    if (wants(o) & POLICY_HAS_LOGITS) {
        row->flags = SAMPLE_HOOKED;
        d->hooked = 1;
    }
    if (wants(o) & POLICY_HAS_CANDIDATES) row->n_candidates = o->request->chain->max_candidates;
    if (row->n_candidates > d->n_candidates) d->n_candidates = row->n_candidates;
    llm_status status = seating_is_in_step(&e->seating, o) ? LLM_OK : seating_fill(e, o, d->mark, err);
    seating_launched(&e->seating, o);
    return status;
}

/* The next token of an output will be in a place of its own until the step is collected. In that of a row
 * which is the host's the device leaves any. */
static llm_status await(struct llm_engine *e, struct step *step, struct device_step *d, struct output *o,
                        int32_t batch_row, struct llm_error *err)
{
    struct sequence *q = &o->sequence;
    const struct llm_request *r = o->request;
    const struct llm_sampling *p = &r->sampling;
    int by_host = r->by == BY_HOST || (r->by == BY_SEAT && o->seat < 0);
    int32_t place = d->n_rows++, slot = step->mark * e->config.max_num_seqs + place;
    struct sample_row *row = &e->launcher.rows[place];
    *row = (struct sample_row){.row = batch_row,
                               .slot = slot,
                               .top_k = p->top_k,
                               .temperature = p->temperature,
                               .top_p = p->top_p,
                               .min_p = p->min_p,
                               .stream = (uint32_t)q->index,
                               .seed = r->seed,
                               .position = (uint64_t)sequence_length(q),
                               .n_logprobs = by_host ? -1 : r->n_logprobs - 1,
                               .seat = -1};
    if (row->n_logprobs > d->n_logprobs) d->n_logprobs = row->n_logprobs;
    llm_status status = r->by == BY_SEAT && !by_host ? add_seat(e, d, o, row, err) : LLM_OK;
    add_graphs(e, d, o, place);
    q->output[q->n_output++] = -1 - slot;
    q->n_pending++;
    step->rows[step->n++] = (struct step_row){o, place, by_host};
    step->waits |= by_host;
    return status;
}

/* The rows of an item that score its prompt, by the device if it lists as many of the likeliest. */
static void score(struct llm_engine *e, struct step *step, struct device_step *d,
                  const struct plan_item *item, int32_t first_row)
{
    struct score_span *span = &step->spans[step->n_spans];
    if (output_span(item, first_row, span) == 0) return;
    const struct llm_request *r = span->output->request;
    step->n_spans++;
    span->place = r->n_prompt_logprobs - 1 > SAMPLE_MAX_LOGPROBS ? -1 : d->n_scored;
    step->waits |= span->place < 0;
    for (int32_t i = 0; span->place >= 0 && i < span->n; i++) {
        e->launcher.scored[d->n_scored] = span->row + i;
        e->launcher.followers[d->n_scored++] = r->prompt[span->position + i + 1];
    }
    if (span->place >= 0 && r->n_prompt_logprobs - 1 > d->n_prompt_logprobs)
        d->n_prompt_logprobs = r->n_prompt_logprobs - 1;
}

static llm_status await_all(struct llm_engine *e, struct step *step, struct device_step *d,
                            struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_items && !status; i++) {
        const struct plan_item *item = &e->plan->items[i];
        struct output *o = output_of(item->sequence);
        score(e, step, d, item, d->batch->seq_start[i]);
        if (!item->last) continue;
        if (o->request->max_output == 0) {
            step->rows[step->n++] = (struct step_row){o, -1, 0};
            continue;
        }
        int32_t n = output_fork(e, o), row = d->batch->seq_start[i + 1] - 1;
        for (int32_t k = 0; k < n && !status; k++) status = await(e, step, d, o + k, row, err);
    }
    return status;
}

llm_status launch_describe(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    struct device_step *d = &e->launcher.step;
    *d = (struct device_step){.batch = batch_build(&e->batch, e->plan, e->config.block_size),
                              .rows = e->launcher.rows,
                              .turns = e->launcher.turns,
                              .scored = e->launcher.scored,
                              .followers = e->launcher.followers,
                              .n_logprobs = -1,
                              .mark = e->mark ^= 1};
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_copies && !status; i++)
        status = e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
    if (status) return status;
    scheduler_advance(&e->scheduler);
    step->n = step->n_spans = step->waits = 0;
    step->mark = d->mark;
    step->n_tokens = d->batch->n_tokens;
    status = await_all(e, step, d, err);
    step->n_logprobs = d->n_logprobs;
    step->n_candidates = d->n_candidates;
    step->n_prompt_logprobs = d->n_prompt_logprobs;
    step->waits |= d->n_candidates > 0; /* for hooks */
    return status;
}

llm_status launch_go(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    step->launched = clock_ns();
    return e->model.launch(e->model.self, &e->launcher.step, err);
}

llm_status launch_hooks(struct llm_engine *e, const struct step *step, struct llm_error *err)
{
    return e->launcher.step.hooked ? policy_device_hooks(e, step, &e->launcher.step, err) : LLM_OK;
}

/* ---- collecting ---------------------------------------------------------------------------------------- */

/* 1: its output gets a token. */
static int is_good(const struct step_row *row)
{
    const struct policy_chain *chain = row->output ? row->output->request->chain : NULL;
    return row->output && row->place >= 0 && (!chain || !chain->error.status);
}

static void take(const struct step *step, const struct step_row *row, const struct device_results *results,
                 int32_t token)
{
    struct output *o = row->output;
    const struct llm_request *r = o->request;
    int32_t at = sequence_learn(&o->sequence, token);
    if (sampler_counts_needed(&r->sampling)) counts_add_output(&o->counts, token);
    if (!r->n_logprobs) return;
    size_t width = (size_t)r->n_logprobs;
    memcpy(o->logprobs + (size_t)at * width,
           results->logprobs + (size_t)row->place * (size_t)(1 + step->n_logprobs),
           sizeof *o->logprobs * width);
}

/* The device's tokens, and what hooks make of them. Returns 1 if they chose another where log-probabilities
 * of the token are wanted. */
static int hear_hooks(struct llm_engine *e, const struct step *step, const struct device_results *results,
                      int32_t *tokens)
{
    int relist = 0;
    for (int32_t i = 0; i < step->n; i++) {
        const struct step_row *row = &step->rows[i];
        if (row->place < 0) continue;
        int32_t token = tokens[row->place] = results->rows[row->place].token;
        if (!row->output || row->by_host || !row->output->request->chain) continue;
        tokens[row->place] = policy_device_token(e, step, row, results);
        relist |= tokens[row->place] != token && row->output->request->n_logprobs;
    }
    policy_hooks_pause(&e->desk);
    return relist;
}

/* The tokens that are the host's to choose. */
static llm_status choose(struct llm_engine *e, const struct step *step, int32_t *tokens,
                         struct llm_error *err)
{
    struct choices c = {.engine = e, .logits = e->model.raw_rows};
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < step->n && !status; i++)
        if (step->rows[i].by_host && step->rows[i].output)
            status = choices_add(&c, step->rows[i].output, step->rows[i].place, err);
    if (!status) status = choices_end(&c, err);
    for (int32_t i = 0; i < step->n && !status; i++) {
        const struct step_row *row = &step->rows[i];
        if (!row->by_host || !is_good(row)) continue;
        const struct sequence *q = &row->output->sequence;
        tokens[row->place] = q->output[q->n_output - q->n_pending - 1];
    }
    return status;
}

/* Tells the device what its step's tokens are, if not what it made. */
static llm_status amend(struct llm_engine *e, const struct step *step, const struct device_results *results,
                        const int32_t *tokens, int relist, struct llm_error *err)
{
    int32_t n = 0, n_changed = 0;
    for (int32_t i = 0; i < step->n; i++) {
        int32_t place = step->rows[i].place;
        if (place < 0) continue;
        n_changed += tokens[place] != results->rows[place].token;
        n++;
    }
    if (n_changed == 0) return LLM_OK;
    return e->model.amend(e->model.self, step->mark, tokens, n, relist ? step->n_logprobs : -1, err);
}

static llm_status take_scores(struct llm_engine *e, const struct step *step,
                              const struct device_results *results, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < step->n_spans && !status; i++) {
        const struct score_span *span = &step->spans[i];
        if (!span->output) continue;
        if (span->place < 0) {
            status = output_score(e, span, err);
            continue;
        }
        const struct llm_request *r = span->output->request;
        size_t width = (size_t)r->n_prompt_logprobs, wide = (size_t)(1 + step->n_prompt_logprobs);
        struct llm_logprob *to = r->prompt_logprobs + (size_t)(span->position + 1 - r->score_start) * width;
        for (int32_t k = 0; k < span->n; k++)
            memcpy(to + (size_t)k * width, results->scores + (size_t)(span->place + k) * wide,
                   sizeof *to * width);
    }
    return status;
}

llm_status launch_collect(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    struct device_results results;
    int64_t began = clock_ns();
    llm_status status = e->model.collect(e->model.self, step->mark, &results, err);
    int64_t now = clock_ns();
    e->wait_ns += (uint64_t)(now - began);
    pace_learn(&e->pace, step->n_tokens, step->launched, now);
    if (status) return status;
    int32_t *tokens = e->launcher.tokens;
    int relist = hear_hooks(e, step, &results, tokens);
    if (step->waits) status = choose(e, step, tokens, err);
    if (!status) status = amend(e, step, &results, tokens, relist, err);
    for (int32_t i = 0; i < step->n && !status; i++)
        if (is_good(&step->rows[i]) && !step->rows[i].by_host)
            take(step, &step->rows[i], &results, tokens[step->rows[i].place]);
    return status ? status : take_scores(e, step, &results, err);
}
