#include "engine/seating.h"

#include "base/mem.h"
#include "engine/engine.h"

#include <string.h>

llm_status seating_init(struct seating *s, int32_t n, struct llm_error *err)
{
    *s = (struct seating){.n = n, .n_free = n};
    if (n == 0) return LLM_OK;
    s->holders = mem_array((size_t)n, sizeof *s->holders);
    s->free = mem_array((size_t)n, sizeof *s->free);
    s->seat = mem_zalloc(sizeof *s->seat);
    if (!s->holders || !s->free || !s->seat) return llm_fail(err, LLM_ENOMEM, "no memory for %d seats", n);
    for (int32_t i = 0; i < n; i++) s->free[i] = n - 1 - i;
    return LLM_OK;
}

void seating_deinit(struct seating *s)
{
    mem_free(s->holders);
    mem_free(s->free);
    mem_free(s->seat);
}

/* ---- what a request needs ------------------------------------------------------------------------------ */

static int32_t n_young(const struct engine_config *c, const struct llm_sampling *p)
{
    return p->min_tokens > 0 ? c->n_end_tokens + (int32_t)p->n_stop_token_ids : 0;
}

static size_t list_words(const struct engine_config *c, const struct llm_request *r)
{
    const struct llm_sampling *p = &r->sampling;
    size_t n = 2 * p->n_logit_bias + p->n_stop_token_ids + (size_t)c->n_end_tokens;
    for (int32_t i = 0; i < r->n_bad_words; i++) n += 1 + (size_t)r->bad_words[i].n;
    return n;
}

/* Doubles of a graph among the seat's variables: its own, and whether it is left out. */
static int32_t graph_room(const struct graph *g)
{
    return g->n_variables + 1;
}

static int chain_fits(const struct llm_request *r)
{
    const struct policy_chain *c = r->chain;
    int32_t n_graphs = 0, n_variables = 0;
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct policy *p = c->links[i].policy;
        if (!p->table.graph) continue;
        if (!p->compiled) return 0;
        n_graphs++;
        n_variables += graph_room(p->table.graph);
    }
    return n_graphs <= SAMPLE_MAX_ROUNDS && n_variables <= SEAT_VARIABLES;
}

enum sampled_by seating_need(const struct llm_engine *e, const struct llm_request *r)
{
    const struct engine_config *config = &e->config;
    const struct llm_sampling *p = &r->sampling;
    if (r->n_logprobs - 1 > SAMPLE_MAX_LOGPROBS || list_words(config, r) > SEAT_WORDS) return BY_HOST;
    if (r->chain && !chain_fits(r)) return BY_HOST;
    int seat = sampler_counts_needed(p) || p->n_allowed_token_ids || r->n_bad_words || p->n_logit_bias ||
               n_young(config, p) || (r->chain && r->chain->has);
    if (e->model.seats.n == 0) return seat || r->n_logprobs ? BY_HOST : BY_DEVICE;
    return seat ? BY_SEAT : BY_DEVICE;
}

/* ---- taking and leaving -------------------------------------------------------------------------------- */

static void leave(struct seating *s, int32_t i)
{
    s->holders[i].output->seat = -1;
    s->holders[i] = (struct seat_holder){0};
    s->free[s->n_free++] = i;
}

/* The variables of a chain's graphs, one graph after the other, from or to its runs. Returns how many. */
static int32_t exchange_variables(const struct output *o, double *all, int to_seat)
{
    const struct policy_chain *c = o->request->chain;
    int32_t n = 0;
    for (int32_t i = 0; c && i < c->n_links; i++) {
        const struct graph *g = c->links[i].policy->table.graph;
        struct policy_run *run = &policy_chain_runs(c, o->sequence.index)[i];
        if (!g) continue;
        size_t bytes = sizeof *all * (size_t)g->n_variables;
        if (bytes) memcpy(to_seat ? all + n : run->variables, to_seat ? run->variables : all + n, bytes);
        if (to_seat) all[n + g->n_variables] = run->off;
        n += graph_room(g);
    }
    return n;
}

/* The host gets the variables of an output that may lose its seat. Waits for what was launched. */
static llm_status recover(struct llm_engine *e, struct output *o, struct llm_error *err)
{
    struct seating *s = &e->seating;
    if (!seating_is_in_step(s, o)) return LLM_OK;
    s->holders[o->seat].length = -1;
    int32_t n = exchange_variables(o, s->variables, 1);
    if (n == 0) return LLM_OK;
    llm_status status = e->model.seats.variables(e->model.self, o->seat, s->variables, n, err);
    if (!status) exchange_variables(o, s->variables, 0);
    return status;
}

/* Frees the seat of one that waits. */
static int turn_out(struct llm_engine *e)
{
    struct seating *s = &e->seating;
    struct llm_error err;
    for (int32_t i = 0; i < s->n; i++) {
        struct output *o = s->holders[i].output;
        if (o->sequence.state != SEQUENCE_WAITING) continue;
        if (recover(e, o, &err)) return 0;
        leave(s, i);
        return 1;
    }
    return 0;
}

