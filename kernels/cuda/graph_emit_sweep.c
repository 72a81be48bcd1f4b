/* Of the source of a graph's kernel: sweeps over the row. One finds as many of a pass's reductions as fit
 * together; selections sweep for themselves; the last stores the row that the graph gives. */

#include "kernels/cuda/graph_emitter.h"

enum {
    MOST_SUMS = 6, /* of one sweep */
    MOST_FOUND = 24
};

/* ---- sweeps -------------------------------------------------------------------------------------------- */

struct sweep {
    int32_t n, nodes[MOST_FOUND]; /* reductions */
    int32_t sum[MOST_FOUND];      /* slot; -1: it has none */
    int32_t found[MOST_FOUND];
    int32_t n_sums, n_found;
    uint32_t added; /* of the found: which are sums */
};

static int is_summed(enum graph_op op)
{
    return op == GRAPH_OP_row_sum || op == GRAPH_OP_draw;
}

static int is_selection(enum graph_op op)
{
    return op == GRAPH_OP_kth || op == GRAPH_OP_quantile;
}

static int32_t most_sums(const struct emitter *e)
{
    int32_t blocks = (e->vocab_size + BLOCK_SUM - 1) / BLOCK_SUM, fit = 3072 / blocks;
    return fit < 1 ? 1 : fit < MOST_SUMS ? fit : MOST_SUMS;
}

/* Takes the next reductions of a pass that fit together; returns where the rest begins. */
static int32_t gather_sweep(struct emitter *e, const struct plan_pass *pass, int32_t from, struct sweep *s)
{
    *s = (struct sweep){0};
    const int32_t end = pass->first_reduction + pass->n_reductions;
    for (; from < end; from++) {
        int32_t node = e->p->reductions[from].node;
        const struct graph_node *n = emit_node(e, node);
        if (is_selection(n->op)) continue;
        int sums = is_summed(n->op), finds = n->op != GRAPH_OP_row_sum;
        if (s->n == MOST_FOUND || s->n_sums + sums > most_sums(e) || s->n_found + finds > MOST_FOUND) break;
        if (n->op == GRAPH_OP_mask_count) s->added |= 1u << s->n_found;
        s->sum[s->n] = sums ? s->n_sums++ : -1;
        s->found[s->n] = finds ? s->n_found++ : -1;
        s->nodes[s->n++] = node;
    }
    if (s->n_sums > e->most_sums) e->most_sums = s->n_sums;
    if (s->n_found > e->most_found) e->most_found = s->n_found;
    return from;
}

static void declare_found(struct emitter *e, const struct graph_node *n, int32_t slot)
{
    switch (n->op) {
    case GRAPH_OP_row_max:
        EMIT(e, "        float best%d = LOWEST_ROW;\n", slot);
        return;
    case GRAPH_OP_row_min:
        EMIT(e, "        float best%d = INFINITY;\n", slot);
        return;
    case GRAPH_OP_row_argmax:
        EMIT(e, "        float best%d = LOWEST_ROW;\n        int token%d = 0;\n", slot, slot);
        return;
    default:
        EMIT(e, "        uint32_t count%d = 0;\n", slot);
    }
}

static void emit_gathering(struct emitter *e, const struct sweep *s, int32_t k)
{
    const struct graph_node *n = emit_node(e, s->nodes[k]);
    const int32_t slot = s->found[k], a = n->args[0];
    if (s->sum[k] >= 0) EMIT(e, "            if (in) sum%d += e%d;\n", s->sum[k], a);
    switch (n->op) {
    case GRAPH_OP_row_max:
        EMIT(e, "            best%d = fmaxf(best%d, e%d);\n", slot, slot, a);
        return;
    case GRAPH_OP_row_min:
        EMIT(e, "            best%d = fminf(best%d, e%d);\n", slot, slot, a);
        return;
    case GRAPH_OP_row_argmax:
        EMIT(e, "            if (e%d > best%d) {\n                best%d = e%d;\n", a, slot, slot, a);
        EMIT(e, "                token%d = i;\n            }\n", slot);
        return;
    case GRAPH_OP_mask_count:
        EMIT(e, "            count%d += in & e%d;\n", slot, a);
        return;
    case GRAPH_OP_draw:
        EMIT(e, "            count%d |= in & !(e%d >= 0);\n", slot, a);
        return;
    default:
        return;
    }
}

static void emit_note(struct emitter *e, const struct graph_node *n, int32_t slot)
{
    switch (n->op) {
    case GRAPH_OP_row_max:
        EMIT(e, "        note(false, %d, ordered(best%d));\n", slot, slot);
        return;
    case GRAPH_OP_row_min:
        EMIT(e, "        note(false, %d, (uint32_t)~ordered(best%d));\n", slot, slot);
        return;
    case GRAPH_OP_row_argmax:
        EMIT(e, "        note(false, %d, best_key(best%d, token%d));\n", slot, slot, slot);
        return;
    case GRAPH_OP_mask_count:
        EMIT(e, "        note(true, %d, count%d);\n", slot, slot);
        return;
    default:
        EMIT(e, "        note(false, %d, count%d);\n", slot, slot);
    }
}

