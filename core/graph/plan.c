#include "graph/plan.h"

#include "base/mem.h"
#include "graph/lower.h"

#include <string.h>

/* What the planner knows of each node while it works. */
struct knowledge {
    int needed;
    int32_t level;      /* of a row: the pass it can be computed in; of a num: it is known before that pass */
    int32_t first_pass; /* that computes it; -1: none yet */
    int32_t stored;     /* row of scratch; -1: none */
    int wanted;         /* by the program being made */
    int32_t last_use;   /* op of the program that reads it last */
    int32_t buffer;     /* that holds it in the program being made; -1: none */
    struct ref splat;   /* as a row */
};

struct planner {
    const struct graph *g;
    struct plan *p;
    struct knowledge *k;
    struct llm_error *err;
    int32_t n_stored, n_tables, result_pass;
    uint8_t taken[PLAN_MAX_BUFFERS];
};

/* Made from a token list before a pass. */
static int is_table(enum graph_op op)
{
    return op == GRAPH_OP_set || op == GRAPH_OP_scatter || op == GRAPH_OP_counts || op == GRAPH_OP_recent ||
           op == GRAPH_OP_repeats;
}

/* Needs a sweep over its row. */
static int is_reduction(enum graph_op op)
{
    switch (op) {
    case GRAPH_OP_row_max:
    case GRAPH_OP_row_min:
    case GRAPH_OP_row_sum:
    case GRAPH_OP_row_argmax:
    case GRAPH_OP_mask_count:
    case GRAPH_OP_kth:
    case GRAPH_OP_quantile:
    case GRAPH_OP_draw:
        return 1;
    default:
        return 0;
    }
}

static llm_status no_memory(struct planner *pl)
{
    return llm_fail(pl->err, LLM_ENOMEM, "no memory to plan a graph");
}

/* ---- levels -------------------------------------------------------------------------------------------- */

static void find_needed(struct planner *pl)
{
    const struct graph *g = pl->g;
    pl->k[g->result].needed = 1;
    for (int32_t i = 0; i < g->n_states; i++)
        if (g->states[i].store >= 0) pl->k[g->states[i].store].needed = 1;
    for (int32_t i = g->n_nodes - 1; i >= 0; i--)
        for (int32_t a = 0; pl->k[i].needed && a < g->nodes[i].n_args; a++)
            pl->k[g->nodes[i].args[a]].needed = 1;
}

/* Returns the number of passes. */
static int32_t find_levels(struct planner *pl)
{
    const struct graph *g = pl->g;
    int32_t passes = 0;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        if (!pl->k[i].needed) continue;
        int32_t level = 0;
        for (int32_t a = 0; a < g->nodes[i].n_args; a++)
            if (pl->k[g->nodes[i].args[a]].level > level) level = pl->k[g->nodes[i].args[a]].level;
        pl->k[i].level = level + is_reduction(g->nodes[i].op);
        if (pl->k[i].level > passes) passes = pl->k[i].level;
    }
    /* The result row is written when all else is known, so that the logits can lie in the same memory. */
    pl->result_pass = g->gives == GRAPH_GIVES_ROW ? passes++ : -1;
    return passes;
}

/* ---- what a pass needs --------------------------------------------------------------------------------- */

static int is_loaded(const struct planner *pl, int32_t node, int32_t pass)
{
    return pl->k[node].stored >= 0 && pl->k[node].first_pass < pass;
}

/* Of the wanted rows, those that these are computed from. pass < 0: from the inputs on. */
static void want_operands(struct planner *pl, int32_t pass)
{
    const struct graph *g = pl->g;
    for (int32_t i = g->n_nodes - 1; i >= 0; i--) {
        if (!pl->k[i].wanted || !is_wide(g, i)) continue;
        struct lowered l = lower(g, i);
        if (l.kind == LOWERED_INPUT || (pass >= 0 && is_loaded(pl, i, pass))) continue;
        for (int32_t a = 0; a < l.n; a++)
            if (l.args[a] >= 0 && is_wide(g, l.args[a])) pl->k[l.args[a]].wanted = 1;
    }
}

