/* Pins: pages that stay, and the bounds of them, over a null model of the engine (null_model.h). */

#include "llmlua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 16, MAX_LEN = 256, N_BLOCKS = 64 };

static struct llm_engine *engine;
static struct llm_client *client;

static int set_up(void **state)
{
    (void)state;
    struct llm_engine_options o;
    llm_engine_options_init(&o);
    o.load_format = "null";
    o.max_model_len = MAX_LEN;
    o.block_size = BLOCK;
    o.kv_cache_memory = N_BLOCKS * BLOCK * 512;
    o.max_num_seqs = 8;
    assert_int_equal(llm_engine_open(&o, &engine, NULL), LLM_OK);
    assert_int_equal(llm_client_open(engine, &client, NULL), LLM_OK);
    struct llm_model_info info;
    llm_engine_model_info(engine, &info);
    assert_int_equal(info.n_blocks, N_BLOCKS);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    llm_client_close(client);
    llm_engine_close(engine);
    return 0;
}

static void fill(int32_t *ids, int32_t n, int32_t seed)
{
    for (int32_t i = 0; i < n; i++) ids[i] = (seed * 31 + i * 7) % 250;
    ids[0] = seed;
}

/* Runs a request; returns how many tokens of its prompt were cached. */
static size_t run(const int32_t *ids, size_t n)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = n;
    s.sampling.max_tokens = 2;
    struct llm_request *r = NULL;
    struct llm_event ev;
    assert_int_equal(llm_submit(client, &s, &r, NULL), LLM_OK);
    while (llm_next(client, &ev)) assert_int_equal(llm_wait(client, 60000), LLM_OK);
    assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
    struct llm_request_info info;
    llm_request_info(r, &info);
    llm_release(r);
    return info.n_cached_tokens;
}

/* Enough others to lose all that is not pinned. */
static void crowd(void)
{
    int32_t ids[240];
    for (int32_t seed = 100; seed < 110; seed++) {
        fill(ids, 240, seed);
        run(ids, 240);
    }
}

static int32_t pinned(void)
{
    struct llm_stats s;
    llm_engine_stats(engine, &s);
    return s.n_blocks_pinned;
}

static void a_pin_keeps_a_prefix_until_it_is_let_go(void **state)
{
    (void)state;
    int32_t ids[100];
    fill(ids, 100, 1);
    struct llm_pin pin;
    struct llm_error err;
    assert_int_equal(llm_prefix_pin(engine, ids, 100, NULL, 0, &pin, &err), LLM_ENOENT);
    run(ids, 100);
    crowd();
    assert_int_equal(run(ids, 100), 0); /* lost, and cached anew */
    assert_int_equal(llm_prefix_pin(engine, ids, 100, NULL, 0, &pin, &err), LLM_OK);
    assert_int_equal(pin.n_tokens, 96);
    crowd();
    assert_int_equal(run(ids, 100), 96);
    assert_int_equal(pinned(), 6);
    assert_int_equal(llm_prefix_pin(engine, ids, 100, "salt", 0, &pin, &err), LLM_ENOENT);
    assert_int_equal(llm_prefix_unpin(engine, 1, &err), LLM_OK);
    assert_int_equal(llm_prefix_unpin(engine, 1, &err), LLM_ENOENT);
    crowd();
    assert_int_equal(pinned(), 0);
    assert_int_equal(run(ids, 100), 0);
}

static void pins_are_bounded_and_end(void **state)
{
    (void)state;
    int32_t ids[240];
    struct llm_pin pin;
    struct llm_error err;
    size_t total = 0;
    for (int32_t seed = 1; seed <= 3; seed++) {
        fill(ids, 240, seed);
        run(ids, 240);
        if (llm_prefix_pin(engine, ids, 240, NULL, 0.05, &pin, &err) == LLM_OK) total += pin.n_tokens;
    }
    assert_int_equal(total, N_BLOCKS / 4 * BLOCK);
    crowd(); /* which has room */
    usleep(60000);
    run(ids, 20);
    fill(ids, 240, 9);
    run(ids, 240);
    assert_int_equal(pinned(), 0);
    struct llm_stats s;
    do llm_engine_stats(engine, &s);
    while (s.n_blocks_used);
}

static void what_is_evicted_is_not_found(void **state)
{
    (void)state;
    int32_t ids[100];
    fill(ids, 100, 1);
    struct llm_pin pin;
    struct llm_error err;
    assert_int_equal(llm_prefix_evict(engine, ids, 100, NULL, &err), LLM_ENOENT);
    for (int pin_it = 0; pin_it < 2; pin_it++) {
        run(ids, 100);
        assert_int_equal(run(ids, 100), 96);
        if (pin_it) assert_int_equal(llm_prefix_pin(engine, ids, 100, NULL, 0, &pin, &err), LLM_OK);
        assert_int_equal(llm_prefix_evict(engine, ids, 100, NULL, &err), LLM_OK);
        assert_int_equal(run(ids, 100), 0);
    }
    assert_int_equal(llm_prefix_unpin(engine, pin.id, &err), LLM_OK);
    assert_int_equal(llm_prefix_pin(engine, ids, 15, NULL, 0, &pin, &err), LLM_EINVAL);
    assert_int_equal(llm_prefix_pin(engine, ids, 100, NULL, -1, &pin, &err), LLM_EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_pin_keeps_a_prefix_until_it_is_let_go, set_up, tear_down),
        cmocka_unit_test_setup_teardown(pins_are_bounded_and_end, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_evicted_is_not_found, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
