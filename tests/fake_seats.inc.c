/* How the fake device chooses tokens: with the host's own sampler and interpreter, from what seats have been
 * told. Included by fake_device.inc.c. */

#include "graph/args.h"
#include "seat_input.h"

#include <math.h>

/* Copies, as a device's are: what was closed may still be in a step that was queued before. */
struct device_graph {
    struct graph *graph;
    uint64_t id;
    struct device_graph *next; /* of those that are closed */
};

struct device_graph_args {
    struct graph_args *args;
    struct device_graph_args *next;
};

static void fake_poison(struct fake_device *d, int mark)
{
    size_t n = (size_t)d->max_seqs;
    for (size_t i = 0; i < n; i++) d->rows[mark][i].token = FAKE_POISON;
    memset(d->candidates[mark], 0xff, n * SAMPLE_MAX_CANDIDATES * sizeof **d->candidates);
    memset(d->logprobs[mark], 0xff, n * (1 + SAMPLE_MAX_LOGPROBS) * sizeof **d->logprobs);
    n = (size_t)d->model->max_tokens;
    memset(d->scores[mark], 0xff, n * (1 + SAMPLE_MAX_LOGPROBS) * sizeof **d->scores);
}

static void fake_free_work(struct fake_work *w)
{
    free((void *)(uintptr_t)w->step.rows);
    free((void *)(uintptr_t)w->step.links);
    free((void *)(uintptr_t)w->step.turns);
    free((void *)(uintptr_t)w->step.scored);
    free((void *)(uintptr_t)w->step.followers);
    if (w->seat) free(w->seat->allowed);
    free(w->seat);
    free(w);
}

/* ---- what a step asks for ------------------------------------------------------------------------------ */

/* Each graph of a link has its turn, once. */
static llm_status fake_check_link(const struct device_step *step, const struct graph_link *link,
                                  int32_t round, struct llm_error *err)
{
    int32_t n = 0;
    for (int32_t t = 0; t < step->n_turns; t++)
        n += step->turns[t].round == round && step->turns[t].graph->id == link->graph;
    return n == 1 ? LLM_OK : llm_fail(err, LLM_EFAILED, "a graph of round %d has %d turns", round, n);
}

static llm_status fake_check_asks(const struct fake_device *d, const struct device_step *step,
                                  struct llm_error *err)
{
    int seated = 0, hooked = 0;
    int32_t n_logprobs = -1, n_candidates = 0;
    for (int32_t i = 0; i < step->n_rows; i++) {
        const struct sample_row *r = &step->rows[i];
        if (r->seat >= d->n_seats) return llm_fail(err, LLM_EFAILED, "row %d has seat %d", i, r->seat);
        if (r->seat < 0 && (r->flags || r->n_candidates))
            return llm_fail(err, LLM_EFAILED, "row %d asks for much without a seat", i);
        for (int32_t k = 0; k < i && r->seat >= 0; k++)
            if (step->rows[k].seat == r->seat)
                return llm_fail(err, LLM_EFAILED, "rows %d and %d have one seat", k, i);
        seated |= r->seat >= 0;
        hooked |= !!(r->flags & SAMPLE_HOOKED);
        if (r->n_logprobs > n_logprobs) n_logprobs = r->n_logprobs;
        if (r->n_candidates > n_candidates) n_candidates = r->n_candidates;
        for (int32_t round = 0; step->links && round < SAMPLE_MAX_ROUNDS; round++) {
            const struct graph_link *link = &step->links[i * SAMPLE_MAX_ROUNDS + round];
            if (link->graph && (r->seat < 0 || fake_check_link(step, link, round, err)))
                return r->seat < 0 ? llm_fail(err, LLM_EFAILED, "row %d has a graph and no seat", i)
                                   : LLM_EFAILED;
        }
    }
    if (seated != step->seated || hooked != step->hooked || n_logprobs != step->n_logprobs ||
        n_candidates != step->n_candidates || n_logprobs > SAMPLE_MAX_LOGPROBS ||
        n_candidates > SAMPLE_MAX_CANDIDATES)
        return llm_fail(err, LLM_EFAILED, "a step is said to ask for other than its rows do");
    return LLM_OK;
}

