/* The engine a step ahead of a device that samples (fake_device.h): the same requests as on the host give the
 * same tokens, whatever else goes on, and nothing is left behind. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "device_asks.inc.c"

static const struct regime regimes[] = {
    {"late", 2000, 512, 64, 1, 1, 0, 0, 0, 0},
    {"early", 2000, 512, 64, 1, 1, 0, 100, 0, 0},
    {"now and then", 600, 64, 32, 1, 1, 0, 50, 0, 0},
    {"small chunks", 600, 9, 7, 1, 1, 0, 50, 0, 0},
    {"little memory", 24, 64, 24, 1, 1, 0, 30, 0, 0},
    {"little memory, no cache", 24, 512, 24, 0, 0, 0, 30, 0, 0},
    {"little memory, priorities", 24, 48, 16, 1, 1, 1, 0, 0, 0},
    {"priorities", 40, 300, 6, 1, 0, 1, 70, 0, 0},
    {"one at a time", 40, 256, 1, 1, 1, 0, 50, 0, 0},
};

enum { N_ASKS = 400 };

static void repeat_under(const struct regime *g, const struct ask *want, int cancels)
{
    static struct ask got[N_ASKS];
    memcpy(got, want, sizeof got);
    ask_again(got, N_ASKS);
    struct fake_device *d;
    struct llm_engine *e = open_device(g, &d);
    open_gate(d);
    run_all(e, got, N_ASKS, 20 + below(60), cancels);
    for (int32_t i = 0; i < N_ASKS; i++) compare(&want[i], &got[i], cancels, g->name, i);
    struct llm_stats s = stats_at_rest(e);
    expect_rest(e);
    assert_int_equal(s.n_finished, N_ASKS);
    if (g->n_pages <= 28) assert_true(s.n_preemptions > 0);
    if (g->caching) assert_true(s.n_prefix_hits > 0);
    print_message("%s: %d steps, %d ahead, %llu preemptions, %llu of %llu prompt tokens found\n", g->name,
                  d->n_launched, d->n_ahead, (unsigned long long)s.n_preemptions,
                  (unsigned long long)s.n_prefix_hits, (unsigned long long)s.n_prefix_queries);
    assert_true(s.n_steps == (uint64_t)d->n_launched && d->n_ahead > d->n_launched / 2);
    llm_engine_close(e);
}

static void random_requests(void **state)
{
    (void)state;
    static struct ask want[N_ASKS];
    luck = 5;
    for (int32_t i = 0; i < N_ASKS; i++) {
        think_of(&want[i], i);
        if (i % 100 < 12 && chance(30))
            ask_for_more(&want[i], below(ALL_MORE)); /* now and then some together */
    }
    struct llm_engine *host = open_host();
    run_all(host, want, N_ASKS, 32, 0);
    llm_engine_close(host);
    for (size_t g = 0; g < sizeof regimes / sizeof *regimes; g++)
        for (int cancels = 0; cancels < 2; cancels++) repeat_under(&regimes[g], want, cancels);
}

/* ---- one among many -------------------------------------------------------------------------------------
 */

enum { CROWD = 20 };

/* The device after a crowd of plain requests, one of which wanted k log-probabilities a token, of its prompt
 * or its output. */
static struct fake_device crowd_and_one(int prompt, int32_t k)
{
    static struct ask want[CROWD], got[CROWD];
    luck = 23;
    for (int32_t i = 0; i < CROWD; i++) {
        struct llm_sampling *p = &want[i].spec.sampling;
        think_of(&want[i], i);
        p->n = 1;
        p->max_tokens = MAX_OUTPUT;
        p->ignore_eos = 1;
        p->n_stop_token_ids = 0;
        if (i == CROWD / 2) *(prompt ? &p->prompt_logprobs : &p->logprobs) = k;
    }
    memcpy(got, want, sizeof got);
    ask_again(got, CROWD);
    struct llm_engine *host = open_host();
    run_all(host, want, CROWD, CROWD, 0);
    llm_engine_close(host);
    const struct regime plenty = {"a crowd", 2000, 64, 64, 0, 1, 0, 50, 0, 0};
    struct fake_device *d;
    struct llm_engine *e = open_device(&plenty, &d);
    open_gate(d);
    run_all(e, got, CROWD, CROWD, 0);
    for (int32_t i = 0; i < CROWD; i++) compare(&want[i], &got[i], 0, plenty.name, i);
    expect_rest(e);
    struct fake_device seen = *d;
    llm_engine_close(e);
    return seen;
}

/* What one request asks for is no other's affair: the device makes all their tokens, mostly a step ahead, and
 * only rows of its own go to the host, if any. */
