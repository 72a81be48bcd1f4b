/* What requests and engines may ask for: every message names the parameter, its value and what it must be. */

#include "engine/settings.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "fake_tokenizer.h"

static struct request_limits limits = {
    .vocab_size = FAKE_VOCAB, .max_model_len = 64, .block_size = 16, .max_logprobs = 20};

static struct llm_request_spec spec_with(const int32_t *ids, size_t n)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = n;
    return s;
}

static void expect_refusal(const struct llm_request_spec *s, const char *message)
{
    struct llm_request *r = NULL;
    struct llm_error err = {0};
    assert_int_equal(request_create(s, &limits, &r, &err), LLM_EINVAL);
    assert_string_equal(err.message, message);
}

static void expect_acceptance(const struct llm_request_spec *s)
{
    struct llm_request *r = NULL;
    struct llm_error err = {0};
    llm_status status = request_create(s, &limits, &r, &err);
    if (status) print_message("%s\n", err.message);
    assert_int_equal(status, LLM_OK);
    request_destroy(r);
}

static const int32_t prompt[70] = {1, 2, 3};

#define REFUSE(field, value, message)                                                                        \
    do {                                                                                                     \
        struct llm_request_spec s_ = spec_with(prompt, 3);                                                   \
        s_.sampling.field = value;                                                                           \
        expect_refusal(&s_, message);                                                                        \
    } while (0)
#define ACCEPT(field, value)                                                                                 \
    do {                                                                                                     \
        struct llm_request_spec s_ = spec_with(prompt, 3);                                                   \
        s_.sampling.field = value;                                                                           \
        expect_acceptance(&s_);                                                                              \
    } while (0)

static void numbers_out_of_range(void **state)
{
    (void)state;
    REFUSE(n, 0, "n is 0; it must be from 1 to 16384");
    REFUSE(temperature, -1, "temperature is -1; it must be 0 or more");
    REFUSE(temperature, NAN, "temperature is nan; it must be 0 or more");
    REFUSE(temperature, INFINITY, "temperature is inf; it must be 0 or more");
    REFUSE(top_p, 2, "top_p is 2; it must be above 0 and at most 1");
    REFUSE(top_p, 0, "top_p is 0; it must be above 0 and at most 1");
    REFUSE(top_k, -2, "top_k is -2; it must be 1 or more, or 0 or -1 for no limit");
    REFUSE(min_p, 1.5f, "min_p is 1.5; it must be from 0 to 1");
    REFUSE(presence_penalty, 3, "presence_penalty is 3; it must be from -2 to 2");
    REFUSE(frequency_penalty, -2.5f, "frequency_penalty is -2.5; it must be from -2 to 2");
    REFUSE(repetition_penalty, 0, "repetition_penalty is 0; it must be above 0");
    REFUSE(max_tokens, 0, "max_tokens is 0; it must be 1 or more, or -1 for as many as fit");
    REFUSE(min_tokens, -1, "min_tokens is -1; it must be 0 or more");
    REFUSE(min_tokens, 17, "min_tokens is 17; it must be at most max_tokens, which is 16");
    REFUSE(logprobs, 21, "logprobs is 21; it must be at most 20 (the engine's max_logprobs)");
    REFUSE(logprobs, -3, "logprobs is -3; it must be 0 or more, or -1 for the whole vocabulary");
    REFUSE(prompt_logprobs, -1, "prompt_logprobs is -1; it must be at most 20 (the engine's max_logprobs)");
    struct llm_request_spec s = spec_with(prompt, 3);
    s.sampling.n = 2;
    s.sampling.temperature = 0;
    expect_refusal(&s, "n is 2; it must be 1 with temperature 0, as all sequences would be the same");
}

static void edges_of_ranges(void **state)
{
    (void)state;
    ACCEPT(n, 16);
    ACCEPT(temperature, 0);
    ACCEPT(temperature, 100);
    ACCEPT(top_p, 1e-6f);
    ACCEPT(top_k, -1);
    ACCEPT(top_k, 1000000);
    ACCEPT(min_p, 1);
    ACCEPT(presence_penalty, -2);
    ACCEPT(max_tokens, -1);
    ACCEPT(min_tokens, 16);
    ACCEPT(logprobs, 20);
    ACCEPT(prompt_logprobs, 0);
    limits.max_logprobs = -1;
    ACCEPT(logprobs, -1);
    ACCEPT(logprobs, FAKE_VOCAB);
    limits.max_logprobs = 20;
}

