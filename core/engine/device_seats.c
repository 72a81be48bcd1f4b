/* Seats and the stages of sampling, queued one after the other: a handful of kernels, not worth recording for
 * each way in which requests can be mixed. What seats are filled from goes through pinned memory, of which
 * there is a bounded piece a mark; when it is full, the device works it off first. */

#include "engine/device_io.h"

#include <string.h>

enum { STAGING_BYTES = 8 << 10 /* a sequence, and for one seat whatever it needs */ };

/* ---- memory -------------------------------------------------------------------------------------------- */

/* Where everything lies in the device's memory. */
struct plan_of_room {
    size_t seat, history, counts, allowed, variables, work; /* [n_seats] */
    size_t links, fills, state, candidates, logprobs;       /* [max_seqs] */
    size_t bytes;
};

static struct plan_of_room lay_out(int32_t n_seats, int32_t max_seqs, int32_t max_len, int32_t vocab_size)
{
    struct plan_of_room p;
    size_t n = (size_t)n_seats, seqs = (size_t)max_seqs, vocab = (size_t)vocab_size, total = 0;
    p.seat = device_place(&total, n, sizeof(struct seat));
    p.history = device_place(&total, n * (size_t)max_len, sizeof(int32_t));
    p.counts = device_place(&total, n * vocab, sizeof(uint32_t));
    p.allowed = device_place(&total, n * (size_t)seat_bit_words(vocab_size), sizeof(uint32_t));
    p.variables = device_place(&total, n * SEAT_VARIABLES, sizeof(double));
    p.work = device_place(&total, 2 * n * vocab, sizeof(float));
    p.links = device_place(&total, seqs * SAMPLE_MAX_ROUNDS, sizeof(struct graph_link));
    p.fills = device_place(&total, seqs, sizeof(struct seat_fill));
    p.state = device_place(&total, seqs, sizeof(struct sample_state));
    p.candidates = device_place(&total, seqs * SAMPLE_MAX_CANDIDATES, sizeof(struct sample_candidate));
    p.logprobs = device_place(&total, seqs * (1 + SAMPLE_MAX_LOGPROBS), sizeof(struct sample_logprob));
    p.bytes = total;
    return p;
}

static int does_all(const struct sampling_ops *ops)
{
    return ops->fill_seats && ops->adjust && ops->check && ops->candidates && ops->logprobs;
}

size_t device_seats_bytes(const struct decoder_model *m, const struct engine_config *config, size_t total,
                          int32_t *n_seats)
{
    int32_t vocab = m->model->config.vocab_size, n = config->max_num_seqs;
    size_t fixed = lay_out(0, n, config->max_model_len, vocab).bytes;
    size_t one = lay_out(1, n, config->max_model_len, vocab).bytes - fixed;
    if (!does_all(m->backend->device->sampling)) n = 0;
    if ((size_t)n > total / 32 / one) n = (int32_t)(total / 32 / one);
    *n_seats = n;
    return lay_out(n, config->max_num_seqs, config->max_model_len, vocab).bytes;
}

static size_t staging_bytes(const struct device_io *io)
{
    size_t one = sizeof(struct seat) + sizeof(int32_t) * (size_t)io->max_model_len +
                 sizeof(uint32_t) * (size_t)seat_bit_words(io->vocab_size) + sizeof(double) * SEAT_VARIABLES;
    return one + (size_t)io->max_seqs * STAGING_BYTES;
}

