#ifndef LLM_GRAPH_LOWER_H
#define LLM_GRAPH_LOWER_H

/* From a node that gives a row or a mask to the block operation that computes it. */

#include "graph/block.h"
#include "graph/graph.h"

enum lowered_kind {
    LOWERED_OP,
    LOWERED_INPUT /* it lies in memory: logits, and rows made from token lists */
};

struct lowered {
    enum lowered_kind kind;
    enum block_fn_id fn;
    int32_t n;
    int32_t args[3]; /* nodes: rows, masks, nums; -1: the number 1 */
    int splat[3];    /* a num or bool that the operation wants as a row */
};

struct lowered lower(const struct graph *g, int32_t node);

/* Dear to compute: worth a row of memory if a later pass needs it too. */
int lower_is_dear(const struct lowered *l);

static inline int is_wide(const struct graph *g, int32_t node)
{
    return g->nodes[node].type == GRAPH_ROW || g->nodes[node].type == GRAPH_MASK;
}

#endif
