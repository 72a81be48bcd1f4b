/* Included by the tests that use it, after fake_model.inc.c. */

#include "fake_device.h"

enum { FAKE_POISON = INT32_MIN / 2 };

enum fake_kind { FAKE_COPY, FAKE_FILL, FAKE_STEP, FAKE_REST };

struct fake_work {
    struct fake_work *next;
    enum fake_kind kind;
    int32_t from, to;        /* of a copy */
    int32_t number;          /* of a seat to be filled, */
    struct fake_seat *seat;  /* with this, its own */
    struct batch batch;      /* the arrays are its own, in `memory` */
    struct device_step step; /* arrays likewise */
    int32_t memory[];
};

#include "fake_seats.inc.c"

/* ---- what a step says ---------------------------------------------------------------------------------- */

static llm_status fake_check_batch(const struct fake_device *d, const struct batch *b, struct llm_error *err)
{
    const struct fake_model *m = d->model;
    if (b->n_tokens < 1 || b->n_tokens > m->max_tokens || b->n_seqs < 1 || b->n_seqs > d->max_seqs)
        return llm_fail(err, LLM_EFAILED, "a batch of %d tokens and %d sequences", b->n_tokens, b->n_seqs);
    if (b->seq_start[0] != 0 || b->seq_start[b->n_seqs] != b->n_tokens)
        return llm_fail(err, LLM_EFAILED, "the sequences do not cover the batch");
    for (int32_t s = 0; s < b->n_seqs; s++) {
        const int32_t *table = b->block_table + (size_t)s * (size_t)b->block_table_stride;
        int32_t first = b->kv_len[s] - (b->seq_start[s + 1] - b->seq_start[s]);
        if (first < 0 || first >= b->kv_len[s])
            return llm_fail(err, LLM_EFAILED, "sequence %d has no rows, or more than tokens", s);
        for (int32_t p = 0; p < b->kv_len[s]; p++) {
            int32_t page = table[p / m->page_size], row = b->seq_start[s] + p - first;
            if (page < 0 || page >= m->n_pages) return llm_fail(err, LLM_EFAILED, "page %d", page);
            if (p < first) continue;
            if (b->positions[row] != p) return llm_fail(err, LLM_EFAILED, "row %d is not at %d", row, p);
            if (b->slots[row] != page * m->page_size + p % m->page_size)
                return llm_fail(err, LLM_EFAILED, "row %d writes slot %d", row, b->slots[row]);
        }
    }
    return LLM_OK;
}

static llm_status fake_check_step(const struct fake_device *d, const struct device_step *step,
                                  struct llm_error *err)
{
    const struct fake_model *m = d->model;
    const struct batch *b = step->batch;
    int32_t n_decode = 0, max_query = 0, max_kv = 0;
    for (int32_t s = 0; s < b->n_seqs; s++) {
        int32_t rows = b->seq_start[s + 1] - b->seq_start[s];
        if (rows == 1 && n_decode == s)
            n_decode++;
        else if (rows > max_query)
            max_query = rows;
        if (b->kv_len[s] > max_kv) max_kv = b->kv_len[s];
    }
    struct batch_shape shape = batch_shape_of(b);
    if (shape.n_decode != n_decode || shape.max_query != max_query || shape.max_kv != max_kv)
        return llm_fail(err, LLM_EFAILED, "a step of shape %d, %d, %d is said to be %d, %d, %d", n_decode,
                        max_query, max_kv, shape.n_decode, shape.max_query, shape.max_kv);
    if (step->n_rows < 0 || step->n_rows > d->max_seqs)
        return llm_fail(err, LLM_EFAILED, "%d rows to sample", step->n_rows);
    for (int32_t i = 0; i < step->n_rows; i++) {
        const struct sample_row *r = &step->rows[i];
        int last = 0;
        for (int32_t s = 0; s < b->n_seqs; s++) last |= r->row == b->seq_start[s + 1] - 1;
        if (!last) return llm_fail(err, LLM_EFAILED, "row %d is sampled, no sequence's last", r->row);
        if (r->slot != step->mark * d->max_seqs + i)
            return llm_fail(err, LLM_EFAILED, "row %d goes to place %d", i, r->slot);
    }
    for (int32_t i = 0; i < step->n_scored; i++)
        if (step->scored[i] < 0 || step->scored[i] >= b->n_tokens || step->followers[i] < 0 ||
            step->followers[i] >= m->vocab_size || step->n_scored > b->n_tokens)
            return llm_fail(err, LLM_EFAILED, "row %d scores token %d", step->scored[i], step->followers[i]);
    if (step->n_prompt_logprobs < 0 || step->n_prompt_logprobs > SAMPLE_MAX_LOGPROBS)
        return llm_fail(err, LLM_EFAILED, "%d log-probabilities of a prompt", step->n_prompt_logprobs);
    return fake_check_asks(d, step, err);
}