/* What a sweep has found becomes numbers. A draw looks at the row again. */
static void emit_finish(struct emitter *e, const struct sweep *s, int32_t k)
{
    const int32_t node = s->nodes[k], slot = s->found[k];
    const struct graph_node *n = emit_node(e, node);
    if (n->op == GRAPH_OP_draw) {
        emit_want_nothing(e);
        emit_want(e, n->args[0]);
        emit_begin_scope(e);
        emit_row_function(e, n->args[0]);
        EMIT(e, "        const double token = draw(r, %d, %d, %d, %d, row%d);\n", node, n->index, s->sum[k],
             slot, n->args[0]);
        EMIT(e, "        if (WARP == 0) NUM(%d) = token;\n", e->num_at[node]);
        e->draws = 1;
        emit_end_scope(e);
        return;
    }
    emit_begin_assignment(e, node);
    switch (n->op) {
    case GRAPH_OP_row_max:
        EMIT(e, "found_max(r, %d);\n", slot);
        return;
    case GRAPH_OP_row_min:
        EMIT(e, "found_min(r, %d);\n", slot);
        return;
    case GRAPH_OP_row_argmax:
        EMIT(e, "found_best(r, %d);\n", slot);
        return;
    case GRAPH_OP_mask_count:
        EMIT(e, "(double)found(true, r, %d);\n", slot);
        return;
    default:
        EMIT(e, "total(r, %d);\n", s->sum[k]);
    }
}

/* The elements of a tile, twice: all of a full one, and those that the last one has. */
static void begin_tile(struct emitter *e, int is_last, const char *place)
{
    if (is_last)
        EMIT(e, "            else ONE_BY_ONE {\n            LAST_ELEMENT(i, in, %s);\n", place);
    else
        EMIT(e, "            if (IS_FULL(tile)) STEPS ELEMENTS {\n            ELEMENT(i, in, %s);\n", place);
    emit_elements(e);
}

static void emit_sweep(struct emitter *e, const struct sweep *s)
{
    emit_want_nothing(e);
    for (int32_t k = 0; k < s->n; k++) emit_want(e, emit_node(e, s->nodes[k])->args[0]);
    emit_begin_scope(e);
    for (int32_t k = 0; k < s->n; k++) {
        EMIT(e, "        /* %%%d: %s */\n", s->nodes[k], graph_op_table[emit_node(e, s->nodes[k])->op].name);
        if (s->found[k] >= 0) declare_found(e, emit_node(e, s->nodes[k]), s->found[k]);
    }
    EMIT(e, "        TILES(r)\n        {\n");
    for (int32_t i = 0; i < s->n_sums; i++) EMIT(e, "            float sum%d = 0;\n", i);
    for (int is_last = 0; is_last < 2; is_last++) {
        begin_tile(e, is_last, s->n_sums ? "IN_LANES" : "ALONG");
        for (int32_t k = 0; k < s->n; k++) emit_gathering(e, s, k);
        EMIT(e, "            }\n");
    }
    for (int32_t i = 0; i < s->n_sums; i++) EMIT(e, "            sum_tile(r, %d, tile, sum%d);\n", i, i);
    EMIT(e, "        }\n");
    for (int32_t k = 0; k < s->n; k++)
        if (s->found[k] >= 0) emit_note(e, emit_node(e, s->nodes[k]), s->found[k]);
    EMIT(e, "        meet(r, %d, 0x%xu);\n", s->n_found, (unsigned)s->added);
    emit_end_scope(e);
    int draws = 0;
    for (int32_t k = 0; k < s->n; k++) {
        emit_finish(e, s, k);
        draws |= emit_node(e, s->nodes[k])->op == GRAPH_OP_draw;
    }
    if (!draws) return;
    emit_end_numbers(e);
    EMIT(e, "    __syncthreads();\n    if (failed()) return;\n");
}

/* ---- selections ---------------------------------------------------------------------------------------- */

/* The function that select calls for each element. */
static void emit_weigher(struct emitter *e, const struct graph_node *n)
{
    EMIT(e, "        const auto weigh = [&](int i, float *x) -> word64 {\n");
    emit_elements(e);
    EMIT(e, "            *x = e%d;\n", n->args[0]);
    if (n->op == GRAPH_OP_kth)
        EMIT(e, "            return e%d > LOWEST_ROW;\n        };\n", n->args[0]);
    else
        EMIT(e, "            return quantile_weight(e%d, e%d, shift);\n        };\n", n->args[0], n->args[1]);
}