static int open_pinned(struct decoder_model *m)
{
    struct device_io *io = m->io;
    struct seat_room *room = &io->room;
    struct backend *be = m->backend;
    size_t seqs = (size_t)io->max_seqs;
    int made = 1;
    for (int k = 0; k < 2; k++) {
        made &=
            !!(room->candidates_pinned[k] =
                   io->ops->alloc_pinned(be, seqs * SAMPLE_MAX_CANDIDATES * sizeof *room->candidates)) &
            !!(room->logprobs_pinned[k] =
                   io->ops->alloc_pinned(be, seqs * (1 + SAMPLE_MAX_LOGPROBS) * sizeof *room->logprobs)) &
            !!(room->links_pinned[k] =
                   io->ops->alloc_pinned(be, seqs * SAMPLE_MAX_ROUNDS * sizeof *room->links)) &
            !!(room->tokens_pinned[k] = io->ops->alloc_pinned(be, seqs * sizeof *room->tokens_pinned[k])) &
            !!(room->fills_pinned[k] = io->ops->alloc_pinned(be, seqs * sizeof *room->fills));
        if (room->seats.n > 0) made &= !!(room->staging[k] = io->ops->alloc_pinned(be, staging_bytes(io)));
    }
    size_t tickets = seqs < EXCHANGE_TICKETS ? seqs : EXCHANGE_TICKETS;
    if (room->seats.n > 0)
        made &= !!(room->tickets =
                       io->ops->alloc_pinned(be, tickets * sizeof *room->tickets * (size_t)io->vocab_size));
    return made;
}

llm_status device_seats_open(struct decoder_model *m, const struct engine_config *config,
                             struct llm_error *err)
{
    struct device_io *io = m->io;
    struct seat_room *room = &io->room;
    size_t total;
    int32_t n;
    io->ops->memory_left(m->backend, &total);
    room->bytes = device_seats_bytes(m, config, total, &n);
    struct plan_of_room p = lay_out(n, io->max_seqs, io->max_model_len, io->vocab_size);
    char *at = room->memory = m->backend->alloc(m->backend, room->bytes);
    room->seats = (struct seats){.n = n, .max_len = io->max_model_len, .vocab_size = io->vocab_size};
    if (!at || !open_pinned(m))
        return llm_fail(err, LLM_ENOMEM,
                        "no memory on the device for what %d sequences can ask of sampling (%zu bytes): set "
                        "kv_cache_memory or max_num_seqs lower",
                        (int)io->max_seqs, room->bytes);
    room->seats.seat = (void *)(at + p.seat);
    room->seats.history = (void *)(at + p.history);
    room->seats.counts = (void *)(at + p.counts);
    room->seats.allowed = (void *)(at + p.allowed);
    room->seats.variables = (void *)(at + p.variables);
    room->seats.work = (void *)(at + p.work);
    room->links = (void *)(at + p.links);
    room->fills = (void *)(at + p.fills);
    room->state = (void *)(at + p.state);
    room->candidates = (void *)(at + p.candidates);
    room->logprobs = (void *)(at + p.logprobs);
    return LLM_OK;
}

void device_seats_close(struct decoder_model *m)
{
    struct device_io *io = m->io;
    struct seat_room *room = &io->room;
    for (int k = 0; k < 2; k++) {
        io->ops->free_pinned(m->backend, room->candidates_pinned[k]);
        io->ops->free_pinned(m->backend, room->logprobs_pinned[k]);
        io->ops->free_pinned(m->backend, room->links_pinned[k]);
        io->ops->free_pinned(m->backend, room->fills_pinned[k]);
        io->ops->free_pinned(m->backend, room->tokens_pinned[k]);
        io->ops->free_pinned(m->backend, room->staging[k]);
    }
    io->ops->free_pinned(m->backend, room->tickets);
    m->backend->free(m->backend, room->memory, room->bytes);
}

/* ---- filling ------------------------------------------------------------------------------------------- */

llm_status device_seats_settle(struct decoder_model *m, int mark, struct llm_error *err)
{
    struct device_io *io = m->io;
    struct seat_room *room = &io->room;
    int32_t n = room->n_fills;
    room->n_fills = 0;
    room->staging_used = 0;
    if (n == 0) return LLM_OK;
    size_t bytes = sizeof *room->fills * (size_t)n;
    if (io->ops->copy_in(m->backend, room->fills, room->fills_pinned[mark], bytes) ||
        io->ops->sampling->fill_seats(m->backend, room->fills, n, &room->seats))
        return device_failed(m, err);
    return LLM_OK;
}