/* ---- seats --------------------------------------------------------------------------------------------- */

static llm_status fake_stage_seat(const struct fake_device *d, const struct seat_content *c,
                                  struct fake_work *w, struct llm_error *err)
{
    struct fake_seat *s = calloc(1, sizeof *s);
    w->kind = FAKE_FILL;
    w->number = c->number;
    w->seat = s;
    if (c->number < 0 || c->number >= d->n_seats || c->n_words > SEAT_WORDS ||
        c->n_variables > SEAT_VARIABLES || c->n_prompt + c->n_output > 1024)
        return llm_fail(err, LLM_EFAILED, "seat %d is told too much", c->number);
    memcpy(&s->seat, c->seat, offsetof(struct seat, words) + sizeof(int32_t) * (size_t)c->n_words);
    memset(s->seat.words + c->n_words, 0xff, sizeof(int32_t) * (size_t)(SEAT_WORDS - c->n_words));
    memcpy(s->history, c->prompt, sizeof(int32_t) * (size_t)c->n_prompt);
    memcpy(s->history + c->n_prompt, c->output, sizeof(int32_t) * (size_t)c->n_output);
    s->n = c->n_prompt + c->n_output;
    for (int32_t i = 0; i < s->n; i++)
        if (s->history[i] < 0 || s->history[i] >= d->model->vocab_size)
            return llm_fail(err, LLM_EFAILED, "seat %d is told of token %d", c->number, s->history[i]);
    memset(s->variables, 0xff, sizeof s->variables);
    memcpy(s->variables, c->variables, sizeof(double) * (size_t)c->n_variables);
    if (!!c->n_allowed != !!(s->seat.flags & SEAT_ALLOWED))
        return llm_fail(err, LLM_EFAILED, "seat %d has %zu tokens that are allowed", c->number, c->n_allowed);
    s->n_allowed = c->n_allowed;
    s->allowed = malloc(sizeof(int32_t) * (c->n_allowed + 1));
    memcpy(s->allowed, c->allowed ? c->allowed : c->prompt, sizeof(int32_t) * c->n_allowed);
    return LLM_OK;
}

static void fake_run_fill(struct fake_device *d, const struct fake_work *w)
{
    struct fake_seat *to = &d->seats[w->number];
    free(to->allowed);
    float *work = to->work;
    *to = *w->seat;
    to->work = work;
    w->seat->allowed = NULL;
}

/* The token that is fed to the row is the seat's newest. */
static llm_status fake_advance_seat(const struct fake_device *d, const struct sample_row *r,
                                    struct llm_error *err)
{
    struct fake_seat *s = &d->seats[r->seat];
    int32_t n = (int32_t)r->position, token = d->fed[r->row];
    if (s->n == n && s->history[n - 1] != token)
        return llm_fail(err, LLM_EFAILED, "seat %d ends with %d, and is fed %d", r->seat, s->history[n - 1],
                        token);
    if (s->n != n && s->n != n - 1)
        return llm_fail(err, LLM_EFAILED, "seat %d has %d tokens at position %d", r->seat, s->n, n);
    s->history[n - 1] = token;
    s->n = n;
    return LLM_OK;
}

/* ---- adjust -------------------------------------------------------------------------------------------- */

/* A request as the seat remembers it. */
struct fake_request {
    struct seat_input input;
    struct token_counts counts;
    struct token_count list[1024];
    int32_t slots[4096];
};

static void fake_count(struct fake_request *q, const struct fake_seat *s)
{
    memset(q->slots, 0, sizeof q->slots);
    counts_init(&q->counts, q->list, q->slots, 1024);
    for (int32_t i = 0; i < s->n; i++)
        (i < s->seat.n_prompt ? counts_add_prompt : counts_add_output)(&q->counts, s->history[i]);
    q->input.in.counts = &q->counts;
}

