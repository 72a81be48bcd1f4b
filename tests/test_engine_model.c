#define _GNU_SOURCE
/* The engine over a real decoder with a tiny random model: the tokens of a request do not depend on what runs
 * beside it, nor on memory, chunks, preemption or cached prefixes; a steady step allocates nothing. */

#include "base/mem.h"
#include "llmlua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 256, MAX_PROMPT = 300, MAX_OUTPUT = 240, VOCAB = 512 };

static char dir[] = "/tmp/llmlua_test_engine_XXXXXX";
static char config_path[64];

static int write_config(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(config_path, sizeof config_path, "%s/config.json", dir);
    FILE *f = fopen(config_path, "w");
    if (!f) return -1;
    fputs("{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": 512,"
          "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 2,"
          "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"max_position_embeddings\": 1024,"
          "\"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"tie_word_embeddings\": false,"
          "\"bos_token_id\": 1, \"eos_token_id\": 2, \"torch_dtype\": \"float32\"}",
          f);
    return fclose(f);
}

static int remove_config(void **state)
{
    (void)state;
    unlink(config_path);
    return rmdir(dir);
}

struct job {
    int32_t prompt[MAX_PROMPT], n_prompt, n_output;
    int32_t got[MAX_OUTPUT], n_got;
};

static struct job alone[N], batched[N];

static struct llm_engine *start(struct llm_engine_options *o)
{
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    o->model = dir;
    o->load_format = "dummy";
    o->skip_tokenizer_init = 1;
    o->threads = 2;
    llm_status status = llm_engine_open(o, &e, &err);
    if (status) print_message("%s\n", err.message);
    assert_int_equal(status, LLM_OK);
    return e;
}

static void draw_jobs(struct job *jobs)
{
    srand(12);
    for (int32_t i = 0; i < N; i++) {
        jobs[i].n_prompt = 150 + rand() % 150;
        jobs[i].n_output = 40 + rand() % 200;
        jobs[i].n_got = 0;
        for (int32_t k = 0; k < jobs[i].n_prompt; k++) jobs[i].prompt[k] = rand() % VOCAB;
        if (i % 8 == 7) /* some share a prefix */
            memcpy(jobs[i].prompt, jobs[i - 1].prompt, sizeof(int32_t) * 90);
    }
}

static void submit(struct llm_client *c, struct job *j, int32_t i)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = j->prompt;
    s.n_prompt_ids = (size_t)j->n_prompt;
    s.user = j;
    s.stream = i % 3 == 0;
    s.sampling.ignore_eos = 1;
    s.sampling.max_tokens = j->n_output;
    s.sampling.temperature = i % 2 ? 0 : 0.8f;
    s.sampling.top_k = i % 4 ? 0 : 30;
    s.sampling.has_seed = 1;
    s.sampling.seed = (uint64_t)i;
    struct llm_request *r;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
}

static void collect(struct llm_client *c, int32_t n)
{
    while (n > 0) {
        struct llm_event ev;
        if (llm_next(c, &ev)) {
            llm_wait(c, -1);
            continue;
        }
        struct job *j = ev.user;
        memcpy(j->got + j->n_got, ev.tokens, sizeof(int32_t) * ev.n_tokens);
        j->n_got += (int32_t)ev.n_tokens;
        if (!ev.request_done) continue;
        assert_int_equal(ev.finish, LLM_FINISH_LENGTH);
        llm_release(ev.request);
        n--;
    }
}

static void many_requests_in_little_memory(void **state)
{
    (void)state;
    struct llm_engine_options o;
    struct llm_client *c;
    struct llm_stats st;
    struct llm_model_info info;

    llm_engine_options_init(&o);
    o.enable_prefix_caching = 0;
    struct llm_engine *e = start(&o);
    llm_engine_model_info(e, &info);
    assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
    draw_jobs(alone);
    for (int32_t i = 0; i < N; i++) {
        submit(c, &alone[i], i);
        collect(c, 1);
    }
    llm_client_close(c);
    llm_engine_close(e);

    llm_engine_options_init(&o);
    o.kv_cache_memory = 20 * 365 * info.kv_bytes_per_token; /* 365: the mean length when finished */
    o.max_num_batched_tokens = 300;
    e = start(&o);
    assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
    draw_jobs(batched);
    for (int32_t i = 0; i < N; i++) submit(c, &batched[i], i);
    collect(c, N);
    llm_engine_stats(e, &st);
    print_message(
        "%d pages, %llu preemptions, %llu tokens from the cache, %.1f %% wasted at the fullest step\n",
        st.n_blocks, (unsigned long long)st.n_preemptions, (unsigned long long)st.n_prefix_hits,
        100 * st.kv_waste_peak);
    for (int32_t i = 0; i < N; i++) {
        assert_int_equal(batched[i].n_got, batched[i].n_output);
        assert_memory_equal(batched[i].got, alone[i].got, sizeof(int32_t) * (size_t)alone[i].n_got);
    }
    assert_int_equal(st.n_blocks_used, 0);
    assert_true(st.n_preemptions > 0);
    assert_true(st.n_prefix_hits > 0);
    assert_true(st.kv_waste_peak < 0.04);
    llm_client_close(c);
    llm_engine_close(e);
}