static void one_asks_for_much(void **state)
{
    (void)state;
    struct fake_device d = crowd_and_one(1, 20);
    assert_true(d.n_scored > 0 && d.n_raw == 0 && d.n_ahead + 3 >= d.n_launched);
    d = crowd_and_one(0, SAMPLE_MAX_LOGPROBS);
    assert_true(d.n_raw == 0 && d.n_ahead + 3 >= d.n_launched);
    d = crowd_and_one(1, SAMPLE_MAX_LOGPROBS + 1);
    assert_true(d.n_scored == 0 && d.n_raw > 0 && d.n_raw < MAX_PROMPT);
    assert_true(d.n_ahead > d.n_launched / 2); /* all steps but those that read that prompt */
    d = crowd_and_one(0, SAMPLE_MAX_LOGPROBS + 1);
    assert_int_equal(d.n_raw, MAX_OUTPUT);
}

/* ---- sequences ----------------------------------------------------------------------------------------- */

enum { TALKS = 24, TURNS = 12 };

/* Several texts that grow, branch and are set back, by the same rolls of dice on every engine. */
struct talk {
    struct llm_sequence *text, *branch;
    struct llm_request *request;
    uint64_t luck;
    int32_t turn, stop_id, before;
    int cancels, discards;
    int32_t out[TURNS * 64], n_out; /* what its uncancelled requests gave, and their ends */
    int32_t turn_out;
};

static void grow(struct talk *t)
{
    int32_t ids[40], n = 1 + below(40);
    size_t length;
    llm_sequence_tokens(t->text, &length);
    if (length > 120) assert_int_equal(llm_sequence_rewind(t->text, (size_t)below(100), NULL), LLM_OK);
    for (int32_t i = 0; i < n; i++) ids[i] = below(VOCAB);
    assert_int_equal(llm_sequence_append(t->text, ids, (size_t)n, NULL), LLM_OK);
    if (!chance(30)) return;
    struct llm_sequence *fork;
    assert_int_equal(llm_sequence_fork(t->text, &fork, NULL), LLM_OK);
    llm_sequence_close(t->branch);
    t->branch = chance(50) ? fork : t->text; /* goes on with either */
    t->text = t->branch == fork ? t->text : fork;
}

static void speak(struct llm_client *c, struct talk *t)
{
    uint64_t saved = luck;
    luck = t->luck;
    grow(t);
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.sequence = t->text;
    s.user = t;
    s.stream = chance(70);
    s.discard = t->discards = chance(20);
    s.sampling.max_tokens = chance(10) ? 0 : 1 + below(40);
    s.sampling.temperature = chance(40) ? 0 : 1;
    s.sampling.top_k = 20;
    s.sampling.has_seed = 1;
    s.sampling.seed = luck;
    s.sampling.stop_token_ids = &t->stop_id;
    s.sampling.n_stop_token_ids = 1;
    s.sampling.logprobs = chance(5) ? 1 : LLM_LOGPROBS_NONE;
    s.sampling.repetition_penalty = chance(30) ? 1.2f : 1;
    s.sampling.prompt_logprobs = chance(3) ? 1 : LLM_LOGPROBS_NONE;
    t->stop_id = below(VOCAB);
    t->cancels = s.sampling.max_tokens > 4 && chance(20);
    t->turn_out = t->n_out;
    size_t n;
    llm_sequence_tokens(t->text, &n);
    t->before = (int32_t)n;
    struct llm_error err;
    if (llm_submit(c, &s, &t->request, &err)) fail_msg("%s", err.message);
    t->luck = luck;
    luck = saved;
}

/* Returns 1 when its last turn is over. */
static int hear(struct llm_client *c, struct talk *t, const struct llm_event *ev)
{
    if (ev->finish == LLM_FINISH_ERROR) fail_msg("%s", ev->error->message);
    for (size_t i = 0; i < ev->n_tokens; i++) t->out[t->n_out++] = ev->tokens[i];
    if (!ev->request_done && !(t->cancels && ev->n_tokens)) return 0;
    llm_release(t->request);
    if (t->cancels) { /* how far it came is a matter of time */
        assert_int_equal(llm_sequence_rewind(t->text, (size_t)t->before, NULL), LLM_OK);
        t->n_out = t->turn_out;
    } else {
        size_t n;
        const int32_t *tokens = llm_sequence_tokens(t->text, &n);
        int32_t given = t->n_out - t->turn_out;
        if (t->discards) assert_int_equal(n, t->before);
        if (!t->discards) assert_true((int32_t)n == t->before + given || (int32_t)n == t->before + given - 1);
        if ((int32_t)n > t->before)
            assert_memory_equal(tokens + t->before, t->out + t->turn_out,
                                sizeof *tokens * (n - (size_t)t->before));
        t->out[t->n_out++] = -(int32_t)ev->finish;
    }
    if (++t->turn == TURNS) return 1;
    speak(c, t);
    return 0;
}

