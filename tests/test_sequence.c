#define _GNU_SOURCE
/* Sequences over a fake model (fake_model.h): whatever is appended, generated, forked, rewound, scored and
 * given up, in whatever memory, the tokens and scores are those of the same text computed from nothing. */

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/handle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_events.h"
#include "fake_model.inc.c"

enum { VOCAB = 97, PAGE = 16, MAX_LEN = 256, MAX_TEXTS = 24 };

static uint64_t random_state = 1;

static int32_t chance(int32_t n)
{
    random_state += 0x9E3779B97F4A7C15u;
    return (int32_t)(fake_mix(random_state) >> 33) % n;
}

static struct engine_config config_of(int32_t n_pages)
{
    return (struct engine_config){.max_model_len = MAX_LEN,
                                  .max_num_seqs = 8,
                                  .max_num_batched_tokens = 64,
                                  .block_size = PAGE,
                                  .n_pages = n_pages,
                                  .prefix_caching = 1,
                                  .chunked_prefill = 1,
                                  .max_logprobs = 2};
}

static struct llm_engine *start(const struct engine_config *c, struct fake_model **fake)
{
    struct fake_model *m = fake_model_new(VOCAB, c->block_size, c->n_pages, c->max_num_batched_tokens);
    if (fake) *fake = m;
    return start_over(c, m);
}

static struct llm_request_spec spec_on(struct llm_sequence *s, int32_t max_tokens)
{
    struct llm_request_spec spec;
    llm_request_spec_init(&spec);
    spec.sequence = s;
    spec.sampling.temperature = 0;
    spec.sampling.max_tokens = max_tokens;
    return spec;
}

/* ---- a client that remembers --------------------------------------------------------------------------- */

struct text {
    struct llm_sequence *s; /* null: this place is free */
    struct llm_request *r;  /* under way; null: none */
    int32_t tokens[MAX_LEN], n;
    int32_t want[MAX_LEN], n_want, n_got; /* of the request's output */
    int32_t n_before, score_start;
    int discard, patience; /* patience: events before it is given up; -1: to the end */
};

static struct text texts[MAX_TEXTS];
static struct sampler reference;
static int64_t n_checked_tokens, n_checked_scores, n_given_up;

static int32_t best_after(const int32_t *tokens, int32_t n)
{
    float row[VOCAB];
    fake_logits(tokens, n, VOCAB, row);
    int32_t best = 0;
    for (int32_t t = 1; t < VOCAB; t++)
        if (row[t] > row[best]) best = t;
    return best;
}

static void check_row(const int32_t *tokens, int32_t n, int32_t token, const struct llm_logprob *got)
{
    float logits[VOCAB];
    struct llm_logprob want[2];
    fake_logits(tokens, n, VOCAB, logits);
    sampler_logprobs(&reference, logits, token, 1, want);
    for (int32_t k = 0; k < 2; k++) {
        assert_int_equal(got[k].token, want[k].token);
        assert_int_equal(got[k].rank, want[k].rank);
        assert_true(got[k].logprob == want[k].logprob);
    }
    n_checked_scores++;
}

static void check_tokens(const struct text *t)
{
    size_t n;
    const int32_t *ids = llm_sequence_tokens(t->s, &n);
    assert_int_equal(n, t->n);
    assert_memory_equal(ids, t->tokens, sizeof *ids * n);
}

static struct text *free_place(void)
{
    for (int32_t i = 0; i < MAX_TEXTS; i++)
        if (!texts[i].s) return &texts[i];
    return NULL;
}

/* A request with some tokens to follow the text, and any of: output, scores, being discarded. */
static void ask(struct llm_client *c, struct text *t)
{
    int32_t tail[40], n_tail = (t->n == 0) + chance(chance(3) ? 4 : 39);
    int32_t n_output = chance(3) ? chance(chance(4) ? 20 : 120) : 0;
    if (t->n + n_tail + n_output >= MAX_LEN) return;
    for (int32_t i = 0; i < n_tail; i++) tail[i] = chance(VOCAB);
    struct llm_request_spec spec = spec_on(t->s, n_output);
    spec.prompt_ids = tail;
    spec.n_prompt_ids = (size_t)n_tail;
    spec.stream = chance(2);
    spec.user = t;
    spec.discard = t->discard = chance(4) == 0;
    t->score_start = -1;
    if (chance(3) == 0) {
        spec.prompt_logprobs_start = t->score_start = chance(4) ? t->n : chance(t->n + n_tail + 1);
        spec.sampling.prompt_logprobs = 1;
    }
    t->n_before = t->n;
    t->patience = chance(3) ? -1 : chance(4);
    struct llm_error err;
    assert_int_equal(llm_submit(c, &spec, &t->r, &err), LLM_OK);
    for (int32_t i = 0; i < n_tail; i++) t->tokens[t->n++] = tail[i];
    t->n_want = n_output;
    t->n_got = 0;
    for (int32_t i = 0; i < n_output; i++) {
        int32_t token = best_after(t->tokens, t->n + i);
        t->want[i] = t->tokens[t->n + i] = token;
    }
}

