#ifndef LLM_GRAPH_FAILURE_H
#define LLM_GRAPH_FAILURE_H

/* Why a run of a graph fails: the interpreter and every device find the same, and it reads the same.
 * Compiled for devices too. */

#include "base/status.h"

#include <stdint.h>

enum graph_failure {
    GRAPH_RAN,
    GRAPH_ROW_BAD,      /* the result row has NaN or +inf */
    GRAPH_ROW_MASKED,   /* it has nothing above -inf */
    GRAPH_DRAW_BAD,     /* where: the draw's node */
    GRAPH_DRAW_EMPTY,   /* where: the draw's node */
    GRAPH_VARIABLE_NAN, /* where: index in graph.states */
    GRAPH_TOKEN_BAD     /* number: what is no id */
};

struct graph;

/* The message. Returns LLM_EINVAL. vocab_size: of the rows. */
llm_status graph_fail(const struct graph *g, int32_t vocab_size, enum graph_failure failure, int32_t where,
                      double number, struct llm_error *err);

#endif
