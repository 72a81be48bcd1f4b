/* Steps on a device. What the host says of a step is staged in pinned memory, of which there are two, so that
 * a step can be described while the one before it runs; the step begins by taking its description in, to
 * arrays that stay where they are. Steps in which every sequence has one row, the steady state, are padded to
 * one of a few sizes and recorded the second time a size comes: then a step is one launch, and what
 * device_seats.c queues if it asks for more than plain sampling. */

#include "engine/device_io.h"

#include "base/mem.h"

#include <string.h>

llm_status device_failed(const struct decoder_model *m, struct llm_error *err)
{
    return llm_fail(err, LLM_EFAILED, "%s", m->io->ops->failure(m->backend));
}

/* ---- open ---------------------------------------------------------------------------------------------- */

static void lay_out(struct device_io *io)
{
    struct layout *l = &io->layout;
    size_t seqs = (size_t)io->max_seqs, tokens = (size_t)io->max_tokens, total = 0;
    l->from = device_place(&total, seqs, sizeof(int32_t));
    l->positions = device_place(&total, seqs, sizeof(int32_t));
    l->slots = device_place(&total, seqs, sizeof(int32_t));
    l->kv_len = device_place(&total, seqs, sizeof(int32_t));
    l->rows = device_place(&total, seqs, sizeof(int32_t));
    l->seq_start = device_place(&total, seqs + 1, sizeof(int32_t));
    l->sample = device_place(&total, seqs, sizeof(struct sample_row));
    l->wide_from = device_place(&total, tokens, sizeof(int32_t));
    l->wide_positions = device_place(&total, tokens, sizeof(int32_t));
    l->wide_slots = device_place(&total, tokens, sizeof(int32_t));
    l->scored = device_place(&total, 2 * tokens, sizeof(int32_t));
    l->table = device_place(&total, INTAKE_TABLE_HEAD + seqs * (size_t)io->stride, sizeof(int32_t));
    l->bytes = total;
}

/* Sizes of steps that are recorded: dense where a row more costs most. */
static void choose_sizes(struct device_io *io)
{
    for (int32_t n = 1; n < io->max_seqs && io->n_sizes < MAX_SIZES - 1;) {
        io->sizes[RECORD_TOKENS][io->n_sizes++].n_seqs = n;
        n += n < 4 ? n : n < 16 ? 4 : n < 64 ? 8 : n < 256 ? 32 : n / 4;
    }
    io->sizes[RECORD_TOKENS][io->n_sizes++].n_seqs = io->max_seqs;
    memcpy(io->sizes[RECORD_LOGITS], io->sizes[RECORD_TOKENS], sizeof io->sizes[RECORD_TOKENS]);
}

static int32_t align4(int32_t n)
{
    return (n + 3) / 4 * 4;
}

llm_status device_io_open(struct decoder_model *m, const struct engine_config *config, struct llm_error *err)
{
    struct backend *be = m->backend;
    struct device_io *io = m->io = mem_zalloc(sizeof *io);
    if (!io) return llm_fail(err, LLM_ENOMEM, "no memory for a device's steps");
    io->ops = be->device;
    io->max_tokens = config->max_num_batched_tokens;
    io->max_seqs = config->max_num_seqs;
    io->max_model_len = config->max_model_len;
    io->vocab_size = m->model->config.vocab_size;
    io->stride = align4((config->max_model_len + config->block_size - 1) / config->block_size);
    io->scratch_page = m->kv.n_pages - 1;
    io->max_logit_rows = device_logit_rows(config);
    lay_out(io);
    choose_sizes(io);
    io->tokens_bytes = sizeof(int32_t) * (size_t)io->max_tokens;
    io->last_bytes = sizeof(int32_t) * 2 * (size_t)io->max_seqs;
    io->out_bytes = sizeof(struct sampled) * (size_t)io->max_seqs;
    io->logits_bytes = sizeof(float) * (size_t)io->max_logit_rows * (size_t)io->vocab_size;
    int made = !!(io->device = be->alloc(be, io->layout.bytes)) &
               !!(io->tokens = be->alloc(be, io->tokens_bytes)) &
               !!(io->last = be->alloc(be, io->last_bytes)) & !!(io->out = be->alloc(be, io->out_bytes)) &
               !!(io->logits = be->alloc(be, io->logits_bytes)) &
               !!(io->device_turn = be->alloc(be, sizeof *io->device_turn));
    for (int k = 0; k < 2; k++)
        made &= !!(io->pinned[k] = io->ops->alloc_pinned(be, io->layout.bytes)) &
                !!(io->out_pinned[k] = io->ops->alloc_pinned(be, io->out_bytes));
    if (!made)
        return llm_fail(err, LLM_ENOMEM, "no memory for the steps of %d sequences on the device",
                        (int)io->max_seqs);
    llm_status status = device_seats_open(m, config, err);
    return status ? status : device_scores_open(m, config, err);
}

