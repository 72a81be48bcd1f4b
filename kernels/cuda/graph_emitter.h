#ifndef LLM_KERNELS_CUDA_GRAPH_EMITTER_H
#define LLM_KERNELS_CUDA_GRAPH_EMITTER_H

/* What the files that write the source of a graph's kernel share: graph_emit.c writes the whole,
 * graph_emit_sweep.c sweeps over the row, graph_emit_num.c what is one number a sequence, graph_emit_row.c
 * the elements of rows. */

#include "graph/lower.h"
#include "graph/plan.h"
#include "graph/text.h"
#include "kernels/cuda/graph_emit.h"

enum { GRAPH_FEW_IDS = 8 /* compared one by one; longer lists are bits */ };

struct emitter {
    const struct graph *g;
    const struct plan *p;
    struct graph_source *out;
    struct llm_error *err;
    struct text body;
    int32_t vocab_size;
    int32_t *num_at;  /* [n_nodes] slot of a num or bool; -1 */
    int32_t *key_at;  /* [n_nodes] slot of a hash's key; -1: not made yet */
    int32_t *bits_at; /* [n_nodes] an ids node's first word in the constants; -1 */
    uint8_t *wanted;  /* [n_nodes] wide nodes of the sweep being written */
    int32_t n_nums, n_keys, n_tables, n_lines;
    int32_t dearest;               /* price of the elements of any sweep */
    int32_t most_sums, most_found; /* of any sweep */
    int selects, weighs, draws,
        in_numbers; /* has selections, of weights, draws; is between two of begin, end */
};

/* A line of the body, or a part of one. */
#define EMIT(e, ...) text_add(&(e)->body, __VA_ARGS__)

static inline const struct graph_node *emit_node(const struct emitter *e, int32_t node)
{
    return &e->g->nodes[node];
}

/* ---- graph_emit.c -------------------------------------------------------------------------------------- */

/* Text in which $0, $1, $2 stand for n's operands as `put` writes them. */
void emit_form(struct emitter *e, const char *form, const struct graph_node *n,
               void (*put)(struct emitter *e, int32_t node));

/* ---- graph_emit_sweep.c -------------------------------------------------------------------------------- */

/* The reductions of a pass, and the row that it makes. */
void emit_pass(struct emitter *e, const struct plan_pass *pass);

/* ---- graph_emit_num.c ---------------------------------------------------------------------------------- */

/* The value of a num or bool, in f64. */
void emit_put_num(struct emitter *e, int32_t node);

/* Between them statements are the first warp's, and each sees what the ones before made; after the end all
 * threads do. Either may be said twice. */
void emit_begin_numbers(struct emitter *e);
void emit_end_numbers(struct emitter *e);

/* "NUM(…) = ", to be followed by a value, ";" and a newline. */
void emit_begin_assignment(struct emitter *e, int32_t node);

/* The nums that a hash is of, as an initializer. */
void emit_put_key(struct emitter *e, const struct graph_node *n);

/* A num, bool or vec that needs no sweep. */
void emit_num(struct emitter *e, int32_t node);

/* ---- graph_emit_row.c ---------------------------------------------------------------------------------- */

/* The rows whose elements the code to come needs: those wanted, and then what they are computed from. */
void emit_want_nothing(struct emitter *e);
void emit_want(struct emitter *e, int32_t node);

/* A scope in which all that the wanted rows need, and is the same for all elements, is declared. */
void emit_begin_scope(struct emitter *e);
void emit_end_scope(struct emitter *e);

/* In a scope: the wanted elements of token i, each e<node>. */
void emit_elements(struct emitter *e);
/* A function row<node> of a token. */
void emit_row_function(struct emitter *e, int32_t row);

/* Whether token `t` is in the list of a set, or of the breakers of repeats. */
void emit_put_member(struct emitter *e, int32_t set, int32_t list, const char *t);

#endif
