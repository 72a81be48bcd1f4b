#define _GNU_SOURCE
/* The engine over a fake model (fake_model.h): requests, batching, forks, preemption, cancelling, failure. */

#include "base/mem.h"
#include "engine/engine.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>

#include "engine_events.h"
#include "fake_model.inc.c"

enum { VOCAB = 97, PAGE = 16 };

static struct engine_config config_of(int32_t n_pages)
{
    return (struct engine_config){.max_model_len = 512,
                                  .max_num_seqs = 64,
                                  .max_num_batched_tokens = 128,
                                  .block_size = PAGE,
                                  .n_pages = n_pages,
                                  .prefix_caching = 1,
                                  .chunked_prefill = 1,
                                  .max_logprobs = 20};
}

/* With `fake`, the model is gated: each of its steps waits for let_go. */
static struct llm_engine *start(const struct engine_config *c, struct fake_model **fake)
{
    struct fake_model *m = fake_model_new(VOCAB, c->block_size, c->n_pages, c->max_num_batched_tokens);
    m->gated = fake != NULL;
    if (fake) *fake = m;
    return start_over(c, m);
}

static void let_go(struct fake_model *m, int32_t steps)
{
    for (int32_t i = 0; i < steps; i++) sem_post(&m->gate);
}

/* For good. */
static void open_gate(struct fake_model *m)
{
    m->gated = 0;
    sem_post(&m->gate);
}

/* Until the model is in its n-th step. */
static void await_step(struct fake_model *m, int32_t n)
{
    while (m->n_forward < n) usleep(100);
}

static void fill_prompt(int32_t *ids, int32_t n, uint32_t seed)
{
    for (int32_t i = 0; i < n; i++) ids[i] = (int32_t)(fake_mix(seed * 1000003u + (uint32_t)i) % VOCAB);
}

static struct llm_request_spec spec_of(const int32_t *ids, size_t n, int32_t max_tokens)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = n;
    s.sampling.temperature = 0;
    s.sampling.max_tokens = max_tokens;
    return s;
}

/* What a greedy engine over the fake model must give. */
static void expect_greedy(const int32_t *ids, int32_t n, int32_t count, int32_t *out)
{
    int32_t all[1024];
    float row[VOCAB];
    memcpy(all, ids, sizeof *ids * (size_t)n);
    for (int32_t i = 0; i < count; i++) {
        fake_logits(all, n + i, VOCAB, row);
        int32_t best = 0;
        for (int32_t t = 1; t < VOCAB; t++)
            if (row[t] > row[best]) best = t;
        out[i] = all[n + i] = best;
    }
}

