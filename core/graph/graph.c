#include "graph/graph.h"

#include "base/mem.h"
#include "graph/plan.h"

#include <string.h>

const struct graph_op_info graph_op_table[GRAPH_N_OPS] = {
#define X(name, result, operands, attribute) {#name, result, operands, GRAPH_ATTR_##attribute},
    GRAPH_OPS(X)
#undef X
};

const char *graph_type_name(enum graph_type type)
{
    static const char *const names[GRAPH_N_TYPES] = {"row", "mask", "num",   "bool",
                                                     "vec", "list", "pairs", "automaton"};
    return names[type];
}

int32_t graph_find_param(const struct graph *g, const char *name)
{
    for (int32_t i = 0; i < g->n_params; i++)
        if (strcmp(g->params[i].name, name) == 0) return i;
    return -1;
}

void graph_state_init(const struct graph *g, double *variables)
{
    if (g->n_variables) memcpy(variables, g->initial, sizeof *variables * (size_t)g->n_variables);
}

void graph_free(struct graph *g)
{
    if (!g) return;
    plan_free(g->plan);
    mem_free(g->nodes);
    mem_free(g->params);
    mem_free(g->states);
    mem_free(g->ids);
    mem_free(g->initial);
    mem_free(g);
}