void device_io_close(struct decoder_model *m)
{
    struct backend *be = m->backend;
    struct device_io *io = m->io;
    if (!io) return;
    device_seats_close(m);
    device_scores_close(m);
    for (int kind = 0; kind < N_RECORDINGS; kind++)
        for (int32_t i = 0; i < io->n_sizes; i++) io->ops->recording_free(be, io->sizes[kind][i].recorded);
    for (int k = 0; k < 2; k++) {
        io->ops->free_pinned(be, io->pinned[k]);
        io->ops->free_pinned(be, io->out_pinned[k]);
    }
    be->free(be, io->device, io->layout.bytes);
    be->free(be, io->tokens, io->tokens_bytes);
    be->free(be, io->last, io->last_bytes);
    be->free(be, io->out, io->out_bytes);
    be->free(be, io->logits, io->logits_bytes);
    be->free(be, io->device_turn, sizeof *io->device_turn);
    mem_free(io);
}

/* ---- staging ------------------------------------------------------------------------------------------- */

static int32_t *array(char *base, size_t offset)
{
    return (int32_t *)(void *)(base + offset);
}

/* Where the batch's rows are, wide or narrow. */
struct row_arrays {
    size_t from, positions, slots;
};

static struct row_arrays rows_of(const struct layout *l, int wide)
{
    if (wide) return (struct row_arrays){l->wide_from, l->wide_positions, l->wide_slots};
    return (struct row_arrays){l->from, l->positions, l->slots};
}

/* Writes the batch to pinned memory, padded to n_seqs sequences. */
static void fill(struct decoder_model *m, char *pinned, const struct batch *b, int wide, int32_t n_seqs)
{
    const struct device_io *io = m->io;
    const struct layout *l = &io->layout;
    struct row_arrays r = rows_of(l, wide);
    size_t bytes = sizeof(int32_t) * (size_t)b->n_tokens;
    int32_t page = m->kv.page_size, widest = 1;
    memcpy(pinned + r.from, b->tokens, bytes);
    memcpy(pinned + r.positions, b->positions, bytes);
    memcpy(pinned + r.slots, b->slots, bytes);
    int32_t *start = array(pinned, l->seq_start), *len = array(pinned, l->kv_len),
            *table = array(pinned, l->table) + INTAKE_TABLE_HEAD;
    memcpy(start, b->seq_start, sizeof(int32_t) * (size_t)(b->n_seqs + 1));
    memcpy(len, b->kv_len, sizeof(int32_t) * (size_t)b->n_seqs);
    for (int32_t i = 0; i < b->n_seqs; i++) {
        int32_t pages = (len[i] + page - 1) / page;
        if (pages > widest) widest = pages;
    }
    widest = align4(widest);
    for (int32_t i = 0; i < b->n_seqs; i++)
        memcpy(table + (size_t)i * (size_t)widest, b->block_table + (size_t)i * (size_t)b->block_table_stride,
               sizeof(int32_t) * (size_t)((len[i] + page - 1) / page));
    for (int32_t i = b->n_seqs; i < n_seqs; i++) {
        array(pinned, r.from)[i] = array(pinned, r.positions)[i] = 0;
        array(pinned, r.slots)[i] = io->scratch_page * page;
        start[i + 1] = i + 1;
        len[i] = 1;
        table[(size_t)i * (size_t)widest] = io->scratch_page;
    }
    table[-INTAKE_TABLE_HEAD] = widest;
}

