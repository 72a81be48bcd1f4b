#define _GNU_SOURCE
/* Schedulers (llm_scheduler_set), tenants and timeouts, over a fake model (fake_model.h). */

#include "base/mem.h"
#include "engine/engine.h"

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

enum { VOCAB = 97, PAGE = 16, PROMPT = 40 };

static struct fake_model *fake;

static struct llm_engine *start(int32_t n_pages, int32_t max_num_seqs, int gated)
{
    struct engine_config c = {.max_model_len = 256,
                              .max_num_seqs = max_num_seqs,
                              .max_num_batched_tokens = 128,
                              .block_size = PAGE,
                              .n_pages = n_pages,
                              .prefix_caching = 1,
                              .chunked_prefill = 1};
    fake = fake_model_new(VOCAB, PAGE, n_pages, 128);
    fake->gated = gated;
    return start_over(&c, fake);
}

static void open_gate(void)
{
    fake->gated = 0;
    sem_post(&fake->gate);
}

static struct llm_request *submit(struct llm_client *c, uint32_t seed, const char *tenant, float timeout,
                                  int32_t max_tokens)
{
    int32_t ids[PROMPT];
    for (int32_t i = 0; i < PROMPT; i++) ids[i] = (int32_t)(fake_mix(seed * 1000003u + (uint32_t)i) % VOCAB);
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = PROMPT;
    s.tenant = tenant;
    s.timeout = timeout;
    s.user = (void *)(uintptr_t)seed;
    s.sampling.temperature = 0;
    s.sampling.max_tokens = max_tokens;
    struct llm_request *r = NULL;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    return r;
}

static struct llm_event take_event(struct llm_client *c)
{
    struct llm_event ev;
    next_event(c, &ev);
    return ev;
}

static void expect_all_free(struct llm_engine *e)
{
    struct llm_stats s = stats_at_rest(e);
    assert_int_equal(s.n_running + s.n_waiting + s.n_blocks_used, 0);
}

/* ---- timeouts ------------------------------------------------------------------------------------------ */

static void a_timeout_ends_who_runs_and_who_waits(void **state)
{
    (void)state;
    struct llm_engine *e = start(64, 1, 1);
    struct llm_client *c = connect_to(e);
    submit(c, 1, NULL, 0.01, 200); /* runs */
    submit(c, 2, NULL, 0.01, 200); /* waits */
    submit(c, 3, NULL, 1000, 5);
    submit(c, 4, NULL, 0, 5);
    while (fake->n_forward < 1) usleep(100);
    usleep(20000); /* the deadline passes within the first step */
    open_gate();
    int seen[5] = {0};
    for (int i = 0; i < 4; i++) {
        struct llm_event ev = take_event(c);
        int which = (int)(uintptr_t)ev.user;
        seen[which]++;
        if (which > 2) {
            assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
            assert_int_equal(ev.n_tokens, 5);
            continue;
        }
        assert_int_equal(ev.finish, LLM_FINISH_ERROR);
        assert_int_equal(ev.error->status, LLM_ECANCELED);
        assert_int_equal(ev.refusal, 0);
        assert_true(ev.request_done);
        assert_int_equal(!!strstr(ev.error->message, "waiting for its turn"), which == 2);
    }
    for (int i = 1; i < 5; i++) assert_int_equal(seen[i], 1);
    expect_all_free(e);
    llm_client_close(c);
    llm_engine_close(e);
}

