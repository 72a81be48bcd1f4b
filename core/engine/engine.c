/* The engine's thread. engine_step is its table of contents. */

#include "engine/engine.h"

#include "base/mem.h"
#include "engine/handle.h"
#include "engine/output.h"

#include <stddef.h>
#include <string.h>
#include <time.h>

int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static struct output *output_of(struct sequence *q)
{
    return (struct output *)q; /* its first member */
}

/* ---- counting -------------------------------------------------------------------------------------------
 */

static void count(struct llm_engine *e)
{
    struct engine_counters *c = &e->counters;
    const struct scheduler *s = &e->scheduler;
#define SET(field, value) atomic_store_explicit(&c->field, value, memory_order_relaxed)
    SET(n_running, s->n_running);
    SET(n_waiting, s->line.n_waiting);
    SET(n_used, e->kv.n_used);
    SET(n_pinned, e->pins.n_pages);
    SET(n_peak, s->n_used_peak);
    SET(waste, s->waste_peak);
    SET(n_preemptions, s->n_preemptions);
    SET(n_prefix_queries, s->n_prefix_queries);
    SET(n_prefix_hits, s->n_prefix_hits);
    SET(n_steps, e->n_steps);
    SET(n_prompt_tokens, e->n_prompt_tokens);
    SET(n_output_tokens, e->n_output_tokens);
    SET(busy_ns, e->busy_ns);
#undef SET
}

/* ---- publishing ---------------------------------------------------------------------------------------- */

/* Tells the client how far an output is. If it is finished, it may be gone on return. */
static void publish(struct output *o)
{
    struct mailbox *reply = o->request->reply;
    uint64_t news = news_pack(o->sequence.n_output - o->sequence.n_pending, o->text_end) | NEWS_PENDING;
    if (o->finish != LLM_FINISH_NONE) news |= NEWS_FINAL;
    uint64_t before = atomic_exchange_explicit(&o->news, news, memory_order_acq_rel);
    if (!(before & NEWS_PENDING)) mailbox_post(reply, &o->mail);
}

static void left_queue(struct llm_engine *e, struct llm_request *r)
{
    if (r->scheduled) return;
    r->scheduled = 1;
    atomic_fetch_sub_explicit(&e->n_queued, 1, memory_order_relaxed);
}

/* A step in flight owes it nothing any more. */
static void forgo(struct llm_engine *e, struct output *o)
{
    if (!o->sequence.n_pending) return;
    o->sequence.n_output -= o->sequence.n_pending;
    o->sequence.n_pending = 0;
    for (int32_t i = 0; e->flying && i < e->flying->n; i++)
        if (e->flying->rows[i].first == o) e->flying->rows[i].first = NULL;
}

/* Ends an output: its pages are free. It must then be published, after which it may be gone. */
static void settle(struct llm_engine *e, struct output *o, enum llm_finish_reason reason)
{
    struct llm_request *r = o->request;
    forgo(e, o);
    scheduler_finish(&e->scheduler, &o->sequence);
    if (r->chain) policy_chain_done(r->chain, o->sequence.index);
    o->finish = reason;
    if (r->handle && o == r->outputs) r->handle->borrower = NULL;
    if (!o->stopped_by_string) o->text_end = NEWS_ALL_TEXT; /* what was held back is text after all */
    atomic_fetch_add_explicit(&r->n_preemptions, o->sequence.n_preemptions, memory_order_relaxed);
    if (--r->n_live > 0) return;
    admission_end(e, r, reason);
    left_queue(e, r);
    atomic_store_explicit(&r->t_finished, clock_ns(), memory_order_relaxed);
    if (r->previous)
        r->previous->next = r->next;
    else
        e->requests = r->next;
    if (r->next) r->next->previous = r->previous;
    atomic_fetch_add_explicit(&e->counters.n_finished, 1, memory_order_relaxed);
}