/* The pinned buffer of the step about to be queued: the other one may be a flying step's. */
static char *take_turn(struct device_io *io, int mark)
{
    io->turn_of[mark] = io->turn;
    io->turn = !io->turn;
    return io->pinned[io->turn_of[mark]];
}

/* ---- running ------------------------------------------------------------------------------------------- */

static void add_piece(struct intake_args *a, size_t offset, int32_t n, size_t size)
{
    a->pieces[a->n_pieces++] = (struct intake_piece){offset, ((size_t)n * size + 15) / 16 * 16};
}

/* A step's first op: what fill and fill_rows wrote. */
static llm_status take_in(struct decoder_model *m, const struct queued *q)
{
    const struct device_io *io = m->io;
    const struct layout *l = &io->layout;
    struct row_arrays r = rows_of(l, q->wide);
    struct intake_args a = {.from = {io->pinned[0], io->pinned[1]},
                            .to = io->device,
                            .turn = io->device_turn,
                            .n_rows = q->n_seqs,
                            .table_stride = io->stride,
                            .table = l->table};
    add_piece(&a, r.from, q->n_tokens, sizeof(int32_t));
    add_piece(&a, r.positions, q->n_tokens, sizeof(int32_t));
    add_piece(&a, r.slots, q->n_tokens, sizeof(int32_t));
    add_piece(&a, l->kv_len, q->n_seqs, sizeof(int32_t));
    add_piece(&a, l->seq_start, q->n_seqs + 1, sizeof(int32_t));
    add_piece(&a, l->rows, q->n_rows, sizeof(int32_t));
    add_piece(&a, l->sample, q->n_rows, sizeof(struct sample_row));
    add_piece(&a, l->scored, 2 * q->n_scored, sizeof(int32_t));
    return io->ops->intake(m->backend, &a);
}

/* Its last op, or the last before device_seats.c's: the results of the first n rows; the turn goes on. */
static llm_status deliver(struct decoder_model *m, int32_t n_rows, struct llm_error *err)
{
    const struct device_io *io = m->io;
    struct deliver_args a = {.from = io->out,
                             .to = {io->out_pinned[0], io->out_pinned[1]},
                             .turn = io->device_turn,
                             .bytes = sizeof *io->out * (size_t)n_rows};
    return io->ops->deliver(m->backend, &a) ? device_failed(m, err) : LLM_OK;
}

static llm_status begin(struct decoder_model *m, const struct queued *q, struct batch *batch)
{
    struct device_io *io = m->io;
    const struct layout *l = &io->layout;
    struct row_arrays r = rows_of(l, q->wide);
    *batch = (struct batch){.n_tokens = q->n_tokens,
                            .n_seqs = q->n_seqs,
                            .tokens = io->tokens,
                            .positions = array(io->device, r.positions),
                            .slots = array(io->device, r.slots),
                            .seq_start = array(io->device, l->seq_start),
                            .kv_len = array(io->device, l->kv_len),
                            .block_table = array(io->device, l->table),
                            .block_table_stride = io->stride};
    struct step_shape shape = {.n_tokens = q->n_tokens,
                               .n_seqs = q->n_seqs,
                               .n_decode = q->n_decode,
                               .max_query = q->max_query,
                               .max_kv = q->max_kv,
                               .seq_start = batch->seq_start,
                               .kv_len = batch->kv_len};
    struct feed_args feed = {q->n_tokens, array(io->device, r.from), io->last, io->tokens};
    llm_status st = take_in(m, q);
    if (!st) st = io->ops->begin(m->backend, &shape);
    return st ? st : io->ops->feed(m->backend, &feed);
}

struct sample_args device_sample_args(const struct decoder_model *m, int32_t n_rows)
{
    const struct device_io *io = m->io;
    return (struct sample_args){.n = n_rows,
                                .vocab_size = io->vocab_size,
                                .rows = (const struct sample_row *)(void *)(io->device + io->layout.sample),
                                .tokens = io->tokens,
                                .logits = io->logits,
                                .logits_stride = io->vocab_size,
                                .last = io->last,
                                .out = io->out};
}

