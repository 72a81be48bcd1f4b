/* A client: submits on its own thread, takes events there (step 9 of 10). All memory of requests is freed
 * here. */

#include "engine/client.h"

#include "base/mem.h"

#include <stddef.h>
#include <string.h>

llm_status llm_client_open(struct llm_engine *engine, struct llm_client **out, struct llm_error *err)
{
    struct llm_client *c = mem_zalloc(sizeof *c);
    if (!c) return llm_fail(err, LLM_ENOMEM, "no memory for a client");
    c->engine = engine;
    llm_status status = mailbox_init(&c->box, err);
    if (status) {
        mem_free(c);
        return status;
    }
    *out = c;
    return LLM_OK;
}

int llm_client_fd(const struct llm_client *c)
{
    return c->box.fd;
}

static void forget(struct llm_request *r)
{
    if (r->previous_of_client)
        r->previous_of_client->next_of_client = r->next_of_client;
    else
        r->client->requests = r->next_of_client;
    if (r->next_of_client) r->next_of_client->previous_of_client = r->previous_of_client;
    request_destroy(r);
}

/* ---- submit -------------------------------------------------------------------------------------------- */

void llm_sampling_init(struct llm_sampling *p)
{
    *p = (struct llm_sampling){.n = 1,
                               .temperature = 1,
                               .top_p = 1,
                               .repetition_penalty = 1,
                               .max_tokens = 16,
                               .skip_special_tokens = 1,
                               .detokenize = 1,
                               .logprobs = LLM_LOGPROBS_NONE,
                               .prompt_logprobs = LLM_LOGPROBS_NONE};
}

void llm_request_spec_init(struct llm_request_spec *spec)
{
    *spec = (struct llm_request_spec){.add_special_tokens = 1, .parse_special_tokens = 1};
    llm_sampling_init(&spec->sampling);
}

