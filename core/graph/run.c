#include "graph/scratch.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

static llm_status fail(const struct run *r, enum graph_failure failure, int32_t where, double number)
{
    return graph_fail(r->g, r->s->vocab_size, failure, where, number, r->err);
}

static int32_t block_length(const struct run *r, int32_t begin)
{
    int32_t left = r->s->vocab_size - begin;
    return left < BLOCK ? left : BLOCK;
}

/* ---- what a pass leaves -------------------------------------------------------------------------------- */

static double argmax(const struct run *r, const struct plan_reduction *red, const struct block_acc *acc)
{
    if (acc->best == -INFINITY) return 0;
    int32_t n = block_length(r, acc->best_block);
    const float *x = run_row(r, &r->p->programs[red->program[0]], acc->best_block, n);
    int32_t i = 0;
    while (i + 1 < n && x[i] != acc->best) i++;
    return acc->best_block + i;
}

/* The sum runs over the sums of BLOCK_SUM tokens, then over the tokens of one. Rounding may carry it past
 * their end: then it goes on to the next token with a weight, or, at the end of the row, back to the last. As
 * the engine's sampler, so that equal weights and numbers draw equal tokens. */
static int32_t walk(const struct run *r, const struct program *program, const double *sums, double left)
{
    int32_t n = r->s->vocab_size, b = 0, last = -1;
    for (; (int64_t)(b + 1) * BLOCK_SUM < n && left >= sums[b]; b++) left -= sums[b];
    for (int32_t begin = b * BLOCK_SUM; begin < n; begin += BLOCK_SUM) {
        int32_t m = n - begin < BLOCK_SUM ? n - begin : BLOCK_SUM;
        const float *w = run_row(r, program, begin, m);
        for (int32_t i = 0; i < m; i++) {
            if (!(w[i] > 0)) continue;
            left -= w[i];
            if (left < 0) return begin + i;
            last = begin + i;
        }
    }
    for (int32_t begin = (b - 1) * BLOCK_SUM; last < 0 && begin >= 0; begin -= BLOCK_SUM) {
        const float *w = run_row(r, program, begin, BLOCK_SUM);
        for (int32_t i = BLOCK_SUM - 1; last < 0 && i >= 0; i--)
            if (w[i] > 0) last = begin + i;
    }
    return last;
}

static llm_status draw(const struct run *r, const struct plan_reduction *red, const struct block_acc *acc,
                       double *token)
{
    const struct graph_node *n = &r->g->nodes[red->node];
    if (acc->bad || !isfinite(acc->sum)) return fail(r, GRAPH_DRAW_BAD, red->node, 0);
    if (!(acc->sum > 0)) return fail(r, GRAPH_DRAW_EMPTY, red->node, 0);
    struct rng_block b = rng_philox_at(r->call->seed, r->call->stream, r->call->position, (uint32_t)n->index);
    uint64_t u53 = ((uint64_t)b.word[0] << 21) ^ (b.word[1] >> 11);
    *token = walk(r, &r->p->programs[red->program[0]], acc->sums, (double)u53 * 0x1p-53 * acc->sum);
    return LLM_OK;
}

static llm_status finish(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    double v = 0;
    llm_status status = LLM_OK;
    switch (r->g->nodes[red->node].op) {
    case GRAPH_OP_row_max:
    case GRAPH_OP_row_min:
        v = acc->best;
        break;
    case GRAPH_OP_row_sum:
        v = acc->sum;
        break;
    case GRAPH_OP_mask_count:
        v = (double)acc->count;
        break;
    case GRAPH_OP_row_argmax:
        v = argmax(r, red, acc);
        break;
    case GRAPH_OP_draw:
        status = draw(r, red, acc, &v);
        break;
    default:
        v = run_selects(r, red) ? run_end_selection(r, red, acc) : -INFINITY;
        break;
    }
    r->s->values[red->node] = v;
    r->s->values_f[red->node] = (float)v;
    return status;
}

/* ---- passes -------------------------------------------------------------------------------------------- */

static void begin_reduction(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    enum graph_op op = r->g->nodes[red->node].op;
    *acc = (struct block_acc){.best = op == GRAPH_OP_row_min ? INFINITY : -INFINITY};
    if (op == GRAPH_OP_draw) acc->sums = (double *)scratch_work(r->s, red->work);
    if (op == GRAPH_OP_kth || op == GRAPH_OP_quantile) run_begin_selection(r, red, acc);
}