/* Room in staging, which the device has left: null if it is full. */
static void *stage(struct device_io *io, int mark, size_t bytes)
{
    struct seat_room *room = &io->room;
    if (room->staging_used + bytes > staging_bytes(io)) return NULL;
    void *p = room->staging[mark] + room->staging_used;
    room->staging_used += (bytes + 63) / 64 * 64;
    return p;
}

/* The pieces of a seat in staging. */
struct staged {
    struct seat *seat;
    int32_t *history;
    uint32_t *allowed;
    double *variables;
};

static int stage_all(struct device_io *io, int mark, const struct seat_content *c, size_t seat_bytes,
                     struct staged *s)
{
    size_t n = (size_t)(c->n_prompt + c->n_output);
    size_t bits = c->n_allowed ? (size_t)seat_bit_words(io->vocab_size) : 0;
    s->seat = stage(io, mark, seat_bytes);
    s->history = stage(io, mark, n * sizeof *s->history);
    s->allowed = stage(io, mark, bits * sizeof *s->allowed);
    s->variables = stage(io, mark, (size_t)c->n_variables * sizeof *s->variables);
    if (!s->seat || !s->history || !s->allowed || !s->variables) return 0;
    memcpy(s->seat, c->seat, seat_bytes);
    memcpy(s->history, c->prompt, sizeof *s->history * (size_t)c->n_prompt);
    if (c->n_output) memcpy(s->history + c->n_prompt, c->output, sizeof *s->history * (size_t)c->n_output);
    if (c->n_variables) memcpy(s->variables, c->variables, sizeof *s->variables * (size_t)c->n_variables);
    if (bits) memset(s->allowed, 0, bits * sizeof *s->allowed);
    for (size_t i = 0; i < c->n_allowed; i++) s->allowed[c->allowed[i] / 32] |= 1u << c->allowed[i] % 32;
    return 1;
}

/* Waits until the device has left the staging memory of this mark. */
static llm_status drain_staging(struct decoder_model *m, int mark, struct llm_error *err)
{
    llm_status status = device_seats_settle(m, mark, err);
    if (status) return status;
    if (m->io->ops->set_mark(m->backend, mark) || m->io->ops->wait_mark(m->backend, mark))
        return device_failed(m, err);
    return LLM_OK;
}

llm_status device_seat_fill(void *self, int mark, const struct seat_content *c, struct llm_error *err)
{
    struct decoder_model *m = self;
    struct device_io *io = m->io;
    struct seat_room *room = &io->room;
    struct staged s;
    size_t seat_bytes = offsetof(struct seat, words) + sizeof(int32_t) * (size_t)c->n_words;
    size_t n = (size_t)(c->n_prompt + c->n_output), bits = (size_t)seat_bit_words(io->vocab_size);
    if (room->n_fills == 0 && io->ops->wait_mark(m->backend, mark)) return device_failed(m, err);
    if (!stage_all(io, mark, c, seat_bytes, &s)) {
        llm_status status = drain_staging(m, mark, err);
        if (status) return status;
        stage_all(io, mark, c, seat_bytes, &s); /* a single one always fits */
    }
    size_t at = (size_t)c->number;
    const struct seats *seats = &room->seats;
    llm_status st = io->ops->copy_in(m->backend, seats->seat + at, s.seat, seat_bytes);
    if (!st)
        st = io->ops->copy_in(m->backend, seats->history + at * (size_t)seats->max_len, s.history,
                              sizeof *s.history * n);
    if (!st && c->n_allowed)
        st = io->ops->copy_in(m->backend, seats->allowed + at * bits, s.allowed, sizeof *s.allowed * bits);
    if (!st && c->n_variables)
        st = io->ops->copy_in(m->backend, seats->variables + at * SEAT_VARIABLES, s.variables,
                              sizeof *s.variables * (size_t)c->n_variables);
    room->fills_pinned[mark][room->n_fills++] = (struct seat_fill){c->number, (int32_t)n};
    return st ? device_failed(m, err) : LLM_OK;
}