/* ---- running ------------------------------------------------------------------------------------------- */

static llm_status fake_feed(struct fake_device *d, struct batch *b, struct llm_error *err)
{
    for (int32_t i = 0; i < b->n_tokens; i++) {
        int32_t from = b->tokens[i];
        if (from < -2 * d->max_seqs) return llm_fail(err, LLM_EFAILED, "row %d is fed from %d", i, from);
        d->fed[i] = from < 0 ? d->last[-1 - from] : from;
        if (d->fed[i] < 0 || d->fed[i] >= d->model->vocab_size)
            return llm_fail(err, LLM_EFAILED, "row %d finds no token at %d", i, from);
        if (d->written[b->slots[i]] == d->n_run)
            return llm_fail(err, LLM_EFAILED, "two rows write slot %d", b->slots[i]);
        d->written[b->slots[i]] = d->n_run;
    }
    b->tokens = d->fed;
    return LLM_OK;
}

static llm_status fake_check_read(const struct fake_device *d, const struct batch *b, struct llm_error *err)
{
    const struct fake_model *m = d->model;
    for (int32_t s = 0; s < b->n_seqs; s++)
        for (int32_t p = 0; p < b->kv_len[s]; p++) {
            int32_t page =
                b->block_table[(size_t)s * (size_t)b->block_table_stride + (size_t)(p / m->page_size)];
            if (m->slots[page * m->page_size + p % m->page_size] < 0)
                return llm_fail(err, LLM_EFAILED, "sequence %d reads position %d, never written", s, p);
        }
    return LLM_OK;
}

static llm_status fake_run_batch(struct fake_device *d, struct batch *b, struct llm_error *err)
{
    d->n_run++;
    llm_status status = fake_feed(d, b, err);
    if (!status) status = fake_forward(d->model, b, err);
    return status ? status : fake_check_read(d, b, err);
}

static llm_status fake_run_one(struct fake_device *d, struct llm_error *err)
{
    struct fake_work *w = d->first;
    d->first = w->next;
    if (!d->first) d->end = &d->first;
    llm_status status = LLM_OK;
    if (w->kind == FAKE_COPY) status = fake_copy(d->model, w->from, w->to, err);
    if (w->kind == FAKE_FILL) fake_run_fill(d, w);
    if (w->kind == FAKE_STEP) status = fake_run_batch(d, &w->batch, err);
    if (w->kind == FAKE_STEP && !status) fake_run_scores(d, &w->step);
    if (w->kind == FAKE_STEP && !status) status = fake_run_rows(d, &w->step, 0, err);
    if (w->kind == FAKE_REST) status = fake_run_rows(d, &w->step, 1, err);
    fake_free_work(w);
    return status;
}

static llm_status fake_run_some(struct fake_device *d, struct llm_error *err)
{
    llm_status status = LLM_OK;
    while (d->first && !status) {
        d->luck = fake_mix(d->luck + 1);
        if ((int32_t)(d->luck % 100) >= d->eagerness) break;
        status = fake_run_one(d, err);
    }
    return status;
}

/* ---- the table ----------------------------------------------------------------------------------------- */

static void fake_queue(struct fake_device *d, struct fake_work *w)
{
    *d->end = w;
    d->end = &w->next;
}

static int32_t *fake_keep(int32_t **memory, const int32_t *from, size_t n)
{
    int32_t *to = *memory;
    memcpy(to, from, sizeof *from * n);
    *memory += n;
    return to;
}

static void *fake_copy_of(const void *from, size_t bytes)
{
    return from && bytes ? memcpy(malloc(bytes), from, bytes) : NULL;
}