static void finish_request(struct llm_engine *e, struct llm_request *r, enum llm_finish_reason reason)
{
    int32_t live = r->n_live; /* r may be gone once the last of them is published */
    for (int32_t i = 0; i < r->n; i++)
        if (r->outputs[i].finish == LLM_FINISH_NONE) settle(e, &r->outputs[i], reason);
    count(e);
    for (int32_t i = 0; live > 0; i++) {
        if (atomic_load_explicit(&r->outputs[i].news, memory_order_relaxed) & NEWS_FINAL) continue;
        live--;
        publish(&r->outputs[i]);
    }
}

static void finish_all(struct llm_engine *e, enum llm_finish_reason reason)
{
    while (e->requests) finish_request(e, e->requests, reason);
}

void engine_abort(struct llm_engine *e, struct llm_request *r)
{
    finish_request(e, r, LLM_FINISH_ABORT);
}

void engine_refuse(struct llm_engine *e, struct llm_request *r)
{
    finish_request(e, r, LLM_FINISH_ERROR);
}

static void fail(struct llm_engine *e, const struct llm_error *err)
{
    e->error = *err;
    e->flying = NULL;
    atomic_store_explicit(&e->failed, 1, memory_order_release);
    finish_all(e, LLM_FINISH_ERROR);
}

/* ---- the stages of a step ------------------------------------------------------------------------------ */

static llm_status begin_policies(struct llm_request *r)
{
    for (int32_t i = 0; i < r->n; i++)
        policy_chain_bind(r->chain, i, r->prompt, r->n_prompt, r->outputs[i].sequence.output, r->seed);
    return policy_chain_begin(r->chain);
}

static void take_request(struct llm_engine *e, struct llm_request *r)
{
    r->previous = NULL;
    r->next = e->requests;
    if (r->next) r->next->previous = r;
    e->requests = r;
    if (r->handle) handle_lend(e, r);
    if (atomic_load_explicit(&e->failed, memory_order_relaxed)) {
        finish_request(e, r, LLM_FINISH_ERROR);
        return;
    }
    if (r->chain && begin_policies(r)) {
        finish_request(e, r, LLM_FINISH_ERROR);
        return;
    }
    if (admission_arrive(e, r)) {
        finish_request(e, r, LLM_FINISH_ERROR);
        return;
    }
    scheduler_add(&e->scheduler, &r->outputs[0].sequence);
}

static void take_letter(struct llm_engine *e, struct letter *letter)
{
    switch (letter->kind) {
    case LETTER_REQUEST:
        take_request(e, (struct llm_request *)((char *)letter - offsetof(struct llm_request, letter)));
        break;
    case LETTER_FORK:
        handle_arrive(e, (struct handle *)((char *)letter - offsetof(struct handle, arrival)));
        break;
    case LETTER_DEPARTURE:
        handle_depart(e, (struct handle *)((char *)letter - offsetof(struct handle, departure)));
        break;
    case LETTER_ERRAND:
        pins_run(e, letter);
        break;
    case LETTER_FAREWELL:
        sem_post(&((struct farewell *)letter)->done); /* all that was posted to its client is posted */
        break;
    }
}

static void drain(struct llm_engine *e)
{
    for (struct mail *m = mailbox_take(&e->inbox), *next; m; m = next) {
        next = m->next;
        take_letter(e, (struct letter *)m);
    }
    e->kv.now = e->now;
    admission_look(e);
    pins_look(&e->pins, &e->kv, e->now);
    page_map_draw(e);
    if (atomic_exchange_explicit(&e->forget, 0, memory_order_acquire)) kv_forget(&e->kv);
    if (!atomic_exchange_explicit(&e->cancels, 0, memory_order_acquire)) return;
    for (struct llm_request *r = e->requests, *next; r; r = next) {
        next = r->next;
        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed)) finish_request(e, r, LLM_FINISH_ABORT);
    }
}

