/* Elements of rows: an expression an operation. */

#include "kernels/cuda/graph_emitter.h"

#include <string.h>

void emit_want_nothing(struct emitter *e)
{
    memset(e->wanted, 0, (size_t)e->g->n_nodes);
}

void emit_want(struct emitter *e, int32_t node)
{
    e->wanted[node] = 1;
}

static void want_operands(struct emitter *e)
{
    for (int32_t i = e->g->n_nodes - 1; i >= 0; i--)
        for (int32_t a = 0; e->wanted[i] && a < emit_node(e, i)->n_args; a++)
            if (is_wide(e->g, emit_node(e, i)->args[a])) emit_want(e, emit_node(e, i)->args[a]);
}

/* Keys of hashes of the wanted rows that no sweep before has needed. */
static void emit_keys(struct emitter *e)
{
    for (int32_t i = 0; i < e->g->n_nodes; i++) {
        const struct graph_node *n = emit_node(e, i);
        if (!e->wanted[i] || e->key_at[i] >= 0) continue;
        if (n->op != GRAPH_OP_row_hash && n->op != GRAPH_OP_row_random) continue;
        e->key_at[i] = e->n_keys++;
        emit_begin_numbers(e);
        if (n->op == GRAPH_OP_row_random) {
            EMIT(e, "        KEY(%d) = random_key(r, %d);\n", e->key_at[i], n->index);
            continue;
        }
        EMIT(e, "        const double hashed%d[] = ", i);
        emit_put_key(e, n);
        EMIT(e, "        KEY(%d) = hash_of(hashed%d, %d);\n", e->key_at[i], i, n->n_args);
    }
}

/* What the wanted rows need that is the same for all elements. named: nodes that have been declared. */
static void emit_constants(struct emitter *e)
{
    for (int32_t i = 0; i < e->g->n_nodes; i++) {
        const struct graph_node *n = emit_node(e, i);
        if (!e->wanted[i]) continue;
        if (e->key_at[i] >= 0) EMIT(e, "        const struct hash_key k%d = KEY(%d);\n", i, e->key_at[i]);
        if (n->op == GRAPH_OP_scatter)
            EMIT(e, "        const struct graph_arg a%d = r.args[%d];\n", i, emit_node(e, n->args[0])->index);
        if (n->op == GRAPH_OP_set && emit_node(e, n->args[0])->op == GRAPH_OP_param)
            EMIT(e, "        const uint32_t *const s%d = r.args[%d].bits;\n", i,
                 emit_node(e, n->args[0])->index);
        if (n->op == GRAPH_OP_accepts) {
            int32_t param = emit_node(e, n->args[0])->index;
            EMIT(e, "        const struct graph_arg a%d = r.args[%d];\n", i, param);
            EMIT(e, "        const int32_t *const l%d = line_of(a%d, ", i, i);
            emit_put_num(e, n->args[1]);
            EMIT(e, ");\n");
        }
        if (n->op < GRAPH_OP_neg || n->op > GRAPH_OP_where) continue;
        for (int32_t a = 0; a < n->n_args; a++) {
            int32_t arg = n->args[a];
            if (is_wide(e->g, arg) || e->wanted[arg]) continue;
            e->wanted[arg] = 1; /* declared */
            int truth = emit_node(e, arg)->type == GRAPH_BOOL;
            EMIT(e, truth ? "        const bool e%d = " : "        const float e%d = pinned((float)", arg);
            emit_put_num(e, arg);
            EMIT(e, truth ? " != 0;\n" : ");\n");
        }
    }
}

/* Whether token `t` is in the list of a set or of the breakers of repeats. */
void emit_put_member(struct emitter *e, int32_t set, int32_t list, const char *t)
{
    const struct graph_node *l = emit_node(e, list);
    if (l->op == GRAPH_OP_param) {
        EMIT(e, "has_bit(s%d, %s)", set, t);
    } else if (l->count > GRAPH_FEW_IDS) {
        EMIT(e, "has_bit(r.constants + %d, %s)", e->bits_at[list], t);
    } else {
        EMIT(e, "(false");
        for (int32_t i = 0; i < l->count; i++) EMIT(e, " | (%s == %d)", t, e->g->ids[l->index + i]);
        EMIT(e, ")");
    }
}