/* With memory of exactly the size that the step says, for the sanitizers. */
static struct fake_work *fake_stage(const struct device_step *step)
{
    const struct batch *b = step->batch;
    size_t tokens = (size_t)b->n_tokens, seqs = (size_t)b->n_seqs, stride = (size_t)b->block_table_stride;
    size_t rows = (size_t)step->n_rows;
    struct fake_work *w =
        calloc(1, sizeof *w + sizeof(int32_t) * (3 * tokens + 2 * seqs + 1 + seqs * stride));
    int32_t *at = w->memory;
    w->kind = FAKE_STEP;
    w->batch = *b;
    w->batch.tokens = fake_keep(&at, b->tokens, tokens);
    w->batch.positions = fake_keep(&at, b->positions, tokens);
    w->batch.slots = fake_keep(&at, b->slots, tokens);
    w->batch.seq_start = fake_keep(&at, b->seq_start, seqs + 1);
    w->batch.kv_len = fake_keep(&at, b->kv_len, seqs);
    w->batch.block_table = fake_keep(&at, b->block_table, seqs * stride);
    w->step = *step;
    w->step.rows = fake_copy_of(step->rows, sizeof *step->rows * rows);
    w->step.links = fake_copy_of(step->links, sizeof *step->links * rows * SAMPLE_MAX_ROUNDS);
    w->step.scored = fake_copy_of(step->scored, sizeof *step->scored * (size_t)step->n_scored);
    w->step.followers = fake_copy_of(step->followers, sizeof *step->followers * (size_t)step->n_scored);
    w->step.turns = fake_copy_of(step->turns, sizeof *step->turns * (size_t)step->n_turns);
    return w;
}

static llm_status fake_launch(void *self, const struct device_step *step, struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->fail_launch_after >= 0 && d->n_launched >= d->fail_launch_after)
        return llm_fail(err, LLM_EFAILED, "the fake device broke in launch");
    d->n_launched++;
    if (step->mark != 0 && step->mark != 1) return llm_fail(err, LLM_EFAILED, "mark %d", step->mark);
    if (d->paused) return llm_fail(err, LLM_EFAILED, "a step while another waits for its hooks");
    if (d->flying[step->mark])
        return llm_fail(err, LLM_EFAILED, "mark %d is used again before it was collected", step->mark);
    llm_status status = fake_check_batch(d, step->batch, err);
    if (!status) status = fake_check_step(d, step, err);
    if (status) return status;
    d->n_ahead += d->flying[!step->mark];
    d->flying[step->mark] = 1;
    d->raw_gone = 0;
    d->paused = step->hooked ? 1 + step->mark : 0;
    fake_poison(d, step->mark);
    fake_queue(d, fake_stage(step));
    return fake_run_some(d, err);
}

/* Runs what is queued up to the last of these, of this mark. */
static llm_status fake_run_until(struct fake_device *d, enum fake_kind kind, int mark, struct llm_error *err)
{
    for (;;) {
        const struct fake_work *w = d->first;
        while (w && !(w->kind == kind && w->step.mark == mark)) w = w->next;
        if (!w) return LLM_OK; /* it has run */
        llm_status status = fake_run_one(d, err);
        if (status) return status;
    }
}

static llm_status fake_collect(void *self, int mark, struct device_results *out, struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->fail_collect_after >= 0 && d->n_collected >= d->fail_collect_after)
        return llm_fail(err, LLM_EFAILED, "the fake device broke in collect");
    d->n_collected++;
    if (!d->flying[mark]) return llm_fail(err, LLM_EFAILED, "mark %d was not launched", mark);
    if (d->paused == 1 + mark)
        return llm_fail(err, LLM_EFAILED, "a step that waits for its hooks is collected");
    llm_status status = fake_run_until(d, FAKE_STEP, mark, err);
    if (!status) status = fake_run_until(d, FAKE_REST, mark, err);
    if (status) return status;
    d->flying[mark] = 0;
    *out = (struct device_results){d->rows[mark], d->candidates[mark], d->logprobs[mark], d->scores[mark]};
    return fake_run_some(d, err);
}

static llm_status fake_device_copy(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    struct fake_device *d = self;
    if (from < 0 || to < 0 || from >= d->model->n_pages || to >= d->model->n_pages || from == to)
        return llm_fail(err, LLM_EFAILED, "page %d is copied to %d", from, to);
    struct fake_work *w = calloc(1, sizeof *w);
    *w = (struct fake_work){.kind = FAKE_COPY, .from = from, .to = to};
    fake_queue(d, w);
    return fake_run_some(d, err);
}