/* What the plan means for the requests: who runs for the first time, who was set back. */
static void note_plan(struct llm_engine *e)
{
    histogram_add(&e->counters.step_tokens, e->plan->n_tokens);
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        const struct sequence *q = e->plan->items[i].sequence;
        struct llm_request *r = output_of(e->plan->items[i].sequence)->request;
        if (!r->scheduled) {
            left_queue(e, r);
            atomic_store_explicit(&r->t_scheduled, e->now, memory_order_relaxed);
            atomic_store_explicit(&r->n_cached, q->n_cached, memory_order_relaxed);
        }
        int32_t computed = q->n_prompt - e->plan->items[i].start;
        if (q->n_output == 0 && computed > 0)
            e->n_prompt_tokens += (uint64_t)(computed < e->plan->items[i].n ? computed : e->plan->items[i].n);
    }
}

static llm_status forward(struct llm_engine *e, const struct batch *batch, struct llm_error *err)
{
    for (int32_t i = 0; i < e->plan->n_copies; i++) {
        llm_status status =
            e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
        if (status) return status;
    }
    return e->model.forward(e->model.self, batch, err);
}

/* The outputs that got a token from this item: all of its request if it was the first. */
static struct output *outputs_of(const struct plan_item *item, int32_t *n)
{
    struct output *o = output_of(item->sequence);
    *n = o->sequence.index == 0 && o->sequence.n_output == 1 ? o->request->n : 1;
    return o;
}

static void list_rows(struct llm_engine *e, struct step *step)
{
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        int32_t n;
        if (!e->plan->items[i].last) continue;
        struct output *o = outputs_of(&e->plan->items[i], &n);
        step->rows[step->n++] = (struct step_row){o, n};
    }
}

static void note_gap(struct llm_engine *e, struct output *o, int64_t now)
{
    if (o->t_token) histogram_add(&e->counters.token_gap, (double)(now - o->t_token) * 1e-9);
    o->t_token = now;
}

/* Steps 8 and 9 of 10: ends what has come to its end, then tells the clients, who find the pages free. */
static void emit(struct llm_engine *e, struct step *step)
{
    int64_t now = clock_ns();
    for (int32_t i = 0; i < step->n; i++) {
        struct output *o = step->rows[i].first;
        if (!o) continue;
        if (o->sequence.index == 0 && sequence_known(&o->sequence) == o->sequence.n_prompt + 1)
            atomic_store_explicit(&o->request->t_first_token, now, memory_order_relaxed);
        if (o->request->max_output > 0) e->n_output_tokens += (uint64_t)step->rows[i].n;
        for (int32_t k = 0; k < step->rows[i].n; k++) {
            enum llm_finish_reason reason = output_judge(&o[k], &e->config);
            note_gap(e, &o[k], now);
            if (reason != LLM_FINISH_NONE) settle(e, &o[k], reason);
        }
    }
    count(e);
    for (int32_t i = 0; i < step->n; i++) {
        struct output *o = step->rows[i].first;
        if (!o) continue;
        int stream = o->request->stream; /* the request may be gone after its last output */
        for (int32_t k = 0; k < step->rows[i].n; k++)
            if (stream || o[k].finish != LLM_FINISH_NONE) publish(&o[k]);
    }
}

/* ---- a step on the host ---------------------------------------------------------------------------------
 */

static llm_status host_step(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    note_plan(e);
    const struct batch *batch = batch_build(&e->batch, e->plan, e->config.block_size);
    int64_t launched = clock_ns();
    llm_status status = forward(e, batch, err);
    if (status) return status;
    pace_learn(&e->pace, batch->n_tokens, launched, clock_ns());
    scheduler_advance(&e->scheduler);
    scheduler_name(&e->scheduler);
    status = engine_sample(e, batch, err);
    if (!status) list_rows(e, step);
    return status;
}

/* ---- a step on a device that samples ---------------------------------------------------------------------
 */