static void act(struct llm_client *c)
{
    struct text *t = &texts[chance(MAX_TEXTS)], *child;
    if (!t->s) {
        assert_int_equal(llm_sequence_open(c, &t->s, NULL), LLM_OK);
        t->n = 0;
        return;
    }
    int32_t what = chance(16);
    if (t->r) {
        if (what > 0) return;
        llm_sequence_close(t->s); /* in the middle of it */
        t->s = NULL;
        llm_release(t->r);
        t->r = NULL;
        n_given_up++;
    } else if (what < 8) {
        ask(c, t);
    } else if (what < 10 && t->n < MAX_LEN - 8) {
        for (int32_t i = 0; i < 5; i++) t->tokens[t->n + i] = chance(VOCAB);
        assert_int_equal(llm_sequence_append(t->s, t->tokens + t->n, 5, NULL), LLM_OK);
        t->n += 5;
    } else if (what < 13 && (child = free_place())) {
        *child = *t;
        assert_int_equal(llm_sequence_fork(t->s, &child->s, NULL), LLM_OK);
        check_tokens(child);
    } else if (what < 15) {
        t->n = chance(t->n + 1);
        assert_int_equal(llm_sequence_rewind(t->s, (size_t)t->n, NULL), LLM_OK);
    } else {
        llm_sequence_close(t->s);
        t->s = NULL;
    }
    if (t->s && !t->r) check_tokens(t);
}

static void check_scores(const struct text *t)
{
    struct llm_request_info info;
    llm_request_info(t->r, &info);
    if (t->score_start < 0) return;
    assert_int_equal(info.n_prompt_logprob_rows, info.n_prompt_tokens - (size_t)t->score_start);
    for (int32_t p = t->score_start; p < (int32_t)info.n_prompt_tokens; p++) {
        const struct llm_logprob *row = info.prompt_logprobs + (p - t->score_start) * 2;
        if (p == 0)
            assert_int_equal(row[0].token, -1);
        else
            check_row(info.prompt_tokens, p, info.prompt_tokens[p], row);
    }
}

static void take(const struct llm_event *ev)
{
    struct text *t = ev->user;
    assert_ptr_equal(ev->request, t->r);
    assert_true(t->n_got + (int32_t)ev->n_tokens <= t->n_want);
    assert_memory_equal(ev->tokens, t->want + t->n_got, sizeof *ev->tokens * ev->n_tokens);
    t->n_got += (int32_t)ev->n_tokens;
    n_checked_tokens += (int64_t)ev->n_tokens;
    int over = ev->request_done, give_up = t->patience-- == 0;
    if (!over && !give_up) return;
    if (over) {
        assert_int_equal(ev->finish, LLM_FINISH_LENGTH);
        assert_int_equal(t->n_got, t->n_want);
        check_scores(t);
    }
    n_given_up += !over;
    llm_release(t->r);
    t->r = NULL;
    t->n = t->discard ? t->n_before : t->n + t->n_got;
    check_tokens(t);
}

static void take_events(struct llm_client *c, int wait)
{
    struct llm_event ev;
    if (wait) llm_wait(c, 1000);
    while (llm_next(c, &ev) == LLM_OK) take(&ev);
}

static int under_way(void)
{
    for (int32_t i = 0; i < MAX_TEXTS; i++)
        if (texts[i].s && texts[i].r) return 1;
    return 0;
}

/* An engine's books when all is done: nothing may be left. */
static void expect_nothing_left(struct llm_engine *e)
{
    assert_int_equal(e->kv.n_used, 0);
    assert_null(e->scheduler.idle.oldest);
    assert_true(kv_check(&e->kv));
}

