#include "engine/policy_device.h"

_Static_assert(sizeof(struct sample_candidate) == sizeof(struct llm_candidate) &&
                   offsetof(struct sample_candidate, prob) == offsetof(struct llm_candidate, prob) &&
                   offsetof(struct sample_candidate, logprob) == offsetof(struct llm_candidate, logprob),
               "what a device writes is what hooks read");

/* Rows that are on their way while hooks run on one. */
enum { FETCHED_AHEAD = 8 };

/* ---- rows of logits ------------------------------------------------------------------------------------ */

/* The first row of the step, from the i-th on, that hooks are to see; step->n: none. */
static int32_t next_hooked(const struct step *step, const struct device_step *d, int32_t i)
{
    for (; i < step->n; i++) {
        int32_t place = step->rows[i].place;
        if (place >= 0 && step->rows[i].output && (d->rows[place].flags & SAMPLE_HOOKED)) break;
    }
    return i;
}

/* Hooked rows on their way. */
struct exchange {
    struct llm_engine *engine;
    const struct step *step;
    const struct device_step *d;
    int32_t next; /* to be fetched */
    int32_t n_fetched, n_done;
};

static int32_t seat_of(const struct exchange *x, int32_t i)
{
    return x->d->rows[x->step->rows[i].place].seat;
}

static llm_status fetch_some(struct exchange *x, struct llm_error *err)
{
    const struct engine_model *m = &x->engine->model;
    llm_status status = LLM_OK;
    for (; x->next < x->step->n && x->n_fetched - x->n_done < FETCHED_AHEAD && !status; x->n_fetched++) {
        status = m->seats.fetch(m->self, x->n_fetched % EXCHANGE_TICKETS, seat_of(x, x->next), err);
        x->next = next_hooked(x->step, x->d, x->next + 1);
    }
    return status;
}

/* Of a row that the parameters have emptied no hook is asked, but it has been fetched. */
static llm_status run_hooks(struct exchange *x, int32_t i, const struct sampled *row, struct llm_error *err)
{
    const struct engine_model *m = &x->engine->model;
    struct policy_job job = {.output = x->step->rows[i].output};
    int32_t ticket = x->n_done++ % EXCHANGE_TICKETS;
    policy_hooks_pause(&x->engine->desk);
    llm_status status = m->seats.await(m->self, ticket, &job.row, err);
    if (status) return status;
    if (!(row->flags & SAMPLED_BARREN)) policy_logits_hooks(&x->engine->desk, &job, 1);
    return m->seats.give_back(m->self, ticket, seat_of(x, i), job.from, job.end - job.from, err);
}

llm_status policy_device_hooks(struct llm_engine *e, const struct step *step, const struct device_step *d,
                               struct llm_error *err)
{
    struct exchange x = {.engine = e, .step = step, .d = d, .next = next_hooked(step, d, 0)};
    const struct sampled *rows;
    int32_t i = x.next;
    llm_status status = fetch_some(&x, err);
    int64_t began = clock_ns();
    if (!status) status = e->model.seats.adjusted(e->model.self, d->mark, &rows, err);
    e->wait_ns += (uint64_t)(clock_ns() - began);
    for (; i < step->n && !status; i = next_hooked(step, d, i + 1)) {
        status = run_hooks(&x, i, &rows[step->rows[i].place], err);
        if (!status) status = fetch_some(&x, err);
    }
    policy_hooks_pause(&e->desk);
    return status ? status : e->model.seats.resume(e->model.self, d, err);
}

/* ---- what came of a row -------------------------------------------------------------------------------- */

/* A graph has failed, or the device did not like what the last logits hook left. */
static void note_failure(const struct llm_engine *e, const struct output *o, const struct sampled *s)
{
    struct policy_chain *c = o->request->chain;
    struct llm_error err = {0};
    int32_t place = s->place;
    if (place < 0) {
        place = policy_last_logits_hook(c, o->sequence.index);
        policy_row_unusable(&err);
    } else {
        graph_fail(c->links[place].policy->table.graph, e->model.vocab_size, (enum graph_failure)s->failure,
                   s->where, s->number, &err);
    }
    policy_chain_fail(c, o->sequence.index, place, &err);
}

static void account(const struct llm_engine *e, const struct output *o, const struct sampled *s)
{
    struct policy_chain *c = o->request->chain;
    int came_to_graphs = !(s->flags & SAMPLED_FAILED) || s->place >= 0;
    if ((c->has & POLICY_HAS_GRAPH) && came_to_graphs) policy_count_graphs(c);
    policy_forgive_graphs(c, o->sequence.index, s->forgiven);
    if (s->flags & SAMPLED_FAILED) note_failure(e, o, s);
}

int32_t policy_device_token(struct llm_engine *e, const struct step *step, const struct step_row *row,
                            const struct device_results *results)
{
    struct output *o = row->output;
    const struct policy_chain *c = o->request->chain;
    const struct sampled *s = &results->rows[row->place];
    if (!c->has || c->error.status || (s->flags & SAMPLED_BARREN)) return s->token;
    account(e, o, s);
    int asked = policy_chain_wants(c, o->sequence.index) & POLICY_HAS_CANDIDATES;
    if (!asked || (s->flags & (SAMPLED_CHOSEN | SAMPLED_FAILED))) return s->token;
    const struct sample_candidate *list =
        results->candidates + (size_t)row->place * (size_t)step->n_candidates;
    struct policy_job job = {
        .output = o, .token = s->token, .best = {(struct llm_candidate *)(uintptr_t)list, s->n_candidates}};
    policy_candidates_hooks(&e->desk, &job);
    return job.token;
}
