/* Text of outputs: streaming, stop strings, bad words, over a fake model whose outputs are scripted. */

#include "engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "fake_tokenizer.h"

/* Logits that make greedy write `script` behind any prompt: the likeliest token at a position is the
 * script's, the next likeliest is '#'. */
struct actor {
    const char *script;
    int32_t n_prompt;
    int32_t positions[128];
};

static llm_status act(void *self, const struct batch *b, struct llm_error *err)
{
    struct actor *a = self;
    (void)err;
    memcpy(a->positions, b->positions, sizeof *b->positions * (size_t)b->n_tokens);
    return LLM_OK;
}

static llm_status speak(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err)
{
    struct actor *a = self;
    (void)err;
    for (int32_t i = 0; i < n_rows; i++, out += FAKE_VOCAB) {
        int32_t at = a->positions[rows[i]] + 1 - a->n_prompt;
        for (int32_t t = 0; t < FAKE_VOCAB; t++) out[t] = -(float)t;
        out[fake_token('#')] = 5;
        if (at >= 0) out[a->script[at] ? fake_token(a->script[at]) : TOKEN_END] = 10;
    }
    return LLM_OK;
}

static llm_status no_copy(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    (void)self, (void)from, (void)to, (void)err;
    return LLM_OK;
}

static void leave(void *self)
{
    (void)self;
}

struct stage {
    struct actor actor;
    struct tokenizer *tok;
    struct llm_engine *engine;
    struct llm_client *client;
    char stop_string[16]; /* of the last run */
};

static void raise_curtain(struct stage *s, const char *script)
{
    s->tok = fake_tokenizer();
    assert_non_null(s->tok);
    s->actor = (struct actor){.script = script, .n_prompt = 3};
    struct engine_config config = {.max_model_len = 512,
                                   .max_num_seqs = 4,
                                   .max_num_batched_tokens = 128,
                                   .block_size = 16,
                                   .n_pages = 64,
                                   .chunked_prefill = 1,
                                   .max_logprobs = 5,
                                   .tokenizer = s->tok,
                                   .end_tokens = {TOKEN_END},
                                   .n_end_tokens = 1};
    struct engine_model model = {.self = &s->actor,
                                 .vocab_size = FAKE_VOCAB,
                                 .forward = act,
                                 .logits = speak,
                                 .copy_page = no_copy,
                                 .close = leave};
    assert_int_equal(engine_start(&config, &model, &s->engine, NULL), LLM_OK);
    assert_int_equal(llm_client_open(s->engine, &s->client, NULL), LLM_OK);
}

static void drop_curtain(struct stage *s)
{
    llm_client_close(s->client);
    llm_engine_close(s->engine);
    tokenizer_close(s->tok);
}

static struct llm_request_spec ask(void)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt = "abc";
    s.prompt_bytes = 3;
    s.sampling.temperature = 0;
    s.sampling.max_tokens = 100;
    return s;
}

/* Runs to the end; *last is the last event, text the whole text. If `never` is given, it must not be seen in
 * what was shown at any time. */
static void run(struct stage *s, const struct llm_request_spec *spec, char *text, struct llm_event *last,
                const char *never)
{
    struct llm_request *r;
    struct llm_error err;
    assert_int_equal(llm_submit(s->client, spec, &r, &err), LLM_OK);
    size_t n = 0;
    do {
        if (llm_next(s->client, last)) {
            llm_wait(s->client, -1);
            last->request_done = 0;
            continue;
        }
        memcpy(text + n, last->text, last->text_bytes);
        n += last->text_bytes;
        text[n] = 0;
        if (never) assert_null(strstr(text, never));
    } while (!last->request_done);
    snprintf(s->stop_string, sizeof s->stop_string, "%s", last->stop_string ? last->stop_string : "");
    llm_release(r);
}

static void text_streams_and_ends(void **state)
{
    (void)state;
    struct stage s;
    char text[1000];
    struct llm_event ev;
    raise_curtain(&s, "Hello, world. All is well.");
    for (int stream = 0; stream < 2; stream++) {
        struct llm_request_spec spec = ask();
        spec.stream = stream;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "Hello, world. All is well."); /* no </s> */
        assert_int_equal(ev.finish, LLM_FINISH_STOP);
        spec.sampling.skip_special_tokens = 0;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "Hello, world. All is well."); /* an end token's text is not output */
        spec.sampling.include_stop_str_in_output = 1;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "Hello, world. All is well.</s>");
        spec.sampling.detokenize = 0;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "");
    }
    drop_curtain(&s);
}

