#ifndef LLM_GRAPH_SCRATCH_H
#define LLM_GRAPH_SCRATCH_H

/* What graph.h keeps opaque of a thread's memory. One mapping, of which a graph touches what it needs:
 *
 *   buffers   f32 [PLAN_MAX_BUFFERS][BLOCK]
 *   stored    f32 [PLAN_MAX_STORED][stride]
 *   tables    f32 or mask [PLAN_MAX_TABLES][stride], zero between runs
 *   touched   i32 [PLAN_MAX_TABLES][stride], which tokens of a table are not zero
 *   work      f32 [PLAN_MAX_WORK][stride], candidates of selections, sums of draws
 *   vecs      f64 [GRAPH_MAX_NODES][GRAPH_MAX_VEC] at most */

#include "graph/args.h"
#include "graph/plan.h"

struct graph_scratch {
    int32_t vocab_size;
    size_t stride; /* elements of a row, a vector more than the vocabulary */
    const struct block_isa *isa;
    void *memory;
    size_t bytes;
    float *buffers, *stored, *tables, *work;
    int32_t *touched;
    double *vecs;
    double values[GRAPH_MAX_NODES]; /* of nums and bools */
    float values_f[GRAPH_MAX_NODES];
    int32_t n_touched[PLAN_MAX_TABLES];
    struct block_acc accs[GRAPH_MAX_NODES]; /* of the reductions of a pass */
    struct block_acc check;
    struct block_op ops[PLAN_MAX_PROGRAM];
};

/* What the files of the interpreter hand each other. */
struct run {
    const struct graph *g;
    const struct plan *p;
    struct graph_scratch *s;
    struct graph_call *call;
    struct llm_error *err;
};

static inline float *scratch_table(const struct graph_scratch *s, int32_t table)
{
    return s->tables + s->stride * (size_t)table;
}

static inline float *scratch_work(const struct graph_scratch *s, int32_t row)
{
    return s->work + s->stride * (size_t)row;
}

/* nums.c: the value of a num, bool or vec. */
void run_num(const struct run *r, int32_t node);

/* tables.c: fills the row of a node made from token lists; and clears all rows that were filled. */
void run_table(const struct run *r, int32_t node);
void run_clear_tables(const struct run *r);

/* rows.c: makes a program ready in s->ops, without the reductions that `skip` marks (null: with all), and
 * runs what is to run once. Returns the number of operations a block. */
int32_t run_prepare(const struct run *r, const struct program *program, const uint8_t *skip);
void run_block(const struct run *r, int32_t n_ops, int32_t begin, int32_t n);
/* The elements [begin, begin + n) of a row, n <= BLOCK, that a program of its own makes; for the second, it
 * was made ready before, in n_ops. They live until the next use of s->ops or the buffers. */
const float *run_row(const struct run *r, const struct program *program, int32_t begin, int32_t n);
const float *run_ready_row(const struct run *r, const struct program *program, int32_t n_ops, int32_t begin,
                           int32_t n);

/* selection.c: kth and quantile. Whether the row has to be looked at; which elements the pass is to keep;
 * and, after it, the result. */
int run_selects(const struct run *r, const struct plan_reduction *red);
void run_begin_selection(const struct run *r, const struct plan_reduction *red, struct block_acc *acc);
double run_end_selection(const struct run *r, const struct plan_reduction *red, struct block_acc *acc);

#endif