static llm_status check_result(const struct run *r)
{
    const struct block_acc *c = &r->s->check;
    if (c->bad) return fail(r, GRAPH_ROW_BAD, r->g->result, 0);
    if (!c->any) return fail(r, GRAPH_ROW_MASKED, r->g->result, 0);
    return LLM_OK;
}

static llm_status run_pass(const struct run *r, const struct plan_pass *pass)
{
    struct graph_scratch *s = r->s;
    const struct plan_reduction *reds = r->p->reductions + pass->first_reduction;
    int active = pass->always;
    uint8_t skip[GRAPH_MAX_NODES];
    for (int32_t i = 0; i < pass->n_reductions; i++) {
        int32_t index = pass->first_reduction + i;
        skip[index] = !run_selects(r, &reds[i]);
        if (skip[index]) continue;
        active = 1;
        begin_reduction(r, &reds[i], &s->accs[index]);
    }
    s->check = (struct block_acc){0};
    int32_t n_ops = active ? run_prepare(r, &pass->program, skip) : 0;
    for (int32_t begin = 0; active && begin < s->vocab_size; begin += BLOCK)
        run_block(r, n_ops, begin, block_length(r, begin));
    for (int32_t i = 0; i < pass->n_reductions; i++) {
        llm_status status = finish(r, &reds[i], &s->accs[pass->first_reduction + i]);
        if (status != LLM_OK) return status;
    }
    return pass->makes_result ? check_result(r) : LLM_OK;
}

static void gather(const struct run *r, int32_t node)
{
    const struct graph_node *n = &r->g->nodes[node];
    double at = floor(r->s->values[n->args[1]]), v = NAN;
    if (at >= 0 && at < r->s->vocab_size)
        v = *run_row(r, &r->p->programs[r->p->program_of[n->args[0]]], (int32_t)at, 1);
    r->s->values[node] = v;
    r->s->values_f[node] = (float)v;
}

static llm_status run_steps(const struct run *r)
{
    for (int32_t i = 0; i < r->p->n_steps; i++) {
        const struct plan_step *step = &r->p->steps[i];
        llm_status status = LLM_OK;
        switch (step->kind) {
        case STEP_NUM:
            run_num(r, step->index);
            break;
        case STEP_GATHER:
            gather(r, step->index);
            break;
        case STEP_TABLE:
            run_table(r, step->index);
            break;
        case STEP_PASS:
            status = run_pass(r, &r->p->passes[step->index]);
            break;
        }
        if (status != LLM_OK) return status;
    }
    return LLM_OK;
}

/* ---- the end ------------------------------------------------------------------------------------------- */

static llm_status check_stores(const struct run *r)
{
    for (int32_t i = 0; i < r->g->n_states; i++) {
        const struct graph_state *state = &r->g->states[i];
        if (state->store < 0) continue;
        const double *v =
            state->type == GRAPH_VEC ? r->s->vecs + r->p->vec_at[state->store] : &r->s->values[state->store];
        for (int32_t k = 0; k < state->length; k++)
            if (v[k] != v[k]) return fail(r, GRAPH_VARIABLE_NAN, i, 0);
    }
    return LLM_OK;
}

static void store(const struct run *r)
{
    for (int32_t i = 0; i < r->g->n_states; i++) {
        const struct graph_state *state = &r->g->states[i];
        if (state->store < 0) continue;
        const double *v =
            state->type == GRAPH_VEC ? r->s->vecs + r->p->vec_at[state->store] : &r->s->values[state->store];
        memcpy(r->call->variables + state->offset, v, sizeof *v * (size_t)state->length);
    }
}

static llm_status give_token(const struct run *r)
{
    double token = r->s->values[r->g->result];
    if (!(token >= 0 && token < r->s->vocab_size) || token != floor(token))
        return fail(r, GRAPH_TOKEN_BAD, r->g->result, token);
    r->call->token = (int32_t)token;
    return LLM_OK;
}

llm_status graph_run(const struct graph *g, struct graph_scratch *s, struct graph_call *call,
                     struct llm_error *err)
{
    if (g->n_params && (!call->args || call->args->graph != g || call->args->vocab_size != s->vocab_size))
        return llm_fail(err, LLM_EINVAL, "the arguments are of another graph or another vocabulary");
    struct run r = {.g = g, .p = g->plan, .s = s, .call = call, .err = err};
    llm_status status = run_steps(&r);
    run_clear_tables(&r);
    if (status == LLM_OK) status = check_stores(&r);
    if (status == LLM_OK && g->gives == GRAPH_GIVES_TOKEN) status = give_token(&r);
    if (status == LLM_OK) store(&r);
    return status;
}