static void want_nothing(struct planner *pl)
{
    for (int32_t i = 0; i < pl->g->n_nodes; i++) {
        pl->k[i].wanted = 0;
        pl->k[i].last_use = -1;
        pl->k[i].buffer = -1;
        pl->k[i].splat = (struct ref){REF_NONE, 0};
    }
}

static void want_of_pass(struct planner *pl, int32_t pass)
{
    const struct graph *g = pl->g;
    const struct plan_pass *p = &pl->p->passes[pass];
    want_nothing(pl);
    for (int32_t r = 0; r < p->n_reductions; r++) {
        const struct graph_node *n = &g->nodes[pl->p->reductions[p->first_reduction + r].node];
        for (int32_t a = 0; a < n->n_args; a++)
            if (is_wide(g, n->args[a])) pl->k[n->args[a]].wanted = 1;
    }
    if (pass == pl->result_pass) pl->k[g->result].wanted = 1;
    want_operands(pl, pass);
}

/* Which rows the passes leave to later ones. */
static void decide_stores(struct planner *pl)
{
    for (int32_t pass = 0; pass < pl->p->n_passes; pass++) {
        want_of_pass(pl, pass);
        for (int32_t i = pl->g->n_nodes - 1; i >= 0; i--) {
            struct knowledge *k = &pl->k[i];
            if (!k->wanted || !is_wide(pl->g, i) || k->stored >= 0) continue;
            struct lowered l = lower(pl->g, i);
            if (k->first_pass < 0) {
                k->first_pass = pass;
            } else if (lower_is_dear(&l) && pl->n_stored < PLAN_MAX_STORED) {
                k->stored = pl->n_stored++;
                pl->p->passes[k->first_pass].always = 1;
            }
        }
    }
}

/* ---- programs ------------------------------------------------------------------------------------------ */

static llm_status add_op(struct planner *pl, struct plan_op op)
{
    struct plan *p = pl->p;
    if (p->n_ops == PLAN_MAX_OPS)
        return llm_fail(pl->err, LLM_EINVAL,
                        "the graph is too large: its passes need more than %d operations", PLAN_MAX_OPS);
    if (p->n_ops == p->ops_room) {
        int32_t room = p->ops_room ? 2 * p->ops_room : 64;
        struct plan_op *ops = mem_grow(p->ops, (size_t)room, sizeof *ops);
        if (!ops) return no_memory(pl);
        p->ops = ops;
        p->ops_room = room;
    }
    p->ops[p->n_ops++] = op;
    return LLM_OK;
}

static llm_status take_buffer(struct planner *pl, int32_t *out)
{
    for (int32_t b = 0; b < PLAN_MAX_BUFFERS; b++) {
        if (pl->taken[b]) continue;
        pl->taken[b] = 1;
        *out = b;
        return LLM_OK;
    }
    return llm_fail(pl->err, LLM_EINVAL, "the graph keeps more than %d rows alive at once", PLAN_MAX_BUFFERS);
}

/* Where a wide node is found by those that read it. */
static struct ref wide_ref(const struct planner *pl, int32_t node, int32_t pass)
{
    const struct knowledge *k = &pl->k[node];
    if (pl->g->nodes[node].op == GRAPH_OP_logits) return (struct ref){REF_LOGITS, 0};
    if (pl->p->table_of[node] >= 0) return (struct ref){REF_TABLE, pl->p->table_of[node]};
    if (pass >= 0 && k->stored >= 0 && k->first_pass <= pass) return (struct ref){REF_STORED, k->stored};
    return (struct ref){REF_BUFFER, k->buffer};
}

static struct ref operand_ref(const struct planner *pl, const struct lowered *l, int32_t a, int32_t pass)
{
    if (a >= l->n) return (struct ref){REF_NONE, 0};
    if (l->args[a] < 0) return (struct ref){REF_ONE, 0};
    if (l->splat[a]) return pl->k[l->args[a]].splat;
    if (is_wide(pl->g, l->args[a])) return wide_ref(pl, l->args[a], pass);
    return (struct ref){REF_NUM, l->args[a]};
}

