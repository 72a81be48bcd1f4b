/* Input: the text of a graph. What is read must print as a graph that reads the same, and run. */

#include "fuzz.h"
#include "graph/graph.h"

#include <string.h>

enum { VOCAB = 70 };

static void check_print(const struct graph *g)
{
    char *text, *again;
    size_t bytes, bytes_again;
    struct graph *h;
    if (graph_dump(g, &text, &bytes, NULL) != LLM_OK) return;
    must(graph_parse(text, bytes, &h, NULL) == LLM_OK);
    must(graph_dump(h, &again, &bytes_again, NULL) == LLM_OK);
    must(bytes == bytes_again && !memcmp(text, again, bytes));
    mem_free(text);
    mem_free(again);
    graph_free(h);
    if (graph_explain(g, &text, &bytes, NULL) == LLM_OK) mem_free(text);
}

static void check_run(const struct graph *g)
{
    static struct graph_scratch *s;
    static const int32_t history[] = {1, 2, 69, 1, 2, 3, 1, 2};
    if (!s && graph_scratch_open(VOCAB, "ref", &s, NULL) != LLM_OK) return;
    struct graph_args *args;
    double *variables = mem_array((size_t)g->n_variables + 1, sizeof *variables);
    if (!variables || graph_args_new(g, VOCAB, &args, NULL) != LLM_OK) return;
    graph_state_init(g, variables);
    float row[VOCAB];
    for (int i = 0; i < VOCAB; i++) row[i] = (float)(i * 37 % 64) - 32;
    struct graph_call call = {.row = row,
                              .variables = variables,
                              .args = args,
                              .prompt = history,
                              .output = history,
                              .n_prompt = 8,
                              .n_output = 5,
                              .position = 13,
                              .temperature = 1,
                              .top_p = 0.9f};
    if (graph_run(g, s, &call, NULL) == LLM_OK && g->gives == GRAPH_GIVES_TOKEN)
        must(call.token >= 0 && call.token < VOCAB);
    graph_args_free(args);
    mem_free(variables);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct graph *g;
    struct llm_error err;
    if (graph_parse((const char *)data, size, &g, &err) == LLM_OK) {
        check_print(g);
        check_run(g);
        graph_free(g);
    }
    mem_fail_at(failing_allocation(data, size));
    if (graph_parse((const char *)data, size, &g, &err) == LLM_OK) graph_free(g);
    mem_fail_at(0);
    return 0;
}