static void any_order_of_anything(void **state)
{
    (void)state;
    assert_int_equal(sampler_init(&reference, VOCAB, NULL), LLM_OK);
    /* from memory that is always short to more than enough */
    static const int32_t pages[] = {MAX_LEN / PAGE, MAX_LEN / PAGE * 2, MAX_LEN / PAGE * 5, 600};
    for (int32_t w = 0; w < 4; w++) {
        struct engine_config config = config_of(pages[w]);
        config.prefix_caching = w != 1;
        struct llm_engine *e = start(&config, NULL);
        struct llm_client *c = connect_to(e);
        struct llm_stats stats = {0};
        int64_t steps = 0;
        while (n_checked_tokens < 20000 * (w + 1) || n_checked_scores < 8000 * (w + 1) ||
               n_given_up < 100 * (w + 1) || (w == 0 && stats.n_preemptions == 0)) {
            act(c);
            take_events(c, ++steps % 8 == 0 && under_way());
            llm_engine_stats(e, &stats);
        }
        while (under_way()) take_events(c, 1);
        if (w % 2) /* sequences are closed with their client too */
            for (int32_t i = 0; i < MAX_TEXTS; i++) llm_sequence_close(texts[i].s);
        llm_client_close(c);
        memset(texts, 0, sizeof texts);
        expect_nothing_left(e);
        llm_engine_close(e);
    }
    print_message("%lld tokens, %lld scores, %lld requests given up\n", (long long)n_checked_tokens,
                  (long long)n_checked_scores, (long long)n_given_up);
    sampler_deinit(&reference);
}

/* ---- what is shared, computed, copied ------------------------------------------------------------------ */

/* Runs a request on s to its end. */
static void run_on(struct llm_client *c, struct llm_sequence *s, int32_t max_tokens)
{
    struct llm_request_spec spec = spec_on(s, max_tokens);
    struct llm_request *r;
    struct llm_event ev = {0};
    assert_int_equal(llm_submit(c, &spec, &r, NULL), LLM_OK);
    while (!ev.request_done)
        if (llm_next(c, &ev)) llm_wait(c, -1);
    llm_release(r);
}

static struct llm_sequence *open_with(struct llm_client *c, int32_t n)
{
    struct llm_sequence *s = NULL;
    int32_t ids[MAX_LEN];
    for (int32_t i = 0; i < n; i++) ids[i] = chance(VOCAB);
    assert_int_equal(llm_sequence_open(c, &s, NULL), LLM_OK);
    assert_int_equal(llm_sequence_append(s, ids, (size_t)n, NULL), LLM_OK);
    return s;
}

/* 32 forks of a computed text take no page; each takes one when it writes its first token. Nothing of the
 * text is computed twice. */
static void forks_share_pages(void **state)
{
    (void)state;
    enum { N = 100, FORKS = 32 };
    struct engine_config config = config_of(400);
    config.prefix_caching = 0; /* nothing but the forks themselves can save work */
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e), *other = connect_to(e);
    struct llm_sequence *s = open_with(c, N), *forks[FORKS];
    run_on(c, s, 0);
    struct llm_stats before, after;
    llm_engine_stats(e, &before);
    assert_int_equal(before.n_blocks_used, (N - 1 + PAGE - 1) / PAGE);
    for (int32_t i = 0; i < FORKS; i++) assert_int_equal(llm_sequence_fork(s, &forks[i], NULL), LLM_OK);
    llm_client_close(other); /* waits until the engine has taken all letters before it */
    assert_int_equal(e->kv.n_used, before.n_blocks_used);
    for (int32_t i = 0; i < FORKS; i++) run_on(c, forks[i], 3);
    llm_engine_stats(e, &after);
    assert_int_equal(after.n_blocks_used, before.n_blocks_used + FORKS);
    assert_int_equal(after.n_prompt_tokens - before.n_prompt_tokens, FORKS); /* the last one, of each */
    llm_client_close(c);
    expect_nothing_left(e);
    llm_engine_close(e);
}

/* A step of a request on a sequence computes what is new, and nothing else. */
static void only_what_is_new_is_computed(void **state)
{
    (void)state;
    struct engine_config config = config_of(100);
    config.prefix_caching = 0;
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    struct llm_sequence *s = open_with(c, 90);
    struct llm_stats stats;
    run_on(c, s, 10);
    llm_engine_stats(e, &stats);
    uint64_t before = stats.n_prompt_tokens;
    assert_int_equal(before, 90);
    int32_t more[7] = {1, 2, 3, 4, 5, 6, 7};
    assert_int_equal(llm_sequence_append(s, more, 7, NULL), LLM_OK);
    run_on(c, s, 4);
    llm_engine_stats(e, &stats);
    assert_int_equal(stats.n_prompt_tokens - before, 8); /* seven, and the last one generated before */
    assert_int_equal(llm_sequence_rewind(s, 50, NULL), LLM_OK);
    run_on(c, s, 1);
    llm_engine_stats(e, &stats);
    assert_int_equal(stats.n_prompt_tokens - before, 9);
    llm_client_close(c);
    expect_nothing_left(e);
    llm_engine_close(e);
}