static void fake_remember(struct fake_request *q, const struct sample_row *r, const struct fake_seat *s)
{
    seat_input_row(&q->input, r);
    if (!s) return;
    const struct seat *t = &s->seat;
    seat_input_seat(&q->input, t);
    q->input.p.allowed_token_ids = s->allowed;
    q->input.p.n_allowed_token_ids = s->n_allowed;
    q->input.in.output = s->history + t->n_prompt;
    q->input.in.n_output = s->n - t->n_prompt;
    if ((t->flags & SEAT_COUNTED) && sampler_counts_needed(&q->input.p)) fake_count(q, s);
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

/* The interpreter gives a message: which failure reads like it. */
static void fake_name_failure(const struct fake_device *d, const struct graph *g, const char *message,
                              struct sampled *out)
{
    struct llm_error err;
    const char *number = strstr(message, "token is ");
    out->number = number ? strtod(number + 9, NULL) : 0;
    for (int32_t failure = GRAPH_ROW_BAD; failure <= GRAPH_TOKEN_BAD; failure++)
        for (int32_t where = 0; where < g->n_nodes || where < g->n_states; where++) {
            graph_fail(g, d->model->vocab_size, (enum graph_failure)failure, where, out->number, &err);
            if (strcmp(err.message, message) != 0) continue;
            out->failure = failure;
            out->where = where;
            return;
        }
    abort();
}

static const struct graph *fake_graph_of(const struct device_step *step, const struct graph_link *link)
{
    for (int32_t i = 0; i < step->n_turns; i++)
        if (step->turns[i].graph->id == link->graph) return step->turns[i].graph->graph;
    abort();
}

/* Returns 1 if the chain ends here. */
static int fake_run_graph(struct fake_device *d, const struct graph *g, const struct graph_link *link,
                          const struct sample_row *r, struct sampled *out)
{
    struct fake_seat *s = &d->seats[r->seat];
    double *variables = s->variables + link->variables;
    struct graph_call call = seat_input_graph(r, d->row, s->history, s->seat.n_prompt, s->n);
    call.variables = variables;
    call.args = link->args;
    struct llm_error err;
    size_t bytes = sizeof(float) * (size_t)d->model->vocab_size;
    if (variables[g->n_variables] != 0) return 0; /* left out */
    memcpy(d->backup, d->row, bytes);
    if (graph_run(g, d->scratch, &call, &err) == LLM_OK) {
        if (g->gives == GRAPH_GIVES_ROW) return 0;
        out->token = call.token;
        out->flags |= SAMPLED_CHOSEN;
        return 1;
    }
    if (link->forgiving) {
        memcpy(d->row, d->backup, bytes);
        variables[g->n_variables] = 1;
        out->forgiven |= 1u << link->place;
        return 0;
    }
    out->flags |= SAMPLED_FAILED;
    out->place = link->place;
    fake_name_failure(d, g, err.message, out);
    return 1;
}

static int fake_run_graphs(struct fake_device *d, const struct device_step *step, int32_t i,
                           struct sampled *out)
{
    for (int32_t round = 0; step->links && round < SAMPLE_MAX_ROUNDS; round++) {
        const struct graph_link *link = &step->links[i * SAMPLE_MAX_ROUNDS + round];
        if (!link->graph) continue;
        if (fake_run_graph(d, fake_graph_of(step, link), link, &step->rows[i], out)) return 1;
    }
    return 0;
}

/* ---- a row --------------------------------------------------------------------------------------------- */

/* The row is no good: what check looks for. */
static int fake_is_bad(const float *x, int32_t n)
{
    float max = -INFINITY;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(x[i])) return 1;
        if (x[i] > max) max = x[i];
    }
    return !isfinite(max);
}

