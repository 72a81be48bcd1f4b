/* All that a request can ask of sampling, on a device that samples (fake_device.h) and on the host: the same
 * tokens, log-probabilities and errors, whoever made them and however often that changed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "device_asks.inc.c"

#include "fake_tokenizer.h"

#include "rules.inc.c"

/* ---- the same from all --------------------------------------------------------------------------------- */

enum { N_ASKS = 400 };

/* Several kinds of requests come in turns, so that all that changes from step to step does. */
static void think_of_all(struct ask *asks)
{
    luck = 17;
    for (int32_t i = 0; i < N_ASKS; i++) {
        struct ask *a = &asks[i];
        think_of(a, i);
        int32_t kind = i / 40 % 5; /* plain, all of them, for the host too, policies, and so on */
        if (kind == 0) continue;
        for (int32_t k = below(3); k > 0 && kind != 3; k--)
            ask_for_more(a, below(kind == 2 ? ALL_MORE : DEVICE_MORE));
        if (kind >= 3 && chance(60)) choose_policies(a);
    }
}

static const struct regime regimes[] = {
    {"late", 2000, 512, 64, 1, 1, 0, 0, 0, 0},
    {"early", 2000, 512, 64, 1, 1, 0, 100, 0, 0},
    {"small chunks", 600, 9, 7, 1, 1, 0, 50, 0, 0},
    {"few seats", 600, 64, 32, 1, 1, 0, 50, 9, 0},
    {"one seat", 600, 64, 32, 1, 1, 0, 50, 1, 0},
    {"little memory", 24, 64, 24, 1, 1, 0, 30, 0, 0},
    {"little memory, no cache", 24, 512, 24, 0, 0, 0, 30, 0, 0},
    {"little memory, few seats", 24, 64, 16, 1, 1, 1, 50, 5, 0},
    {"no compiler", 400, 300, 24, 1, 1, 0, 70, 0, 1},
    {"no memory for arguments", 400, 300, 24, 1, 1, 0, 70, 0, 2},
    {"one at a time", 40, 256, 1, 1, 1, 0, 50, 0, 0},
};

static uint64_t calls_of(struct llm_engine *e, uint64_t *n_failures, int *n_on_host)
{
    struct llm_policy_info info[N_RULES];
    uint64_t n = 0;
    assert_int_equal(llm_policy_list(e, info, N_RULES), N_RULES);
    *n_failures = 0;
    *n_on_host = 0;
    for (int i = 0; i < N_RULES; i++) {
        n += info[i].n_calls * (uint64_t)(i + 1);
        *n_failures += info[i].n_failures * (uint64_t)(i + 1);
        assert_int_equal(info[i].n_users, 0);
        *n_on_host += info[i].on_host[0] != 0;
    }
    return n;
}

struct tally {
    uint64_t n_calls, n_failures;
};

static void repeat_under(const struct regime *g, const struct ask *want, struct tally calls, int cancels)
{
    static struct ask got[N_ASKS];
    memcpy(got, want, sizeof got);
    ask_again(got, N_ASKS);
    struct fake_device *d;
    struct llm_engine *e = open_device(g, &d);
    add_policies(e, VOCAB);
    open_gate(d);
    run_all(e, got, N_ASKS, 20 + below(60), cancels);
    for (int32_t i = 0; i < N_ASKS; i++) compare(&want[i], &got[i], cancels, g->name, i);
    struct llm_stats s = stats_at_rest(e);
    expect_rest(e);
    assert_int_equal(s.n_finished, N_ASKS);
    struct tally now;
    int n_on_host, n_graphs = 0;
    for (int i = 0; i < N_RULES; i++) n_graphs += rules[i].graph != NULL;
    now.n_calls = calls_of(e, &now.n_failures, &n_on_host);
    assert_int_equal(n_on_host, g->refuses_graphs == 1 ? n_graphs : 0);
    if (!cancels) {
        assert_int_equal(now.n_calls, calls.n_calls);
        assert_int_equal(now.n_failures, calls.n_failures);
    }
    assert_true(d->n_fills > 0 && d->n_scored > 0 && d->n_raw > 0);
    if (!cancels && g->n_seats != 1) assert_true(d->n_listed > 0);
    print_message("%s: %llu steps, %d fills, %d times recovered, %d rows fetched, %d scored, %d the host's\n",
                  g->name, (unsigned long long)s.n_steps, d->n_fills, d->n_recovered, d->n_fetches,
                  d->n_scored, d->n_raw);
    llm_engine_close(e);
}

static void all_that_can_be_asked(void **state)
{
    (void)state;
    static struct ask want[N_ASKS];
    think_of_all(want);
    struct llm_engine *host = open_host();
    add_policies(host, VOCAB);
    run_all(host, want, N_ASKS, 32, 0);
    expect_rest(host);
    struct tally calls;
    int n_on_host;
    calls.n_calls = calls_of(host, &calls.n_failures, &n_on_host);
    assert_int_equal(n_on_host, 0);
    assert_true(calls.n_failures > 0);
    llm_engine_close(host);
    for (size_t g = 0; g < sizeof regimes / sizeof *regimes; g++)
        for (int cancels = 0; cancels < 2; cancels++) repeat_under(&regimes[g], want, calls, cancels);
}