static llm_status queue_step(struct decoder_model *m, const struct queued *q, struct llm_error *err)
{
    struct device_io *io = m->io;
    struct batch batch;
    if (begin(m, q, &batch)) return device_failed(m, err);
    llm_status st = decoder_forward(m->decoder, &m->kv, &batch, err);
    if (!st && q->n_scored > 0) st = device_scores_queue(m, q, err);
    if (!st && q->n_rows > 0)
        st = decoder_logits(m->decoder, array(io->device, io->layout.rows), q->n_rows, io->logits, err);
    if (st) return st;
    if (q->n_rows == 0 || !q->samples) return deliver(m, 0, err);
    struct sample_args sample = device_sample_args(m, q->n_rows);
    if (io->ops->sampling->sample(m->backend, &sample)) return device_failed(m, err);
    return deliver(m, q->n_rows, err);
}

/* The smallest recorded size that holds n sequences. */
static struct recording *size_for(struct device_io *io, enum recording_kind kind, int32_t n)
{
    int32_t i = 0;
    while (io->sizes[kind][i].n_seqs < n) i++;
    return &io->sizes[kind][i];
}

/* A step of one row a sequence, padded to a size. */
static llm_status run_recorded(struct decoder_model *m, enum recording_kind kind, struct recording *r,
                               struct llm_error *err)
{
    struct device_io *io = m->io;
    struct queued q = {.n_tokens = r->n_seqs,
                       .n_seqs = r->n_seqs,
                       .n_decode = r->n_seqs,
                       .max_kv = io->max_model_len,
                       .n_rows = r->n_seqs,
                       .samples = kind == RECORD_TOKENS};
    if (!r->seen) {
        r->seen = 1;
        return queue_step(m, &q, err);
    }
    if (!r->recorded) {
        if (io->ops->record(m->backend)) return device_failed(m, err);
        llm_status st = queue_step(m, &q, err), end = io->ops->recorded(m->backend, &r->recorded);
        if (st) return st;
        if (end) return device_failed(m, err);
    }
    return io->ops->replay(m->backend, r->recorded) ? device_failed(m, err) : LLM_OK;
}

/* Which rows of the batch give logits, and how each is sampled; the rest is padding. */
static void fill_rows(const struct device_io *io, char *pinned, const struct device_step *step, int32_t n)
{
    int32_t *rows = array(pinned, io->layout.rows);
    struct sample_row *sample = (struct sample_row *)(void *)(pinned + io->layout.sample);
    for (int32_t i = 0; i < n; i++) {
        int real = i < step->n_rows;
        rows[i] = real ? step->rows[i].row : 0;
        sample[i] = real ? step->rows[i] : (struct sample_row){.slot = -1, .n_logprobs = -1, .seat = -1};
    }
}

llm_status device_launch(void *self, const struct device_step *step, struct llm_error *err)
{
    struct decoder_model *m = self;
    struct device_io *io = m->io;
    const struct batch *b = step->batch;
    struct batch_shape shape = batch_shape_of(b);
    int narrow = shape.n_decode == b->n_seqs && step->n_rows == b->n_seqs && step->n_scored == 0;
    int plain = !step->seated && step->n_logprobs < 0;
    enum recording_kind kind = plain ? RECORD_TOKENS : RECORD_LOGITS;
    struct recording *size = narrow ? size_for(io, kind, b->n_seqs) : NULL;
    int32_t n_seqs = size ? size->n_seqs : b->n_seqs;
    if (io->ops->wait_mark(m->backend, step->mark)) return device_failed(m, err);
    char *pinned = take_turn(io, step->mark);
    fill(m, pinned, b, !narrow, n_seqs);
    fill_rows(io, pinned, step, size ? n_seqs : step->n_rows);
    device_scores_fill(io, pinned, step);
    llm_status st = device_seats_settle(m, step->mark, err);
    if (st) return st;
    struct queued q = {.n_tokens = b->n_tokens,
                       .n_seqs = n_seqs,
                       .n_decode = shape.n_decode,
                       .max_query = shape.max_query,
                       .max_kv = shape.max_kv,
                       .n_rows = step->n_rows,
                       .wide = 1,
                       .samples = plain,
                       .n_scored = step->n_scored,
                       .n_prompt_logprobs = step->n_prompt_logprobs,
                       .mark = step->mark};
    st = size ? run_recorded(m, kind, size, err) : queue_step(m, &q, err);
    if (st || !plain) return st ? st : device_tail(m, step, err);
    return io->ops->set_mark(m->backend, step->mark) ? device_failed(m, err) : LLM_OK;
}

