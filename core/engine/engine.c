/* The engine's thread. engine_step is its table of contents. */

#include "engine/engine.h"

#include "base/mem.h"
#include "engine/handle.h"
#include "engine/progress.h"
#include "engine/step.h"

#include <stddef.h>
#include <string.h>
#include <time.h>

int64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
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
        progress_finish(e, r, LLM_FINISH_ERROR);
        return;
    }
    if (r->chain && begin_policies(r)) {
        progress_finish(e, r, LLM_FINISH_ERROR);
        return;
    }
    if (admission_arrive(e, r)) {
        progress_finish(e, r, LLM_FINISH_ERROR);
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
        if (atomic_load_explicit(&r->cancelled, memory_order_relaxed))
            progress_finish(e, r, LLM_FINISH_ABORT);
    }
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
    progress_count(e);
    if (e->plan->n_tokens == 0 && !e->flying) return 0;
    if (step_run(e, &err)) progress_fail(e, &err);
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
    progress_finish_all(e, LLM_FINISH_ABORT);
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
    policy_book_deinit(&e->policies);
    e->model.close(e->model.self);
    mailbox_deinit(&e->inbox);
    kv_pool_deinit(&e->kv);
    pins_deinit(&e->pins);
    scheduler_deinit(&e->scheduler);
    batch_deinit(&e->batch);
    seating_deinit(&e->seating);
    admission_deinit(&e->admission);
    policy_desk_deinit(&e->desk);
    for (int32_t i = 0; e->samplers && i < e->model.n_workers; i++) sampler_deinit(&e->samplers[i]);
    for (int32_t i = 0; i < 2; i++) {
        mem_free(e->steps[i].rows);
        mem_free(e->steps[i].spans);
    }
    mem_free(e->launcher.rows);
    mem_free(e->launcher.links);
    mem_free(e->launcher.turns);
    mem_free(e->launcher.tokens);
    mem_free(e->launcher.scored);
    mem_free(e->launcher.followers);
    mem_free(e->samplers);
    mem_free((void *)e->map);
    mem_free(e);
}

static llm_status open_steps(struct llm_engine *e, struct llm_error *err)
{
    size_t n = (size_t)e->config.max_num_seqs, n_tokens = (size_t)e->config.max_num_batched_tokens;
    int made = 1;
    for (int32_t i = 0; i < 2; i++)
        made &= !!(e->steps[i].rows = mem_array(n, sizeof *e->steps[i].rows)) &
                !!(e->steps[i].spans = mem_array(n, sizeof *e->steps[i].spans));
    struct launcher *l = &e->launcher;
    if (e->model.launch)
        made &= !!(l->rows = mem_array(n, sizeof *l->rows)) &
                !!(l->links = mem_array(n, SAMPLE_MAX_ROUNDS * sizeof *l->links)) &
                !!(l->turns = mem_array(n, SAMPLE_MAX_ROUNDS * sizeof *l->turns)) &
                !!(l->tokens = mem_array(n, sizeof *l->tokens)) &
                !!(l->scored = mem_array(n_tokens, sizeof *l->scored)) &
                !!(l->followers = mem_array(n_tokens, sizeof *l->followers));
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
    if (!status) status = seating_init(&e->seating, e->model.seats.n, err);
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
    policy_book_init(&e->policies, &model->graphs);
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