static void greedy_tokens_are_those_of_the_model(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    int32_t prompt[200], want[40], got[40];
    fill_prompt(prompt, 200, 1);
    expect_greedy(prompt, 200, 40, want);
    for (int stream = 0; stream < 2; stream++) {
        struct llm_request_spec s = spec_of(prompt, 200, 40);
        s.stream = stream;
        struct llm_request *r;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        size_t n = 0;
        struct llm_event ev = {0};
        while (!ev.request_done) {
            next_event(c, &ev);
            assert_ptr_equal(ev.request, r);
            assert_true(n + ev.n_tokens <= 40);
            memcpy(got + n, ev.tokens, sizeof *got * ev.n_tokens);
            n += ev.n_tokens;
        }
        assert_int_equal(n, 40);
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
        assert_memory_equal(got, want, sizeof got);
        struct llm_request_info info;
        llm_request_info(r, &info);
        assert_int_equal(info.n_cached_tokens, stream ? 192 : 0);
        assert_true(info.t_submitted <= info.t_scheduled && info.t_scheduled <= info.t_first_token &&
                    info.t_first_token <= info.t_finished);
        llm_release(r);
    }
    assert_int_equal(stats_at_rest(e).n_blocks_used, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- batching ------------------------------------------------------------------------------------------ */

struct job {
    int32_t prompt[300], n_prompt, n_output;
    int32_t got[240], n_got;
    int done;
    struct llm_request *request;
};

static void collect(struct llm_client *c, struct job *jobs, int32_t n)
{
    (void)jobs;
    for (int32_t left = n; left > 0;) {
        struct llm_event ev;
        next_event(c, &ev);
        struct job *j = ev.user;
        assert_true(j->n_got + (int32_t)ev.n_tokens <= 240);
        memcpy(j->got + j->n_got, ev.tokens, sizeof *j->got * ev.n_tokens);
        j->n_got += (int32_t)ev.n_tokens;
        if (!ev.request_done) continue;
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
        j->done++;
        left--;
        llm_release(j->request);
    }
}

/* KV memory for about 20 of 256 requests: all finish, as if alone; nothing is left; little is wasted. */
static void many_requests_in_little_memory(void **state)
{
    (void)state;
    enum { N = 256, MEAN = 270 };
    static struct job jobs[N];
    struct engine_config config = config_of(20 * MEAN / PAGE);
    config.max_num_seqs = 256;
    config.max_num_batched_tokens = 512;
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    memset(jobs, 0, sizeof jobs);
    srand(3);
    for (int32_t i = 0; i < N; i++) {
        struct job *j = &jobs[i];
        j->n_prompt = 100 + rand() % 100;
        j->n_output = 40 + rand() % 200;
        fill_prompt(j->prompt, j->n_prompt, 100 + (uint32_t)i);
        struct llm_request_spec s = spec_of(j->prompt, (size_t)j->n_prompt, j->n_output);
        s.user = j;
        s.stream = i % 2;
        assert_int_equal(llm_submit(c, &s, &j->request, NULL), LLM_OK);
    }
    collect(c, jobs, N);
    for (int32_t i = 0; i < N; i++) {
        int32_t want[240];
        assert_int_equal(jobs[i].done, 1);
        assert_int_equal(jobs[i].n_got, jobs[i].n_output);
        expect_greedy(jobs[i].prompt, jobs[i].n_prompt, jobs[i].n_output, want);
        assert_memory_equal(jobs[i].got, want, sizeof *want * (size_t)jobs[i].n_output);
    }
    struct llm_stats st;
    llm_engine_stats(e, &st);
    assert_int_equal(st.n_blocks_used, 0);
    assert_int_equal(st.n_running, 0);
    assert_int_equal(st.n_waiting, 0);
    assert_int_equal(st.n_finished, N);
    assert_true(st.n_preemptions > 0);
    assert_true(st.kv_waste_peak < 0.04);
    assert_true(st.n_blocks_peak > st.n_blocks * 9 / 10);
    print_message("%llu preemptions, %.1f %% of KV memory wasted at the fullest step\n",
                  (unsigned long long)st.n_preemptions, 100 * st.kv_waste_peak);
    llm_client_close(c);
    llm_engine_close(e);
}

/* Every sampling parameter that draws, under four regimes: alone, in a crowd, cut into small chunks, and with
 * so little memory that sequences are set back. */
static void same_request_same_tokens(void **state)
{
    (void)state;
    enum { N = 24 };
    static struct job first[N], jobs[N];
    const struct {
        int32_t n_pages, budget, seqs;
        int together, caching, chunked;
    } regimes[] = {{400, 512, 64, 0, 0, 1},
                   {400, 512, 64, 1, 1, 1},
                   {400, 9, 7, 1, 1, 1},
                   {40, 64, 24, 1, 1, 1},
                   {40, 512, 24, 1, 0, 0}};
    for (size_t k = 0; k < sizeof regimes / sizeof *regimes; k++) {
        struct engine_config config = config_of(regimes[k].n_pages);
        config.max_num_batched_tokens = regimes[k].budget;
        config.max_num_seqs = regimes[k].seqs;
        config.prefix_caching = regimes[k].caching;
        config.chunked_prefill = regimes[k].chunked;
        struct llm_engine *e = start(&config, NULL);
        struct llm_client *c = connect_to(e);
        memset(jobs, 0, sizeof jobs);
        for (int32_t i = 0; i < N; i++) {
            struct job *j = &jobs[i];
            j->n_prompt = 20 + i * 3;
            fill_prompt(j->prompt, j->n_prompt, 1000 + (uint32_t)i % 4);
            struct llm_request_spec s = spec_of(j->prompt, (size_t)j->n_prompt, 60);
            s.user = j;
            s.sampling.temperature = 1;
            s.sampling.top_p = i % 3 ? 1 : 0.8f;
            s.sampling.top_k = i % 2 ? 20 : 0;
            s.sampling.repetition_penalty = i % 5 ? 1 : 1.3f;
            s.sampling.frequency_penalty = i % 7 ? 0 : 0.7f;
            s.sampling.has_seed = i % 4 != 0; /* without: by the order of submission */
            s.sampling.seed = 5;
            assert_int_equal(llm_submit(c, &s, &j->request, NULL), LLM_OK);
            if (!regimes[k].together) collect(c, j, 1);
        }
        if (regimes[k].together) collect(c, jobs, N);
        if (regimes[k].n_pages == 40) {
            struct llm_stats st;
            llm_engine_stats(e, &st);
            assert_true(st.n_preemptions > 0);
        }
        if (k == 0) memcpy(first, jobs, sizeof jobs);
        for (int32_t i = 0; i < N; i++) {
            assert_int_equal(jobs[i].n_got, 60);
            assert_memory_equal(jobs[i].got, first[i].got, sizeof(int32_t) * 60);
        }
        llm_client_close(c);
        llm_engine_close(e);
    }
}

/* ---- several sequences --------------------------------------------------------------------------------- */

static void forks_share_a_prompt(void **state)
{
    (void)state;
    int32_t prompt[101], alone[6][30], n_alone[6] = {0};
    fill_prompt(prompt, 101, 9);
    for (int32_t seqs = 64; seqs > 0; seqs = seqs == 64 ? 3 : 0) { /* the second time not all have a seat */
        struct engine_config config = config_of(64);
        config.max_num_seqs = seqs;
        struct llm_engine *e = start(&config, NULL);
        struct llm_client *c = connect_to(e);
        struct llm_request_spec s = spec_of(prompt, 101, 30);
        s.sampling.n = 6;
        s.sampling.temperature = 1;
        s.sampling.has_seed = 1;
        s.sampling.seed = 77;
        s.stream = 1;
        struct llm_request *r;
        int32_t got[6][30], n[6] = {0}, finished = 0;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        for (struct llm_event ev = {0}; !ev.request_done;) {
            next_event(c, &ev);
            memcpy(got[ev.index] + n[ev.index], ev.tokens, sizeof(int32_t) * ev.n_tokens);
            n[ev.index] += (int32_t)ev.n_tokens;
            finished += ev.finish == LLM_FINISH_LENGTH;
        }
        assert_int_equal(finished, 6);
        llm_release(r);
        struct llm_stats st;
        llm_engine_stats(e, &st);
        assert_int_equal(st.n_blocks_used, 0);
        if (seqs == 64) {
            assert_int_equal(st.n_prompt_tokens, 101); /* one prefill */
            /* six pages shared; the seventh and what follows once for each */
            assert_true(st.n_blocks_peak <= 6 + 6 * 3);
            memcpy(alone, got, sizeof got);
            memcpy(n_alone, n, sizeof n);
            int differ = 0;
            for (int i = 1; i < 6; i++) differ += memcmp(got[0], got[i], sizeof got[0]) != 0;
            assert_int_equal(differ, 5);
        }
        assert_memory_equal(n, n_alone, sizeof n);
        assert_memory_equal(got, alone, sizeof got);
        llm_client_close(c);
        llm_engine_close(e);
    }
}

/* ---- ends ---------------------------------------------------------------------------------------------- */

static void ends_by_token(void **state)
{
    (void)state;
    int32_t prompt[40], want[60];
    fill_prompt(prompt, 40, 21);
    expect_greedy(prompt, 40, 60, want);
    int32_t end = want[9], at = 0; /* where it comes first */
    while (want[at] != end) at++;
    struct engine_config config = config_of(64);
    config.end_tokens[config.n_end_tokens++] = end;
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    struct llm_event ev;
    struct llm_request *r;

    struct llm_request_spec s = spec_of(prompt, 40, 60);
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    next_event(c, &ev);
    assert_int_equal(ev.finish, LLM_FINISH_STOP);
    assert_int_equal(ev.n_tokens, at + 1); /* the end token is part of the tokens */
    assert_false(ev.stopped_by_token || ev.stopped_by_string);
    llm_release(r);

    s.sampling.ignore_eos = 1;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    next_event(c, &ev);
    assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
    assert_int_equal(ev.n_tokens, 60);
    llm_release(r);

    s.sampling.stop_token_ids = &end;
    s.sampling.n_stop_token_ids = 1;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    next_event(c, &ev);
    assert_int_equal(ev.finish, LLM_FINISH_STOP);
    assert_int_equal(ev.n_tokens, at + 1);
    assert_true(ev.stopped_by_token);
    assert_int_equal(ev.stop_token, end);
    llm_release(r);

    s.sampling.min_tokens = 20; /* before, neither may be chosen */
    s.sampling.ignore_eos = 0;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    next_event(c, &ev);
    assert_true(ev.n_tokens >= 20);
    for (int i = 0; i < 20; i++) assert_int_not_equal(ev.tokens[i], end);
    llm_release(r);
    llm_client_close(c);
    llm_engine_close(e);
}

static void ends_at_max_model_len(void **state)
{
    (void)state;
    int32_t prompt[511];
    fill_prompt(prompt, 511, 5);
    struct engine_config config = config_of(32); /* just one sequence fits */
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    for (int32_t n = 500; n <= 511; n += 11) {
        struct llm_request_spec s = spec_of(prompt, (size_t)n, n == 500 ? -1 : 100);
        struct llm_request *r;
        struct llm_event ev;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        next_event(c, &ev);
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
        assert_int_equal(ev.n_tokens, 512 - n);
        llm_release(r);
    }
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- log-probabilities --------------------------------------------------------------------------------- */

static void expect_row(const struct llm_logprob *row, const float *logits, int32_t token, int32_t k)
{
    double total = 0;
    int32_t rank = 1;
    for (int32_t i = 0; i < VOCAB; i++) {
        total += exp(logits[i]);
        rank += logits[i] > logits[token];
    }
    assert_int_equal(row[0].token, token);
    assert_int_equal(row[0].rank, rank);
    for (int32_t i = 0; i <= k; i++) {
        assert_true(fabs(row[i].logprob - (logits[row[i].token] - log(total))) < 1e-4);
        if (i > 0) assert_int_equal(row[i].rank, i);
        if (i > 1) assert_true(row[i].logprob <= row[i - 1].logprob);
    }
}

static void logprobs_of_prompt_and_output(void **state)
{
    (void)state;
    int32_t all[200];
    float logits[VOCAB];
    fill_prompt(all, 150, 31);
    struct engine_config config = config_of(64);
    config.max_num_batched_tokens = 70; /* the prompt comes in pieces, each in several slices of logits */
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    for (int round = 0; round < 2;
         round++) { /* the second time the prompt is cached, which must not matter */
        struct llm_request_spec s = spec_of(all, 150, 20);
        s.sampling.logprobs = 3;
        s.sampling.prompt_logprobs = 2;
        s.sampling.temperature = 1;
        struct llm_request *r;
        struct llm_event ev;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        next_event(c, &ev);
        assert_int_equal(ev.n_logprobs, 4);
        for (int32_t i = 0; i < 20; i++) {
            fake_logits(all, 150 + i, VOCAB, logits);
            all[150 + i] = ev.tokens[i];
            expect_row(ev.logprobs + 4 * i, logits, ev.tokens[i], 3);
        }
        struct llm_request_info info;
        llm_request_info(r, &info);
        assert_int_equal(info.n_prompt_logprobs, 3);
        assert_int_equal(info.prompt_logprobs[0].token, -1);
        for (int32_t i = 1; i < 150; i++) {
            fake_logits(all, i, VOCAB, logits);
            expect_row(info.prompt_logprobs + 3 * i, logits, all[i], 2);
        }
        llm_release(r);
    }
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- cancelling, failing, closing ---------------------------------------------------------------------- */

static void cancel_frees_pages_at_once(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct fake_model *fake;
    struct llm_engine *e = start(&config, &fake);
    struct llm_client *c = connect_to(e);
    int32_t prompt[50];
    fill_prompt(prompt, 50, 1);
    struct llm_request_spec s = spec_of(prompt, 50, 400);
    s.stream = 1;
    struct llm_request *r;
    struct llm_event ev;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    let_go(fake, 3);
    await_step(fake, 4);
    next_event(c, &ev);
    assert_int_equal(ev.finish, LLM_FINISH_NONE);
    llm_cancel(r);
    let_go(fake, 1);
    int32_t n = (int32_t)ev.n_tokens;
    while (!ev.request_done) {
        next_event(c, &ev);
        n += (int32_t)ev.n_tokens;
    }
    assert_int_equal(ev.finish, LLM_FINISH_ABORT);
    assert_int_equal(n, 4); /* the step it was in is the last */
    struct llm_stats st;
    llm_engine_stats(e, &st);
    assert_int_equal(st.n_blocks_used, 0);
    llm_cancel(r); /* harmless */
    llm_release(r);

    /* Released unfinished, then the client closed with requests in every state. */
    open_gate(fake);
    for (int i = 0; i < 30; i++) {
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        if (i % 3 == 0) llm_release(r);
        if (i % 5 == 0) usleep(700);
        if (i % 4 == 0) llm_next(c, &ev);
    }
    llm_client_close(c);
    assert_int_equal(stats_at_rest(e).n_blocks_used, 0);
    llm_engine_close(e);
}

static void a_failing_model_ends_all(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct fake_model *fake;
    struct llm_engine *e = start(&config, &fake);
    fake->fail_after = 12;
    struct llm_client *c = connect_to(e);
    int32_t prompt[50];
    fill_prompt(prompt, 50, 1);
    struct llm_request_spec s = spec_of(prompt, 50, 100);
    struct llm_request *r[3];
    struct llm_event ev;
    for (int i = 0; i < 3; i++) assert_int_equal(llm_submit(c, &s, &r[i], NULL), LLM_OK);
    open_gate(fake);
    for (int i = 0; i < 3; i++) {
        next_event(c, &ev);
        assert_int_equal(ev.finish, LLM_FINISH_ERROR);
        assert_true(ev.request_done);
        assert_string_equal(ev.error->message, "the fake device broke");
        llm_release(ev.request);
    }
    struct llm_error err;
    assert_int_equal(llm_submit(c, &s, &r[0], &err), LLM_EFAILED);
    assert_string_equal(err.message, "the engine has failed: the fake device broke");
    assert_int_equal(llm_wait(c, 1000), LLM_EFAILED);
    llm_client_close(c);
    llm_engine_close(e);
}

static void a_full_queue_says_so(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    config.max_num_seqs = 1;
    config.max_num_queued_reqs = 4;
    struct fake_model *fake;
    struct llm_engine *e = start(&config, &fake);
    struct llm_client *c = connect_to(e);
    int32_t prompt[20];
    fill_prompt(prompt, 20, 1);
    struct llm_request_spec s = spec_of(prompt, 20, 50);
    struct llm_request *r;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    await_step(fake, 1); /* it runs: the queue is empty */
    int accepted = 1;
    for (int i = 0; i < 6; i++) {
        struct llm_error err;
        llm_status status = llm_submit(c, &s, &r, &err);
        assert_int_equal(status, i < 4 ? LLM_OK : LLM_EFULL);
        if (status == LLM_OK)
            accepted++;
        else
            assert_non_null(strstr(err.message, "max_num_queued_reqs"));
    }
    open_gate(fake);
    while (accepted) {
        struct llm_event ev;
        next_event(c, &ev);
        if (!ev.request_done) continue;
        accepted--;
        llm_release(ev.request);
    }
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK); /* there is room again */
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- time and memory ----------------------------------------------------------------------------------- */

/* From the second step of the last sequence on, nothing is allocated: not by steps, not by taking events. */
static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct engine_config config = config_of(400);
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    int32_t prompt[60];
    int left = 16;
    for (uint32_t i = 0; i < 16; i++) {
        fill_prompt(prompt, 60, i);
        struct llm_request_spec s = spec_of(prompt, 60, 300);
        s.stream = 1;
        s.sampling.temperature = 1;
        s.sampling.top_k = 20;
        s.sampling.top_p = 0.9f;
        s.sampling.presence_penalty = 0.5f;
        s.sampling.logprobs = 2;
        s.sampling.n = 2;
        struct llm_request *r;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    }
    uint64_t before = mem_count();
    int64_t n_tokens = 0;
    while (left) {
        struct llm_event ev;
        next_event(c, &ev);
        n_tokens += (int64_t)ev.n_tokens;
        left -= ev.request_done;
    }
    assert_int_equal(n_tokens, 16 * 2 * 300);
    assert_int_equal(mem_count() - before, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

/* 1 if all threads of this process but the calling one are blocked. */
static int others_sleep(void)
{
    DIR *dir = opendir("/proc/self/task");
    int asleep = 1;
    for (struct dirent *d; (d = readdir(dir));) {
        char path[300], state = 'S';
        if (d->d_name[0] == '.' || atoi(d->d_name) == (int)syscall(SYS_gettid)) continue;
        snprintf(path, sizeof path, "/proc/self/task/%s/stat", d->d_name);
        FILE *f = fopen(path, "r");
        if (f && fscanf(f, "%*d (%*[^)]) %c", &state) == 1) asleep &= state == 'S';
        if (f) fclose(f);
    }
    closedir(dir);
    return asleep;
}

static void an_idle_engine_sleeps(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    int32_t prompt[20];
    fill_prompt(prompt, 20, 1);
    struct llm_request_spec s = spec_of(prompt, 20, 5);
    struct llm_request *r;
    struct llm_event ev;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    next_event(c, &ev);
    llm_release(r);
    while (!others_sleep()) usleep(1000); /* it comes to rest … */
    for (int i = 0; i < 50; i++) {
        usleep(1000);
        assert_true(others_sleep()); /* … and stays there */
    }
    assert_int_equal(llm_next(c, &ev), LLM_EAGAIN);
    assert_int_equal(llm_wait(c, 10), LLM_EAGAIN);
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- threads ------------------------------------------------------------------------------------------- */

struct visitor {
    struct llm_engine *engine;
    uint32_t seed;
    int wrong;
};

/* Submits, streams, cancels and releases at its own pace; its tokens must be right. */
static void *visit(void *arg)
{
    struct visitor *v = arg;
    struct llm_client *c;
    if (llm_client_open(v->engine, &c, NULL)) return v->wrong++, NULL;
    for (uint32_t i = 0; i < 40; i++) {
        int32_t prompt[64], want[48];
        int32_t n = 8 + (int32_t)((v->seed * 31 + i * 7) % 56), n_got = 0;
        fill_prompt(prompt, n, v->seed * 100 + i % 5);
        expect_greedy(prompt, n, 48, want);
        struct llm_request_spec s = spec_of(prompt, (size_t)n, 48);
        s.stream = i % 3 > 0;
        struct llm_request *r, *dropped;
        v->wrong += llm_submit(c, &s, &r, NULL) != LLM_OK;
        v->wrong += llm_submit(c, &s, &dropped, NULL) != LLM_OK;
        llm_release(dropped);
        for (;;) {
            struct llm_event ev;
            if (llm_next(c, &ev)) {
                llm_wait(c, -1);
                continue;
            }
            v->wrong += ev.request != r || memcmp(ev.tokens, want + n_got, sizeof *want * ev.n_tokens) != 0;
            n_got += (int32_t)ev.n_tokens;
            if (i % 8 == 7 && n_got > 5) llm_cancel(r);
            if (ev.request_done) break;
        }
        v->wrong += i % 8 != 7 && n_got != 48;
        llm_release(r);
    }
    llm_client_close(c);
    return NULL;
}

static void many_threads_at_once(void **state)
{
    (void)state;
    enum { N = 6 };
    struct engine_config config = config_of(64);
    struct llm_engine *e = start(&config, NULL);
    struct visitor visitors[N];
    pthread_t threads[N];
    for (uint32_t i = 0; i < N; i++) {
        visitors[i] = (struct visitor){.engine = e, .seed = i + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, visit, &visitors[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(visitors[i].wrong, 0);
        llm_engine_reset_prefix_cache(e);
    }
    assert_int_equal(stats_at_rest(e).n_blocks_used, 0);
    llm_engine_close(e);
}

/* ---- order --------------------------------------------------------------------------------------------- */

static void priority_goes_first(void **state)
{
    (void)state;
    for (int priority = 0; priority < 2; priority++) {
        struct engine_config config = config_of(64);
        config.max_num_seqs = 1;
        config.priority = priority;
        struct fake_model *fake;
        struct llm_engine *e = start(&config, &fake);
        struct llm_client *c = connect_to(e);
        int32_t prompt[20];
        fill_prompt(prompt, 20, 1);
        const int32_t priorities[] = {0, 5, 3, 0, -1};
        for (size_t i = 0; i < 5; i++) {
            struct llm_request_spec s = spec_of(prompt, 20, 10);
            s.priority = priorities[i];
            s.user = (void *)(uintptr_t)(i + 1);
            struct llm_request *r;
            assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
            await_step(fake, 1);
        }
        open_gate(fake);
        int order[5];
        for (int i = 0; i < 5; i++) {
            struct llm_event ev;
            next_event(c, &ev);
            order[i] = (int)(uintptr_t)ev.user - 1;
        }
        /* by priority, the last sets the first back, which has run already */
        const int fcfs[] = {0, 1, 2, 3, 4}, by_priority[] = {4, 0, 3, 2, 1};
        assert_memory_equal(order, priority ? by_priority : fcfs, sizeof order);
        llm_client_close(c);
        llm_engine_close(e);
    }
}

static uint64_t count_of(struct llm_engine *e, enum llm_distribution which, double *sum)
{
    struct llm_histogram h;
    llm_engine_histogram(e, which, &h);
    uint64_t n = 0;
    for (int32_t i = 0; i <= h.n_bounds; i++) n += h.counts[i];
    *sum = h.sum;
    return n;
}

static void distributions_count_steps_and_gaps(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    int32_t prompt[20];
    fill_prompt(prompt, 20, 1);
    for (int stream = 0; stream < 2; stream++) {
        struct llm_request_spec s = spec_of(prompt, 20, 6);
        s.stream = stream;
        struct llm_request *r;
        struct llm_event ev = {0};
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        while (!ev.request_done) next_event(c, &ev);
        llm_release(r);
    }
    struct llm_stats stats = stats_at_rest(e);
    double sum;
    assert_int_equal(count_of(e, LLM_TOKEN_GAP, &sum), 2 * 5); /* streamed or not */
    assert_true(sum > 0);
    assert_int_equal(count_of(e, LLM_STEP_TOKENS, &sum), stats.n_steps);
    assert_int_equal(sum, stats.n_prompt_tokens + 2 * 5);
    assert_int_equal(count_of(e, LLM_PAGE_REUSE, &sum), 1); /* the second prompt's full page */
    llm_client_close(c);
    llm_engine_close(e);
}

/* The map once a picture has been drawn that suits; it is drawn before a step, so it may take two looks. */
static void await_map(struct llm_engine *e, uint8_t *map, int32_t n, uint8_t what, int32_t count)
{
    for (int i = 0; i < 10000; i++) {
        int32_t found = 0;
        assert_int_equal(llm_engine_page_map(e, map, n), n);
        for (int32_t p = 0; p < n; p++) found += map[p] == what;
        if (found == count) return;
        usleep(1000);
    }
    fail_msg("no picture with %d pages of %d", count, what);
}

static void the_page_map_tells_whose_pages(void **state)
{
    (void)state;
    enum { N = 64 };
    struct engine_config config = config_of(N);
    struct fake_model *fake;
    struct llm_engine *e = start(&config, &fake);
    struct llm_client *c = connect_to(e);
    uint8_t map[N];
    await_map(e, map, N, LLM_PAGE_FREE, N); /* an engine that sleeps draws too */
    int32_t prompt[40];
    struct llm_request *r[2];
    for (uint32_t i = 0; i < 2; i++) {
        fill_prompt(prompt, 40, i);
        struct llm_request_spec s = spec_of(prompt, 40, 400);
        s.stream = 1;
        assert_int_equal(llm_submit(c, &s, &r[i], NULL), LLM_OK);
        let_go(fake, 1);
        await_step(fake, (int32_t)i + 1);
    }
    let_go(fake, 1);
    await_step(fake, 4); /* three were let go: it is held in the fourth */
    llm_engine_page_map(e, map, N);
    let_go(fake, 1);
    await_step(fake, 5); /* drawn before this one */
    assert_int_equal(llm_engine_page_map(e, map, N), N);
    int32_t of[256] = {0};
    for (int32_t p = 0; p < N; p++) of[map[p]]++;
    assert_int_equal(of[LLM_PAGE_FREE], N - 6);
    int32_t owners = 0;
    for (int32_t owner = LLM_PAGE_OWNED; owner < 256; owner++) {
        if (!of[owner]) continue;
        owners++;
        assert_int_equal(of[owner], 3); /* 40 tokens and some in pages of 16 */
    }
    assert_int_equal(owners, 2);
    uint8_t few[4] = {9, 9, 9, 9};
    assert_int_equal(llm_engine_page_map(e, few, 3), N);
    assert_int_equal(few[3], 9);
    open_gate(fake);
    for (int i = 0; i < 2; i++) llm_release(r[i]);
    assert_int_equal(stats_at_rest(e).n_blocks_used, 0);
    await_map(e, map, N, LLM_PAGE_OWNED, 0);
    int32_t cached = 0;
    for (int i = 0; i < 10000 && cached < 4; i++, usleep(1000)) {
        llm_engine_page_map(e, map, N);
        cached = 0;
        for (int32_t p = 0; p < N; p++) cached += map[p] == LLM_PAGE_CACHED;
    }
    assert_true(cached >= 4); /* the full blocks of both prompts */
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_tokens_are_those_of_the_model),
        cmocka_unit_test(many_requests_in_little_memory),
        cmocka_unit_test(same_request_same_tokens),
        cmocka_unit_test(forks_share_a_prompt),
        cmocka_unit_test(ends_by_token),
        cmocka_unit_test(ends_at_max_model_len),
        cmocka_unit_test(logprobs_of_prompt_and_output),
        cmocka_unit_test(cancel_frees_pages_at_once),
        cmocka_unit_test(a_failing_model_ends_all),
        cmocka_unit_test(a_full_queue_says_so),
        cmocka_unit_test(steady_state_allocates_nothing),
        cmocka_unit_test(an_idle_engine_sleeps),
        cmocka_unit_test(many_threads_at_once),
        cmocka_unit_test(priority_goes_first),
        cmocka_unit_test(distributions_count_steps_and_gaps),
        cmocka_unit_test(the_page_map_tells_whose_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