static void wrong_tenants_and_timeouts_are_refused(void **state)
{
    (void)state;
    struct llm_engine *e = start(64, 4, 0);
    struct llm_client *c = connect_to(e);
    int32_t id = 1;
    char name[LLM_TENANT_BYTES + 1] = "";
    memset(name, 'x', LLM_TENANT_BYTES);
    const struct {
        const char *tenant;
        float timeout;
    } wrong[] = {{name, 0}, {NULL, -1}, {NULL, 0.0 / 0.0}, {NULL, 1e12}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct llm_request_spec s;
        llm_request_spec_init(&s);
        s.prompt_ids = &id;
        s.n_prompt_ids = 1;
        s.tenant = wrong[i].tenant;
        s.timeout = wrong[i].timeout;
        struct llm_request *r = NULL;
        struct llm_error err;
        assert_int_equal(llm_submit(c, &s, &r, &err), LLM_EINVAL);
    }
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- schedulers ---------------------------------------------------------------------------------------- */

struct log {
    int n_arrived, n_ended, n_output, n_preempted, n_choices, n_closed, owned;
    llm_status answer;
};

static llm_status arrive(void *self, struct llm_arrival *a)
{
    struct log *log = self;
    log->n_arrived++;
    assert_int_equal(a->n_prompt, PROMPT);
    assert_int_equal(a->weight, 1);
    a->own = log;
    log->owned++;
    if (strcmp(a->tenant, "rude") == 0) {
        a->refusal = 429;
        strcpy(a->message, "too many of yours");
    }
    if (strcmp(a->tenant, "alone") == 0) a->isolate = 1;
    if (strcmp(a->tenant, "hasty") == 0) a->timeout = 1e-9;
    if (strcmp(a->tenant, "first") == 0) a->priority = -1;
    return log->answer;
}

static void ended(void *self, void *own, enum llm_finish_reason finish, int32_t n_output)
{
    struct log *log = self;
    assert_ptr_equal(own, log);
    assert_int_not_equal(finish, LLM_FINISH_NONE);
    log->owned--;
    log->n_ended++;
    log->n_output += n_output;
}

static int32_t preempt(void *self, const struct llm_victim *v, int32_t n)
{
    struct log *log = self;
    log->n_preempted++;
    log->n_choices += n > 1;
    for (int32_t i = 0; i < n; i++) assert_ptr_equal(v[i].own, log);
    return 0;
}

static void closed(void *self)
{
    struct log *log = self;
    assert_int_equal(log->owned, 0);
    log->n_closed++;
}

static void set(struct llm_engine *e, struct log *log)
{
    struct llm_scheduler s = {
        .self = log, .arrive = arrive, .ended = ended, .preempt = preempt, .close = closed};
    assert_int_equal(llm_scheduler_set(e, &s, NULL), LLM_OK);
}

static void a_scheduler_refuses_and_orders(void **state)
{
    (void)state;
    struct llm_engine *e = start(64, 1, 1);
    struct llm_client *c = connect_to(e);
    struct log first = {0}, second = {.answer = LLM_EFAILED};
    set(e, &first);
    const char *tenants[] = {NULL, "a", "rude", "first", "hasty"};
    submit(c, 1, tenants[0], 0, 5);
    while (fake->n_forward < 1) usleep(100);
    for (uint32_t i = 2; i <= 5; i++) submit(c, i, tenants[i - 1], 0, 5);
    open_gate();
    int order[5];
    for (int i = 0; i < 5; i++) {
        struct llm_event ev = take_event(c);
        order[i] = (int)(uintptr_t)ev.user;
        assert_int_equal(ev.refusal, order[i] == 3 ? 429 : 0);
        if (order[i] == 3) assert_string_equal(ev.error->message, "too many of yours");
        if (order[i] == 5) assert_int_equal(ev.error->status, LLM_ECANCELED);
        if (order[i] != 3 && order[i] != 5) assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
    }
    int at[6];
    for (int i = 0; i < 5; i++) at[order[i]] = i;
    assert_true(at[4] < at[2]); /* it came later, and went first */
    assert_int_equal(first.n_arrived, 5);
    expect_all_free(e);

    /* another one, whose failures change nothing; the first is closed by a later thread that sets one */
    set(e, &second);
    submit(c, 6, "rude", 0, 5);
    assert_int_equal(take_event(c).finish, LLM_FINISH_LENGTH);
    assert_int_equal(second.n_arrived, 1);
    second.owned = 0; /* it failed, so there is no end */
    assert_int_equal(second.n_ended, 0);
    assert_int_equal(llm_scheduler_set(e, NULL, NULL), LLM_OK);
    assert_int_equal(first.n_closed, 1);
    assert_int_equal(first.n_ended, 5);
    assert_int_equal(first.n_output, 15);
    submit(c, 7, "rude", 0, 5);
    assert_int_equal(take_event(c).finish, LLM_FINISH_LENGTH);
    assert_int_equal(second.n_arrived, 1);
    llm_client_close(c);
    llm_engine_close(e);
    assert_int_equal(second.n_closed, 1);
    assert_int_equal(first.n_closed, 1);
}

/* Requests keep the scheduler they came under; it is closed when the last of them has ended. */
static void requests_end_under_the_scheduler_they_came_under(void **state)
{
    (void)state;
    struct llm_engine *e = start(64, 8, 1);
    struct llm_client *c = connect_to(e);
    struct log logs[20] = {0};
    for (int i = 0; i < 20; i++) {
        set(e, &logs[i]);
        submit(c, (uint32_t)i + 1, "t", 0, 3 + i % 5);
        sem_post(&fake->gate);
    }
    open_gate();
    for (int i = 0; i < 20; i++) assert_int_equal(take_event(c).finish, LLM_FINISH_LENGTH);
    llm_client_close(c);
    llm_engine_close(e);
    int n = 0;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(logs[i].n_closed, 1);
        assert_int_equal(logs[i].n_ended, logs[i].n_arrived);
        n += logs[i].n_arrived;
    }
    assert_int_equal(n, 20);
}