/* 1 if the device can make every token that this plan makes. */
static int can_launch(const struct llm_engine *e)
{
    if (!e->model.launch) return 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        const struct plan_item *item = &e->plan->items[i];
        const struct llm_request *r = output_of(item->sequence)->request;
        if (r->n_prompt_logprobs > 0 || (item->last && !r->sampled_by_device) ||
            r->n > e->config.max_num_seqs)
            return 0;
    }
    return 1;
}

/* The next token of an output will be in a place of its own until the step is collected. */
static void await(struct llm_engine *e, struct step *step, struct output *o, int32_t row)
{
    struct sequence *q = &o->sequence;
    const struct llm_sampling *p = &o->request->sampling;
    int32_t place = step->mark * e->config.max_num_seqs + step->n;
    e->sample_rows[step->n] = (struct sample_row){.row = row,
                                                  .slot = place,
                                                  .top_k = p->top_k,
                                                  .temperature = p->temperature,
                                                  .top_p = p->top_p,
                                                  .min_p = p->min_p,
                                                  .stream = (uint32_t)q->index,
                                                  .seed = o->request->seed,
                                                  .position = (uint64_t)sequence_length(q)};
    q->output[q->n_output++] = -1 - place;
    q->n_pending++;
    step->rows[step->n++] = (struct step_row){o, 1};
}

static void await_all(struct llm_engine *e, const struct batch *batch, struct step *step)
{
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        if (!e->plan->items[i].last) continue;
        struct output *o = output_of(e->plan->items[i].sequence);
        int32_t n = o->sequence.index == 0 && o->sequence.n_output == 0 ? o->request->n : 1;
        for (int32_t k = 1; k < n; k++) scheduler_fork(&e->scheduler, &o->sequence, &o[k].sequence);
        for (int32_t k = 0; k < n; k++) await(e, step, o + k, batch->seq_start[i + 1] - 1);
    }
}

static void describe(const struct llm_engine *e, const struct batch *batch, struct device_step *d)
{
    int decoding = 1;
    for (int32_t i = 0; i < batch->n_seqs; i++) {
        int32_t rows = batch->seq_start[i + 1] - batch->seq_start[i];
        decoding &= rows == 1;
        if (decoding)
            d->n_decode++;
        else if (rows > d->max_query)
            d->max_query = rows;
        if (batch->kv_len[i] > d->max_kv) d->max_kv = batch->kv_len[i];
    }
    (void)e;
}

static llm_status launch(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    note_plan(e);
    const struct batch *batch = batch_build(&e->batch, e->plan, e->config.block_size);
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_copies && !status; i++)
        status = e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
    if (status) return status;
    scheduler_advance(&e->scheduler);
    step->mark = e->mark ^= 1;
    step->n_tokens = batch->n_tokens;
    step->launched = clock_ns();
    await_all(e, batch, step);
    struct device_step d = {.batch = batch, .rows = e->sample_rows, .n_rows = step->n, .mark = step->mark};
    describe(e, batch, &d);
    return e->model.launch(e->model.self, &d, err);
}

/* Puts the tokens of a step where places were. */
static llm_status collect(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    const int32_t *tokens;
    llm_status status = e->model.collect(e->model.self, step->mark, &tokens, err);
    pace_learn(&e->pace, step->n_tokens, step->launched, clock_ns());
    for (int32_t i = 0; i < step->n && !status; i++) {
        if (!step->rows[i].first) continue;
        struct sequence *q = &step->rows[i].first->sequence;
        q->output[q->n_output - q->n_pending--] = tokens[i];
    }
    return status;
}

/* The tokens of the step before this one, which the device has made meanwhile. */
static llm_status finish_flying(struct llm_engine *e, struct step *next, struct llm_error *err)
{
    struct step *step = e->flying;
    e->flying = NULL;
    llm_status status = step ? collect(e, step, err) : LLM_OK;
    if (status) return status;
    e->flying = next;
    if (next) scheduler_name(&e->scheduler);
    if (step) emit(e, step);
    return LLM_OK;
}