/* Rows for the host: of the last step, which has been collected. */
static llm_status fake_check_settled(const struct fake_device *d, struct llm_error *err)
{
    int queued = 0;
    for (const struct fake_work *w = d->first; w; w = w->next)
        queued |= w->kind == FAKE_STEP || w->kind == FAKE_REST;
    if (d->flying[0] || d->flying[1] || queued)
        return llm_fail(err, LLM_EFAILED, "rows of a step are asked for while another flies");
    return LLM_OK;
}

static llm_status fake_device_logits(void *self, const int32_t *rows, int32_t n_rows, float *out,
                                     struct llm_error *err)
{
    struct fake_device *d = self;
    llm_status status = fake_check_settled(d, err);
    d->n_raw += n_rows;
    d->raw_gone = 1;
    return status ? status : fake_model_logits(d->model, rows, n_rows, out, err);
}

static llm_status fake_raw_rows(void *self, const int32_t *places, int32_t n, float *out,
                                struct llm_error *err)
{
    struct fake_device *d = self;
    llm_status status = fake_check_settled(d, err);
    size_t width = (size_t)d->model->vocab_size;
    if (d->raw_gone) return llm_fail(err, LLM_EFAILED, "rows are asked for after others took their memory");
    d->n_raw += n;
    for (int32_t i = 0; i < n && !status; i++)
        fake_row(d->states[places[i]], d->model->vocab_size, out + (size_t)i * width);
    return status;
}

/* ---- seats, from the engine ---------------------------------------------------------------------------- */

static llm_status fake_fill(void *self, int mark, const struct seat_content *c, struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->flying[mark]) return llm_fail(err, LLM_EFAILED, "a fill for mark %d, which flies", mark);
    struct fake_work *w = calloc(1, sizeof *w);
    llm_status status = fake_stage_seat(d, c, w, err);
    d->n_fills++;
    fake_queue(d, w);
    return status;
}

static llm_status fake_variables(void *self, int32_t seat, double *out, int32_t n, struct llm_error *err)
{
    struct fake_device *d = self;
    llm_status status = LLM_OK;
    while (d->first && !status) status = fake_run_one(d, err);
    memcpy(out, d->seats[seat].variables, sizeof *out * (size_t)n);
    d->n_recovered++;
    return status;
}

/* Too late once a step that may feed on it was queued. */
static llm_status fake_amend(void *self, int mark, const int32_t *tokens, int32_t n, int32_t n_logprobs,
                             struct llm_error *err)
{
    struct fake_device *d = self;
    if (n_logprobs >= 0 && d->raw_gone)
        return llm_fail(err, LLM_EFAILED, "rows are listed after they are gone");
    if (d->flying[0] || d->flying[1])
        return llm_fail(err, LLM_EFAILED, "tokens are amended while a step flies");
    for (int32_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= d->model->vocab_size)
            return llm_fail(err, LLM_EFAILED, "place %d is amended to %d", i, tokens[i]);
        d->last[mark * d->max_seqs + i] = tokens[i];
        fake_row(d->states[i], d->model->vocab_size, d->logits);
        if (n_logprobs >= 0) fake_list(d, tokens[i], n_logprobs, d->logprobs[mark] + i * (1 + n_logprobs));
    }
    d->n_listed += n_logprobs >= 0;
    d->n_amended++;
    return LLM_OK;
}

static llm_status fake_adjusted(void *self, int mark, const struct sampled **rows, struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->paused != 1 + mark) return llm_fail(err, LLM_EFAILED, "no step waits for hooks");
    *rows = d->rows[mark];
    return fake_run_until(d, FAKE_STEP, mark, err);
}

static llm_status fake_fetch(void *self, int32_t ticket, int32_t seat, struct llm_error *err)
{
    struct fake_device *d = self;
    if (!d->paused || d->fetched[ticket]) return llm_fail(err, LLM_EFAILED, "ticket %d is in use", ticket);
    d->fetched[ticket] = 1 + seat;
    d->n_fetches++;
    return LLM_OK;
}

