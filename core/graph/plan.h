#ifndef LLM_GRAPH_PLAN_H
#define LLM_GRAPH_PLAN_H

/* How the CPU runs a graph: passes over the row, each a program of block operations, and between the passes
 * what is one number a sequence.
 *
 * A reduction needs a pass; what depends on its result runs in a later one. So nodes have levels: the level
 * of an element-wise node is the highest of its operands, that of a reduction is one more. Pass L computes in
 * one sweep, a block after the other, all reductions of rows of level L, with the element-wise nodes these
 * need in block-sized buffers. An element-wise node that several passes need is computed anew in each, unless
 * it is dear (exp, log, …): then the first pass stores the row and the others load it.
 *
 * Some reductions (argmax, draw, gather) need the elements of one block again when the pass is over: for
 * these a row has a program of its own from the inputs on, which reads no stored row. */

#include "base/status.h"
#include "graph/block.h"
#include "graph/graph.h"

enum {
    PLAN_MAX_STORED = 48, /* rows that passes leave to later ones; beyond it they compute anew */
    PLAN_MAX_TABLES = 32, /* rows made from token lists: sets, counts, … */
    PLAN_MAX_WORK = 64,   /* rows of candidates of the selections in one pass */
    PLAN_MAX_BUFFERS = 256,
    PLAN_MAX_OPS = 1 << 16
};

enum ref_kind {
    REF_NONE,
    REF_BUFFER, /* of a block */
    REF_STORED, /* a row of scratch */
    REF_TABLE,  /* a row of scratch that is zero between runs */
    REF_LOGITS,
    REF_RESULT, /* graph_call.row, written */
    REF_NUM,    /* value of a node */
    REF_ONE     /* the number 1 */
};

struct ref {
    enum ref_kind kind;
    int32_t index;
};

struct plan_op {
    enum block_fn_id fn;
    struct ref out, a, b, c;
    int32_t node;      /* that it computes; attributes are there */
    int32_t reduction; /* index in plan.reductions; -1: none; see also PLAN_CHECK */
};

enum { PLAN_NO_REDUCTION = -1, PLAN_CHECK = -2 /* the check of the result row */ };

/* Operations plan.ops[first .. first + n); the first n_once run once, not each block. */
struct program {
    int32_t first, n, n_once;
    struct ref result; /* of a row's own program */
};

struct plan_reduction {
    int32_t node, pass;
    int32_t work;       /* first of its work rows */
    int32_t program[2]; /* of the operands, in plan.programs; -1: not needed */
    int is_weights;     /* kth, quantile: operand is known to be exp(x - max x), perhaps masked */
};

struct plan_pass {
    struct program program;
    int32_t first_reduction, n_reductions;
    int always; /* it stores rows, or makes the result */
    int makes_result;
};

enum step_kind { STEP_NUM, STEP_GATHER, STEP_TABLE, STEP_PASS };

struct plan_step {
    enum step_kind kind;
    int32_t index; /* node, or pass */
};

struct plan {
    struct plan_op *ops;
    struct plan_step *steps;
    struct plan_pass *passes;
    struct plan_reduction *reductions;
    struct program *programs; /* of single rows */
    int32_t n_ops, n_steps, n_passes, n_reductions, n_programs;
    int32_t ops_room, programs_room;
    int32_t *table_of;   /* [n_nodes] row of scratch of a node made from lists; -1 */
    int32_t *program_of; /* [n_nodes] own program of a row; -1 */
    int32_t *vec_at;     /* [n_nodes] where a vec's elements lie in scratch; -1 */
    int32_t n_vec;       /* elements of all vecs */
};

/* Errors: LLM_ENOMEM; LLM_EINVAL: it needs more tables or buffers than there are. */
llm_status plan_make(const struct graph *g, struct plan **out, struct llm_error *err);
void plan_free(struct plan *p); /* null: nothing */

/* Most operations of one program, which scratch has room for: one a node, and its splats and reductions. */
enum { PLAN_MAX_PROGRAM = 4 * GRAPH_MAX_NODES };

#endif
