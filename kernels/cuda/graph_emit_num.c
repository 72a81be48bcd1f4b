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

static void put_call(struct emitter *e, const char *function, const struct graph_node *n)
{
    EMIT(e, "%s(", function);
    for (int32_t i = 0; i < n->n_args; i++) {
        EMIT(e, i ? ", " : "");
        emit_put_num(e, n->args[i]);
    }
    EMIT(e, ");\n");
}

static void put_infix(struct emitter *e, const struct graph_node *n, const char *op)
{
    emit_put_num(e, n->args[0]);
    EMIT(e, " %s ", op);
    emit_put_num(e, n->args[1]);
    EMIT(e, ";\n");
}

/* a != 0 op b != 0 */
static void put_logic(struct emitter *e, const struct graph_node *n, const char *op)
{
    emit_put_num(e, n->args[0]);
    EMIT(e, " != 0 %s ", op);
    emit_put_num(e, n->args[1]);
    EMIT(e, " != 0;\n");
}

static void emit_input(struct emitter *e, const struct graph_node *n)
{
    switch (n->op) {
    case GRAPH_OP_const:
        put_number(e, n->number);
        EMIT(e, ";\n");
        return;
    case GRAPH_OP_param:
        EMIT(e, "r.args[%d].number;\n", n->index);
        return;
    case GRAPH_OP_state:
        EMIT(e, "r.variables[%d];\n", e->g->states[n->index].offset);
        return;
    case GRAPH_OP_position:
        EMIT(e, "r.n_history;\n");
        return;
    case GRAPH_OP_n_prompt:
        EMIT(e, "r.n_prompt;\n");
        return;
    case GRAPH_OP_n_output:
        EMIT(e, "r.n_history - r.n_prompt;\n");
        return;
    case GRAPH_OP_vocab:
        EMIT(e, "VOCAB;\n");
        return;
    case GRAPH_OP_temperature:
        EMIT(e, "(double)r.p->temperature;\n");
        return;
    case GRAPH_OP_top_k:
        EMIT(e, "r.p->top_k > 0 ? r.p->top_k : 0;\n");
        return;
    case GRAPH_OP_top_p:
        EMIT(e, "(double)r.p->top_p;\n");
        return;
    case GRAPH_OP_min_p:
        EMIT(e, "(double)r.p->min_p;\n");
        return;
    case GRAPH_OP_random:
        EMIT(e, "random_number(r, %d);\n", n->index);
        return;
    default:
        EMIT(e, "(double)NAN;\n");
    }
}

static void emit_arithmetic(struct emitter *e, const struct graph_node *n)
{
    switch (n->op) {
    case GRAPH_OP_neg:
        put_call(e, "-", n);
        return;
    case GRAPH_OP_abs:
        put_call(e, "fabs", n);
        return;
    case GRAPH_OP_min:
        put_call(e, "fmin", n);
        return;
    case GRAPH_OP_max:
        put_call(e, "fmax", n);
        return;
    case GRAPH_OP_sqrt:
        put_call(e, "sqrt", n);
        return;
    case GRAPH_OP_floor:
        put_call(e, "floor", n);
        return;
    case GRAPH_OP_exp:
        put_call(e, "num_exp", n);
        return;
    case GRAPH_OP_log:
        put_call(e, "num_log", n);
        return;
    case GRAPH_OP_tanh:
        put_call(e, "num_tanh", n);
        return;
    case GRAPH_OP_pow:
        put_call(e, "num_pow", n);
        return;
    case GRAPH_OP_div:
        put_call(e, "num_div", n);
        return;
    case GRAPH_OP_add:
        put_infix(e, n, "+");
        return;
    case GRAPH_OP_sub:
        put_infix(e, n, "-");
        return;
    case GRAPH_OP_mul:
        put_infix(e, n, "*");
        return;
    case GRAPH_OP_lt:
        put_infix(e, n, "<");
        return;
    case GRAPH_OP_le:
        put_infix(e, n, "<=");
        return;
    case GRAPH_OP_eq:
        put_infix(e, n, "==");
        return;
    case GRAPH_OP_and:
        put_logic(e, n, "&&");
        return;
    case GRAPH_OP_or:
        put_logic(e, n, "||");
        return;
    case GRAPH_OP_not:
        emit_put_num(e, n->args[0]);
        EMIT(e, " == 0;\n");
        return;
    case GRAPH_OP_where:
        emit_put_num(e, n->args[0]);
        EMIT(e, " != 0 ? ");
        emit_put_num(e, n->args[1]);
        EMIT(e, " : ");
        emit_put_num(e, n->args[2]);
        EMIT(e, ";\n");
        return;
    default:
        EMIT(e, "(double)NAN;\n");
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

static void emit_from_tables(struct emitter *e, const struct graph_node *n)
{
    switch (n->op) {
    case GRAPH_OP_last:
        EMIT(e, "token_at_end(r, ");
        emit_put_num(e, n->args[0]);
        break;
    case GRAPH_OP_step:
        EMIT(e, "step_of(r.args[%d], ", emit_node(e, n->args[0])->index);
        emit_put_num(e, n->args[1]);
        EMIT(e, ", ");
        emit_put_num(e, n->args[2]);
        break;
    default: /* at */
        EMIT(e, "at(VEC(%d), %d, ", e->p->vec_at[n->args[0]], emit_node(e, n->args[0])->length);
        emit_put_num(e, n->args[1]);
        break;
    }
    EMIT(e, ");\n");
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
    if (n->op < GRAPH_OP_neg)
        emit_input(e, n);
    else if (n->op <= GRAPH_OP_where)
        emit_arithmetic(e, n);
    else
        emit_from_tables(e, n);
}