/* Idle sequences give way to requests, and get their answers all the same. */
static void idle_pages_are_given_back(void **state)
{
    (void)state;
    struct engine_config config = config_of(MAX_LEN / PAGE + 2);
    struct llm_engine *e = start(&config, NULL);
    struct llm_client *c = connect_to(e);
    struct llm_sequence *s[4];
    for (int32_t i = 0; i < 4; i++) {
        s[i] = open_with(c, 120);
        run_on(c, s[i], 20);
    }
    struct llm_stats stats;
    llm_engine_stats(e, &stats);
    assert_true(stats.n_blocks_used <= config.n_pages);
    assert_int_equal(stats.n_preemptions, 0);
    for (int32_t i = 0; i < 4; i++) {
        size_t n;
        int32_t want[8], ids[MAX_LEN];
        memcpy(ids, llm_sequence_tokens(s[i], &n), sizeof *ids * 140);
        for (int32_t k = 0; k < 8; k++) ids[140 + k] = want[k] = best_after(ids, 140 + k);
        run_on(c, s[i], 8);
        assert_memory_equal(llm_sequence_tokens(s[i], &n) + 140, want, sizeof want);
    }
    llm_client_close(c);
    expect_nothing_left(e);
    llm_engine_close(e);
}

/* ---- what is refused ----------------------------------------------------------------------------------- */

static void refusals(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct fake_model *m;
    struct llm_engine *e = start(&config, &m);
    struct llm_client *c = connect_to(e), *other = connect_to(e);
    struct llm_sequence *s = open_with(c, 10), *fork;
    struct llm_request *r, *second;
    struct llm_error err;
    int32_t ids[MAX_LEN] = {0};

    struct llm_request_spec spec = spec_on(s, 5);
    assert_int_equal(llm_submit(other, &spec, &r, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "another client's"));
    spec.sampling.n = 2;
    spec.sampling.temperature = 1;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "fork"));
    spec = spec_on(s, -2);
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "max_tokens"));
    spec = spec_on(s, 1);
    spec.prompt_logprobs_start = 11;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "prompt_logprobs_start"));
    spec = spec_on(NULL, 0);
    spec.prompt_ids = ids;
    spec.n_prompt_ids = 3;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EINVAL); /* 0 is for sequences */
    assert_int_equal(llm_sequence_append(s, ids, MAX_LEN - 10, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "max_model_len"));
    ids[1] = VOCAB;
    assert_int_equal(llm_sequence_append(s, ids, 2, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "token 1 is 97"));
    assert_int_equal(llm_sequence_rewind(s, 11, &err), LLM_EINVAL);
    struct llm_sequence *empty;
    assert_int_equal(llm_sequence_open(c, &empty, &err), LLM_OK);
    spec = spec_on(empty, 1);
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "empty"));

    m->gated = 1;
    spec = spec_on(s, 5);
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_OK);
    assert_int_equal(llm_submit(c, &spec, &second, &err), LLM_EINVAL);
    assert_int_equal(llm_sequence_fork(s, &fork, &err), LLM_EINVAL);
    assert_int_equal(llm_sequence_rewind(s, 0, &err), LLM_EINVAL);
    assert_int_equal(llm_sequence_append(s, ids, 1, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "a request runs on this sequence"));
    m->gated = 0;
    sem_post(&m->gate);
    llm_release(r);
    assert_int_equal(llm_sequence_rewind(s, 0, &err), LLM_OK);

    for (uint64_t n = 1; n <= 3; n++) {
        mem_fail_at(n);
        assert_int_equal(llm_sequence_fork(s, &fork, &err), LLM_ENOMEM);
        mem_fail_at(0);
    }
    llm_client_close(other);
    llm_client_close(c);
    expect_nothing_left(e);
    llm_engine_close(e);
}

/* An engine that fails takes no sequence with it: closing works, requests say why. */
static void the_engine_fails(void **state)
{
    (void)state;
    struct engine_config config = config_of(64);
    struct fake_model *m;
    struct llm_engine *e = start(&config, &m);
    struct llm_client *c = connect_to(e);
    struct llm_sequence *s = open_with(c, 30), *fork;
    run_on(c, s, 5);
    m->fail_after = m->n_forward;
    struct llm_request_spec spec = spec_on(s, 5);
    struct llm_request *r;
    struct llm_event ev = {0};
    assert_int_equal(llm_submit(c, &spec, &r, NULL), LLM_OK);
    while (llm_next(c, &ev)) llm_wait(c, -1);
    assert_int_equal(ev.finish, LLM_FINISH_ERROR);
    llm_release(r);
    assert_int_equal(llm_sequence_fork(s, &fork, NULL), LLM_OK);
    struct llm_error err;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_EFAILED);
    llm_client_close(c);
    expect_nothing_left(e);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(any_order_of_anything),
                                       cmocka_unit_test(forks_share_pages),
                                       cmocka_unit_test(only_what_is_new_is_computed),
                                       cmocka_unit_test(idle_pages_are_given_back),
                                       cmocka_unit_test(refusals),
                                       cmocka_unit_test(the_engine_fails)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
