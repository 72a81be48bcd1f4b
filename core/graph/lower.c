#include "graph/lower.h"

#include "graph/plan.h"

static struct lowered unary(enum block_fn_id fn, const struct graph_node *n)
{
    return (struct lowered){.fn = fn, .n = 1, .args = {n->args[0]}};
}

/* rr and the others: sr < 0: operands may be swapped. */
static struct lowered binary(const struct graph *g, const struct graph_node *n, int rr, int rs, int sr)
{
    int32_t a = n->args[0], b = n->args[1];
    if (is_wide(g, a) && is_wide(g, b)) return (struct lowered){.fn = rr, .n = 2, .args = {a, b}};
    if (is_wide(g, a)) return (struct lowered){.fn = rs, .n = 2, .args = {a, b}};
    if (sr < 0) return (struct lowered){.fn = rs, .n = 2, .args = {b, a}};
    return (struct lowered){.fn = sr, .n = 2, .args = {a, b}};
}

static struct lowered logical(const struct graph *g, const struct graph_node *n, enum block_fn_id fn)
{
    struct lowered l = {.fn = fn, .n = n->n_args, .args = {n->args[0], n->args[1]}};
    for (int32_t i = 0; i < n->n_args; i++) l.splat[i] = !is_wide(g, n->args[i]);
    return l;
}

static struct lowered choice(const struct graph *g, const struct graph_node *n)
{
    static const enum block_fn_id fns[2][2] = {{BLOCK_FN_where_ss, BLOCK_FN_where_sr},
                                               {BLOCK_FN_where_rs, BLOCK_FN_where_rr}};
    int32_t c = n->args[0], a = n->args[1], b = n->args[2];
    const struct graph_node *test = &g->nodes[c];
    if ((test->op == GRAPH_OP_le || test->op == GRAPH_OP_lt) && test->args[1] == a && is_wide(g, a) &&
        !is_wide(g, test->args[0]) && !is_wide(g, b))
        return (struct lowered){.fn = test->op == GRAPH_OP_le ? BLOCK_FN_from : BLOCK_FN_above,
                                .n = 3,
                                .args = {a, test->args[0], b}};
    struct lowered l = {.fn = fns[is_wide(g, a)][is_wide(g, b)], .n = 3, .args = {c, a, b}};
    l.splat[0] = !is_wide(g, c);
    return l;
}

/* exp((x - s) * t) and exp(x - s) of a row x and nums s, t are one operation: softmax and its kin. */
static struct lowered exponential(const struct graph *g, const struct graph_node *n)
{
    int32_t from = n->args[0], scale = -1;
    const struct graph_node *m = &g->nodes[from];
    if (m->op == GRAPH_OP_mul && is_wide(g, m->args[0]) != is_wide(g, m->args[1])) {
        int first = is_wide(g, m->args[0]);
        scale = m->args[first ? 1 : 0];
        from = m->args[first ? 0 : 1];
    }
    const struct graph_node *d = &g->nodes[from];
    if (d->op == GRAPH_OP_sub && is_wide(g, d->args[0]) && !is_wide(g, d->args[1]))
        return (struct lowered){.fn = BLOCK_FN_exp_affine, .n = 3, .args = {d->args[0], d->args[1], scale}};
    return unary(BLOCK_FN_exp, n);
}

#define BINARY(name)    binary(g, n, BLOCK_FN_##name##_rr, BLOCK_FN_##name##_rs, BLOCK_FN_##name##_sr)
#define SYMMETRIC(name) binary(g, n, BLOCK_FN_##name##_rr, BLOCK_FN_##name##_rs, -1)

struct lowered lower(const struct graph *g, int32_t node)
{
    const struct graph_node *n = &g->nodes[node];
    switch (n->op) {
    case GRAPH_OP_neg:
        return unary(BLOCK_FN_neg, n);
    case GRAPH_OP_abs:
        return unary(BLOCK_FN_abs, n);
    case GRAPH_OP_exp:
        return exponential(g, n);
    case GRAPH_OP_log:
        return unary(BLOCK_FN_log, n);
    case GRAPH_OP_tanh:
        return unary(BLOCK_FN_tanh, n);
    case GRAPH_OP_sqrt:
        return unary(BLOCK_FN_sqrt, n);
    case GRAPH_OP_floor:
        return unary(BLOCK_FN_floor, n);
    case GRAPH_OP_add:
        return SYMMETRIC(add);
    case GRAPH_OP_sub:
        return BINARY(sub);
    case GRAPH_OP_mul:
        return SYMMETRIC(mul);
    case GRAPH_OP_div:
        return BINARY(div);
    case GRAPH_OP_pow:
        return BINARY(pow);
    case GRAPH_OP_min:
        return SYMMETRIC(min);
    case GRAPH_OP_max:
        return SYMMETRIC(max);
    case GRAPH_OP_lt:
        return BINARY(lt);
    case GRAPH_OP_le:
        return BINARY(le);
    case GRAPH_OP_eq:
        return SYMMETRIC(eq);
    case GRAPH_OP_and:
        return logical(g, n, BLOCK_FN_and);
    case GRAPH_OP_or:
        return logical(g, n, BLOCK_FN_or);
    case GRAPH_OP_not:
        return logical(g, n, BLOCK_FN_not);
    case GRAPH_OP_where:
        return choice(g, n);
    case GRAPH_OP_index:
        return (struct lowered){.fn = BLOCK_FN_index};
    case GRAPH_OP_row_hash:
    case GRAPH_OP_row_random:
        return (struct lowered){.fn = BLOCK_FN_hash};
    case GRAPH_OP_accepts:
        return (struct lowered){.fn = BLOCK_FN_accepts};
    default:
        return (struct lowered){.kind = LOWERED_INPUT};
    }
}

int lower_is_dear(const struct lowered *l)
{
    switch (l->fn) {
    case BLOCK_FN_exp:
    case BLOCK_FN_exp_affine:
    case BLOCK_FN_log:
    case BLOCK_FN_tanh:
    case BLOCK_FN_pow_rr:
    case BLOCK_FN_pow_rs:
    case BLOCK_FN_pow_sr:
    case BLOCK_FN_hash:
    case BLOCK_FN_accepts:
        return l->kind == LOWERED_OP;
    default:
        return 0;
    }
}