/* Whether this program computes the node (as against loading it). */
static int is_made(const struct planner *pl, int32_t node, int32_t pass)
{
    if (!pl->k[node].wanted || !is_wide(pl->g, node)) return 0;
    struct lowered l = lower(pl->g, node);
    return l.kind == LOWERED_OP && !(pass >= 0 && is_loaded(pl, node, pass));
}

/* Nums that an operation wants as rows are spread out once, before the blocks. */
static llm_status make_splats(struct planner *pl, int32_t pass, struct program *program)
{
    const struct graph *g = pl->g;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        if (!is_made(pl, i, pass)) continue;
        struct lowered l = lower(g, i);
        for (int32_t a = 0; a < l.n; a++) {
            if (!l.splat[a] || pl->k[l.args[a]].splat.kind != REF_NONE) continue;
            int32_t buffer = 0;
            llm_status status = take_buffer(pl, &buffer);
            if (status != LLM_OK) return status;
            pl->k[l.args[a]].splat = (struct ref){REF_BUFFER, buffer};
            enum block_fn_id fn =
                g->nodes[l.args[a]].type == GRAPH_BOOL ? BLOCK_FN_splat_bool : BLOCK_FN_splat_num;
            status = add_op(pl, (struct plan_op){.fn = fn,
                                                 .out = {REF_BUFFER, buffer},
                                                 .a = {REF_NUM, l.args[a]},
                                                 .node = l.args[a],
                                                 .reduction = PLAN_NO_REDUCTION});
            if (status != LLM_OK) return status;
            program->n_once++;
        }
    }
    return LLM_OK;
}

/* The node at which all operands of a reduction are there. */
static int32_t ready_at(const struct graph *g, int32_t node)
{
    int32_t last = 0;
    for (int32_t a = 0; a < g->nodes[node].n_args; a++) {
        int32_t arg = g->nodes[node].args[a];
        if (is_wide(g, arg) && arg > last) last = arg;
    }
    return last;
}

static enum block_fn_id reduction_fn(const struct graph_node *n)
{
    switch (n->op) {
    case GRAPH_OP_row_min:
        return BLOCK_FN_reduce_min;
    case GRAPH_OP_row_sum:
        return BLOCK_FN_reduce_sum;
    case GRAPH_OP_mask_count:
        return BLOCK_FN_reduce_count;
    case GRAPH_OP_kth:
        return BLOCK_FN_keep;
    case GRAPH_OP_quantile:
        return n->args[0] == n->args[1] ? BLOCK_FN_keep_weights : BLOCK_FN_keep_pairs;
    case GRAPH_OP_draw:
        return BLOCK_FN_weigh;
    default:
        return BLOCK_FN_reduce_max;
    }
}

static llm_status add_reductions(struct planner *pl, int32_t pass, int32_t at)
{
    const struct graph *g = pl->g;
    const struct plan_pass *p = &pl->p->passes[pass];
    for (int32_t r = p->first_reduction; r < p->first_reduction + p->n_reductions; r++) {
        int32_t node = pl->p->reductions[r].node;
        const struct graph_node *n = &g->nodes[node];
        if (ready_at(g, node) != at) continue;
        struct plan_op op = {.fn = reduction_fn(n), .node = node, .reduction = r};
        op.a = wide_ref(pl, n->args[0], pass);
        if (n->n_args > 1 && is_wide(g, n->args[1])) op.b = wide_ref(pl, n->args[1], pass);
        llm_status status = add_op(pl, op);
        if (status != LLM_OK) return status;
    }
    return LLM_OK;
}

static void use(struct planner *pl, int32_t node, int32_t at)
{
    if (at > pl->k[node].last_use) pl->k[node].last_use = at;
}

