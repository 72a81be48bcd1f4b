#include "graph/graph.h"
#include "graph/text.h"

static void dump_declarations(struct text *t, const struct graph *g)
{
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct graph_param *p = &g->params[i];
        text_add(t, "param %s %s", p->name, graph_type_name(p->type));
        if (p->type == GRAPH_NUM) {
            const double v[] = {p->initial, p->least, p->most};
            for (int k = 0; k < 3; k++) {
                text_add(t, " ");
                text_number(t, v[k]);
            }
        }
        text_add(t, "\n");
    }
    for (int32_t i = 0; i < g->n_states; i++) {
        const struct graph_state *s = &g->states[i];
        text_add(t, "state %s %s", s->name, graph_type_name(s->type));
        if (s->type == GRAPH_VEC) text_add(t, " %d", s->length);
        for (int32_t k = 0; k < s->length; k++) {
            text_add(t, " ");
            text_number(t, g->initial[s->offset + k]);
        }
        text_add(t, "\n");
    }
}

static void dump_attribute(struct text *t, const struct graph *g, const struct graph_node *n)
{
    switch (graph_op_table[n->op].attribute) {
    case GRAPH_ATTR_NONE:
        break;
    case GRAPH_ATTR_NUMBER:
        text_add(t, " ");
        text_number(t, n->number);
        break;
    case GRAPH_ATTR_PARAM:
        text_add(t, " %s", g->params[n->index].name);
        break;
    case GRAPH_ATTR_STATE:
        text_add(t, " %s", g->states[n->index].name);
        break;
    case GRAPH_ATTR_SITE:
    case GRAPH_ATTR_MAX:
        text_add(t, " %d", n->index);
        break;
    case GRAPH_ATTR_REGION:
        text_add(t, n->index ? " output" : " prompt");
        break;
    case GRAPH_ATTR_IDS:
        text_add(t, " [");
        for (int32_t i = 0; i < n->count; i++) text_add(t, i ? " %d" : "%d", g->ids[n->index + i]);
        text_add(t, "]");
        break;
    }
}

llm_status graph_dump(const struct graph *g, char **out, size_t *bytes, struct llm_error *err)
{
    struct text t = {0};
    text_add(&t, "graph 1\n");
    dump_declarations(&t, g);
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const struct graph_node *n = &g->nodes[i];
        text_add(&t, "%%%d %s = %s", i, graph_type_name(n->type), graph_op_table[n->op].name);
        dump_attribute(&t, g, n);
        for (int32_t k = 0; k < n->n_args; k++) text_add(&t, " %%%d", n->args[k]);
        text_add(&t, "\n");
    }
    for (int32_t i = 0; i < g->n_states; i++)
        if (g->states[i].store >= 0) text_add(&t, "store %s %%%d\n", g->states[i].name, g->states[i].store);
    text_add(&t, "result %s %%%d\n", g->gives == GRAPH_GIVES_ROW ? "row" : "token", g->result);
    return text_take(&t, out, bytes, err);
}