llm_status device_seat_variables(void *self, int32_t seat, double *out, int32_t n, struct llm_error *err)
{
    struct decoder_model *m = self;
    const double *from = m->io->room.seats.variables + (size_t)seat * SEAT_VARIABLES;
    return m->io->ops->download(m->backend, out, from, sizeof *out * (size_t)n) ? device_failed(m, err)
                                                                                : LLM_OK;
}

/* ---- the stages ---------------------------------------------------------------------------------------- */

static struct sample_args args_of(const struct decoder_model *m, const struct device_step *step)
{
    const struct seat_room *room = &m->io->room;
    struct sample_args a = device_sample_args(m, step->n_rows);
    a.links = step->links ? room->links : NULL;
    a.seats = room->seats;
    a.state = room->state;
    a.candidates = room->candidates;
    a.logprobs = room->logprobs;
    return a;
}

/* Copies of the results, as far as rows asked, and the mark. */
static llm_status queue_results(struct decoder_model *m, const struct device_step *step,
                                struct llm_error *err)
{
    const struct device_io *io = m->io;
    const struct seat_room *room = &io->room;
    struct backend *be = m->backend;
    size_t n = (size_t)step->n_rows, width = sizeof *room->candidates * (size_t)step->n_candidates;
    llm_status st = io->ops->copy_out(be, device_results(io, step->mark), io->out, sizeof *io->out * n);
    if (!st && width)
        st = io->ops->copy_out_rows(be, room->candidates_pinned[step->mark], width, room->candidates,
                                    sizeof *room->candidates * SAMPLE_MAX_CANDIDATES, width, step->n_rows);
    width = sizeof *room->logprobs * (size_t)(1 + step->n_logprobs);
    if (!st && width)
        st = io->ops->copy_out_rows(be, room->logprobs_pinned[step->mark], width, room->logprobs,
                                    sizeof *room->logprobs * (1 + SAMPLE_MAX_LOGPROBS), width, step->n_rows);
    if (!st) st = io->ops->set_mark(be, step->mark);
    return st ? device_failed(m, err) : LLM_OK;
}

/* From the hooks on. */
static llm_status queue_rest(struct decoder_model *m, const struct device_step *step, struct llm_error *err)
{
    struct backend *be = m->backend;
    const struct sampling_ops *ops = m->io->ops->sampling;
    struct sample_args a = args_of(m, step);
    llm_status st = step->hooked ? ops->check(be, &a) : LLM_OK;
    for (int32_t round = 0; round < SAMPLE_MAX_ROUNDS; round++)
        for (int32_t i = 0; i < step->n_turns && !st; i++)
            if (step->turns[i].round == round) st = ops->run_graph(be, step->turns[i].graph, round, &a);
    if (!st) st = ops->sample(be, &a);
    if (!st && step->n_candidates > 0) st = ops->candidates(be, &a);
    if (!st && step->n_logprobs >= 0) st = ops->logprobs(be, &a);
    return st ? device_failed(m, err) : queue_results(m, step, err);
}

llm_status device_tail(struct decoder_model *m, const struct device_step *step, struct llm_error *err)
{
    const struct device_io *io = m->io;
    const struct seat_room *room = &io->room;
    struct backend *be = m->backend;
    size_t n = (size_t)step->n_rows;
    llm_status st = LLM_OK;
    if (step->links) {
        size_t bytes = n * SAMPLE_MAX_ROUNDS * sizeof *room->links;
        memcpy(room->links_pinned[step->mark], step->links, bytes);
        st = io->ops->copy_in(be, room->links, room->links_pinned[step->mark], bytes);
    }
    struct sample_args a = args_of(m, step);
    if (!st && step->seated) st = io->ops->sampling->adjust(be, &a);
    if (st) return device_failed(m, err);
    if (!step->hooked) return queue_rest(m, step, err);
    if (io->ops->copy_out(be, device_results(io, step->mark), io->out, sizeof *io->out * n) ||
        io->ops->set_mark(be, step->mark) || io->ops->begin_exchange(be))
        return device_failed(m, err);
    return LLM_OK;
}

