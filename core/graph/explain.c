/* A plan in words. */

#include "graph/plan.h"
#include "graph/text.h"

static const char *const fn_names[] = {
#define X(name) #name,
    BLOCK_FNS(X)
#undef X
};

static void explain_ref(struct text *t, struct ref r)
{
    switch (r.kind) {
    case REF_NONE:
        return;
    case REF_BUFFER:
        text_add(t, " b%d", r.index);
        return;
    case REF_STORED:
        text_add(t, " row%d", r.index);
        return;
    case REF_TABLE:
        text_add(t, " table%d", r.index);
        return;
    case REF_LOGITS:
        text_add(t, " logits");
        return;
    case REF_RESULT:
        text_add(t, " result");
        return;
    case REF_NUM:
        text_add(t, " %%%d", r.index);
        return;
    case REF_ONE:
        text_add(t, " 1");
        return;
    }
}

static void explain_program(struct text *t, const struct plan *p, const struct program *program)
{
    for (int32_t i = 0; i < program->n; i++) {
        const struct plan_op *op = &p->ops[program->first + i];
        text_add(t, i < program->n_once ? "  once " : "  ");
        text_add(t, "%%%d:", op->node);
        explain_ref(t, op->out);
        text_add(t, op->out.kind == REF_NONE ? " %s" : " = %s", fn_names[op->fn]);
        explain_ref(t, op->a);
        explain_ref(t, op->b);
        explain_ref(t, op->c);
        text_add(t, "\n");
    }
}

llm_status graph_explain(const struct graph *g, char **out, size_t *bytes, struct llm_error *err)
{
    const struct plan *p = g->plan;
    struct text t = {0};
    for (int32_t i = 0; i < p->n_steps; i++) {
        const struct plan_step *step = &p->steps[i];
        const char *op = step->kind == STEP_PASS ? "" : graph_op_table[g->nodes[step->index].op].name;
        switch (step->kind) {
        case STEP_NUM:
            text_add(&t, "%%%d = %s\n", step->index, op);
            break;
        case STEP_GATHER:
            text_add(&t, "%%%d = %s, of one token\n", step->index, op);
            break;
        case STEP_TABLE:
            text_add(&t, "table%d = %%%d, %s\n", p->table_of[step->index], step->index, op);
            break;
        case STEP_PASS:
            text_add(&t, "pass %d\n", step->index);
            explain_program(&t, p, &p->passes[step->index].program);
            break;
        }
    }
    return text_take(&t, out, bytes, err);
}