static llm_status fake_await(void *self, int32_t ticket, float **row, struct llm_error *err)
{
    struct fake_device *d = self;
    if (!d->fetched[ticket]) return llm_fail(err, LLM_EFAILED, "ticket %d was not fetched", ticket);
    llm_status status = fake_run_until(d, FAKE_STEP, d->paused - 1, err);
    const float *from = d->seats[d->fetched[ticket] - 1].work;
    *row = memcpy(d->tickets[ticket], from, sizeof *from * (size_t)d->model->vocab_size);
    return status;
}

static llm_status fake_give_back(void *self, int32_t ticket, int32_t seat, int32_t from, int32_t n,
                                 struct llm_error *err)
{
    struct fake_device *d = self;
    size_t bytes = sizeof(float) * (size_t)d->model->vocab_size;
    if (d->fetched[ticket] != 1 + seat)
        return llm_fail(err, LLM_EFAILED, "ticket %d was not fetched for seat %d", ticket, seat);
    d->fetched[ticket] = 0;
    if (from < 0 || n < 0 || from + n > d->model->vocab_size)
        return llm_fail(err, LLM_EFAILED, "%d elements of a row from %d on", n, from);
    memcpy(d->seats[seat].work + from, d->tickets[ticket] + from, sizeof(float) * (size_t)n);
    memset(d->tickets[ticket], 0xff, bytes);
    return LLM_OK;
}

static llm_status fake_resume(void *self, const struct device_step *step, struct llm_error *err)
{
    struct fake_device *d = self;
    for (int32_t i = 0; i < EXCHANGE_TICKETS; i++)
        if (d->fetched[i]) return llm_fail(err, LLM_EFAILED, "ticket %d was not given back", i);
    d->paused = 0;
    struct fake_work *w = fake_stage(step);
    w->kind = FAKE_REST;
    fake_queue(d, w);
    return fake_run_some(d, err);
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

static llm_status fake_compile(void *self, const struct graph *g, struct device_graph **out,
                               struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->refuses_graphs == 1) return llm_fail(err, LLM_EUNSUP, "the fake device compiles nothing");
    char *text;
    *out = calloc(1, sizeof **out);
    if (graph_dump(g, &text, NULL, err) || graph_parse(text, strlen(text), &(*out)->graph, err)) abort();
    mem_free(text);
    (*out)->id = ++d->n_ids;
    d->n_graphs++;
    return LLM_OK;
}

static void fake_graph_close(void *self, struct device_graph *g)
{
    struct fake_device *d = self;
    d->n_graphs--;
    g->next = d->closed_graphs;
    while (!atomic_compare_exchange_weak(&d->closed_graphs, &g->next, g)) continue;
}

static uint64_t fake_graph_id(const struct device_graph *g)
{
    return g->id;
}

static llm_status fake_args_open(void *self, const struct device_graph *g, const struct graph_args *args,
                                 struct device_graph_args **out, struct llm_error *err)
{
    struct fake_device *d = self;
    if (d->refuses_graphs == 2) return llm_fail(err, LLM_ENOMEM, "no memory for arguments");
    *out = calloc(1, sizeof **out);
    if (graph_args_copy(args, &(*out)->args, err)) abort();
    (*out)->args->graph = g->graph;
    d->n_args++;
    return LLM_OK;
}

static void fake_args_close(void *self, struct device_graph_args *a)
{
    struct fake_device *d = self;
    d->n_args--;
    a->next = d->closed_args;
    while (!atomic_compare_exchange_weak(&d->closed_args, &a->next, a)) continue;
}

static const void *fake_args_block(const struct device_graph_args *a)
{
    return a->args;
}

static void fake_free_graphs(struct fake_device *d)
{
    for (struct device_graph_args *a = d->closed_args, *next; a; a = next) {
        next = a->next;
        graph_args_free(a->args);
        free(a);
    }
    for (struct device_graph *g = d->closed_graphs, *next; g; g = next) {
        next = g->next;
        graph_free(g->graph);
        free(g);
    }
}

/* ---- opening and closing ------------------------------------------------------------------------------- */

static void fake_free_seats(struct fake_device *d)
{
    for (int32_t i = 0; i < d->n_seats; i++) {
        free(d->seats[i].allowed);
        free(d->seats[i].work);
    }
    free(d->seats);
}