static void talk_all(struct llm_engine *e, struct talk *talks)
{
    struct llm_client *c = connect_to(e);
    memset(talks, 0, sizeof *talks * TALKS);
    for (int32_t i = 0; i < TALKS; i++) {
        talks[i].luck = 1000 + (uint64_t)i / 2; /* two of each kind: prefixes are found */
        assert_int_equal(llm_sequence_open(c, &talks[i].text, NULL), LLM_OK);
        speak(c, &talks[i]);
    }
    for (int32_t left = TALKS; left;) {
        struct llm_event ev;
        next_event(c, &ev);
        left -= hear(c, ev.user, &ev);
    }
    for (int32_t i = 0; i < TALKS; i++) {
        llm_sequence_close(talks[i].text);
        llm_sequence_close(talks[i].branch);
    }
    llm_client_close(c);
}

static void sequences_grow_and_branch(void **state)
{
    (void)state;
    static struct talk want[TALKS], got[TALKS];
    struct llm_engine *host = open_host();
    talk_all(host, want);
    llm_engine_close(host);
    for (size_t g = 0; g < sizeof regimes / sizeof *regimes; g++) {
        struct llm_engine *e = open_device(&regimes[g], NULL);
        talk_all(e, got);
        for (int32_t i = 0; i < TALKS; i++)
            for (int32_t k = 0; k < want[i].n_out; k++)
                if (k >= got[i].n_out || got[i].out[k] != want[i].out[k])
                    fail_msg("%s: talk %d, token %d is not %d", regimes[g].name, i, k, want[i].out[k]);
        expect_rest(e);
        llm_engine_close(e);
    }
}

/* ---- failing, closing, memory -------------------------------------------------------------------------- */

static const struct regime steady = {"steady", 400, 128, 64, 1, 1, 0, 50, 0, 0};

static struct llm_request *submit_long(struct llm_client *c, uint32_t number, int32_t max_tokens)
{
    int32_t prompt[60];
    for (int32_t i = 0; i < 60; i++) prompt[i] = (int32_t)(fake_mix(number * 1000003u + (uint32_t)i) % VOCAB);
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = prompt;
    s.n_prompt_ids = 60;
    s.stream = 1;
    s.sampling.max_tokens = max_tokens;
    s.sampling.ignore_eos = 1;
    s.sampling.top_k = 20;
    s.sampling.top_p = 0.9f;
    s.sampling.n = 2;
    struct llm_request *r = NULL;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    return r;
}

/* The device breaks in its k-th call, for all small k and both calls: each request ends with the reason. */
static void a_broken_device_ends_all(void **state)
{
    (void)state;
    for (int32_t k = 0; k < 30; k++) {
        const char *want = k % 2 ? "the fake device broke in launch" : "the fake device broke in collect";
        struct fake_device *d;
        struct llm_engine *e = open_device(&steady, &d);
        *(k % 2 ? &d->fail_launch_after : &d->fail_collect_after) = k / 2;
        struct llm_client *c = connect_to(e);
        for (uint32_t i = 0; i < 3; i++) submit_long(c, i, 100);
        open_gate(d);
        expect_failures(c, 3, want);
        expect_rest(e);
        llm_client_close(c);
        llm_engine_close(e);
    }
}

/* The client goes while steps fly, and the engine after it: the last step is not left in the air. */
static void closing_while_a_step_flies(void **state)
{
    (void)state;
    for (int32_t k = 0; k < 40; k++) {
        int in_flight = 1;
        struct fake_device *d;
        struct llm_engine *e = open_device(&steady, &d);
        d->closed_in_flight = &in_flight;
        struct llm_client *c = connect_to(e);
        for (uint32_t i = 0; i < 3; i++) submit_long(c, i, 150);
        for (int32_t i = 0; i < k; i++) sem_post(&d->model->gate);
        while (d->model->n_forward < k) usleep(100); /* it waits in a step's middle */
        open_gate(d);
        struct llm_event ev;
        if (k % 2) next_event(c, &ev);
        llm_client_close(c);
        llm_engine_close(e);
        assert_int_equal(in_flight, 0);
    }
}

/* From the last submission on. */
static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct fake_device *d;
    struct llm_engine *e = open_device(&steady, &d);
    struct llm_client *c = connect_to(e);
    for (uint32_t i = 0; i < 16; i++) submit_long(c, i, 150);
    open_gate(d);
    uint64_t before = mem_count();
    int64_t n_tokens = 0;
    for (int left = 16; left;) {
        struct llm_event ev;
        next_event(c, &ev);
        n_tokens += (int64_t)ev.n_tokens;
        left -= ev.request_done;
    }
    assert_int_equal(n_tokens, 16 * 2 * 150);
    assert_int_equal(mem_count() - before, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests),
        cmocka_unit_test(one_asks_for_much),
        cmocka_unit_test(sequences_grow_and_branch),
        cmocka_unit_test(a_broken_device_ends_all),
        cmocka_unit_test(closing_while_a_step_flies),
        cmocka_unit_test(steps_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