static llm_status device_step(struct llm_engine *e, struct llm_error *err)
{
    struct step *step = &e->steps[e->flying == &e->steps[0]];
    llm_status status = launch(e, step, err);
    if (status) return status;
    e->n_steps++;
    return finish_flying(e, step, err);
}

/* ---- a step ---------------------------------------------------------------------------------------------
 */

static void note_time(struct llm_engine *e)
{
    int64_t now = clock_ns();
    e->busy_ns += (uint64_t)(now - e->now);
    e->now = now;
}

/* What the device owes is collected first: rows that the host samples need to know all tokens. */
static llm_status settled_step(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = finish_flying(e, NULL, err);
    plan_close_holes(e->plan);
    if (status || e->plan->n_tokens == 0) return status;
    status = host_step(e, &e->steps[0], err);
    e->n_steps++;
    note_time(e);
    if (!status) emit(e, &e->steps[0]);
    return status;
}

/* Running sequences whose next token somebody waits for: those that stream, and decode. */
static int32_t n_watched(const struct llm_engine *e)
{
    int32_t n = 0;
    for (int32_t i = 0; i < e->scheduler.n_running && e->config.step_time_target > 0; i++) {
        struct sequence *q = e->scheduler.running[i];
        n += sequence_length(q) - q->n_computed == 1 && output_of(q)->request->stream;
    }
    return n;
}

/* Returns 0 if there is nothing to do. */
static int engine_step(struct llm_engine *e)
{
    struct llm_error err;
    e->now = clock_ns();
    drain(e);
    e->scheduler.budget =
        pace_budget(&e->pace, e->config.step_time_target, n_watched(e), e->config.max_num_batched_tokens);
    e->plan = scheduler_plan(&e->scheduler);
    count(e);
    if (e->plan->n_tokens == 0 && !e->flying) return 0;
    llm_status status = e->plan->n_tokens > 0 && can_launch(e) ? device_step(e, &err) : settled_step(e, &err);
    note_time(e);
    if (status) fail(e, &err);
    return 1;
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

static void *engine_main(void *arg)
{
    struct llm_engine *e = arg;
    while (!atomic_load_explicit(&e->stop, memory_order_acquire)) {
        if (engine_step(e)) continue;
        mailbox_wait(&e->inbox, -1);
        mailbox_clear(&e->inbox);
    }
    drain(e);
    finish_all(e, LLM_FINISH_ABORT);
    return NULL;
}

static size_t logits_bytes(const struct llm_engine *e)
{
    return sizeof(float) * ENGINE_LOGIT_ROWS * (size_t)e->model.vocab_size;
}

static void free_logits(struct llm_engine *e)
{
    if (e->logits && e->model.free_rows)
        e->model.free_rows(e->model.self, e->logits);
    else if (e->logits)
        mem_unmap(e->logits, logits_bytes(e));
}

static void destroy(struct llm_engine *e)
{
    free_logits(e);
    e->model.close(e->model.self);
    mailbox_deinit(&e->inbox);
    kv_pool_deinit(&e->kv);
    pins_deinit(&e->pins);
    scheduler_deinit(&e->scheduler);
    batch_deinit(&e->batch);
    policy_book_deinit(&e->policies);
    admission_deinit(&e->admission);
    policy_desk_deinit(&e->desk);
    for (int32_t i = 0; e->samplers && i < e->model.n_workers; i++) sampler_deinit(&e->samplers[i]);
    for (int32_t i = 0; i < 2; i++) mem_free(e->steps[i].rows);
    mem_free(e->sample_rows);
    mem_free(e->samplers);
    mem_free((void *)e->map);
    mem_free(e);
}

static llm_status open_steps(struct llm_engine *e, struct llm_error *err)
{
    size_t n = (size_t)e->config.max_num_seqs;
    int made = 1;
    for (int32_t i = 0; i < 2; i++) made &= !!(e->steps[i].rows = mem_array(n, sizeof *e->steps[i].rows));
    if (e->model.launch) made &= !!(e->sample_rows = mem_array(n, sizeof *e->sample_rows));
    return made ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for steps of %zu sequences", n);
}

static llm_status open_samplers(struct llm_engine *e, struct llm_error *err)
{
    e->samplers = mem_array((size_t)e->model.n_workers, sizeof *e->samplers);
    if (!e->samplers) return llm_fail(err, LLM_ENOMEM, "no memory for samplers");
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->model.n_workers && !status; i++)
        status = sampler_init(&e->samplers[i], e->model.vocab_size, err);
    return status;
}

