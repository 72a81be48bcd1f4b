/* The engine over a fake model (fake_model.h): requests, batching, forks, preemption, cancelling, failure. */

#include "base/mem.h"
#include "engine/engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

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

static struct llm_engine *start(const struct engine_config *c, struct fake_model **fake)
{
    struct fake_model *m = fake_model_new(VOCAB, c->block_size, c->n_pages, c->max_num_batched_tokens);
    struct engine_model table = fake_model_table(m);
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    assert_int_equal(engine_start(c, &table, &e, &err), LLM_OK);
    if (fake) *fake = m;
    return e;
}

static struct llm_client *connect_to(struct llm_engine *e)
{
    struct llm_client *c = NULL;
    assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
    return c;
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

static void next_event(struct llm_client *c, struct llm_event *ev)
{
    for (;;) {
        llm_status status = llm_next(c, ev);
        if (status == LLM_OK) return;
        assert_int_equal(status, LLM_EAGAIN);
        assert_int_equal(llm_wait(c, 60000), LLM_OK);
    }
}

/* The stats of an engine that has come to rest: they are at most a step old. */
static struct llm_stats stats_at_rest(struct llm_engine *e)
{
    struct llm_stats s;
    for (int i = 0; i < 10000; i++) {
        llm_engine_stats(e, &s);
        if (s.n_running == 0 && s.n_waiting == 0 && s.n_blocks_used == 0) break;
        usleep(1000);
    }
    return s;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_tokens_are_those_of_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