/* Elements that are a function of operands alone. */
static const char *const forms[GRAPH_N_OPS] = {
    [GRAPH_OP_logits] = "__ldcg(r.at + i)",
    [GRAPH_OP_index] = "(float)i",
    [GRAPH_OP_neg] = "-$0",
    [GRAPH_OP_abs] = "fabsf($0)",
    [GRAPH_OP_exp] = "exp_element($0)",
    [GRAPH_OP_log] = "log_core($0)",
    [GRAPH_OP_tanh] = "tanh_core($0)",
    [GRAPH_OP_sqrt] = "sqrtf($0)",
    [GRAPH_OP_floor] = "floorf($0)",
    [GRAPH_OP_add] = "$0 + $1",
    [GRAPH_OP_sub] = "$0 - $1",
    [GRAPH_OP_mul] = "$0 * $1",
    [GRAPH_OP_div] = "$0 / $1",
    [GRAPH_OP_pow] = "pow_core($0, $1)",
    [GRAPH_OP_min] = "min_core($0, $1)",
    [GRAPH_OP_max] = "max_core($0, $1)",
    [GRAPH_OP_lt] = "$0 < $1",
    [GRAPH_OP_le] = "$0 <= $1",
    [GRAPH_OP_eq] = "$0 == $1",
    [GRAPH_OP_and] = "$0 & $1",
    [GRAPH_OP_or] = "$0 | $1",
    [GRAPH_OP_not] = "!$0",
    [GRAPH_OP_where] = "$0 ? $1 : $2",
};

static void put_element(struct emitter *e, int32_t node)
{
    EMIT(e, "e%d", node);
}

static void put_operation(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    if (forms[n->op]) {
        emit_form(e, forms[n->op], n, put_element);
        return;
    }
    switch (n->op) {
    case GRAPH_OP_row_hash:
    case GRAPH_OP_row_random:
        EMIT(e, "hash_uniform(hash_token(k%d.k[0], k%d.k[1], (uint32_t)i))", node, node);
        return;
    case GRAPH_OP_counts:
        EMIT(e, n->index ? "in_output(r, i)" : "in_prompt(r, i)");
        return;
    case GRAPH_OP_set:
        emit_put_member(e, node, n->args[0], "i");
        return;
    case GRAPH_OP_scatter:
        EMIT(e, "scattered(a%d, i)", node);
        return;
    case GRAPH_OP_recent:
    case GRAPH_OP_repeats:
        EMIT(e, "in_table(r, %d, i)", e->key_at[node]);
        return;
    case GRAPH_OP_accepts:
        EMIT(e, "accepts(a%d, l%d, i)", node, node);
        return;
    default:
        EMIT(e, "NAN");
    }
}

/* About how many instructions an operation takes an element. */
static int32_t price_of(enum graph_op op)
{
    switch (op) {
    case GRAPH_OP_exp:
    case GRAPH_OP_log:
    case GRAPH_OP_tanh:
        return 36;
    case GRAPH_OP_pow:
        return 72;
    case GRAPH_OP_row_hash:
    case GRAPH_OP_row_random:
        return 16;
    case GRAPH_OP_div:
    case GRAPH_OP_sqrt:
        return 10;
    default:
        return 2;
    }
}

/* The wanted rows' elements of token i. */
void emit_elements(struct emitter *e)
{
    int32_t price = 0;
    for (int32_t i = 0; i < e->g->n_nodes; i++) {
        if (!e->wanted[i] || !is_wide(e->g, i)) continue;
        EMIT(e, "            const %s e%d = ", emit_node(e, i)->type == GRAPH_MASK ? "bool" : "float", i);
        put_operation(e, i);
        EMIT(e, ";\n");
        price += price_of(emit_node(e, i)->op);
        e->n_lines++;
    }
    if (price > e->dearest) e->dearest = price;
}

/* Opens a scope in which the wanted rows' constants are known. */
void emit_begin_scope(struct emitter *e)
{
    want_operands(e);
    emit_keys(e);
    emit_end_numbers(e);
    EMIT(e, "    {\n");
    emit_constants(e);
}

void emit_end_scope(struct emitter *e)
{
    EMIT(e, "    }\n");
}

/* A function of a token: element of a row. */
void emit_row_function(struct emitter *e, int32_t row)
{
    EMIT(e, "        const auto row%d = [&](int i) -> float {\n", row);
    emit_elements(e);
    EMIT(e, "            return e%d;\n        };\n", row);
}
