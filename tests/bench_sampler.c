/* Microseconds a token, by kind of sampling, for rows like a language model's and for flat ones.
 * bench_sampler [vocab_size] */

#include "engine/sampler.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Smallest mean of nine runs of 40. */
static double measure(struct sampler *s, const float *row, const struct llm_sampling *p, int32_t candidates)
{
    static struct llm_logprob logprobs[6];
    static struct llm_candidate list[LLM_MAX_CANDIDATES];
    double best = 1e9;
    for (int run = 0; run < 9; run++) {
        double begin = now();
        for (uint64_t i = 0; i < 40; i++) {
            struct sample_best likely = {list, candidates};
            struct sample_input in = {.params = p, .seed = 1, .position = i};
            int32_t token = candidates ? sampler_choose(s, row, &in, &likely) : sampler_pick(s, row, &in);
            if (p->logprobs >= 0) sampler_logprobs(s, row, token, p->logprobs, logprobs);
        }
        double t = (now() - begin) / 40;
        if (t < best) best = t;
    }
    return best;
}

int main(int argc, char **argv)
{
    int32_t n = argc > 1 ? atoi(argv[1]) : 49152;
    struct sampler s;
    float *row = n > 0 ? malloc(sizeof *row * (size_t)n) : NULL;
    if (!row || sampler_init(&s, n, NULL)) return 1;
    srand(1);
    for (int32_t i = 0; i < n; i++) {
        row[i] = (float)rand() / (float)RAND_MAX * 6 - 3;
        if (rand() % 100 == 0) row[i] += (float)rand() / (float)RAND_MAX * 12;
    }
    const struct {
        const char *name;
        float temperature, top_p, min_p;
        int32_t top_k, logprobs, candidates;
    } cases[] = {{"greedy", 0, 1, 0, 0, -2, 0},
                 {"greedy, 5 logprobs", 0, 1, 0, 0, 5, 0},
                 {"temperature", 1, 1, 0, 0, -2, 0},
                 {"min_p 0.05", 1, 1, 0.05f, 0, -2, 0},
                 {"top_k 50", 1, 1, 0, 50, -2, 0},
                 {"top_p 0.9", 1, 0.9f, 0, 0, -2, 0},
                 {"top_k 50, temperature 0.1", 0.1f, 1, 0, 50, -2, 0},
                 {"top_k 50, top_p 0.95", 0.8f, 0.95f, 0, 50, -2, 0},
                 {"top_p 0.9, nearly flat", 50, 0.9f, 0, 0, -2, 0},
                 {"top_k 20000", 1, 1, 0, 20000, -2, 0},
                 {"temperature, 256 candidates", 1, 1, 0, 0, -2, 256},
                 {"temperature, 32 candidates", 1, 1, 0, 0, -2, 32},
                 {"top_p 0.9, 256 candidates", 1, 0.9f, 0, 0, -2, 256},
                 {"top_k 50, 256 candidates", 1, 1, 0, 50, -2, 256}};
    printf("%-28s  us a token, vocabulary of %d\n", "", n);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct llm_sampling p;
        llm_sampling_init(&p);
        p.temperature = cases[i].temperature;
        p.top_p = cases[i].top_p;
        p.min_p = cases[i].min_p;
        p.top_k = cases[i].top_k;
        p.logprobs = cases[i].logprobs;
        printf("%-28s  %7.1f\n", cases[i].name, 1e6 * measure(&s, row, &p, cases[i].candidates));
    }
    sampler_deinit(&s);
    free(row);
    return 0;
}