static void stop_strings(void **state)
{
    (void)state;
    struct stage s;
    char text[1000];
    struct llm_event ev;
    raise_curtain(&s, "one STO STOP two STOP three");
    for (int stream = 0; stream < 2; stream++) {
        struct llm_request_spec spec = ask();
        spec.stream = stream;
        spec.sampling.stop = (const char *const[]){"nothing", "STOP"};
        spec.sampling.n_stop = 2;
        run(&s, &spec, text, &ev, "STOP");
        assert_string_equal(text, "one STO ");
        assert_int_equal(ev.finish, LLM_FINISH_STOP);
        assert_true(ev.stopped_by_string);
        assert_string_equal(s.stop_string, "STOP");

        spec.sampling.include_stop_str_in_output = 1;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "one STO STOP");

        spec.sampling.include_stop_str_in_output = 0;
        spec.sampling.min_tokens = 12; /* the first one does not count */
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "one STO STOP two ");

        spec.sampling.min_tokens = 0; /* held back at the end, and then it was not one */
        spec.sampling.max_tokens = 7;
        run(&s, &spec, text, &ev, NULL);
        assert_string_equal(text, "one STO");
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);

        spec.sampling.max_tokens = 12; /* string and length at once: the string counts */
        run(&s, &spec, text, &ev, NULL);
        assert_int_equal(ev.finish, LLM_FINISH_STOP);
    }
    drop_curtain(&s);
}

static void stop_token_has_no_text(void **state)
{
    (void)state;
    struct stage s;
    char text[1000];
    struct llm_event ev;
    raise_curtain(&s, "abcXdef");
    struct llm_request_spec spec = ask();
    spec.sampling.stop_token_ids = (int32_t[]){fake_token('X')};
    spec.sampling.n_stop_token_ids = 1;
    run(&s, &spec, text, &ev, NULL);
    assert_string_equal(text, "abc");
    assert_int_equal(ev.stop_token, fake_token('X'));
    spec.sampling.include_stop_str_in_output = 1;
    run(&s, &spec, text, &ev, NULL);
    assert_string_equal(text, "abcX");
    drop_curtain(&s);
}

static void bad_words(void **state)
{
    (void)state;
    struct stage s;
    char text[1000];
    struct llm_event ev;
    raise_curtain(&s, "a cat and another cat, caaat");
    struct llm_request_spec spec = ask();
    spec.sampling.bad_words = (const char *const[]){"cat"};
    spec.sampling.n_bad_words = 1;
    run(&s, &spec, text, &ev, NULL);
    assert_string_equal(text, "a ca# and another ca#, caaat");
    spec.sampling.bad_words = (const char *const[]){"a"};
    run(&s, &spec, text, &ev, NULL);
    assert_string_equal(text, "# c#t #nd #nother c#t, c###t");
    drop_curtain(&s);
}

static void prompts_of_text(void **state)
{
    (void)state;
    struct stage s;
    raise_curtain(&s, "x");
    struct llm_request_spec spec = ask();
    struct llm_request *r;
    struct llm_request_info info;
    spec.prompt = "say</s>";
    spec.prompt_bytes = 7;
    const int32_t special[] = {fake_token('s'), fake_token('a'), fake_token('y'), TOKEN_END};
    for (int parse = 0; parse < 2; parse++) {
        spec.parse_special_tokens = parse;
        assert_int_equal(llm_submit(s.client, &spec, &r, NULL), LLM_OK);
        llm_request_info(r, &info);
        assert_int_equal(info.n_prompt_tokens, parse ? 4 : 7);
        if (parse) assert_memory_equal(info.prompt_tokens, special, sizeof special);
        llm_release(r);
    }
    spec.truncate_prompt_tokens = 2;
    assert_int_equal(llm_submit(s.client, &spec, &r, NULL), LLM_OK);
    llm_request_info(r, &info);
    assert_int_equal(info.n_prompt_tokens, 2);
    assert_memory_equal(info.prompt_tokens, special + 2, 2 * sizeof *special);
    llm_release(r);
    struct llm_error err;
    spec.prompt = "";
    spec.prompt_bytes = 0;
    assert_int_equal(llm_submit(s.client, &spec, &r, &err), LLM_EINVAL);
    assert_string_equal(err.message, "the prompt is empty; it must have a token");
    drop_curtain(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_streams_and_ends),  cmocka_unit_test(stop_strings),
        cmocka_unit_test(stop_token_has_no_text), cmocka_unit_test(bad_words),
        cmocka_unit_test(prompts_of_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