/* Until which node each buffer is read. A reduction reads when its last operand is there. */
static void find_last_uses(struct planner *pl, int32_t pass)
{
    const struct graph *g = pl->g;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        if (!is_made(pl, i, pass)) continue;
        struct lowered l = lower(g, i);
        for (int32_t a = 0; a < l.n; a++)
            if (l.args[a] >= 0 && is_wide(g, l.args[a])) use(pl, l.args[a], i);
    }
    if (pass < 0) return;
    const struct plan_pass *p = &pl->p->passes[pass];
    for (int32_t r = p->first_reduction; r < p->first_reduction + p->n_reductions; r++) {
        const struct graph_node *n = &g->nodes[pl->p->reductions[r].node];
        for (int32_t a = 0; a < n->n_args; a++)
            if (is_wide(g, n->args[a])) use(pl, n->args[a], ready_at(g, pl->p->reductions[r].node));
    }
}

static void free_buffers(struct planner *pl, int32_t at, const struct lowered *l)
{
    for (int32_t a = 0; a < l->n; a++) {
        if (l->args[a] < 0 || !is_wide(pl->g, l->args[a])) continue;
        const struct knowledge *k = &pl->k[l->args[a]];
        if (k->buffer >= 0 && k->last_use == at) pl->taken[k->buffer] = 0;
    }
}

static llm_status add_node(struct planner *pl, int32_t pass, int32_t node)
{
    struct lowered l = lower(pl->g, node);
    struct knowledge *k = &pl->k[node];
    struct plan_op op = {.fn = l.fn, .node = node, .reduction = PLAN_NO_REDUCTION};
    op.a = operand_ref(pl, &l, 0, pass);
    op.b = operand_ref(pl, &l, 1, pass);
    op.c = operand_ref(pl, &l, 2, pass);
    if (pass >= 0 && pass == pl->result_pass && node == pl->g->result) {
        op.out = (struct ref){REF_RESULT, 0};
    } else if (pass >= 0 && k->stored >= 0 && k->first_pass == pass) {
        op.out = (struct ref){REF_STORED, k->stored};
    } else {
        llm_status status = take_buffer(pl, &k->buffer);
        if (status != LLM_OK) return status;
        op.out = (struct ref){REF_BUFFER, k->buffer};
    }
    free_buffers(pl, node, &l);
    return add_op(pl, op);
}

/* After the last operation of the pass that makes the result. */
static llm_status add_result(struct planner *pl, int32_t pass)
{
    int32_t node = pl->g->result;
    struct plan_op check = {
        .fn = BLOCK_FN_check, .a = {REF_RESULT, 0}, .node = node, .reduction = PLAN_CHECK};
    struct ref from = wide_ref(pl, node, pass);
    if (is_made(pl, node, pass) || from.kind == REF_LOGITS) return add_op(pl, check);
    struct plan_op copy = {
        .fn = BLOCK_FN_copy, .out = {REF_RESULT, 0}, .a = from, .node = node, .reduction = PLAN_NO_REDUCTION};
    llm_status status = add_op(pl, copy);
    return status == LLM_OK ? add_op(pl, check) : status;
}

/* The operations for what is wanted, in the order of the nodes. */
static llm_status make_program(struct planner *pl, int32_t pass, struct program *program)
{
    *program = (struct program){.first = pl->p->n_ops};
    memset(pl->taken, 0, sizeof pl->taken);
    find_last_uses(pl, pass);
    llm_status status = make_splats(pl, pass, program);
    for (int32_t i = 0; status == LLM_OK && i < pl->g->n_nodes; i++) {
        if (is_made(pl, i, pass)) status = add_node(pl, pass, i);
        if (status != LLM_OK || pass < 0 || !pl->k[i].wanted) continue;
        status = add_reductions(pl, pass, i);
        if (pl->k[i].buffer >= 0 && pl->k[i].last_use == i) pl->taken[pl->k[i].buffer] = 0;
    }
    if (status == LLM_OK && pass >= 0 && pass == pl->result_pass) status = add_result(pl, pass);
    program->n = pl->p->n_ops - program->first;
    return status;
}

/* ---- rows' own programs -------------------------------------------------------------------------------- */

