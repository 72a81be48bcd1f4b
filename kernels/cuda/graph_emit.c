/* From a graph to the source of its kernel. The order of its steps is the interpreter's (graph/plan.h): what
 * is one number a sequence, then a sweep over the row for all reductions of a level, and so on; what a sweep
 * needs of the row is computed anew in each, from the inputs on, as arithmetic is cheaper than memory. */

#include "kernels/cuda/graph_emitter.h"

#include "base/mem.h"

enum {
    MOST_SUMS = 6, /* of one sweep */
    MOST_FOUND = 24,
    MOST_LINES = 10000,
    MOST_RANKS = 8,
    N_BINS = 2048,
    N_LIST = 2048,
    CHEAP = 16, /* instructions an element */
    DEAR = 100
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

static void emit_pass(struct emitter *e, const struct plan_pass *pass)
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

static void emit_gather(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    emit_want_nothing(e);
    emit_want(e, n->args[0]);
    emit_begin_scope(e);
    emit_row_function(e, n->args[0]);
    EMIT(e, "        if (WARP == 0) NUM(%d) = gather(", e->num_at[node]);
    emit_put_num(e, n->args[1]);
    EMIT(e, ", row%d);\n", n->args[0]);
    emit_end_scope(e);
    EMIT(e, "    __syncthreads();\n");
}

static void emit_table(struct emitter *e, int32_t node)
{
    const struct graph_node *n = emit_node(e, node);
    if (n->op != GRAPH_OP_recent && n->op != GRAPH_OP_repeats) return;
    e->key_at[node] = e->n_tables++;
    emit_end_numbers(e);
    if (n->op == GRAPH_OP_recent) {
        EMIT(e, "    count_recent(r, %d, ", e->key_at[node]);
        emit_put_num(e, n->args[0]);
        EMIT(e, ");\n");
        return;
    }
    EMIT(e, "    {\n");
    if (emit_node(e, n->args[1])->op == GRAPH_OP_param)
        EMIT(e, "        const uint32_t *const s%d = r.args[%d].bits;\n", node,
             emit_node(e, n->args[1])->index);
    EMIT(e, "        find_repeats(r, %d, %d, ", e->key_at[node], n->index);
    emit_put_num(e, n->args[0]);
    EMIT(e, ", [&](int t) -> bool { return ");
    emit_put_member(e, node, n->args[1], "t");
    EMIT(e, "; });\n    }\n");
}

static void put_stored(struct emitter *e, const struct graph_state *state)
{
    if (state->type == GRAPH_VEC)
        EMIT(e, "VEC(%d)", e->p->vec_at[state->store]);
    else
        EMIT(e, "&NUM(%d)", e->num_at[state->store]);
}

/* Checks, and if they hold what changes. */
static void emit_end(struct emitter *e)
{
    const struct graph *g = e->g;
    if (g->gives == GRAPH_GIVES_TOKEN) {
        emit_end_numbers(e);
        EMIT(e, "    cluster_sync(r);\n");
    }
    emit_begin_numbers(e);
    for (int32_t i = 0; i < g->n_states; i++) {
        if (g->states[i].store < 0) continue;
        EMIT(e, "        check_variable(%d, ", i);
        put_stored(e, &g->states[i]);
        EMIT(e, ", %d);\n", g->states[i].length);
    }
    if (g->gives == GRAPH_GIVES_TOKEN) {
        EMIT(e, "        check_token(%d, ", g->result);
        emit_put_num(e, g->result);
        EMIT(e, ");\n");
    }
    EMIT(e, "        if (failed() || r.rank != 0) return;\n");
    for (int32_t i = 0; i < g->n_states; i++) {
        if (g->states[i].store < 0) continue;
        EMIT(e, "        copy(r.variables + %d, ", g->states[i].offset);
        put_stored(e, &g->states[i]);
        EMIT(e, ", %d);\n", g->states[i].length);
    }
    if (g->gives == GRAPH_GIVES_TOKEN) {
        EMIT(e, "        give_token(r, a, ");
        emit_put_num(e, g->result);
        EMIT(e, ");\n");
    } else {
        EMIT(e, "        give_row(r, a);\n");
    }
    EMIT(e, "    }\n");
}

static void emit_body(struct emitter *e)
{
    for (int32_t i = 0; i < e->g->n_states; i++) { /* a constant that is stored has a slot, as all others */
        int32_t node = e->g->states[i].store;
        if (node >= 0 && emit_node(e, node)->op == GRAPH_OP_const) emit_num(e, node);
    }
    for (int32_t i = 0; i < e->p->n_steps && e->n_lines <= MOST_LINES; i++) {
        const struct plan_step *step = &e->p->steps[i];
        switch (step->kind) {
        case STEP_NUM:
            if (emit_node(e, step->index)->op != GRAPH_OP_const) emit_num(e, step->index);
            break;
        case STEP_GATHER:
            emit_gather(e, step->index);
            break;
        case STEP_TABLE:
            emit_table(e, step->index);
            break;
        case STEP_PASS:
            emit_pass(e, &e->p->passes[step->index]);
            break;
        }
    }
    emit_end(e);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* Slots of the numbers, and bits of the lists in the text. */
static llm_status place(struct emitter *e)
{
    const struct graph *g = e->g;
    const size_t words = ((size_t)e->vocab_size + 31) / 32;
    size_t lists = 0;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        const struct graph_node *n = emit_node(e, i);
        e->num_at[i] = e->key_at[i] = e->bits_at[i] = -1;
        int is_num = n->type == GRAPH_NUM || n->type == GRAPH_BOOL;
        for (int32_t s = 0; n->op == GRAPH_OP_const && s < g->n_states; s++)
            if (g->states[s].store == i) e->num_at[i] = e->n_nums;
        if (is_num && n->op != GRAPH_OP_const) e->num_at[i] = e->n_nums;
        if (e->num_at[i] >= 0) e->n_nums++;
        if (n->op == GRAPH_OP_ids && n->count > GRAPH_FEW_IDS) e->bits_at[i] = (int32_t)(words * lists++);
    }
    if (!lists) return LLM_OK;
    if (lists * words > INT32_MAX / 8)
        return llm_fail(e->err, LLM_EUNSUP, "the graph has too many lists of tokens for a device");
    e->out->constants = mem_array(lists * words, sizeof *e->out->constants);
    if (!e->out->constants) return llm_fail(e->err, LLM_ENOMEM, "no memory for the lists of a graph");
    e->out->n_constants = lists * words;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        if (e->bits_at[i] < 0) continue;
        for (int32_t k = 0; k < emit_node(e, i)->count; k++) {
            int32_t token = g->ids[emit_node(e, i)->index + k];
            if (token < e->vocab_size)
                e->out->constants[(size_t)e->bits_at[i] + (size_t)token / 32] |= 1u << token % 32;
        }
    }
    return LLM_OK;
}

