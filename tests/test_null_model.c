#define _GNU_SOURCE
/* load_format "null": a model that computes nothing goes through the whole engine, says words, and leaves no
 * page in use; its vocabulary has all bytes. */

#include "llmlua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <unistd.h>

static struct llm_engine *open_engine(float step_ms)
{
    struct llm_engine_options o;
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    llm_engine_options_init(&o);
    o.load_format = "null";
    o.null_step_ms = step_ms;
    o.max_model_len = 256;
    llm_status status = llm_engine_open(&o, &e, &err);
    if (status) print_message("%s\n", err.message);
    assert_int_equal(status, LLM_OK);
    return e;
}

static void says_words_of_its_positions(void **state)
{
    (void)state;
    struct llm_engine *e = open_engine(0);
    struct llm_client *c;
    struct llm_error err;
    struct llm_request_spec spec;
    struct llm_request *requests[8];
    char texts[8][256] = {{0}};
    assert_int_equal(llm_client_open(e, &c, &err), LLM_OK);
    llm_request_spec_init(&spec);
    spec.prompt = "abc";
    spec.prompt_bytes = 3;
    spec.stream = 1;
    spec.sampling.max_tokens = 20;
    for (uintptr_t i = 0; i < 8; i++) {
        spec.user = texts[i];
        assert_int_equal(llm_submit(c, &spec, &requests[i], &err), LLM_OK);
    }
    for (int left = 8; left > 0;) {
        struct llm_event event;
        assert_int_equal(llm_wait(c, 60000), LLM_OK);
        while (llm_next(c, &event) == LLM_OK) {
            strncat(event.user, event.text, event.text_bytes);
            left -= event.request_done;
            if (event.request_done) assert_int_equal(event.finish, LLM_FINISH_LENGTH);
        }
    }
    for (int i = 0; i < 8; i++) {
        assert_string_equal(texts[i], texts[0]);
        llm_release(requests[i]);
    }
    assert_memory_equal(texts[0], " have this will", 15); /* from position 2 on, where the prompt ends */
    struct llm_stats stats;
    llm_engine_stats(e, &stats);
    assert_int_equal(stats.n_blocks_used, 0);
    assert_int_equal(stats.n_output_tokens, 160);
    llm_client_close(c);
    llm_engine_close(e);
}

static void run_another(struct llm_engine *e)
{
    struct llm_client *c;
    struct llm_error err;
    struct llm_request_spec spec;
    struct llm_request *r;
    struct llm_event event;
    assert_int_equal(llm_client_open(e, &c, &err), LLM_OK);
    llm_request_spec_init(&spec);
    spec.prompt = "a";
    spec.prompt_bytes = 1;
    spec.sampling.max_tokens = 1;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_OK);
    assert_int_equal(llm_wait(c, 60000), LLM_OK);
    assert_int_equal(llm_next(c, &event), LLM_OK);
    llm_release(r);
    llm_client_close(c);
}

/* The one event of a request whose reader comes late, and which ends within a word. */
static void tells_where_texts_end(void **state)
{
    (void)state;
    static const char *const stop[] = {"y wh"};
    struct llm_engine *e = open_engine(0);
    struct llm_client *c;
    struct llm_error err;
    struct llm_request_spec spec;
    struct llm_request *r;
    struct llm_event event;
    struct llm_stats stats;
    assert_int_equal(llm_client_open(e, &c, &err), LLM_OK);
    llm_request_spec_init(&spec);
    spec.prompt = "abcdefghi"; /* the output begins with word 8 */
    spec.prompt_bytes = 9;
    spec.stream = 1;
    spec.sampling.max_tokens = 100;
    spec.sampling.stop = stop;
    spec.sampling.n_stop = 1;
    assert_int_equal(llm_submit(c, &spec, &r, &err), LLM_OK);
    do {
        usleep(1000);
        llm_engine_stats(e, &stats);
    } while (stats.n_finished == 0);
    run_another(e); /* a request is counted before its end is published; what comes after it waits for both */
    assert_int_equal(llm_wait(c, 60000), LLM_OK);
    assert_int_equal(llm_next(c, &event), LLM_OK);
    assert_true(event.request_done);
    assert_int_equal(event.n_tokens, 9); /* know want been good much some time very when */
    assert_int_equal(event.text_bytes, 39);
    assert_memory_equal(event.text, " know want been good much some time ver", 39);
    for (size_t i = 0; i < 7; i++) assert_int_equal(event.text_ends[i], 5 * (i + 1));
    assert_int_equal(event.text_ends[7], 39);
    assert_int_equal(event.text_ends[8], 39); /* shown of the last one: nothing */
    llm_release(r);
    llm_client_close(c);
    llm_engine_close(e);
}

static void has_all_bytes(void **state)
{
    (void)state;
    struct llm_engine *e = open_engine(0);
    const struct llm_tokenizer *t = llm_engine_tokenizer(e);
    struct llm_error err;
    static const char text[] = "h\xC3\xA9 \"quoted\"\\\n\t\xE4\xBD\xA0\xF0\x9F\x98\x80~";
    char back[64];
    int32_t ids[64];
    size_t n, bytes;
    assert_int_equal(llm_tokenize(t, text, sizeof text - 1, 1, 1, ids, 64, &n, &err), LLM_OK);
    assert_int_equal(n, sizeof text - 1);
    assert_int_equal(llm_detokenize(t, ids, n, 1, back, sizeof back, &bytes, &err), LLM_OK);
    assert_int_equal(bytes, sizeof text - 1);
    assert_memory_equal(back, text, bytes);
    for (int32_t byte = 0; byte < 128; byte++) { /* each its own token, none missing */
        int32_t id = byte;
        assert_int_equal(llm_detokenize(t, &id, 1, 1, back, sizeof back, &bytes, &err), LLM_OK);
        assert_int_equal(bytes, 1);
        assert_int_equal(back[0], byte);
    }
    llm_engine_close(e);
}

static void refuses_a_senseless_step(void **state)
{
    (void)state;
    struct llm_engine_options o;
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    llm_engine_options_init(&o);
    o.load_format = "null";
    o.null_step_ms = -1;
    assert_int_equal(llm_engine_open(&o, &e, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "null_step_ms is -1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_words_of_its_positions),
        cmocka_unit_test(tells_where_texts_end),
        cmocka_unit_test(has_all_bytes),
        cmocka_unit_test(refuses_a_senseless_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