static void fake_device_close(void *self)
{
    struct fake_device *d = self;
    if (d->n_graphs || d->n_args) abort(); /* somebody kept them */
    if (d->closed_in_flight) *d->closed_in_flight = d->flying[0] || d->flying[1];
    for (struct fake_work *w = d->first, *next; w; w = next) {
        next = w->next;
        fake_free_work(w);
    }
    fake_free_seats(d);
    fake_free_graphs(d);
    graph_scratch_close(d->scratch);
    for (int32_t i = 0; i < EXCHANGE_TICKETS; i++) free(d->tickets[i]);
    free(d->row);
    free(d->backup);
    free(d->states);
    sampler_deinit(&d->sampler);
    fake_close(d->model);
    free(d->logits);
    free(d->last);
    for (int k = 0; k < 2; k++) {
        free(d->rows[k]);
        free(d->candidates[k]);
        free(d->logprobs[k]);
        free(d->scores[k]);
    }
    free(d->fed);
    free(d->written);
    free(d);
}

void fake_device_seats(struct fake_device *d, int32_t n_seats)
{
    fake_free_seats(d);
    d->n_seats = n_seats;
    d->seats = calloc((size_t)n_seats + 1, sizeof *d->seats);
    for (int32_t i = 0; i < n_seats; i++) {
        d->seats[i].n = -1;
        d->seats[i].work = malloc(sizeof(float) * (size_t)d->model->vocab_size);
    }
}

struct fake_device *fake_device_new(struct fake_model *m, int32_t max_seqs, int32_t eagerness, uint64_t seed)
{
    struct fake_device *d = calloc(1, sizeof *d);
    *d = (struct fake_device){.model = m,
                              .max_seqs = max_seqs,
                              .luck = seed,
                              .eagerness = eagerness,
                              .fail_launch_after = -1,
                              .fail_collect_after = -1};
    d->end = &d->first;
    size_t row_bytes = sizeof *d->logits * (size_t)m->vocab_size, seqs = (size_t)max_seqs;
    d->logits = malloc(row_bytes);
    d->row = malloc(row_bytes);
    d->backup = malloc(row_bytes);
    d->states = malloc(sizeof *d->states * seqs);
    for (int32_t i = 0; i < EXCHANGE_TICKETS; i++) d->tickets[i] = malloc(row_bytes);
    fake_device_seats(d, max_seqs);
    d->last = malloc(sizeof *d->last * 2 * (size_t)max_seqs);
    for (int32_t i = 0; i < 2 * max_seqs; i++) d->last[i] = FAKE_POISON;
    for (int k = 0; k < 2; k++) {
        d->rows[k] = calloc(seqs, sizeof **d->rows);
        d->candidates[k] = calloc(seqs * SAMPLE_MAX_CANDIDATES, sizeof **d->candidates);
        d->logprobs[k] = calloc(seqs * (1 + SAMPLE_MAX_LOGPROBS), sizeof **d->logprobs);
        d->scores[k] = calloc((size_t)m->max_tokens * (1 + SAMPLE_MAX_LOGPROBS), sizeof **d->scores);
    }
    d->fed = malloc(sizeof *d->fed * (size_t)m->max_tokens);
    d->written = calloc((size_t)m->n_pages * (size_t)m->page_size, sizeof *d->written);
    if (sampler_init(&d->sampler, m->vocab_size, NULL)) abort();
    if (graph_scratch_open(m->vocab_size, NULL, &d->scratch, NULL)) abort();
    return d;
}

struct engine_model fake_device_table(struct fake_device *d)
{
    return (struct engine_model){.self = d,
                                 .vocab_size = d->model->vocab_size,
                                 .logits = fake_device_logits,
                                 .copy_page = fake_device_copy,
                                 .launch = fake_launch,
                                 .collect = fake_collect,
                                 .raw_rows = fake_raw_rows,
                                 .amend = fake_amend,
                                 .seats = {.n = d->n_seats,
                                           .fill = fake_fill,
                                           .variables = fake_variables,
                                           .adjusted = fake_adjusted,
                                           .fetch = fake_fetch,
                                           .await = fake_await,
                                           .give_back = fake_give_back,
                                           .resume = fake_resume},
                                 .graphs = {.self = d,
                                            .compile = fake_compile,
                                            .close = fake_graph_close,
                                            .id = fake_graph_id,
                                            .args_open = fake_args_open,
                                            .args_close = fake_args_close,
                                            .args_block = fake_args_block},
                                 .close = fake_device_close};
}