static int32_t fake_likeliest(const float *x, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* From the row as it is, d->row, to a token and candidates. */
static void fake_choose(struct fake_device *d, const struct device_step *step, int32_t i,
                        const struct sample_input *in, struct sampled *out)
{
    const struct sample_row *r = &step->rows[i];
    int32_t n = d->model->vocab_size;
    if ((r->flags & SAMPLE_HOOKED) && fake_is_bad(d->row, n)) {
        out->flags |= SAMPLED_FAILED;
        out->place = -1;
        return;
    }
    if (fake_run_graphs(d, step, i, out)) return;
    struct llm_candidate list[LLM_MAX_CANDIDATES];
    struct sample_best best = {list, r->n_candidates};
    out->token = sampler_choose(&d->sampler, d->row, in, r->n_candidates ? &best : NULL);
    if (!r->n_candidates) return;
    out->n_candidates = best.n;
    struct sample_candidate *to = d->candidates[step->mark] + (size_t)i * (size_t)step->n_candidates;
    for (int32_t k = 0; k < best.n; k++)
        to[k] = (struct sample_candidate){list[k].token, list[k].prob, list[k].logprob};
}

/* A token's log-probability in d->logits, and the k likeliest. */
static void fake_list(struct fake_device *d, int32_t token, int32_t k, struct sample_logprob *to)
{
    struct llm_logprob list[1 + SAMPLE_MAX_LOGPROBS];
    sampler_logprobs(&d->sampler, d->logits, token, k, list);
    for (int32_t j = 0; j <= k; j++)
        to[j] = (struct sample_logprob){list[j].token, list[j].rank, list[j].logprob};
}

static void fake_run_scores(struct fake_device *d, const struct device_step *step)
{
    int32_t k = step->n_prompt_logprobs;
    for (int32_t i = 0; i < step->n_scored; i++) {
        fake_row(d->model->state[step->scored[i]], d->model->vocab_size, d->logits);
        fake_list(d, step->followers[i], k, d->scores[step->mark] + (size_t)i * (size_t)(1 + k));
    }
    d->n_scored += step->n_scored;
}

/* One row: all of it, or up to its hooks (before) or from there on (after). */
static llm_status fake_run_row(struct fake_device *d, const struct device_step *step, int32_t i, int before,
                               int after, struct llm_error *err)
{
    static struct fake_request q;
    const struct sample_row *r = &step->rows[i];
    struct fake_seat *s = r->seat >= 0 ? &d->seats[r->seat] : NULL;
    struct sampled *out = &d->rows[step->mark][i];
    int32_t n = d->model->vocab_size;
    size_t bytes = sizeof(float) * (size_t)n;
    int hooked = r->flags & SAMPLE_HOOKED;
    fake_row(d->states[i], n, d->logits);
    if (before) {
        *out = (struct sampled){.token = FAKE_POISON};
        llm_status status = s ? fake_advance_seat(d, r, err) : LLM_OK;
        if (status) return status;
    }
    fake_remember(&q, r, s);
    memcpy(d->row, sampler_adjust(&d->sampler, d->logits, &q.input.in), bytes);
    if (fake_is_bad(d->row, n)) out->flags |= SAMPLED_BARREN;
    if (before && hooked) memcpy(s->work, d->row, bytes);
    if (!after) return LLM_OK;
    if (hooked) memcpy(d->row, s->work, bytes);
    if (out->flags & SAMPLED_BARREN)
        out->token = fake_likeliest(d->logits, n);
    else
        fake_choose(d, step, i, &q.input.in, out);
    if (out->flags & SAMPLED_FAILED) out->token = 0;
    d->last[r->slot] = out->token;
    if (r->n_logprobs >= 0)
        fake_list(d, out->token, r->n_logprobs,
                  d->logprobs[step->mark] + (size_t)i * (size_t)(1 + step->n_logprobs));
    return LLM_OK;
}

static llm_status fake_run_rows(struct fake_device *d, const struct device_step *step, int rest,
                                struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < d->max_seqs && !rest; i++) d->last[step->mark * d->max_seqs + i] = FAKE_POISON;
    for (int32_t i = 0; i < step->n_rows && !rest; i++) d->states[i] = d->model->state[step->rows[i].row];
    for (int32_t i = 0; i < step->n_rows && !status; i++)
        status = fake_run_row(d, step, i, !rest, rest || !step->hooked, err);
    return status;
}
