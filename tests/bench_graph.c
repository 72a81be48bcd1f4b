/* Microseconds a token of the built-in sampler and of the same sampling written as a graph, in turns, for
 * rows like a language model's. Both draw the same tokens; the benchmark fails if they do not. bench_graph
 * [vocab_size [isa]] */

#include "engine/sampler.h"
#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROUNDS = 15, TOKENS = 40 };

/* temperature, then what is kept of the weights, then a draw: engine/sampler.c as a graph. */
static const char sampling[] = "graph 1\n"
                               "%0 row = logits\n"
                               "%1 num = temperature\n"
                               "%2 num = const 1\n"
                               "%3 num = div %2 %1\n"
                               "%4 num = row_max %0\n"
                               "%5 row = sub %0 %4\n"
                               "%6 row = mul %5 %3\n"
                               "%7 row = exp %6\n"
                               "%8 num = top_k\n"
                               "%9 num = kth %7 %8\n"
                               "%10 num = min_p\n"
                               "%11 num = max %9 %10\n"
                               "%12 num = const 0\n"
                               "%13 mask = le %11 %7\n"
                               "%14 row = where %13 %7 %12\n"
                               "%15 num = top_p\n"
                               "%16 num = quantile %14 %14 %15\n"
                               "%17 num = max %11 %16\n"
                               "%18 mask = le %17 %7\n"
                               "%19 row = where %18 %7 %12\n"
                               "%20 num = draw 0 %19\n"
                               "result token %20\n";

struct bench {
    struct sampler sampler;
    struct graph *graph;
    struct graph_args *args;
    struct graph_scratch *scratch;
    float *row;
    struct llm_sampling params;
    int32_t picked[TOKENS], drawn[TOKENS];
};

/* Of this thread: what else the machine does counts less. */
static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double run_sampler(struct bench *b)
{
    double begin = now();
    for (int32_t i = 0; i < TOKENS; i++) {
        struct sample_input in = {.params = &b->params, .seed = 1, .position = (uint64_t)i};
        b->picked[i] = sampler_pick(&b->sampler, b->row, &in);
    }
    return (now() - begin) / TOKENS;
}

static double run_graph(struct bench *b)
{
    struct llm_error err;
    double begin = now();
    for (int32_t i = 0; i < TOKENS; i++) {
        struct graph_call call = {.row = b->row,
                                  .args = b->args,
                                  .seed = 1,
                                  .position = (uint64_t)i,
                                  .temperature = b->params.temperature,
                                  .top_k = b->params.top_k,
                                  .top_p = b->params.top_p,
                                  .min_p = b->params.min_p};
        if (graph_run(b->graph, b->scratch, &call, &err)) {
            fprintf(stderr, "%s\n", err.message);
            exit(1);
        }
        b->drawn[i] = call.token;
    }
    return (now() - begin) / TOKENS;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, by_value);
    return v[ROUNDS / 2];
}

static void measure(struct bench *b, const char *name)
{
    double c[ROUNDS], g[ROUNDS], ratio[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        c[i] = run_sampler(b);
        g[i] = run_graph(b);
        ratio[i] = g[i] / c[i];
    }
    printf("%-28s %9.1f %9.1f %9.2f\n", name, 1e6 * median(c), 1e6 * median(g), median(ratio));
    if (memcmp(b->picked, b->drawn, sizeof b->picked)) {
        fprintf(stderr, "the two draw different tokens\n");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    int32_t n = argc > 1 ? atoi(argv[1]) : 49152;
    struct bench b = {0};
    struct llm_error err;
    b.row = n > 0 ? malloc(sizeof *b.row * (size_t)n) : NULL;
    if (!b.row || sampler_init(&b.sampler, n, &err) ||
        graph_scratch_open(n, argc > 2 ? argv[2] : NULL, &b.scratch, &err) ||
        graph_parse(sampling, strlen(sampling), &b.graph, &err) ||
        graph_args_new(b.graph, n, &b.args, &err)) {
        fprintf(stderr, "%s\n", b.row ? err.message : "bench_graph [vocab_size [isa]]");
        return 1;
    }
    srand(1);
    for (int32_t i = 0; i < n; i++) {
        b.row[i] = (float)rand() / (float)RAND_MAX * 6 - 3;
        if (rand() % 100 == 0) b.row[i] += (float)rand() / (float)RAND_MAX * 12;
    }
    const struct {
        const char *name;
        float temperature, top_p, min_p;
        int32_t top_k;
    } cases[] = {{"temperature", 1, 1, 0, 0},
                 {"min_p 0.05", 1, 1, 0.05f, 0},
                 {"top_k 50", 1, 1, 0, 50},
                 {"top_p 0.9", 1, 0.9f, 0, 0},
                 {"top_k 50, top_p 0.95", 0.8f, 0.95f, 0, 50},
                 {"all of them", 0.7f, 0.8f, 0.02f, 20},
                 {"top_p 0.9, nearly flat", 50, 0.9f, 0, 0},
                 {"top_k 20000", 1, 1, 0, 20000}};
    printf("%-28s %9s %9s %9s   us a token, vocabulary of %d, %s\n", "", "sampler", "graph", "ratio", n,
           graph_scratch_isa(b.scratch));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llm_sampling_init(&b.params);
        b.params.temperature = cases[i].temperature;
        b.params.top_p = cases[i].top_p;
        b.params.min_p = cases[i].min_p;
        b.params.top_k = cases[i].top_k;
        measure(&b, cases[i].name);
    }
    graph_args_free(b.args);
    graph_free(b.graph);
    graph_scratch_close(b.scratch);
    sampler_deinit(&b.sampler);
    free(b.row);
    return 0;
}
