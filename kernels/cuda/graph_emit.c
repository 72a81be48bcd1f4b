/* From a graph to the source of its kernel. The order of its steps is the interpreter's (graph/plan.h): what
 * is one number a sequence, then a sweep over the row for all reductions of a level, and so on; what a sweep
 * needs of the row is computed anew in each, from the inputs on, as arithmetic is cheaper than memory. */

#include "kernels/cuda/graph_emitter.h"

#include "base/mem.h"

#include <string.h>

enum {
    MOST_LINES = 10000,
    MOST_RANKS = 8,
    N_BINS = 2048,
    N_LIST = 2048,
    CHEAP = 16, /* instructions an element */
    DEAR = 100
};

void emit_form(struct emitter *e, const char *form, const struct graph_node *n,
               void (*put)(struct emitter *e, int32_t node))
{
    for (const char *hole; (hole = strchr(form, '$')); form = hole + 2) {
        EMIT(e, "%.*s", (int)(hole - form), form);
        put(e, n->args[hole[1] - '0']);
    }
    EMIT(e, "%s", form);
}

/* ---- steps --------------------------------------------------------------------------------------------- */

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