/* Elements a thread has in hand: enough loads on the way where that is what takes the time, few registers and
 * little code where arithmetic does. */
static int32_t unroll(const struct emitter *e)
{
    if (e->dearest > 4 * DEAR) return 1;
    return e->dearest > DEAR ? 2 : e->dearest > CHEAP ? 4 : 8;
}

/* Sizes and places of shared memory, then the body in its kernel. */
static void assemble(struct emitter *e, struct text *t)
{
    const int32_t blocks = (e->vocab_size + BLOCK_SUM - 1) / BLOCK_SUM;
    const int32_t sizes[] = {8 * e->n_nums,
                             8 * e->p->n_vec,
                             2 * e->most_sums * blocks * 8,
                             2 * e->most_found * MOST_RANKS * 8,
                             e->most_found * 32 * 8,
                             8 * e->n_keys,
                             24,
                             24,
                             8,
                             e->draws ? BLOCK_SUM * 4 : 0,
                             e->selects ? 2 * N_BINS * 4 : 0,
                             8,
                             e->selects ? N_LIST * 4 : 0,
                             e->weighs ? N_LIST * 8 : 0};
    static const char *const names[] = {"NUMS", "VECS",      "SUMS",      "FOUND",       "PARTS",
                                        "KEYS", "VERDICT",   "DIGIT",     "WHOLE",       "WEIGHTS",
                                        "BINS", "LIST_SIZE", "LIST_KEYS", "LIST_WEIGHTS"};
    text_add(t, "#ifndef THREADS\n#define THREADS %d\n#endif\n", GRAPH_SOURCE_THREADS);
    text_add(t, "#define VOCAB %d\n#define UNROLL %d\n", e->vocab_size, unroll(e));
    text_add(t, "#define N_LIST %d\n#define LIST_HAS_WEIGHTS %d\n", N_LIST, e->weighs);
    text_add(t, "#define N_SUMS %d\n#define N_FOUND %d\n#define N_TABLES %d\n", e->most_sums, e->most_found,
             e->n_tables);
    int32_t at = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        text_add(t, "#define AT_%s %d\n", names[i], at);
        at += (sizes[i] + 7) / 8 * 8;
    }
    e->out->shared_bytes = at;
    e->out->n_tables = e->n_tables;
    text_add(
        t, "#include \"kernels/cuda/graph_device.cuh\"\n\n"
           "static __device__ __forceinline__ void run_row(struct row &r, const struct sample_args &a)\n{\n");
    text_add(t, "%s}\n\n", e->body.s ? e->body.s : "");
    text_add(t,
             "extern \"C\" __global__ void __launch_bounds__(THREADS, 1)\n"
             "    " GRAPH_KERNEL_NAME "(const struct sample_args a, const struct graph_launch l)\n{\n"
             "    struct row r = begin_rows(l);\n"
             "    for (int i = blockIdx.x / r.n_ranks; i < a.n; i += gridDim.x / r.n_ranks) {\n"
             "        if (!begin_row(r, a, l, i, %d)) continue;\n"
             "        run_row(r, a);\n"
             "        end_row(r, a, l, %d);\n"
             "    }\n"
             "    cluster_sync(r);\n}\n",
             e->g->n_variables, e->g->n_variables);
}