/* Finalizer of SplitMix64 (Steele, Lea and Flood, 2014): unlike seeds for consecutive numbers. */
static uint64_t mix(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Counts the request as queued, unless the queue is full: before any work is done for it. */
static llm_status enter_queue(struct llm_engine *e, struct llm_error *err)
{
    int32_t n = atomic_fetch_add_explicit(&e->n_queued, 1, memory_order_relaxed);
    if (e->config.max_num_queued_reqs <= 0 || n < e->config.max_num_queued_reqs) return LLM_OK;
    atomic_fetch_sub_explicit(&e->n_queued, 1, memory_order_relaxed);
    return llm_fail(err, LLM_EFULL, "%d requests wait already (max_num_queued_reqs); try again later", n);
}

static llm_status check_scheduling(const struct llm_request_spec *spec, struct llm_error *err)
{
    if (spec->tenant && strlen(spec->tenant) >= LLM_TENANT_BYTES)
        return llm_fail(err, LLM_EINVAL, "tenant has %zu bytes; it must have at most %d",
                        strlen(spec->tenant), LLM_TENANT_BYTES - 1);
    if (!(spec->timeout >= 0 && spec->timeout < 1e9))
        return llm_fail(err, LLM_EINVAL, "timeout is %g; it must be from 0 to 1e9 seconds",
                        (double)spec->timeout);
    return LLM_OK;
}

llm_status llm_submit(struct llm_client *c, const struct llm_request_spec *spec, struct llm_request **out,
                      struct llm_error *err)
{
    struct llm_engine *e = c->engine;
    if (atomic_load_explicit(&e->failed, memory_order_acquire))
        return llm_fail(err, LLM_EFAILED, "the engine has failed: %s", e->error.message);
    llm_status status = enter_queue(e, err);
    if (status) return status;
    struct llm_request *r = NULL;
    status = check_scheduling(spec, err);
    if (!status && spec->sequence) status = sequence_check(spec->sequence, c, err);
    if (!status) status = request_create(spec, &e->limits, &r, err);
    if (!status) status = policy_chain_open(&e->policies, spec, &r->chain, err);
    if (!status && spec->sequence) status = sequence_begin(spec->sequence, r, err);
    if (status) {
        atomic_fetch_sub_explicit(&e->n_queued, 1, memory_order_relaxed);
        if (r) request_destroy(r);
        return status;
    }
    r->by = seating_need(e, r);
    uint64_t number = atomic_fetch_add_explicit(&e->n_submitted, 1, memory_order_relaxed);
    r->engine = e;
    r->client = c;
    r->reply = &c->box;
    r->seed = r->sampling.has_seed ? r->sampling.seed : mix(e->config.seed ^ mix(number));
    for (int32_t i = 0; i < r->n; i++) r->outputs[i].sequence.arrival = number;
    r->t_submitted = clock_ns();
    if (spec->tenant) memcpy(r->tenant, spec->tenant, strlen(spec->tenant) + 1);
    if (spec->timeout > 0) r->deadline = r->t_submitted + (int64_t)((double)spec->timeout * 1e9);
    r->next_of_client = c->requests;
    if (r->next_of_client) r->next_of_client->previous_of_client = r;
    c->requests = r;
    *out = r;
    r->letter.kind = LETTER_REQUEST;
    mailbox_post(&e->inbox, &r->letter.mail);
    return LLM_OK;
}

void llm_cancel(struct llm_request *r)
{
    /* A flag and not a letter, as the request may be gone when a letter were read. */
    if (r->n_done == r->n) return;
    atomic_store_explicit(&r->cancelled, 1, memory_order_relaxed);
    atomic_store_explicit(&r->engine->cancels, 1, memory_order_release);
    mailbox_wake(&r->engine->inbox);
}

void llm_release(struct llm_request *r)
{
    if (!r) return;
    if (r->n_done == r->n) {
        forget(r);
        return;
    }
    llm_cancel(r);
    sequence_abandon(r);
    r->released = 1; /* freed when its last letter comes */
}

/* ---- events -------------------------------------------------------------------------------------------- */

static struct output *output_with(struct mail *m)
{
    return (struct output *)((char *)m - offsetof(struct output, mail));
}

/* The output whose letter is first, which stays where it is; null: none. Settles what nobody waits for. */
static struct output *peek(struct llm_client *c)
{
    for (;;) {
        if (!c->letters) c->letters = mailbox_take(&c->box);
        if (!c->letters) return NULL;
        struct output *o = output_with(c->letters);
        struct llm_request *r = o->request;
        if (!r->released) return o;
        c->letters = c->letters->next;
        uint64_t news = atomic_fetch_and_explicit(&o->news, ~NEWS_PENDING, memory_order_acq_rel);
        if (news & NEWS_FINAL && ++r->n_done == r->n) forget(r);
    }
}

static int make_room(struct output *o, size_t bytes)
{
    if (o->text_capacity - o->n_text >= bytes) return 1;
    size_t capacity = o->text_capacity ? o->text_capacity : 256;
    while (capacity - o->n_text < bytes) capacity *= 2;
    char *text = mem_grow(o->text, capacity, 1);
    if (!text) return 0;
    o->text = text;
    o->text_capacity = capacity;
    return 1;
}

/* For the ends of the next token and of a mute one after it. 0: no memory. */
static int make_room_for_ends(struct output *o)
{
    size_t k = (size_t)(o->n_rendered - o->n_delivered);
    if (!o->request->stream || k + 1 < o->ends_capacity) return 1;
    size_t capacity = o->ends_capacity ? 2 * o->ends_capacity : 16;
    size_t *ends = mem_grow(o->ends, capacity, sizeof *ends);
    if (!ends) return 0;
    o->ends = ends;
    o->ends_capacity = capacity;
    return 1;
}

/* Makes the text of all tokens in the news. 0: no memory; may be called again. */
static int render(struct output *o, uint64_t news)
{
    if (o->n_given) {
        memmove(o->text, o->text + o->n_given, o->n_text - o->n_given);
        o->n_text -= o->n_given;
        o->n_given = 0;
    }
    size_t most = tokenizer_max_token_bytes(o->text_state.tok) + 12;
    int32_t end = news_tokens(news) - (news & NEWS_FINAL && o->mute_last);
    for (; o->n_rendered < end; o->n_rendered++) {
        if (!make_room(o, most) || !make_room_for_ends(o)) return 0;
        o->n_text += detokenizer_put(&o->text_state, o->sequence.output[o->n_rendered], o->text + o->n_text,
                                     o->text_capacity - o->n_text);
        if (o->request->stream) o->ends[o->n_rendered - o->n_delivered] = o->n_text;
    }
    if (!make_room_for_ends(o)) return 0;
    if (!(news & NEWS_FINAL) || news_text(news) != NEWS_ALL_TEXT) return 1;
    if (!make_room(o, most)) return 0;
    o->n_text += detokenizer_finish(&o->text_state, o->text + o->n_text, o->text_capacity - o->n_text);
    o->text_state.n_held = 0;
    return 1;
}

static void fill_text(struct output *o, uint64_t news, struct llm_event *out)
{
    out->text = "";
    if (!o->request->renders) return;
    uint64_t end = news_text(news);
    o->n_given = end == NEWS_ALL_TEXT || end - o->text_total > o->n_text ? o->n_text : end - o->text_total;
    o->text_total += o->n_given;
    if (!o->n_given) return;
    out->text = o->text;
    out->text_bytes = o->n_given;
}

/* The ends of the tokens' texts within what is given: what is held back now comes with a later event, and
 * what no token rendered (a last one that is mute, bytes that became no character) is the last one's. */
static void fill_ends(struct output *o, size_t n_tokens, struct llm_event *out)
{
    if (!o->request->stream || !o->request->renders || n_tokens == 0) return;
    size_t rendered = (size_t)(o->n_rendered - (o->n_delivered - (int32_t)n_tokens));
    for (size_t i = 0; i < n_tokens; i++)
        if (i >= rendered || o->ends[i] > o->n_given) o->ends[i] = o->n_given;
    o->ends[n_tokens - 1] = o->n_given;
    out->text_ends = o->ends;
}

static void fill_event(struct output *o, uint64_t news, struct llm_event *out)
{
    struct llm_request *r = o->request;
    size_t from = (size_t)o->n_delivered;
    *out = (struct llm_event){.request = r,
                              .user = r->user,
                              .index = o->sequence.index,
                              .tokens = o->sequence.output + from,
                              .n_tokens = (size_t)news_tokens(news) - from,
                              .n_logprobs = r->n_logprobs};
    if (r->n_logprobs) out->logprobs = o->logprobs + from * (size_t)r->n_logprobs;
    o->n_delivered = news_tokens(news);
    sequence_take(r, o->n_delivered, (news & NEWS_FINAL) != 0, news_text(news));
    fill_text(o, news, out);
    fill_ends(o, out->n_tokens, out);
    if (!(news & NEWS_FINAL)) return;
    out->finish = o->finish;
    out->stopped_by_token = o->stopped_by_token;
    out->stopped_by_string = o->stopped_by_string;
    out->stop_token = o->stop_token;
    out->stop_string = o->stop_string;
    out->request_done = ++r->n_done == r->n;
    if (o->finish != LLM_FINISH_ERROR) return;
    if (r->error.status) {
        out->error = &r->error;
        out->refusal = r->refusal;
        return;
    }
    int by_policy = r->chain && r->chain->error.status;
    out->error = by_policy ? &r->chain->error : &r->engine->error;
    if (by_policy) out->error_details = r->chain->details;
}

llm_status llm_next(struct llm_client *c, struct llm_event *out)
{
    struct output *o = peek(c);
    if (!o) {
        mailbox_clear(&c->box);
        o = peek(c);
        if (!o) return LLM_EAGAIN;
        mailbox_wake(&c->box); /* a letter came meanwhile: the descriptor must say so */
    }
    struct mail *rest = c->letters->next; /* once not pending, the letter may be posted again */
    uint64_t news = atomic_load_explicit(&o->news, memory_order_acquire);
    do {
        if (!sequence_make_room(o->request, news_tokens(news))) return LLM_ENOMEM;
        if (o->request->renders && !render(o, news)) return LLM_ENOMEM;
    } while (!atomic_compare_exchange_weak_explicit(&o->news, &news, news & ~NEWS_PENDING,
                                                    memory_order_acq_rel, memory_order_acquire));
    c->letters = rest;
    fill_event(o, news, out);
    return LLM_OK;
}

llm_status llm_wait(struct llm_client *c, int32_t timeout_ms)
{
    int64_t end = clock_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        if (peek(c)) return LLM_OK;
        if (atomic_load_explicit(&c->engine->failed, memory_order_acquire) && !c->requests)
            return LLM_EFAILED;
        mailbox_clear(&c->box);
        if (peek(c)) {
            mailbox_wake(&c->box);
            return LLM_OK;
        }
        int64_t left = end - clock_ns();
        if (timeout_ms >= 0 && left <= 0) return LLM_EAGAIN;
        mailbox_wait(&c->box, timeout_ms < 0 ? -1 : (int)((left + 999999) / 1000000));
    }
}

