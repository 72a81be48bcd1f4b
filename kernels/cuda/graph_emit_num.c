/* What is one number, or a small array, a sequence: as core/graph/nums.c computes it. */

#include "kernels/cuda/graph_emitter.h"

#include <math.h>

static void put_number(struct emitter *e, double v)
{
    if (isinf(v))
        EMIT(e, v < 0 ? "(-(double)INFINITY)" : "((double)INFINITY)");
    else
        EMIT(e, signbit(v) ? "(%a)" : "%a", v);
}

/* The value of a num or bool, in f64. */
void emit_put_num(struct emitter *e, int32_t node)
{
    if (emit_node(e, node)->op == GRAPH_OP_const)
        put_number(e, emit_node(e, node)->number);
    else
        EMIT(e, "NUM(%d)", e->num_at[node]);
}

/* Numbers are the first warp's. */
void emit_begin_numbers(struct emitter *e)
{
    if (e->in_numbers) return;
    e->in_numbers = 1;
    EMIT(e, "    if (WARP == 0) {\n");
}

void emit_end_numbers(struct emitter *e)
{
    if (!e->in_numbers) return;
    e->in_numbers = 0;
    EMIT(e, "    }\n    __syncthreads();\n");
}

void emit_begin_assignment(struct emitter *e, int32_t node)
{
    emit_begin_numbers(e);
    EMIT(e, "        NUM(%d) = ", e->num_at[node]);
    e->n_lines++;
}

/* Numbers that are a function of the row and of operands alone. */
static const char *const forms[GRAPH_N_OPS] = {
    [GRAPH_OP_position] = "r.n_history",
    [GRAPH_OP_n_prompt] = "r.n_prompt",
    [GRAPH_OP_n_output] = "r.n_history - r.n_prompt",
    [GRAPH_OP_vocab] = "VOCAB",
    [GRAPH_OP_temperature] = "(double)r.p->temperature",
    [GRAPH_OP_top_k] = "r.p->top_k > 0 ? r.p->top_k : 0",
    [GRAPH_OP_top_p] = "(double)r.p->top_p",
    [GRAPH_OP_min_p] = "(double)r.p->min_p",
    [GRAPH_OP_neg] = "-($0)",
    [GRAPH_OP_abs] = "fabs($0)",
    [GRAPH_OP_exp] = "num_exp($0)",
    [GRAPH_OP_log] = "num_log($0)",
    [GRAPH_OP_tanh] = "num_tanh($0)",
    [GRAPH_OP_sqrt] = "sqrt($0)",
    [GRAPH_OP_floor] = "floor($0)",
    [GRAPH_OP_add] = "$0 + $1",
    [GRAPH_OP_sub] = "$0 - $1",
    [GRAPH_OP_mul] = "$0 * $1",
    [GRAPH_OP_div] = "num_div($0, $1)",
    [GRAPH_OP_pow] = "num_pow($0, $1)",
    [GRAPH_OP_min] = "fmin($0, $1)",
    [GRAPH_OP_max] = "fmax($0, $1)",
    [GRAPH_OP_lt] = "$0 < $1",
    [GRAPH_OP_le] = "$0 <= $1",
    [GRAPH_OP_eq] = "$0 == $1",
    [GRAPH_OP_and] = "$0 != 0 && $1 != 0",
    [GRAPH_OP_or] = "$0 != 0 || $1 != 0",
    [GRAPH_OP_not] = "$0 == 0",
    [GRAPH_OP_where] = "$0 != 0 ? $1 : $2",
    [GRAPH_OP_last] = "token_at_end(r, $0)",
};

/* The value of a num or bool that is assigned. */
static void put_value(struct emitter *e, const struct graph_node *n)
{
    if (forms[n->op]) {
        emit_form(e, forms[n->op], n, emit_put_num);
        return;
    }
    switch (n->op) {
    case GRAPH_OP_const:
        put_number(e, n->number);
        return;
    case GRAPH_OP_param:
        EMIT(e, "r.args[%d].number", n->index);
        return;
    case GRAPH_OP_state:
        EMIT(e, "r.variables[%d]", e->g->states[n->index].offset);
        return;
    case GRAPH_OP_random:
        EMIT(e, "random_number(r, %d)", n->index);
        return;
    case GRAPH_OP_step:
        EMIT(e, "step_of(r.args[%d], ", emit_node(e, n->args[0])->index);
        emit_form(e, "$1, $2)", n, emit_put_num);
        return;
    case GRAPH_OP_at:
        EMIT(e, "at(VEC(%d), %d, ", e->p->vec_at[n->args[0]], emit_node(e, n->args[0])->length);
        emit_form(e, "$1)", n, emit_put_num);
        return;
    default:
        EMIT(e, "(double)NAN");
    }
}

void emit_put_key(struct emitter *e, const struct graph_node *n)
{
    EMIT(e, "{");
    for (int32_t i = 0; i < n->n_args; i++) {
        EMIT(e, i ? ", " : "");
        emit_put_num(e, n->args[i]);
    }
    EMIT(e, "};\n");
}

static void emit_hash(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    emit_begin_numbers(e);
    EMIT(e, "        const double hashed%d[] = ", node);
    emit_put_key(e, n);
    EMIT(e, "        NUM(%d) = (double)hash_uniform(hash_of(hashed%d, %d).k[0]);\n", e->num_at[node], node,
         n->n_args);
}

static void emit_vec(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    emit_begin_numbers(e);
    e->n_lines++;
    if (n->op == GRAPH_OP_state) {
        EMIT(e, "        copy(VEC(%d), r.variables + %d, %d);\n", e->p->vec_at[node],
             e->g->states[n->index].offset, n->length);
        return;
    }
    EMIT(e, "        %s(VEC(%d), VEC(%d), %d", n->op == GRAPH_OP_push ? "push_back" : "put",
         e->p->vec_at[node], e->p->vec_at[n->args[0]], n->length);
    for (int32_t i = 1; i < n->n_args; i++) {
        EMIT(e, ", ");
        emit_put_num(e, n->args[i]);
    }
    EMIT(e, ");\n");
}

void emit_num(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    if (n->type == GRAPH_VEC) emit_vec(e, node);
    if (e->num_at[node] < 0) return;
    if (n->op == GRAPH_OP_hash) {
        emit_hash(e, node);
        return;
    }
    emit_begin_assignment(e, node);
    put_value(e, n);
    EMIT(e, ";\n");
}
