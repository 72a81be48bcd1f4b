#include "graph/failure.h"

#include "graph/graph.h"

llm_status graph_fail(const struct graph *g, int32_t vocab_size, enum graph_failure failure, int32_t where,
                      double number, struct llm_error *err)
{
    switch (failure) {
    case GRAPH_ROW_BAD:
        return llm_fail(err, LLM_EINVAL, "the graph's row has NaN or infinity");
    case GRAPH_ROW_MASKED:
        return llm_fail(err, LLM_EINVAL, "the graph's row masks all tokens");
    case GRAPH_DRAW_BAD:
        return llm_fail(err, LLM_EINVAL, "draw %%%d met a weight that is negative, infinite or NaN", where);
    case GRAPH_DRAW_EMPTY:
        return llm_fail(err, LLM_EINVAL, "draw %%%d has nothing to draw from: all tokens have the weight 0",
                        where);
    case GRAPH_VARIABLE_NAN:
        return llm_fail(err, LLM_EINVAL, "the graph's variable %s would become NaN",
                        where >= 0 && where < g->n_states ? g->states[where].name : "?");
    case GRAPH_TOKEN_BAD:
        return llm_fail(err, LLM_EINVAL, "the graph's token is %.14g; ids are whole numbers from 0 to %d",
                        number, vocab_size - 1);
    case GRAPH_RAN:
        break;
    }
    return llm_fail(err, LLM_EINVAL, "the graph failed");
}