static void a_scheduler_picks_who_is_preempted(void **state)
{
    (void)state;
    struct llm_engine *e = start(24, 16, 0); /* 16 requests want 160 pages */
    struct llm_client *c = connect_to(e);
    struct log log = {0};
    set(e, &log);
    for (uint32_t i = 1; i <= 16; i++) submit(c, i, "t", 0, 120);
    for (int i = 0; i < 16; i++) {
        struct llm_event ev = take_event(c);
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
        int32_t all[PROMPT + 120];
        uint32_t seed = (uint32_t)(uintptr_t)ev.user;
        for (int32_t k = 0; k < PROMPT; k++)
            all[k] = (int32_t)(fake_mix(seed * 1000003u + (uint32_t)k) % VOCAB);
        for (int32_t k = 0; k < 120; k++) {
            float row[VOCAB];
            fake_logits(all, PROMPT + k, VOCAB, row);
            int32_t best = 0;
            for (int32_t t = 1; t < VOCAB; t++)
                if (row[t] > row[best]) best = t;
            all[PROMPT + k] = best;
            assert_int_equal(ev.tokens[k], best);
        }
    }
    struct llm_stats s;
    llm_engine_stats(e, &s);
    assert_true(log.n_choices > 0);
    assert_int_equal(log.n_preempted, s.n_preemptions);
    expect_all_free(e);
    llm_client_close(c);
    llm_engine_close(e);
}

static void isolated_tenants_share_no_prefix(void **state)
{
    (void)state;
    struct llm_engine *e = start(64, 4, 0);
    struct llm_client *c = connect_to(e);
    struct log log = {0};
    set(e, &log);
    const struct {
        const char *tenant;
        size_t cached;
    } in_turn[] = {{"a", 0}, {"b", 32}, {"alone", 0}, {"alone", 32}, {"a", 32}};
    for (size_t i = 0; i < 5; i++) {
        struct llm_request *r = submit(c, 1, in_turn[i].tenant, 0, 2);
        take_event(c);
        struct llm_request_info info;
        llm_request_info(r, &info);
        assert_int_equal(info.n_cached_tokens, in_turn[i].cached);
        llm_release(r);
    }
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timeout_ends_who_runs_and_who_waits),
        cmocka_unit_test(wrong_tenants_and_timeouts_are_refused),
        cmocka_unit_test(a_scheduler_refuses_and_orders),
        cmocka_unit_test(requests_end_under_the_scheduler_they_came_under),
        cmocka_unit_test(a_scheduler_picks_who_is_preempted),
        cmocka_unit_test(isolated_tenants_share_no_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