/* Returns when the engine is past posting the last letter to this client, which the client may have read
 * while the engine was yet to wake it. */
static void say_farewell(struct llm_client *c)
{
    struct farewell f = {.letter.kind = LETTER_FAREWELL};
    sem_init(&f.done, 0, 0);
    mailbox_post(&c->engine->inbox, &f.letter.mail);
    while (sem_wait(&f.done)) { /* interrupted by a signal */
    }
    sem_destroy(&f.done);
}

void llm_client_close(struct llm_client *c)
{
    if (!c) return;
    for (struct llm_request *r = c->requests, *next; r; r = next) {
        next = r->next_of_client;
        llm_release(r);
    }
    for (struct llm_sequence *s = c->sequences, *next; s; s = next) {
        next = s->next;
        llm_sequence_close(s);
    }
    while (c->requests) {
        mailbox_clear(&c->box);
        peek(c); /* finds nothing, settles everything */
        if (c->requests) mailbox_wait(&c->box, -1);
    }
    say_farewell(c);
    mailbox_deinit(&c->box);
    mem_free(c);
}

static double seconds(const _Atomic int64_t *ns)
{
    return (double)atomic_load_explicit(ns, memory_order_relaxed) * 1e-9;
}

void llm_request_info(const struct llm_request *r, struct llm_request_info *out)
{
    *out = (struct llm_request_info){
        .prompt_tokens = r->prompt,
        .n_prompt_tokens = (size_t)r->n_prompt,
        .n_cached_tokens = (size_t)atomic_load_explicit(&r->n_cached, memory_order_relaxed),
        .n_preemptions = atomic_load_explicit(&r->n_preemptions, memory_order_relaxed),
        .t_submitted = (double)r->t_submitted * 1e-9,
        .t_scheduled = seconds(&r->t_scheduled),
        .t_first_token = seconds(&r->t_first_token),
        .t_finished = seconds(&r->t_finished),
        .prompt_logprobs = r->prompt_logprobs,
        .n_prompt_logprob_rows = r->prompt_logprobs ? (size_t)(r->n_prompt - r->score_start) : 0,
        .n_prompt_logprobs = r->n_prompt_logprobs};
}
