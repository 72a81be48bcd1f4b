/* Every allocation on the way of a request fails once, in turn: the call says LLM_ENOMEM, nothing leaks (the
 * address sanitizer looks), and the engine goes on. */

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

#include "fake_model.inc.c"
#include "fake_tokenizer.h"

static struct engine_config config_of(const struct tokenizer *tok)
{
    return (struct engine_config){.max_model_len = 256,
                                  .max_num_seqs = 8,
                                  .max_num_batched_tokens = 64,
                                  .block_size = 16,
                                  .n_pages = 64,
                                  .prefix_caching = 1,
                                  .chunked_prefill = 1,
                                  .max_logprobs = 5,
                                  .tokenizer = tok};
}

static llm_status start(const struct engine_config *c, struct llm_engine **out, struct llm_error *err)
{
    struct engine_model table = fake_model_table(fake_model_new(FAKE_VOCAB, 16, c->n_pages, 64));
    return engine_start(c, &table, out, err);
}

/* Calls that fail at the 1st, 2nd, … allocation until one makes none that fails. */
static void opening(void **state)
{
    (void)state;
    struct engine_config config = config_of(NULL);
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        struct llm_engine *e = NULL;
        struct llm_error err = {0};
        mem_fail_at(n);
        llm_status status = start(&config, &e, &err);
        mem_fail_at(0);
        if (status == LLM_OK) {
            llm_engine_close(e);
            break;
        }
        assert_int_equal(status, LLM_ENOMEM);
        assert_non_null(strstr(err.message, "no memory"));
        assert_null(e);
        failures++;
    }
    assert_true(failures > 8);
}

static struct llm_request_spec full_spec(void)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt = "The quick brown fox jumps over the lazy dog";
    s.prompt_bytes = strlen(s.prompt);
    s.cache_salt = "tenant";
    s.stream = 1;
    s.sampling.n = 2;
    s.sampling.max_tokens = 150;
    static const char *const stop[] = {"never to be found", "nor this"}, *const bad_words[] = {"fox", "dog"};
    s.sampling.stop = stop;
    s.sampling.n_stop = 2;
    s.sampling.bad_words = bad_words;
    s.sampling.n_bad_words = 2;
    s.sampling.logprobs = 2;
    s.sampling.prompt_logprobs = 1;
    s.sampling.presence_penalty = 1;
    return s;
}

/* Runs a request to its end, whatever llm_next says in between; returns the number of its tokens. */
static size_t run_out(struct llm_client *c, uint64_t fail_at, int *refusals)
{
    size_t n_tokens = 0, n_text = 0;
    for (struct llm_event ev = {0}; !ev.request_done;) {
        mem_fail_at(fail_at);
        llm_status status = llm_next(c, &ev);
        mem_fail_at(0);
        ev.request_done &= status == LLM_OK;
        if (status == LLM_EAGAIN) llm_wait(c, -1);
        if (status == LLM_ENOMEM) {
            ++*refusals;
            fail_at = 0; /* there is memory again */
        }
        if (status) continue;
        n_tokens += ev.n_tokens;
        n_text += ev.text_bytes;
        if (ev.request_done) llm_release(ev.request);
    }
    assert_true(n_text <= n_tokens * 5 && n_text >= n_tokens - 20);
    return n_tokens;
}

static void submitting(void **state)
{
    (void)state;
    struct tokenizer *tok = fake_tokenizer();
    struct engine_config config = config_of(tok);
    struct llm_engine *e;
    struct llm_client *c = NULL;
    struct llm_error err;
    assert_int_equal(start(&config, &e, &err), LLM_OK);
    mem_fail_at(1);
    assert_int_equal(llm_client_open(e, &c, &err), LLM_ENOMEM);
    mem_fail_at(0);
    assert_int_equal(llm_client_open(e, &c, &err), LLM_OK);

    struct llm_request_spec s = full_spec();
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        struct llm_request *r = NULL;
        mem_fail_at(n);
        llm_status status = llm_submit(c, &s, &r, &err);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
        assert_null(r);
        failures++;
    }
    assert_true(failures >= 4);
    int refusals = 0;
    assert_int_equal(run_out(c, 1, &refusals), 300);
    assert_int_equal(refusals, 1);

    llm_client_close(c);
    llm_engine_close(e);
    tokenizer_close(tok);
}

/* A request that no machine could hold. */
static void absurd_sizes(void **state)
{
    (void)state;
    struct engine_config config = config_of(NULL);
    config.max_logprobs = -1;
    struct llm_engine *e;
    struct llm_client *c;
    struct llm_error err;
    assert_int_equal(start(&config, &e, &err), LLM_OK);
    assert_int_equal(llm_client_open(e, &c, &err), LLM_OK);
    e->limits.max_model_len = INT32_MAX;
    int32_t ids[1] = {1};
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = 1;
    s.sampling.n = 16384;
    s.sampling.max_tokens = -1;
    s.sampling.logprobs = -1;
    struct llm_request *r;
    assert_int_equal(llm_submit(c, &s, &r, &err), LLM_ENOMEM);
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(opening), cmocka_unit_test(submitting),
                                       cmocka_unit_test(absurd_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