/* ---- hooks --------------------------------------------------------------------------------------------- */

llm_status device_adjusted(void *self, int mark, const struct sampled **rows, struct llm_error *err)
{
    struct decoder_model *m = self;
    *rows = device_results(m->io, mark);
    return m->io->ops->wait_mark(m->backend, mark) ? device_failed(m, err) : LLM_OK;
}

static size_t row_bytes(const struct device_io *io)
{
    return sizeof(float) * (size_t)io->vocab_size;
}

/* Where adjust leaves a hooked row. */
static float *row_on_device(const struct device_io *io, int32_t seat)
{
    return io->room.seats.work + 2 * (size_t)seat * (size_t)io->vocab_size;
}

static float *row_on_host(const struct device_io *io, int32_t ticket)
{
    return io->room.tickets + (size_t)ticket * (size_t)io->vocab_size;
}

llm_status device_fetch(void *self, int32_t ticket, int32_t seat, struct llm_error *err)
{
    struct decoder_model *m = self;
    const struct device_io *io = m->io;
    llm_status st =
        io->ops->fetch(m->backend, ticket, row_on_host(io, ticket), row_on_device(io, seat), row_bytes(io));
    return st ? device_failed(m, err) : LLM_OK;
}

llm_status device_await(void *self, int32_t ticket, float **row, struct llm_error *err)
{
    struct decoder_model *m = self;
    *row = row_on_host(m->io, ticket);
    return m->io->ops->await(m->backend, ticket) ? device_failed(m, err) : LLM_OK;
}

llm_status device_give_back(void *self, int32_t ticket, int32_t seat, int32_t from, int32_t n,
                            struct llm_error *err)
{
    struct decoder_model *m = self;
    const struct device_io *io = m->io;
    llm_status st = io->ops->give_back(m->backend, ticket, row_on_device(io, seat) + from,
                                       row_on_host(io, ticket) + from, sizeof(float) * (size_t)n);
    return st ? device_failed(m, err) : LLM_OK;
}

llm_status device_resume(void *self, const struct device_step *step, struct llm_error *err)
{
    struct decoder_model *m = self;
    if (m->io->ops->end_exchange(m->backend)) return device_failed(m, err);
    return queue_rest(m, step, err);
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

static llm_status compile(void *self, const struct graph *g, struct device_graph **out, struct llm_error *err)
{
    struct decoder_model *m = self;
    const struct sampling_ops *ops = m->backend->device->sampling;
    return ops->graph_compile(m->backend, g, m->model->config.vocab_size, out, err);
}

static void close_graph(void *self, struct device_graph *g)
{
    struct decoder_model *m = self;
    m->backend->device->sampling->graph_close(m->backend, g);
}

static llm_status open_args(void *self, const struct device_graph *g, const struct graph_args *args,
                            struct device_graph_args **out, struct llm_error *err)
{
    struct decoder_model *m = self;
    return m->backend->device->sampling->graph_args_open(m->backend, g, args, out, err);
}

static void close_args(void *self, struct device_graph_args *a)
{
    struct decoder_model *m = self;
    m->backend->device->sampling->graph_args_close(m->backend, a);
}

struct graph_device device_graphs(struct decoder_model *m)
{
    const struct sampling_ops *ops = m->backend->device->sampling;
    if (!ops->graph_compile || !ops->run_graph || m->io->room.seats.n == 0) return (struct graph_device){0};
    return (struct graph_device){.self = m,
                                 .compile = compile,
                                 .close = close_graph,
                                 .id = ops->graph_id,
                                 .args_open = open_args,
                                 .args_close = close_args,
                                 .args_block = ops->graph_args_block};
}
