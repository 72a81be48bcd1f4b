#ifndef LLM_GRAPH_ARGS_H
#define LLM_GRAPH_ARGS_H

/* What graph.h keeps opaque: the arguments of a request, for the interpreter and other back ends. */

#include "graph/graph.h"

struct graph_automaton {
    int32_t refs; /* atomic */
    int32_t vocab_size, n_states, n_classes;
    int32_t *class_of; /* [vocab_size] */
    int32_t *next;     /* [n_states][n_classes]; -1: refused */
};

struct graph_value {
    double number;
    int32_t n;     /* of ids */
    int32_t *ids;  /* LIST, PAIRS */
    float *values; /* [n] PAIRS */
    struct graph_automaton *automaton;
};

struct graph_args {
    const struct graph *graph;
    int32_t vocab_size;
    struct graph_value values[]; /* [n_params] */
};

#endif