static void arrays(void **state)
{
    (void)state;
    int32_t bad[] = {5, 97}, good[] = {0, 96};
    struct llm_request_spec s = spec_with(prompt, 3);
    s.sampling.stop_token_ids = bad;
    s.sampling.n_stop_token_ids = 2;
    expect_refusal(&s, "stop_token_ids holds token 97; the model's tokens are 0 to 96");
    s.sampling.stop_token_ids = good;
    expect_acceptance(&s);
    s.sampling.allowed_token_ids = NULL;
    s.sampling.n_allowed_token_ids = 1;
    expect_refusal(&s, "allowed_token_ids is null but has 1 entries");
    s.sampling.allowed_token_ids = good;
    s.sampling.logit_bias = (struct llm_token_bias[]){{3, 101}};
    s.sampling.n_logit_bias = 1;
    expect_refusal(&s, "logit_bias of token 3 is 101; it must be from -100 to 100");
    s.sampling.n_logit_bias = 0;
    s.sampling.stop = (const char *const[]){"a", ""};
    s.sampling.n_stop = 2;
    expect_refusal(&s, "stop needs a tokenizer, and this engine has none");
    struct tokenizer *tok = fake_tokenizer();
    limits.tokenizer = tok;
    expect_refusal(&s, "stop: string 2 is empty; it must have at least one character");
    s.sampling.n_stop = 1;
    s.sampling.detokenize = 0;
    expect_refusal(&s, "stop needs text: it cannot be used with detokenize = 0");
    s.sampling.detokenize = 1;
    expect_acceptance(&s);
    limits.tokenizer = NULL;
    tokenizer_close(tok);
}

static void prompts(void **state)
{
    (void)state;
    struct llm_request_spec s = spec_with(prompt, 0);
    expect_refusal(&s, "the prompt is empty; it must have a token");
    s = spec_with(prompt, 64);
    expect_refusal(
        &s, "the prompt has 64 tokens; max_model_len is 64, which must hold the prompt and at least one "
            "token of output: shorten the prompt, set truncate_prompt_tokens, or raise max_model_len");
    s.truncate_prompt_tokens = 63;
    expect_acceptance(&s);
    s.truncate_prompt_tokens = -1;
    expect_refusal(&s, "truncate_prompt_tokens is -1; it must be 0 (off) or more");
    int32_t bad[] = {1, -7};
    s = spec_with(bad, 2);
    expect_refusal(&s, "token 1 of the prompt is -7; the model's tokens are 0 to 96");
    s.prompt = "text";
    s.prompt_bytes = 4;
    expect_refusal(&s, "a prompt of text needs a tokenizer, and this engine has none: give prompt_ids");
}

/* ---- the engine's options ------------------------------------------------------------------------------ */

static struct llm_engine_options options(void)
{
    struct llm_engine_options o;
    llm_engine_options_init(&o);
    return o;
}

static void expect_no_engine(const struct llm_engine_options *o, const char *message)
{
    struct engine_config c = {0};
    struct llm_error err;
    assert_int_equal(settings_limits(o, 8192, 0, &c, &err), LLM_EINVAL);
    assert_string_equal(err.message, message);
}