/* Elements the interpreter too begins with, where they are known to be weights of which the largest is 1. */
static const char *guess_of(const struct plan_reduction *red, const struct graph_node *n)
{
    return red->is_weights && (n->op == GRAPH_OP_kth || n->args[0] == n->args[1]) ? "0x1p-8f" : "LOWEST_ROW";
}

static void emit_kth(struct emitter *e, const struct plan_reduction *red, const struct graph_node *n)
{
    EMIT(e, "        if (floor(p) >= 1 && floor(p) <= VOCAB) {\n");
    emit_weigher(e, n);
    EMIT(e, "        value = select<true>(r, (word64)floor(p), %s, weigh);\n        }\n", guess_of(red, n));
}

/* First the sum of the weights, by which they are scaled. */
static void emit_quantile(struct emitter *e, const struct plan_reduction *red, const struct graph_node *n)
{
    if (!e->most_sums) e->most_sums = 1;
    EMIT(e, "        if (p < 1) {\n        TILES(r)\n        {\n            float sum0 = 0;\n");
    for (int is_last = 0; is_last < 2; is_last++) {
        begin_tile(e, is_last, "IN_LANES");
        EMIT(e, "            if (in) sum0 += e%d;\n            }\n", n->args[1]);
    }
    EMIT(e,
         "            sum_tile(r, 0, tile, sum0);\n        }\n        meet(r, 0, 0);\n"
         "        const double sum = add_up_once(r, 0);\n        const int shift = quantile_shift(sum);\n");
    emit_weigher(e, n);
    EMIT(e, "        value = select<false>(r, quantile_need(p * sum, shift), %s, weigh);\n        }\n",
         guess_of(red, n));
}

/* kth and quantile, in runs whose numbers ask for them. */
static void emit_selection(struct emitter *e, const struct plan_reduction *red)
{
    const int32_t node = red->node;
    const struct graph_node *n = emit_node(e, node);
    const int is_kth = n->op == GRAPH_OP_kth;
    e->selects = 1;
    e->weighs |= !is_kth;
    if (!e->most_found) e->most_found = 1;
    emit_want_nothing(e);
    emit_want(e, n->args[0]);
    if (!is_kth) emit_want(e, n->args[1]);
    emit_begin_scope(e);
    EMIT(e, "        /* %%%d: %s */\n        const double p = ", node, graph_op_table[n->op].name);
    emit_put_num(e, n->args[is_kth ? 1 : 2]);
    EMIT(e, ";\n        double value = -(double)INFINITY;\n");
    if (is_kth)
        emit_kth(e, red, n);
    else
        emit_quantile(e, red, n);
    EMIT(e, "        __syncthreads();\n        if (WARP == 0) NUM(%d) = value;\n", e->num_at[node]);
    EMIT(e, "        __syncthreads();\n");
    emit_end_scope(e);
}

/* ---- passes -------------------------------------------------------------------------------------------- */

/* Elements are stored when all in hand have been loaded: for all the compiler knows a store may change what
 * is loaded after it. */
static void emit_result(struct emitter *e)
{
    const int32_t result = e->g->result;
    emit_want_nothing(e);
    emit_want(e, result);
    emit_begin_scope(e);
    EMIT(e, "        /* %%%d: the result */\n        float top = LOWEST_ROW;\n        TILES(r)\n        {\n",
         result);
    EMIT(e, "            if (IS_FULL(tile)) STEPS {\n            float result[UNROLL];\n"
            "            ELEMENTS {\n            ELEMENT(i, in, ALONG);\n");
    emit_elements(e);
    EMIT(e,
         "            top = top_of(top, e%d);\n            result[u] = e%d;\n            }\n"
         "            ELEMENTS r.out[ALONG] = result[u];\n            }\n",
         result, result);
    begin_tile(e, 1, "ALONG");
    EMIT(e, "            top = top_of(top, e%d);\n            if (in) r.out[i] = e%d;\n            }\n",
         result, result);
    EMIT(e, "        }\n        note(false, 0, top < INFINITY ? ordered(top) : ordered(INFINITY));\n"
            "        meet(r, 1, 0);\n");
    emit_end_scope(e);
    if (!e->most_found) e->most_found = 1;
    emit_begin_numbers(e);
    EMIT(e, "        check_row(r, %d, 0);\n", result);
}

void emit_pass(struct emitter *e, const struct plan_pass *pass)
{
    const int32_t end = pass->first_reduction + pass->n_reductions;
    for (int32_t at = pass->first_reduction; at < end;) {
        struct sweep s;
        at = gather_sweep(e, pass, at, &s);
        if (s.n) emit_sweep(e, &s);
    }
    for (int32_t i = pass->first_reduction; i < end; i++) {
        const struct plan_reduction *red = &e->p->reductions[i];
        if (is_selection(emit_node(e, red->node)->op)) emit_selection(e, red);
    }
    if (pass->makes_result) emit_result(e);
}