static llm_status make_row_program(struct planner *pl, int32_t node, int32_t *index)
{
    struct plan *p = pl->p;
    if (p->program_of[node] < 0) {
        if (p->n_programs == p->programs_room) {
            int32_t room = p->programs_room ? 2 * p->programs_room : 8;
            struct program *programs = mem_grow(p->programs, (size_t)room, sizeof *programs);
            if (!programs) return no_memory(pl);
            p->programs = programs;
            p->programs_room = room;
        }
        want_nothing(pl);
        pl->k[node].wanted = 1;
        want_operands(pl, -1);
        struct program *program = &p->programs[p->n_programs];
        llm_status status = make_program(pl, -1, program);
        if (status != LLM_OK) return status;
        program->result = wide_ref(pl, node, -1);
        p->program_of[node] = p->n_programs++;
    }
    *index = p->program_of[node];
    return LLM_OK;
}

/* exp((x - max x) * …), perhaps 0 where a mask says so: weights with a largest of 1 that fall off steeply. A
 * guess that only speed depends on. */
static int looks_like_weights(const struct graph *g, int32_t node)
{
    const struct graph_node *n = &g->nodes[node];
    while (n->op == GRAPH_OP_where && is_wide(g, n->args[1])) n = &g->nodes[n->args[1]];
    if (n->op != GRAPH_OP_exp) return 0;
    n = &g->nodes[n->args[0]];
    if (n->op == GRAPH_OP_mul || n->op == GRAPH_OP_div) n = &g->nodes[n->args[0]];
    return n->op == GRAPH_OP_sub && g->nodes[n->args[1]].op == GRAPH_OP_row_max;
}