static void engine_options(void **state)
{
    (void)state;
    struct engine_config c = {0};
    struct llm_engine_options o = options();
    assert_int_equal(settings_limits(&o, 8192, 0, &c, NULL), LLM_OK);
    assert_int_equal(c.max_model_len, 8192);
    assert_int_equal(c.max_num_seqs, 256);
    assert_int_equal(c.max_num_batched_tokens, 512);
    assert_int_equal(c.block_size, 16);
    assert_true(c.prefix_caching && c.chunked_prefill && !c.priority);

    o.max_num_seqs = 1000; /* what is left to us fits what was asked for */
    assert_int_equal(settings_limits(&o, 8192, 0, &c, NULL), LLM_OK);
    assert_int_equal(c.max_num_batched_tokens, 1000);
    o = options();
    o.max_num_batched_tokens = 64;
    assert_int_equal(settings_limits(&o, 8192, 0, &c, NULL), LLM_OK);
    assert_int_equal(c.max_num_seqs, 64);
    o = options();
    o.enable_chunked_prefill = 0;
    assert_int_equal(settings_limits(&o, 8192, 0, &c, NULL), LLM_OK);
    assert_int_equal(c.max_num_batched_tokens, 8192);

    o.max_num_batched_tokens = 512;
    expect_no_engine(
        &o, "max_num_batched_tokens is 512; without chunked prefill it must be at least max_model_len, "
            "which is 8192");
    o = options();
    o.max_num_batched_tokens = 8;
    o.max_num_seqs = 9;
    expect_no_engine(&o, "max_num_batched_tokens is 8; it must be at least max_num_seqs, which is 9");
    o = options();
    o.max_model_len = 8193;
    expect_no_engine(&o, "max_model_len is 8193; the model's positions end at 8192");
    o = options();
    o.block_size = 20;
    expect_no_engine(&o, "block_size is 20; it must be 8, 16, 32, 64 or 128");
    o = options();
    o.threads = -1;
    expect_no_engine(&o, "threads is -1; it must be 1 or more, or 0 for the default");
    o = options();
    o.scheduling_policy = "lifo";
    expect_no_engine(&o, "scheduling_policy is \"lifo\"; it must be fcfs or priority");
}

static void kv_memory(void **state)
{
    (void)state;
    const size_t page = 16 * 1024;
    const uint64_t gib = (uint64_t)1 << 30;
    struct engine_config c = {.max_model_len = 1024, .max_num_seqs = 8, .block_size = 16};
    struct llm_engine_options o = options();
    struct llm_error err;
    assert_int_equal(settings_pages(&o, page, 100 * gib, &c, &err), LLM_OK);
    assert_int_equal(c.n_pages, 8 * 64); /* all that 8 sequences can need */
    c.max_num_seqs = 100000;
    assert_int_equal(settings_pages(&o, page, 100 * gib, &c, &err), LLM_OK);
    assert_int_equal(c.n_pages, 4 * gib / page);
    assert_int_equal(settings_pages(&o, page, gib, &c, &err), LLM_OK);
    assert_int_equal(c.n_pages, gib / 2 / page);
    c.max_model_len = 8 * 1024 * 1024; /* one sequence takes 8 GiB: it gets them, if they are there */
    assert_int_equal(settings_pages(&o, page, 100 * gib, &c, &err), LLM_OK);
    assert_int_equal(c.n_pages, 8 * gib / page);
    assert_int_equal(settings_pages(&o, page, 15 * gib, &c, &err), LLM_EINVAL);
    assert_non_null(
        strstr(err.message, "takes 8.0 GiB of KV memory; the default of 7.5 GiB holds 7864320 tokens"));
    c.max_model_len = 1024;
    o.kv_cache_memory = 1024 * 1024;
    assert_int_equal(settings_pages(&o, page, gib, &c, &err), LLM_OK);
    assert_int_equal(c.n_pages, 64);
    o.kv_cache_memory--;
    assert_int_equal(settings_pages(&o, page, gib, &c, &err), LLM_EINVAL);
    assert_string_equal(
        err.message,
        "one sequence of max_model_len = 1024 tokens takes 1.0 MiB of KV memory; kv_cache_memory = "
        "1024.0 KiB holds 1008 tokens: raise kv_cache_memory, or set max_model_len to at most 1008");
    o.kv_cache_memory = 2 * gib;
    assert_int_equal(settings_pages(&o, page, gib, &c, &err), LLM_ENOMEM);
    assert_string_equal(err.message,
                        "kv_cache_memory is 2.0 GiB; this machine has 1.0 GiB left: set it lower");
    enum llm_dtype t;
    o.kv_cache_dtype = "int3";
    assert_int_equal(settings_kv_dtype(&o, DTYPE_F32, &t, &err), LLM_EINVAL);
    assert_string_equal(err.message,
                        "kv_cache_dtype is \"int3\"; it must be auto, float32, float16 or bfloat16");
    o.kv_cache_dtype = "auto";
    o.dtype = "float32";
    assert_int_equal(settings_kv_dtype(&o, DTYPE_F32, &t, &err), LLM_OK);
    assert_int_equal(t, DTYPE_F32);
    assert_true(memory_available() > 1024 * 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_out_of_range),
        cmocka_unit_test(edges_of_ranges),
        cmocka_unit_test(arrays),
        cmocka_unit_test(prompts),
        cmocka_unit_test(engine_options),
        cmocka_unit_test(kv_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
