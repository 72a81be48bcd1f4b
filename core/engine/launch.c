#include "engine/launch.h"

#include "engine/output.h"
#include "engine/policy_device.h"

#include <string.h>

_Static_assert(sizeof(struct sample_logprob) == sizeof(struct llm_logprob) &&
                   offsetof(struct sample_logprob, rank) == offsetof(struct llm_logprob, rank) &&
                   offsetof(struct sample_logprob, logprob) == offsetof(struct llm_logprob, logprob),
               "what a device writes is what clients read");

/* ---- who can ------------------------------------------------------------------------------------------- */

/* Sequences that get a token from an output's row: all of its request, if it is their first. */
static int32_t n_due(const struct output *o)
{
    return o->sequence.index == 0 && o->sequence.n_output == 0 ? o->request->n : 1;
}

static enum launch_way way_of(struct llm_engine *e, struct output *o)
{
    const struct llm_request *r = o->request;
    enum launch_way way = LAUNCH_AHEAD;
    if (r->by == BY_DEVICE) return LAUNCH_AHEAD;
    if (r->by == BY_HOST) return LAUNCH_NEVER;
    for (int32_t k = 0, n = n_due(o); k < n; k++) {
        if (!seating_take(e, o + k)) return LAUNCH_NEVER;
        if (o[k].sequence.n_pending && !seating_is_in_step(&e->seating, o + k)) way = LAUNCH_SETTLED;
    }
    return way;
}

enum launch_way launch_way(struct llm_engine *e)
{
    enum launch_way least = LAUNCH_AHEAD;
    if (!e->model.launch) return LAUNCH_NEVER;
    for (int32_t i = 0; i < e->plan->n_items && least != LAUNCH_NEVER; i++) {
        const struct plan_item *item = &e->plan->items[i];
        struct output *o = output_of(item->sequence);
        const struct llm_request *r = o->request;
        if (r->n_prompt_logprobs && o->sequence.index == 0 && o->sequence.n_output == 0) return LAUNCH_NEVER;
        if (!item->last || r->max_output == 0) continue;
        enum launch_way way = way_of(e, o);
        if (way < least) least = way;
    }
    return least;
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
    if (!has && !d->links) return;
    if (!d->links) memset(links, 0, sizeof *links * SAMPLE_MAX_ROUNDS * (size_t)place);
    d->links = links;
    int32_t n = seating_links(e, o, links + (size_t)SAMPLE_MAX_ROUNDS * (size_t)place, graphs);
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

/* The next token of an output will be in a place of its own until the step is collected. */
static llm_status await(struct llm_engine *e, struct step *step, struct device_step *d, struct output *o,
                        int32_t batch_row, struct llm_error *err)
{
    struct sequence *q = &o->sequence;
    const struct llm_request *r = o->request;
    const struct llm_sampling *p = &r->sampling;
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
                               .n_logprobs = r->n_logprobs - 1,
                               .seat = -1};
    if (row->n_logprobs > d->n_logprobs) d->n_logprobs = row->n_logprobs;
    llm_status status = r->by == BY_SEAT ? add_seat(e, d, o, row, err) : LLM_OK;
    add_graphs(e, d, o, place);
    q->output[q->n_output++] = -1 - slot;
    q->n_pending++;
    step->rows[step->n++] = (struct step_row){o, 1, place};
    return status;
}

static llm_status await_all(struct llm_engine *e, struct step *step, struct device_step *d,
                            struct llm_error *err)
{
    llm_status status = LLM_OK;
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items && !status; i++) {
        if (!e->plan->items[i].last) continue;
        struct output *o = output_of(e->plan->items[i].sequence);
        if (o->request->max_output == 0) {
            step->rows[step->n++] = (struct step_row){o, 1, -1};
            continue;
        }
        int32_t n = n_due(o), row = d->batch->seq_start[i + 1] - 1;
        for (int32_t k = 1; k < n; k++) scheduler_fork(&e->scheduler, &o->sequence, &o[k].sequence);
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
                              .n_logprobs = -1,
                              .mark = e->mark ^= 1};
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_copies && !status; i++)
        status = e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
    if (status) return status;
    scheduler_advance(&e->scheduler);
    step->mark = d->mark;
    step->n_tokens = d->batch->n_tokens;
    status = await_all(e, step, d, err);
    step->n_logprobs = d->n_logprobs;
    step->n_candidates = d->n_candidates;
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

static void take(const struct step *step, const struct step_row *row, const struct device_results *results,
                 int32_t token)
{
    struct output *o = row->first;
    struct sequence *q = &o->sequence;
    const struct llm_request *r = o->request;
    int32_t at = q->n_output - q->n_pending--;
    q->output[at] = token;
    if (sampler_counts_needed(&r->sampling)) counts_add_output(&o->counts, token);
    if (!r->n_logprobs) return;
    size_t width = (size_t)r->n_logprobs;
    memcpy(o->logprobs + (size_t)at * width,
           results->logprobs + (size_t)row->place * (size_t)(1 + step->n_logprobs),
           sizeof *o->logprobs * width);
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
    int32_t *tokens = e->launcher.tokens, n = 0, n_changed = 0;
    for (int32_t i = 0; i < step->n; i++) {
        const struct step_row *row = &step->rows[i];
        if (row->place < 0) continue;
        int32_t token = tokens[n++] = results.rows[row->place].token;
        if (!row->first) continue;
        const struct policy_chain *chain = row->first->request->chain;
        if (chain) token = policy_device_token(e, step, row, &results);
        n_changed += token != tokens[n - 1];
        tokens[n - 1] = token;
        if (!chain || !chain->error.status) take(step, row, &results, token);
    }
    policy_hooks_pause(&e->desk);
    return n_changed ? e->model.seats.amend(e->model.self, step->mark, tokens, n, err) : LLM_OK;
}