static llm_status make_row_programs(struct planner *pl)
{
    const struct graph *g = pl->g;
    llm_status status = LLM_OK;
    for (int32_t r = 0; status == LLM_OK && r < pl->p->n_reductions; r++) {
        struct plan_reduction *red = &pl->p->reductions[r];
        const struct graph_node *n = &g->nodes[red->node];
        int again = n->op == GRAPH_OP_row_argmax || n->op == GRAPH_OP_draw || n->op == GRAPH_OP_kth ||
                    n->op == GRAPH_OP_quantile;
        if (again) status = make_row_program(pl, n->args[0], &red->program[0]);
        if (status == LLM_OK && n->op == GRAPH_OP_quantile)
            status = make_row_program(pl, n->args[1], &red->program[1]);
        red->is_weights = again && looks_like_weights(g, n->args[0]);
    }
    for (int32_t i = 0; status == LLM_OK && i < g->n_nodes; i++) {
        int32_t index;
        if (pl->k[i].needed && g->nodes[i].op == GRAPH_OP_gather)
            status = make_row_program(pl, g->nodes[i].args[0], &index);
    }
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static llm_status list_reductions(struct planner *pl)
{
    struct plan *p = pl->p;
    for (int32_t pass = 0; pass < p->n_passes; pass++) {
        struct plan_pass *at = &p->passes[pass];
        at->first_reduction = p->n_reductions;
        int32_t work = 0;
        for (int32_t i = 0; i < pl->g->n_nodes; i++) {
            enum graph_op op = pl->g->nodes[i].op;
            if (!pl->k[i].needed || !is_reduction(op) || pl->k[i].level != pass + 1) continue;
            p->reductions[p->n_reductions++] =
                (struct plan_reduction){.node = i, .pass = pass, .work = work, .program = {-1, -1}};
            work += (op == GRAPH_OP_draw || op == GRAPH_OP_kth) + 2 * (op == GRAPH_OP_quantile);
        }
        if (work > PLAN_MAX_WORK)
            return llm_fail(pl->err, LLM_EINVAL, "the graph makes more than %d selections at once",
                            PLAN_MAX_WORK / 2);
        at->n_reductions = p->n_reductions - at->first_reduction;
        at->makes_result = at->always = pass == pl->result_pass;
    }
    return LLM_OK;
}

static llm_status place_tables(struct planner *pl)
{
    const struct graph *g = pl->g;
    for (int32_t i = 0; i < g->n_nodes; i++) {
        pl->p->table_of[i] = pl->p->program_of[i] = pl->p->vec_at[i] = -1;
        if (g->nodes[i].type == GRAPH_VEC) {
            pl->p->vec_at[i] = pl->p->n_vec;
            pl->p->n_vec += g->nodes[i].length;
        }
        if (!pl->k[i].needed || !is_table(g->nodes[i].op)) continue;
        pl->p->table_of[i] = pl->n_tables;
        pl->n_tables += g->nodes[i].op == GRAPH_OP_repeats ? 2 : 1; /* it needs a set of its own */
    }
    if (pl->n_tables > PLAN_MAX_TABLES)
        return llm_fail(pl->err, LLM_EINVAL, "the graph has %d rows made from token lists; %d are allowed",
                        pl->n_tables, PLAN_MAX_TABLES);
    return LLM_OK;
}

static void add_step(struct plan *p, enum step_kind kind, int32_t index)
{
    p->steps[p->n_steps++] = (struct plan_step){kind, index};
}

static void order_steps(struct planner *pl)
{
    const struct graph *g = pl->g;
    struct plan *p = pl->p;
    for (int32_t level = 0; level <= p->n_passes; level++) {
        for (int32_t i = 0; i < g->n_nodes; i++) {
            if (!pl->k[i].needed || pl->k[i].level != level || is_reduction(g->nodes[i].op)) continue;
            if (p->table_of[i] >= 0) add_step(p, STEP_TABLE, i);
            if (is_wide(g, i)) continue;
            add_step(p, g->nodes[i].op == GRAPH_OP_gather ? STEP_GATHER : STEP_NUM, i);
        }
        if (level < p->n_passes) add_step(p, STEP_PASS, level);
    }
}

static llm_status make_passes(struct planner *pl)
{
    decide_stores(pl);
    llm_status status = LLM_OK;
    for (int32_t pass = 0; status == LLM_OK && pass < pl->p->n_passes; pass++) {
        want_of_pass(pl, pass);
        status = make_program(pl, pass, &pl->p->passes[pass].program);
    }
    return status;
}

llm_status plan_make(const struct graph *g, struct plan **out, struct llm_error *err)
{
    struct planner pl = {.g = g, .err = err};
    size_t n = (size_t)g->n_nodes;
    llm_status status = LLM_ENOMEM;
    struct plan *p = pl.p = mem_zalloc(sizeof *p);
    pl.k = mem_array(n, sizeof *pl.k);
    if (!p || !pl.k) {
        no_memory(&pl);
        goto fail;
    }
    for (int32_t i = 0; i < g->n_nodes; i++) pl.k[i].first_pass = pl.k[i].stored = -1;
    find_needed(&pl);
    p->n_passes = find_levels(&pl);
    p->passes = mem_array((size_t)p->n_passes + 1, sizeof *p->passes);
    p->reductions = mem_array(n, sizeof *p->reductions);
    p->steps = mem_array(n + (size_t)p->n_passes, sizeof *p->steps);
    p->table_of = mem_array(n, sizeof *p->table_of);
    p->program_of = mem_array(n, sizeof *p->program_of);
    p->vec_at = mem_array(n, sizeof *p->vec_at);
    if (!p->passes || !p->reductions || !p->steps || !p->table_of || !p->program_of || !p->vec_at) {
        no_memory(&pl);
        goto fail;
    }
    status = place_tables(&pl);
    if (status == LLM_OK) status = list_reductions(&pl);
    if (status == LLM_OK) status = make_passes(&pl);
    if (status == LLM_OK) status = make_row_programs(&pl);
    if (status != LLM_OK) goto fail;
    order_steps(&pl);
    mem_free(pl.k);
    *out = p;
    return LLM_OK;
fail:
    mem_free(pl.k);
    plan_free(p);
    return status;
}

void plan_free(struct plan *p)
{
    if (!p) return;
    mem_free(p->ops);
    mem_free(p->steps);
    mem_free(p->passes);
    mem_free(p->reductions);
    mem_free(p->programs);
    mem_free(p->table_of);
    mem_free(p->program_of);
    mem_free(p->vec_at);
    mem_free(p);
}
