/* The decoder behind a device's tables (host_device.inc.c): staging, recorded steps, seats and stages of
 * sampling give the tokens that the same model gives on the CPU. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "asks.inc.c"

#include "rules.inc.c"

#include "host_device.inc.c"

#include "engine/decoder_model.h"

enum { N_ASKS = 160, MODEL_VOCAB = 192 };

static struct llm_engine_options options_of(int32_t budget)
{
    struct llm_engine_options o;
    llm_engine_options_init(&o);
    o.model = TESTS_DIR "/golden/models/llama";
    o.device = "cpu";
    o.dtype = "float32";
    o.skip_tokenizer_init = 1;
    o.threads = 1;
    o.block_size = 16;
    o.max_model_len = 256;
    o.max_logprobs = -1;
    o.max_num_seqs = 24;
    o.max_num_batched_tokens = budget;
    o.kv_cache_memory = 3 << 20;
    return o;
}

static struct llm_engine *open_on_cpu(int32_t budget)
{
    struct llm_engine_options o = options_of(budget);
    struct llm_engine *e;
    struct llm_error err = {0};
    if (llm_engine_open(&o, &e, &err)) fail_msg("%s", err.message);
    return e;
}

static struct llm_engine *open_on_device(int32_t budget)
{
    struct llm_engine_options o = options_of(budget);
    struct engine_config config;
    struct engine_model model;
    struct llm_model_info info;
    struct llm_engine *e;
    struct llm_error err = {0};
    struct pool *pool;
    struct backend *be = host_device_open(MODEL_VOCAB);
    if (pool_open(1, &pool, &err)) fail_msg("%s", err.message);
    if (decoder_model_open_on(be, pool, &o, &config, &info, &model, &err)) fail_msg("%s", err.message);
    if (engine_start(&config, &model, &e, &err)) fail_msg("%s", err.message);
    return e;
}

static void the_same_as_on_the_cpu(void **state)
{
    (void)state;
    static struct ask want[N_ASKS], got[N_ASKS];
    luck = 29;
    for (int32_t i = 0; i < N_ASKS; i++) {
        struct ask *a = &want[i];
        think_of(a, i);
        int32_t kind = i / 20 % 4; /* plain, all of them, policies, and those that the host must sample */
        for (int32_t k = below(3); k > 0 && kind; k--)
            ask_for_more(a, below(kind == 3 ? ALL_MORE : DEVICE_MORE));
        if (kind < 2 || chance(10)) continue;
        do {
            a->may_fail = 0;
            choose_policies(a);
        } while (a->may_fail);
    }
    struct llm_engine *cpu = open_on_cpu(96);
    add_policies(cpu, MODEL_VOCAB);
    run_all(cpu, want, N_ASKS, 30, 0);
    expect_rest(cpu);
    llm_engine_close(cpu);
    for (int cancels = 0; cancels < 2; cancels++) {
        memcpy(got, want, sizeof got);
        ask_again(got, N_ASKS);
        struct llm_engine *e = open_on_device(96);
        add_policies(e, MODEL_VOCAB);
        run_all(e, got, N_ASKS, 30, cancels);
        for (int32_t i = 0; i < N_ASKS; i++) compare(&want[i], &got[i], cancels, "device", i);
        expect_rest(e);
        print_message("%d recordings, %d replays, %d fills, %d rows fetched\n", host->n_recordings,
                      host->n_replays, host->n_fills, host->n_fetches);
        assert_true(host->n_replays > 20 && host->n_fills > 20 && host->n_fetches > 20);
        llm_engine_close(e);
    }
}

/* What all seats are filled from at once is more than there is room for on its way. */
static void long_lists(void **state)
{
    (void)state;
    enum { N = 24, N_STOPS = 3500 };
    static struct ask want[N], got[N];
    static int32_t stops[N_STOPS];
    for (int32_t i = 0; i < N_STOPS; i++) stops[i] = i * 7 % 60;
    luck = 31;
    for (int32_t i = 0; i < N; i++) {
        struct llm_sampling *p = &want[i].spec.sampling;
        think_of(&want[i], i);
        want[i].spec.n_prompt_ids = 3; /* all are read in one step */
        p->n = 1;
        p->max_tokens = 12;
        p->min_tokens = 5;
        p->stop_token_ids = stops;
        p->n_stop_token_ids = N_STOPS;
    }
    memcpy(got, want, sizeof got);
    struct llm_engine *cpu = open_on_cpu(96);
    run_all(cpu, want, N, N, 0);
    llm_engine_close(cpu);
    for (int32_t i = 0; i < N; i++) got[i].spec.prompt_ids = got[i].prompt;
    struct llm_engine *e = open_on_device(96);
    run_all(e, got, N, N, 0);
    for (int32_t i = 0; i < N; i++) compare(&want[i], &got[i], 0, "device", i);
    assert_int_equal(host->n_fills, N);
    llm_engine_close(e);
}

/* Prompts of many rows, read in one step, are scored in several slabs. */
static void long_prompts(void **state)
{
    (void)state;
    enum { N = 12, BUDGET = 1100 };
    static struct ask want[N], got[N];
    luck = 37;
    for (int32_t i = 0; i < N; i++) {
        think_of(&want[i], i);
        want[i].spec.n_prompt_ids = 60 + (size_t)below(90);
        want[i].spec.sampling.n = 1;
        want[i].spec.sampling.max_tokens = 4;
        want[i].spec.sampling.prompt_logprobs = i % 4 == 3 ? LLM_LOGPROBS_NONE : i;
    }
    memcpy(got, want, sizeof got);
    struct llm_engine *cpu = open_on_cpu(BUDGET);
    run_all(cpu, want, N, N, 0);
    llm_engine_close(cpu);
    ask_again(got, N);
    struct llm_engine *e = open_on_device(BUDGET);
    run_all(e, got, N, N, 0);
    for (int32_t i = 0; i < N; i++) compare(&want[i], &got[i], 0, "device", i);
    assert_true(host->n_most_scored > 0 && host->n_scored > 2 * host->n_most_scored);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_same_as_on_the_cpu), cmocka_unit_test(long_lists),
                                       cmocka_unit_test(long_prompts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
