/* What the host does in a step on a device, without one: sequences that decode side by side on a model that
 * answers at once. Planning, the arrays of the batch, collecting, judging and telling clients; not the
 * device's own calls.
 *
 *   bench_steps [TOKENS]     microseconds a step, a row a batch size, without and with clients that stream */

#include "base/mem.h"
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_SEQS = 256, PROMPT = 1024, PAGE = 64, VOCAB = 1000 };

struct answers {
    struct sampled rows[2][MAX_SEQS];
};

static llm_status refuse(void *self, const int32_t *rows, int32_t n, float *out, struct llm_error *err)
{
    (void)self, (void)rows, (void)n, (void)out;
    return llm_fail(err, LLM_EFAILED, "steps are launched");
}

static llm_status copy_page(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    (void)self, (void)from, (void)to, (void)err;
    return LLM_OK;
}

static llm_status launch(void *self, const struct device_step *step, struct llm_error *err)
{
    struct answers *a = self;
    (void)err;
    for (int32_t i = 0; i < step->n_rows; i++)
        a->rows[step->mark][i] =
            (struct sampled){.token = (int32_t)((step->rows[i].position * 7 + (uint64_t)i) % VOCAB)};
    return LLM_OK;
}

static llm_status collect(void *self, int mark, struct device_results *out, struct llm_error *err)
{
    (void)err;
    *out = (struct device_results){.rows = ((struct answers *)self)->rows[mark]};
    return LLM_OK;
}

static void close_model(void *self)
{
    (void)self;
}

static void must(llm_status status, const struct llm_error *err)
{
    if (!status) return;
    fprintf(stderr, "bench_steps: %s\n", err->message);
    exit(1);
}

/* Takes events until n sequences have ended. */
static void wait_for(struct llm_client *c, int32_t n)
{
    struct llm_event ev;
    while (n > 0) {
        llm_status status = llm_next(c, &ev);
        if (status == LLM_EAGAIN)
            llm_wait(c, -1);
        else if (ev.finish != LLM_FINISH_NONE)
            n--;
    }
}

static double run(struct llm_engine *e, struct llm_client *c, int32_t n, int32_t n_tokens, int stream)
{
    int32_t prompt[PROMPT];
    struct llm_request *requests[MAX_SEQS];
    struct llm_stats before, after;
    struct llm_error err;
    llm_engine_stats(e, &before);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t k = 0; k < PROMPT; k++) prompt[k] = (i * 31 + k * 17) % VOCAB;
        struct llm_request_spec spec;
        llm_request_spec_init(&spec);
        spec.prompt_ids = prompt;
        spec.n_prompt_ids = PROMPT;
        spec.stream = stream;
        spec.sampling.max_tokens = n_tokens;
        spec.sampling.temperature = 0;
        spec.sampling.ignore_eos = 1;
        spec.sampling.detokenize = 0;
        must(llm_submit(c, &spec, &requests[i], &err), &err);
    }
    wait_for(c, n);
    llm_engine_stats(e, &after);
    for (int32_t i = 0; i < n; i++) llm_release(requests[i]);
    return (after.busy_seconds - before.busy_seconds) / (double)(after.n_steps - before.n_steps) * 1e6;
}

int main(int argc, char **argv)
{
    static struct answers answers;
    int32_t n_tokens = argc > 1 ? atoi(argv[1]) : 2000;
    struct llm_error err = {0};
    const struct engine_config config = {.max_model_len = PROMPT + n_tokens,
                                         .max_num_seqs = MAX_SEQS,
                                         .max_num_batched_tokens = 8192,
                                         .block_size = PAGE,
                                         .n_pages = MAX_SEQS * ((PROMPT + n_tokens) / PAGE + 2),
                                         .prefix_caching = 1,
                                         .chunked_prefill = 1};
    const struct engine_model model = {.self = &answers,
                                       .vocab_size = VOCAB,
                                       .logits = refuse,
                                       .copy_page = copy_page,
                                       .n_workers = 1,
                                       .launch = launch,
                                       .collect = collect,
                                       .close = close_model};
    struct llm_engine *e;
    struct llm_client *c;
    must(engine_start(&config, &model, &e, &err), &err);
    must(llm_client_open(e, &c, &err), &err);
    for (int32_t n = 1; n <= MAX_SEQS; n *= 4) {
        double quiet = run(e, c, n, n_tokens, 0), streaming = run(e, c, n, n_tokens, 1);
        printf("%3d sequences: %7.1f us a step, %7.1f where all stream\n", (int)n, quiet, streaming);
    }
    llm_client_close(c);
    llm_engine_close(e);
    return 0;
}