static void steady_state_allocates_nothing(void **state)
{
    (void)state;
    struct llm_engine_options o;
    struct llm_client *c;
    llm_engine_options_init(&o);
    struct llm_engine *e = start(&o);
    assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
    draw_jobs(batched);
    for (int32_t i = 0; i < 32; i++) submit(c, &batched[i], i);
    uint64_t before = mem_count();
    collect(c, 32);
    assert_int_equal(mem_count() - before, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

static void forks_are_as_if_alone(void **state)
{
    (void)state;
    enum { FORKS = 5, OUTPUT = 40 };
    int32_t got[2][FORKS][OUTPUT];
    struct job *j = &alone[0];
    draw_jobs(alone);
    for (int round = 0; round < 2; round++) {
        struct llm_engine_options o;
        struct llm_client *c;
        llm_engine_options_init(&o);
        o.max_num_seqs = round ? 2 : 64; /* with two seats most forks start anew */
        struct llm_engine *e = start(&o);
        assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
        struct llm_request_spec s;
        llm_request_spec_init(&s);
        s.prompt_ids = j->prompt;
        s.n_prompt_ids = (size_t)j->n_prompt;
        s.sampling.n = FORKS;
        s.sampling.ignore_eos = 1;
        s.sampling.max_tokens = OUTPUT;
        s.sampling.has_seed = 1;
        struct llm_request *r;
        assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
        for (struct llm_event ev = {0}; !ev.request_done;) {
            if (llm_next(c, &ev)) {
                llm_wait(c, -1);
                ev.request_done = 0;
                continue;
            }
            assert_int_equal(ev.n_tokens, OUTPUT);
            memcpy(got[round][ev.index], ev.tokens, sizeof got[0][0]);
        }
        llm_client_close(c);
        llm_engine_close(e);
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
    assert_memory_not_equal(got[0][0], got[0][1], sizeof got[0][0]);
}

/* Runs a request to its end and gives its scores of the prompt from `start` on, then those of its output. */
static size_t scores_of(struct llm_client *c, struct llm_request_spec *s, int32_t start, float *out)
{
    struct llm_request *r;
    struct llm_event ev = {0};
    struct llm_request_info info;
    s->prompt_logprobs_start = start;
    s->sampling.prompt_logprobs = s->sampling.logprobs = 3;
    s->sampling.ignore_eos = 1;
    s->sampling.temperature = 0;
    assert_int_equal(llm_submit(c, s, &r, NULL), LLM_OK);
    while (!ev.request_done)
        if (llm_next(c, &ev)) llm_wait(c, -1);
    llm_request_info(r, &info);
    size_t n = 0;
    for (size_t i = 0; i < info.n_prompt_logprob_rows * (size_t)info.n_prompt_logprobs; i++)
        out[n++] = info.prompt_logprobs[i].logprob;
    for (size_t i = 0; i < ev.n_tokens * (size_t)ev.n_logprobs; i++) out[n++] = ev.logprobs[i].logprob;
    llm_release(r);
    return n;
}

/* A text that was appended to, generated, forked and rewound has, to the bit, the scores of the same text
 * computed from nothing by another engine. */
static void sequences_are_as_if_alone(void **state)
{
    (void)state;
    struct llm_engine_options o;
    struct llm_client *kept, *plain;
    struct llm_sequence *s, *fork;
    struct llm_request_spec spec;
    static float scores[4 * 512], want[4 * 512];
    int32_t text[512];
    size_t n;

    llm_engine_options_init(&o);
    struct llm_engine *e = start(&o);
    o.enable_prefix_caching = 0;
    struct llm_engine *other = start(&o);
    assert_int_equal(llm_client_open(e, &kept, NULL), LLM_OK);
    assert_int_equal(llm_client_open(other, &plain, NULL), LLM_OK);
    draw_jobs(alone);
    assert_int_equal(llm_sequence_open(kept, &s, NULL), LLM_OK);
    assert_int_equal(llm_sequence_append(s, alone[0].prompt, 150, NULL), LLM_OK);
    for (int32_t round = 0; round < 12; round++) {
        assert_int_equal(llm_sequence_fork(s, &fork, NULL), LLM_OK);
        llm_request_spec_init(&spec);
        spec.sequence = round % 2 ? fork : s;
        spec.prompt_ids = alone[1].prompt + round * 7;
        spec.n_prompt_ids = (size_t)(round % 3) * 9;
        spec.sampling.max_tokens = 1 + round;
        const int32_t *tokens = llm_sequence_tokens(spec.sequence, &n);
        memcpy(text, tokens, sizeof *text * n);
        memcpy(text + n, spec.prompt_ids, sizeof *text * spec.n_prompt_ids);
        size_t n_scores = scores_of(kept, &spec, (int32_t)n, scores);

        llm_request_spec_init(&spec);
        spec.prompt_ids = text;
        spec.n_prompt_ids = n + (size_t)(round % 3) * 9;
        spec.sampling.max_tokens = 1 + round;
        assert_int_equal(scores_of(plain, &spec, (int32_t)n, want), n_scores);
        assert_memory_equal(scores, want, sizeof *want * n_scores);
        if (round % 4 == 3) assert_int_equal(llm_sequence_rewind(s, n - 13, NULL), LLM_OK);
        llm_sequence_close(fork);
    }
    llm_client_close(kept);
    llm_client_close(plain);
    llm_engine_close(e);
    llm_engine_close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_requests_in_little_memory),
        cmocka_unit_test(steady_state_allocates_nothing),
        cmocka_unit_test(forks_are_as_if_alone),
        cmocka_unit_test(sequences_are_as_if_alone),
    };
    return cmocka_run_group_tests(tests, write_config, remove_config);
}