static llm_status check_limits(const struct emitter *e)
{
    if (e->vocab_size > GRAPH_SOURCE_VOCAB)
        return llm_fail(e->err, LLM_EUNSUP, "a device runs graphs on up to %d tokens, not %d",
                        GRAPH_SOURCE_VOCAB, e->vocab_size);
    if (e->n_tables > GRAPH_SOURCE_TABLES)
        return llm_fail(e->err, LLM_EUNSUP,
                        "a device runs graphs with up to %d of recent and repeats, not %d",
                        GRAPH_SOURCE_TABLES, e->n_tables);
    if (e->n_lines > MOST_LINES) return llm_fail(e->err, LLM_EUNSUP, "the graph is too large for a device");
    return LLM_OK;
}

llm_status graph_emit(const struct graph *g, int32_t vocab_size, struct graph_source *out,
                      struct llm_error *err)
{
    *out = (struct graph_source){0};
    struct emitter e = {.g = g, .p = g->plan, .out = out, .err = err, .vocab_size = vocab_size};
    struct text t = {0};
    const size_t n = (size_t)g->n_nodes;
    llm_status status = check_limits(&e);
    if (status != LLM_OK) return status;
    e.num_at = mem_array(n, sizeof *e.num_at);
    e.key_at = mem_array(n, sizeof *e.key_at);
    e.bits_at = mem_array(n, sizeof *e.bits_at);
    e.wanted = mem_array(n, sizeof *e.wanted);
    if (!e.num_at || !e.key_at || !e.bits_at || !e.wanted) {
        status = llm_fail(err, LLM_ENOMEM, "no memory for the source of a graph");
        goto done;
    }
    status = place(&e);
    if (status != LLM_OK) goto done;
    emit_body(&e);
    status = check_limits(&e);
    if (status != LLM_OK) goto done;
    assemble(&e, &t);
    if (e.body.failed) t.failed = 1;
    status = text_take(&t, &out->text, &out->bytes, err);
done:
    mem_free(e.body.s);
    mem_free(e.num_at);
    mem_free(e.key_at);
    mem_free(e.bits_at);
    mem_free(e.wanted);
    if (status != LLM_OK) graph_source_free(out);
    return status;
}

void graph_source_free(struct graph_source *s)
{
    mem_free(s->text);
    mem_free(s->constants);
    *s = (struct graph_source){0};
}
