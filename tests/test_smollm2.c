/* The default model's greedy output against llama.cpp's (tests/golden/make_smollm2.py): equal at every step
 * but near-ties. Needs the model in models/ (scripts/dev/download.sh); without it the tests are skipped. */

#include "golden_run.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define MODEL MODELS_DIR "/SmolLM2-135M-Instruct.Q4_1.gguf"

enum { MAX_LEN = 256, MAX_BATCH = 256 };

static struct backend *backend;
static struct run run;
static json_t *golden;

static int32_t *ids_of(const json_t *prompt, int32_t *n_prompt, int32_t *n_all)
{
    const json_t *parts[2] = {json_object_get(prompt, "prompt_ids"), json_object_get(prompt, "ids")};
    int32_t n = 0, *ids = malloc(sizeof *ids * (json_array_size(parts[0]) + json_array_size(parts[1])));
    for (int part = 0; part < 2; part++)
        for (size_t i = 0; i < json_array_size(parts[part]); i++)
            ids[n++] = (int32_t)json_integer_value(json_array_get(parts[part], i));
    *n_prompt = (int32_t)json_array_size(parts[0]);
    *n_all = n;
    return ids;
}

static int is_near_tie(const json_t *prompt, int32_t step)
{
    size_t i;
    json_t *tie;
    json_array_foreach(json_object_get(prompt, "near_ties"), i,
                       tie) if (json_integer_value(json_array_get(tie, 0)) == step) return 1;
    return 0;
}

static double number_at(const json_t *prompt, const char *key, int32_t step)
{
    return json_number_value(json_array_get(json_object_get(prompt, key), (size_t)step));
}

static int32_t argmax(const float *logits, int32_t n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* What the model says after each prefix of llama.cpp's own text. Both round activations to 8 bits, each in
 * its own way: margins may differ by the noise of two roundings, a standard deviation of 0.16 each. */
static void test_every_step(void **state)
{
    (void)state;
    if (!backend) skip();
    size_t p;
    json_t *prompt;
    int32_t vocab = run.model->config.vocab_size, n_steps = 0, n_ties = 0, n_differ = 0;
    double squares = 0;
    float *logits = malloc(sizeof *logits * MAX_BATCH * (size_t)vocab);
    json_array_foreach(json_object_get(golden, "prompts"), p, prompt)
    {
        int32_t n_prompt, n_all, *ids = ids_of(prompt, &n_prompt, &n_all);
        assert_true(n_all <= MAX_LEN);
        struct piece piece = {0, 0, n_all - 1, ids};
        run_batch(&run, 1, &piece, 0, logits);
        for (int32_t step = 0; step < n_all - n_prompt; step++) {
            int32_t row = n_prompt + step - 1, second = (int32_t)number_at(prompt, "seconds", step);
            const float *l = logits + (int64_t)row * vocab;
            int32_t got = argmax(l, vocab);
            double difference = (double)(l[ids[row + 1]] - l[second]) - number_at(prompt, "margins", step);
            squares += difference * difference;
            int tie = is_near_tie(prompt, step);
            n_steps++;
            n_ties += tie;
            n_differ += got != ids[row + 1];
            if (got != ids[row + 1] && !tie)
                fail_msg("prompt %zu step %d: token %d, llama.cpp has %d", p, (int)step, (int)got,
                         (int)ids[row + 1]);
        }
        free(ids);
    }
    print_message("%d steps, %d near-ties, %d of them decided otherwise; margins differ by %.3f (r.m.s.)\n",
                  (int)n_steps, (int)n_ties, (int)n_differ, sqrt(squares / n_steps));
    assert_true(n_differ < n_steps / 20);
    assert_true(sqrt(squares / n_steps) < 0.3);
    free(logits);
}

/* The prompts continued, four at a time, one token a step: llama.cpp's text up to the first near-tie that
 * falls otherwise. */
static void test_greedy(void **state)
{
    (void)state;
    if (!backend) skip();
    json_t *prompts = json_object_get(golden, "prompts");
    int32_t vocab = run.model->config.vocab_size;
    float *logits = malloc(sizeof *logits * RUN_MAX_SEQS * (size_t)vocab);
    for (size_t first = 0; first + RUN_MAX_SEQS <= json_array_size(prompts); first += RUN_MAX_SEQS) {
        int32_t n_prompt[RUN_MAX_SEQS], n_all[RUN_MAX_SEQS], *want[RUN_MAX_SEQS], *ids[RUN_MAX_SEQS];
        struct piece pieces[RUN_MAX_SEQS];
        int diverged[RUN_MAX_SEQS] = {0};
        for (int32_t s = 0; s < RUN_MAX_SEQS; s++) {
            const json_t *prompt = json_array_get(prompts, first + (size_t)s);
            want[s] = ids_of(prompt, &n_prompt[s], &n_all[s]);
            ids[s] = ids_of(prompt, &n_prompt[s], &n_all[s]);
            pieces[s] = (struct piece){s, 0, n_prompt[s], ids[s]};
        }
        for (int32_t step = 0; step < n_all[0] - n_prompt[0]; step++) {
            run_batch(&run, RUN_MAX_SEQS, pieces, 1, logits);
            for (int32_t s = 0; s < RUN_MAX_SEQS; s++) {
                int32_t got = argmax(logits + (int64_t)s * vocab, vocab), at = n_prompt[s] + step;
                int tie = is_near_tie(json_array_get(prompts, first + (size_t)s), step);
                if (!diverged[s] && got != want[s][at] && !tie)
                    fail_msg("prompt %zu step %d: token %d, llama.cpp has %d", first + (size_t)s, (int)step,
                             (int)got, (int)want[s][at]);
                diverged[s] |= got != want[s][at];
                ids[s][at] = got;
                pieces[s].begin = at;
                pieces[s].end = at + 1;
            }
        }
        for (int32_t s = 0; s < RUN_MAX_SEQS; s++) {
            free(want[s]);
            free(ids[s]);
        }
    }
    free(logits);
}

/* *state: the instruction set. */
static int set_up(void **state)
{
    json_error_t error;
    backend = run_backend(*state, 2);
    if (!backend) return 0;
    golden = json_load_file(TESTS_DIR "/golden/smollm2_greedy.json", 0, &error);
    if (!golden) return -1;
    struct model_options options = {.path = MODEL, .skip_tokenizer = 1};
    run_open(&run, backend, &options, MAX_LEN, MAX_BATCH, DTYPE_F16);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (!backend) return 0;
    run_close(&run);
    backend->close(backend);
    json_decref(golden);
    return 0;
}

static void test_no_model(void **state)
{
    (void)state;
    skip();
}

int main(void)
{
    static char avx2[] = "avx2", avx512[] = "avx512"; /* the scalar reference would take minutes */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate_setup_teardown(test_every_step, set_up, tear_down, avx2),
        cmocka_unit_test_prestate_setup_teardown(test_greedy, set_up, tear_down, avx2),
        cmocka_unit_test_prestate_setup_teardown(test_every_step, set_up, tear_down, avx512),
        cmocka_unit_test_prestate_setup_teardown(test_greedy, set_up, tear_down, avx512),
    };
    const struct CMUnitTest without[] = {cmocka_unit_test(test_no_model)};
    if (access(MODEL, R_OK) != 0) return cmocka_run_group_tests(without, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
