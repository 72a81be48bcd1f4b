/* The engine's thread. engine_step is its table of contents. */

#include "engine/engine.h"

#include "base/mem.h"
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
    SET(n_waiting, s->waiting.count);
    SET(n_used, e->kv.n_used);
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
    uint64_t news = news_pack(o->sequence.n_output, o->text_end) | NEWS_PENDING;
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

/* Ends an output: its pages are free. It must then be published, after which it may be gone. */
static void settle(struct llm_engine *e, struct output *o, enum llm_finish_reason reason)
{
    struct llm_request *r = o->request;
    scheduler_finish(&e->scheduler, &o->sequence);
    o->finish = reason;
    if (!o->stopped_by_string) o->text_end = NEWS_ALL_TEXT; /* what was held back is text after all */
    atomic_fetch_add_explicit(&r->n_preemptions, o->sequence.n_preemptions, memory_order_relaxed);
    if (--r->n_live > 0) return;
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

static void fail(struct llm_engine *e, const struct llm_error *err)
{
    e->error = *err;
    atomic_store_explicit(&e->failed, 1, memory_order_release);
    finish_all(e, LLM_FINISH_ERROR);
}

/* ---- the stages of a step ------------------------------------------------------------------------------ */

static void take_request(struct llm_engine *e, struct llm_request *r)
{
    r->previous = NULL;
    r->next = e->requests;
    if (r->next) r->next->previous = r;
    e->requests = r;
    if (atomic_load_explicit(&e->failed, memory_order_relaxed)) {
        finish_request(e, r, LLM_FINISH_ERROR);
        return;
    }
    struct block_hash root = prefix_root(&e->kv.index, r->cache_salt, r->salt_bytes);
    for (int32_t i = 0; i < r->n; i++) {
        r->outputs[i].sequence.root = root;
        if (!e->config.priority) r->outputs[i].sequence.priority = 0;
    }
    scheduler_add(&e->scheduler, &r->outputs[0].sequence);
}

static void drain(struct llm_engine *e)
{
    for (struct mail *m = mailbox_take(&e->inbox), *next; m; m = next) {
        next = m->next;
        struct letter *letter = (struct letter *)m;
        if (letter->kind == LETTER_FAREWELL)
            sem_post(&((struct farewell *)letter)->done); /* all that was posted to its client is posted */
        else
            take_request(e, (struct llm_request *)((char *)letter - offsetof(struct llm_request, letter)));
    }
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

/* Steps 8 and 9 of 10: ends what has come to its end, then tells the clients, who find the pages free. */
static void emit(struct llm_engine *e)
{
    int32_t n;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        if (!e->plan->items[i].last) continue;
        struct output *o = outputs_of(&e->plan->items[i], &n);
        if (o->sequence.index == 0 && o->sequence.n_output == 1)
            atomic_store_explicit(&o->request->t_first_token, clock_ns(), memory_order_relaxed);
        e->n_output_tokens += (uint64_t)n;
        for (int32_t k = 0; k < n; k++) {
            enum llm_finish_reason reason = output_judge(&o[k], &e->config);
            if (reason != LLM_FINISH_NONE) settle(e, &o[k], reason);
        }
    }
    count(e);
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        if (!e->plan->items[i].last) continue;
        struct output *o = outputs_of(&e->plan->items[i], &n);
        int stream = o->request->stream; /* the request may be gone after its last output */
        for (int32_t k = 0; k < n; k++)
            if (stream || o[k].finish != LLM_FINISH_NONE) publish(&o[k]);
    }
}

/* One step. Returns 0 if there is nothing to do. */
static int engine_step(struct llm_engine *e)
{
    struct llm_error err;
    e->now = clock_ns();
    drain(e);
    e->plan = scheduler_plan(&e->scheduler);
    count(e);
    if (e->plan->n_tokens == 0) return 0;
    note_plan(e);
    const struct batch *batch = batch_build(&e->batch, e->plan, e->config.block_size);
    llm_status status = forward(e, batch, &err);
    if (!status) {
        scheduler_advance(&e->scheduler);
        status = engine_sample(e, batch, &err);
    }
    e->n_steps++;
    e->busy_ns += (uint64_t)(clock_ns() - e->now);
    if (status)
        fail(e, &err);
    else
        emit(e);
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

static void destroy(struct llm_engine *e)
{
    e->model.close(e->model.self);
    mailbox_deinit(&e->inbox);
    kv_pool_deinit(&e->kv);
    scheduler_deinit(&e->scheduler);
    batch_deinit(&e->batch);
    for (int32_t i = 0; e->samplers && i < e->model.n_workers; i++) sampler_deinit(&e->samplers[i]);
    mem_free(e->samplers);
    if (e->logits) mem_unmap(e->logits, sizeof(float) * ENGINE_LOGIT_ROWS * (size_t)e->model.vocab_size);
    mem_free(e);
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
    llm_status status = mailbox_init(&e->inbox, err);
    if (!status) status = kv_pool_init(&e->kv, c->n_pages, c->block_size, NULL, err);
    if (!status) status = scheduler_init(&e->scheduler, &options, &e->kv, err);
    if (!status) status = batch_init(&e->batch, c->max_num_batched_tokens, c->max_num_seqs, longest, err);
    if (!status) status = open_samplers(e, err);
    if (status) return status;
    e->logits = mem_map(sizeof(float) * ENGINE_LOGIT_ROWS * (size_t)e->model.vocab_size);
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
