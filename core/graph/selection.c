/* kth and quantile: the pass keeps the elements above a guess; among these, mostly few, the answer is found
 * by radix selection (select.h). If the guess was too high, the row is swept again with a lower one. The
 * answer does not depend on the guess. */

#include "graph/scratch.h"

#include "graph/select.h"

#include <math.h>
#include <string.h>

enum {
    SAMPLE_CHUNK = 64, /* neighbours: ids near each other are alike, so many short stretches are looked at */
    SAMPLE = 4096,
    SAMPLE_FROM = 4 * SAMPLE /* smaller vocabularies are not worth a sample */
};

/* Weights below it are left out at first by a quantile over other keys. */
static const float light = 0x1p-16f;
static const float lightest = 0x1p-149f; /* the least above 0 */

int run_selects(const struct run *r, const struct plan_reduction *red)
{
    const struct graph_node *n = &r->g->nodes[red->node];
    if (n->op == GRAPH_OP_kth) {
        double k = floor(r->s->values[n->args[1]]);
        return k >= 1 && k <= r->s->vocab_size;
    }
    return n->op != GRAPH_OP_quantile || r->s->values[n->args[2]] < 1;
}

static int32_t rank_of(const struct run *r, const struct graph_node *n)
{
    return (int32_t)floor(r->s->values[n->args[1]]);
}

/* An element that about k, and hardly fewer, are not below, from a sample of the row. */
static float guess_by_sample(const struct run *r, const struct plan_reduction *red, int32_t k, float *sample)
{
    const int32_t n = r->s->vocab_size, chunks = SAMPLE / SAMPLE_CHUNK;
    double expected = (double)k * SAMPLE / n;
    int32_t rank = (int32_t)(1.25 * expected + 4 * sqrt(expected) + 4);
    if (n < SAMPLE_FROM || rank > SAMPLE / 2) return -INFINITY;
    const struct program *program = &r->p->programs[red->program[0]];
    int32_t n_ops = run_prepare(r, program, NULL), m = 0;
    for (int32_t c = 0; c < chunks; c++) {
        int32_t begin = (int32_t)((int64_t)c * (n - SAMPLE_CHUNK) / (chunks - 1));
        const float *x = run_ready_row(r, program, n_ops, begin, SAMPLE_CHUNK);
        for (int32_t i = 0; i < SAMPLE_CHUNK; i++)
            if (x[i] == x[i]) sample[m++] = x[i];
    }
    return m < rank ? -INFINITY : select_largest(sample, m, rank);
}

void run_begin_selection(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    const struct graph_node *n = &r->g->nodes[red->node];
    acc->kept = scratch_work(r->s, red->work);
    if (n->op == GRAPH_OP_kth) {
        acc->least = red->is_weights ? 0x1p-8f : guess_by_sample(r, red, rank_of(r, n), acc->kept);
        return;
    }
    int same = n->args[0] == n->args[1];
    acc->kept_weights = same ? acc->kept : scratch_work(r->s, red->work + 1);
    acc->least = same ? 0x1p-6f : -INFINITY;
    acc->cut = light;
}

/* Sweeps the row again for the elements >= least; of a quantile those with a weight >= cut. */
static void keep_again(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    int pairs = red->program[1] >= 0 && acc->kept_weights != acc->kept;
    struct block_op op = {.fn = r->s->isa->fns[pairs ? BLOCK_FN_keep_pairs : BLOCK_FN_keep], .acc = acc};
    const double sum = acc->sum;
    const struct program *program = &r->p->programs[red->program[0]];
    int32_t n_ops = pairs ? 0 : run_prepare(r, program, NULL);
    acc->n_kept = 0;
    for (int32_t begin = 0; begin < r->s->vocab_size; begin += BLOCK) {
        int32_t n = r->s->vocab_size - begin < BLOCK ? r->s->vocab_size - begin : BLOCK;
        float weights[BLOCK];
        if (pairs) {
            memcpy(weights, run_row(r, &r->p->programs[red->program[1]], begin, n),
                   sizeof *weights * (size_t)n);
            op.b = weights;
            op.a = run_row(r, program, begin, n);
        } else {
            op.a = run_ready_row(r, program, n_ops, begin, n);
        }
        op.fn(&op, begin, n);
    }
    acc->sum = sum;
}

/* The next guess below one that left too few. */
static float lower_guess(float guess)
{
    return guess > 0x1p-60f ? guess * 0x1p-12f : guess > 0 ? 0 : -INFINITY;
}

static double end_kth(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    int32_t k = rank_of(r, &r->g->nodes[red->node]);
    while (acc->n_kept < k && acc->least > -INFINITY) {
        acc->least = red->is_weights ? lower_guess(acc->least) : -INFINITY;
        keep_again(r, red, acc);
    }
    return acc->n_kept < k ? -INFINITY : (double)select_largest(acc->kept, acc->n_kept, k);
}

/* Where the keys are the weights themselves. */
static double end_weights(const struct run *r, const struct plan_reduction *red, struct block_acc *acc,
                          double mass)
{
    while (!(acc->n_kept && select_sum(acc->kept, acc->n_kept) >= mass) && acc->least > lightest) {
        acc->least = acc->least > 0x1p-60f ? acc->least * 0x1p-8f : lightest;
        keep_again(r, red, acc);
    }
    return acc->n_kept ? (double)select_at_mass(acc->kept, acc->kept, acc->n_kept, mass) : -INFINITY;
}

/* Other keys: the walk over the heavy tokens alone ends no higher than the walk over all, so where it ends is
 * a guess that cannot be too high. */
static double end_pairs(const struct run *r, const struct plan_reduction *red, struct block_acc *acc,
                        double mass)
{
    int enough = acc->n_kept && select_sum(acc->kept_weights, acc->n_kept) >= mass;
    acc->least = enough ? select_at_mass(acc->kept, acc->kept_weights, acc->n_kept, mass) : -INFINITY;
    acc->cut = lightest;
    keep_again(r, red, acc);
    return acc->n_kept ? (double)select_at_mass(acc->kept, acc->kept_weights, acc->n_kept, mass) : -INFINITY;
}

double run_end_selection(const struct run *r, const struct plan_reduction *red, struct block_acc *acc)
{
    const struct graph_node *n = &r->g->nodes[red->node];
    if (n->op == GRAPH_OP_kth) return end_kth(r, red, acc);
    double mass = r->s->values[n->args[2]] * acc->sum;
    return acc->kept_weights == acc->kept ? end_weights(r, red, acc, mass) : end_pairs(r, red, acc, mass);
}