static llm_status init(struct llm_engine *e, struct llm_error *err)
{
    const struct engine_config *c = &e->config;
    struct scheduler_options options = {.max_num_seqs = c->max_num_seqs,
                                        .max_num_batched_tokens = c->max_num_batched_tokens,
                                        .chunked_prefill = c->chunked_prefill,
                                        .prefix_caching = c->prefix_caching,
                                        .priority = c->priority};
    int32_t longest = (c->max_model_len + c->block_size - 1) / c->block_size;
    pins_init(&e->pins, c->n_pages, longest);
    llm_status status = mailbox_init(&e->inbox, err);
    if (!status) status = kv_pool_init(&e->kv, c->n_pages, c->block_size, NULL, err);
    if (!status) status = scheduler_init(&e->scheduler, &options, &e->kv, err);
    if (!status) status = batch_init(&e->batch, c->max_num_batched_tokens, c->max_num_seqs, longest, err);
    if (!status) status = open_samplers(e, err);
    if (!status) status = open_steps(e, err);
    if (!status)
        status = policy_desk_init(&e->desk, e->model.vocab_size, e->model.n_workers, ENGINE_LOGIT_ROWS, err);
    if (status) return status;
    histogram_init_tokens(&e->counters.step_tokens);
    histogram_init_gaps(&e->counters.token_gap);
    e->map = mem_array((size_t)c->n_pages, sizeof *e->map); /* zeroed: all free */
    if (!e->map) return llm_fail(err, LLM_ENOMEM, "no memory for the picture of %d KV pages", c->n_pages);
    e->logits =
        e->model.alloc_rows ? e->model.alloc_rows(e->model.self, logits_bytes(e)) : mem_map(logits_bytes(e));
    if (!e->logits)
        return llm_fail(err, LLM_ENOMEM, "no memory for logits of %d tokens", e->model.vocab_size);
    int code = pthread_create(&e->thread, NULL, engine_main, e);
    if (code) return llm_fail(err, LLM_ENOMEM, "cannot start the engine's thread: %s", strerror(code));
    return LLM_OK;
}

llm_status engine_start(const struct engine_config *config, const struct engine_model *model,
                        struct llm_engine **out, struct llm_error *err)
{
    struct llm_engine *e = mem_zalloc(sizeof *e);
    if (!e) {
        model->close(model->self);
        return llm_fail(err, LLM_ENOMEM, "no memory for an engine");
    }
    e->config = *config;
    e->model = *model;
    if (!e->model.run) e->model.n_workers = 1;
    e->inbox.fd = -1;
    policy_book_init(&e->policies);
    admission_init(&e->admission);
    e->limits = (struct request_limits){.vocab_size = model->vocab_size,
                                        .max_model_len = config->max_model_len,
                                        .block_size = config->block_size,
                                        .max_logprobs = config->max_logprobs,
                                        .tokenizer = config->tokenizer};
    llm_status status = init(e, err);
    if (status)
        destroy(e);
    else
        *out = e;
    return status;
}

void llm_engine_close(struct llm_engine *e)
{
    if (!e) return;
    atomic_store_explicit(&e->stop, 1, memory_order_release);
    mailbox_wake(&e->inbox);
    pthread_join(e->thread, NULL);
    destroy(e);
}