llm_status device_collect(void *self, int mark, struct device_results *out, struct llm_error *err)
{
    struct decoder_model *m = self;
    *out = (struct device_results){.rows = device_results(m->io, mark),
                                   .candidates = m->io->room.candidates_pinned[mark],
                                   .logprobs = m->io->room.logprobs_pinned[mark],
                                   .scores = m->io->scores.pinned[mark]};
    return m->io->ops->wait_mark(m->backend, mark) ? device_failed(m, err) : LLM_OK;
}

/* ---- what the host chooses or scores ------------------------------------------------------------------- */

llm_status device_raw_rows(void *self, const int32_t *places, int32_t n, float *out, struct llm_error *err)
{
    struct decoder_model *m = self;
    const struct device_io *io = m->io;
    size_t width = (size_t)io->vocab_size, bytes = sizeof *out * width;
    llm_status st = LLM_OK;
    for (int32_t i = 0, end; i < n && !st; i = end) { /* neighbours at once */
        for (end = i + 1; end < n && places[end] == places[end - 1] + 1;) end++;
        st = io->ops->download(m->backend, out + (size_t)i * width, io->logits + (size_t)places[i] * width,
                               bytes * (size_t)(end - i));
    }
    return st ? device_failed(m, err) : LLM_OK;
}

/* The log-probabilities of tokens that the device has at their places. Waits. */
static llm_status list_again(struct decoder_model *m, int mark, int32_t n, int32_t n_logprobs)
{
    const struct device_io *io = m->io;
    struct sample_logprob *to = io->room.logprobs_pinned[mark];
    struct score_args a = {.n = n,
                           .vocab_size = io->vocab_size,
                           .n_logprobs = n_logprobs,
                           .tokens = io->last + mark * io->max_seqs,
                           .logits = io->logits,
                           .logits_stride = io->vocab_size,
                           .out = io->scores.scores};
    llm_status st = io->ops->sampling->score(m->backend, &a);
    size_t bytes = sizeof *to * (size_t)n * (size_t)(1 + n_logprobs);
    if (!st) st = io->ops->copy_out(m->backend, to, io->scores.scores, bytes);
    if (!st) st = io->ops->set_mark(m->backend, mark);
    return st ? st : io->ops->wait_mark(m->backend, mark);
}

llm_status device_amend(void *self, int mark, const int32_t *tokens, int32_t n, int32_t n_logprobs,
                        struct llm_error *err)
{
    struct decoder_model *m = self;
    const struct device_io *io = m->io;
    int32_t *pinned = io->room.tokens_pinned[mark];
    size_t bytes = sizeof *tokens * (size_t)n;
    memcpy(pinned, tokens, bytes);
    llm_status st = io->ops->copy_in(m->backend, io->last + mark * io->max_seqs, pinned, bytes);
    if (!st && n_logprobs >= 0) st = list_again(m, mark, n, n_logprobs);
    return st ? device_failed(m, err) : LLM_OK;
}

llm_status device_logits(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err)
{
    struct decoder_model *m = self;
    struct device_io *io = m->io;
    int32_t *device_rows = array(io->device, io->layout.rows);
    size_t bytes = sizeof(float) * (size_t)n_rows * (size_t)m->model->config.vocab_size;
    if (io->ops->upload(m->backend, device_rows, rows, sizeof *rows * (size_t)n_rows))
        return device_failed(m, err);
    llm_status st = decoder_logits(m->decoder, device_rows, n_rows, io->logits, err);
    if (st) return st;
    return io->ops->download(m->backend, out, io->logits, bytes) ? device_failed(m, err) : LLM_OK;
}

void *device_alloc_rows(void *self, size_t bytes)
{
    struct decoder_model *m = self;
    return m->io->ops->alloc_pinned(m->backend, bytes);
}

void device_free_rows(void *self, void *rows)
{
    struct decoder_model *m = self;
    m->io->ops->free_pinned(m->backend, rows);
}