/* ---- failing ------------------------------------------------------------------------------------------- */

/* The device breaks in its k-th call, for all small k and both calls, with hooks in every step. */
static void a_broken_device_ends_all(void **state)
{
    (void)state;
    static struct ask asks[6];
    const struct regime steady = {"steady", 400, 128, 64, 1, 1, 0, 50, 0, 0};
    for (int32_t k = 0; k < 40; k++) {
        const char *want = k % 2 ? "the fake device broke in launch" : "the fake device broke in collect";
        struct fake_device *d;
        struct llm_engine *e = open_device(&steady, &d);
        add_policies(e, VOCAB);
        *(k % 2 ? &d->fail_launch_after : &d->fail_collect_after) = k / 2;
        struct llm_client *c = connect_to(e);
        int32_t left = 0;
        for (int32_t i = 0; i < 6; i++) {
            struct ask *a = &asks[i];
            think_of(a, i);
            a->chain[0].name = rules[i].name;
            a->spec.policies = a->chain;
            a->spec.n_policies = 1;
            a->spec.sampling.max_tokens = 80;
            a->spec.sampling.min_tokens = 80;
            if (llm_submit(c, &a->spec, &a->request, NULL) == LLM_OK) left++; /* else it broke already */
        }
        assert_true(left > 0);
        open_gate(d);
        expect_failures(c, left, want);
        expect_rest(e);
        llm_client_close(c);
        llm_engine_close(e);
    }
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* Each allocation of opening fails in its turn: nothing is left, and it says so. */
static void opening_without_memory(void **state)
{
    (void)state;
    const struct regime g = {"steady", 100, 64, 8, 1, 1, 0, 50, 0, 0};
    llm_status status = LLM_ENOMEM;
    uint64_t n = 0;
    while (status) {
        struct engine_config c = config_of(&g);
        struct fake_model *m = fake_model_new(VOCAB, PAGE, c.n_pages, c.max_num_batched_tokens);
        struct engine_model table = fake_device_table(fake_device_new(m, c.max_num_seqs, 50, 1));
        struct llm_engine *e;
        struct llm_error err;
        mem_fail_at(++n);
        status = engine_start(&c, &table, &e, &err);
        mem_fail_at(0);
        if (!status) llm_engine_close(e);
        if (status) assert_int_equal(status, LLM_ENOMEM);
    }
    assert_true(n > 20);
}

/* From everybody's second token on: all have their seats. */
static void steps_allocate_nothing(void **state)
{
    (void)state;
    enum { N = 40 };
    static struct ask asks[N];
    const struct regime steady = {"steady", 1000, 512, 64, 1, 1, 0, 50, 0, 0};
    struct fake_device *d;
    struct llm_engine *e = open_device(&steady, &d);
    struct llm_client *c = connect_to(e);
    add_policies(e, VOCAB);
    luck = 3;
    for (int32_t i = 0; i < N; i++) {
        struct ask *a = &asks[i];
        think_of(a, i);
        for (int32_t k = below(3); k > 0; k--) ask_for_more(a, i % 2 + below(3)); /* none for the host */
        while (i % 2 && (a->may_fail || !a->spec.n_policies)) {
            a->may_fail = 0;
            choose_policies(a);
        }
        a->spec.user = a;
        a->spec.stream = 1;
        a->spec.sampling.detokenize = 0;
        a->spec.sampling.ignore_eos = 1;
        a->spec.sampling.n_stop_token_ids = 0;
        a->spec.sampling.n = 1;
        a->spec.sampling.min_tokens = 0;
        a->spec.sampling.max_tokens = MAX_OUTPUT;
        assert_int_equal(llm_submit(c, &a->spec, &a->request, NULL), LLM_OK);
    }
    open_gate(d);
    uint64_t before = 0;
    for (int32_t left = N, young = N; left;) {
        struct llm_event ev;
        next_event(c, &ev);
        struct ask *a = ev.user;
        int was_young = a->n_got[0] < 2;
        take(a, &ev);
        young -= was_young && a->n_got[0] >= 2;
        if (!young && !before) before = mem_count();
        left -= ev.request_done;
    }
    for (int32_t i = 0; i < N; i++) assert_int_equal(asks[i].n_got[0], MAX_OUTPUT);
    assert_int_equal(mem_count() - before, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    tokenizer = fake_tokenizer();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_can_be_asked), cmocka_unit_test(a_broken_device_ends_all),
        cmocka_unit_test(opening_without_memory), cmocka_unit_test(steps_allocate_nothing)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(tokenizer);
    return failed;
}