int seating_take(struct llm_engine *e, struct output *o)
{
    struct seating *s = &e->seating;
    if (o->seat >= 0) return 1;
    if (o->request->chain && policy_chain_to_device(o->request->chain, NULL)) {
        o->request->by = BY_HOST;
        return 0;
    }
    if (s->n == 0 || (s->n_free == 0 && !turn_out(e))) return 0;
    o->seat = s->free[--s->n_free];
    s->holders[o->seat] = (struct seat_holder){o, -1};
    return 1;
}

void seating_leave(struct seating *s, struct output *o)
{
    if (o->seat >= 0) leave(s, o->seat);
}

/* ---- in step and out of it ----------------------------------------------------------------------------- */

int seating_is_in_step(const struct seating *s, const struct output *o)
{
    return o->seat >= 0 && s->holders[o->seat].length == sequence_length(&o->sequence);
}

void seating_launched(struct seating *s, const struct output *o)
{
    s->holders[o->seat].length++;
}

static int uses_counts(const struct llm_request *r)
{
    if (sampler_counts_needed(&r->sampling)) return 1;
    for (int32_t i = 0; r->chain && i < r->chain->n_links; i++) {
        const struct graph *g = r->chain->links[i].policy->table.graph;
        if (g && g->uses_counts) return 1;
    }
    return 0;
}

static int32_t *put(int32_t *to, const int32_t *ids, size_t n)
{
    if (n) memcpy(to, ids, n * sizeof *to);
    return to + n;
}

/* Returns the words used. */
static int32_t describe(const struct engine_config *c, const struct llm_request *r, struct seat *to)
{
    const struct llm_sampling *p = &r->sampling;
    int counted = sampler_counts_needed(p);
    to->flags = (p->n_allowed_token_ids ? SEAT_ALLOWED : 0u) | (uses_counts(r) ? SEAT_COUNTED : 0u);
    to->n_prompt = r->n_prompt;
    to->n_bias = (int32_t)p->n_logit_bias;
    to->n_young = n_young(c, p);
    to->n_bad_words = r->n_bad_words;
    to->min_tokens = p->min_tokens;
    to->repetition_penalty = counted ? p->repetition_penalty : 1;
    to->frequency_penalty = p->frequency_penalty;
    to->presence_penalty = p->presence_penalty;
    int32_t *at = to->words;
    for (size_t i = 0; i < p->n_logit_bias; i++) *at++ = p->logit_bias[i].token;
    for (size_t i = 0; i < p->n_logit_bias; i++) memcpy(at++, &p->logit_bias[i].bias, sizeof *at);
    if (to->n_young) {
        at = put(at, c->end_tokens, (size_t)c->n_end_tokens);
        at = put(at, p->stop_token_ids, p->n_stop_token_ids);
    }
    for (int32_t i = 0, end = 0; i < r->n_bad_words; i++) *at++ = end += r->bad_words[i].n;
    for (int32_t i = 0; i < r->n_bad_words; i++) at = put(at, r->bad_words[i].ids, (size_t)r->bad_words[i].n);
    return (int32_t)(at - to->words);
}

llm_status seating_fill(struct llm_engine *e, struct output *o, int mark, struct llm_error *err)
{
    struct seating *s = &e->seating;
    const struct llm_request *r = o->request;
    const struct sequence *q = &o->sequence;
    struct seat_content content = {.number = o->seat,
                                   .seat = s->seat,
                                   .n_words = describe(&e->config, r, s->seat),
                                   .prompt = q->prompt,
                                   .n_prompt = q->n_prompt,
                                   .output = q->output,
                                   .n_output = q->n_output,
                                   .allowed = r->sampling.allowed_token_ids,
                                   .n_allowed = r->sampling.n_allowed_token_ids,
                                   .variables = s->variables,
                                   .n_variables = exchange_variables(o, s->variables, 1)};
    s->holders[o->seat].length = sequence_length(q);
    return e->model.seats.fill(e->model.self, mark, &content, err);
}

int32_t seating_links(const struct llm_engine *e, const struct output *o, struct graph_link *links,
                      const struct device_graph **graphs)
{
    const struct policy_chain *c = o->request->chain;
    int32_t n = 0, variables = 0;
    memset(links, 0, sizeof *links * SAMPLE_MAX_ROUNDS);
    for (int32_t i = 0; c && i < c->n_links; i++) {
        const struct policy_link *link = &c->links[i];
        const struct graph *g = link->policy->table.graph;
        if (!g) continue;
        if (!policy_chain_runs(c, o->sequence.index)[i].off) {
            const struct graph_device *d = &e->model.graphs;
            graphs[n] = link->policy->compiled;
            links[n++] =
                (struct graph_link){.graph = d->id(link->policy->compiled),
                                    .args = link->device_args ? d->args_block(link->device_args) : NULL,
                                    .variables = variables,
                                    .place = i,
                                    .forgiving = link->policy->table.ignore_errors};
        }
        variables += graph_room(g);
    }
    return n;
}
