#ifndef LLM_GRAPH_BLOCK_H
#define LLM_GRAPH_BLOCK_H

/* The loops of the interpreter over one block of a row, compiled for each instruction set (block_impl.h).
 * Every one computes each element by itself, and sums in counted lanes, without fused multiply-adds: the
 * results are the same bits with all of them, and block_ref.c, plain C for any machine, is their meaning.
 *
 * A mask is an int32 a token, 0 or -1, in the place of the f32. */

#include <stddef.h>
#include <stdint.h>

enum {
    BLOCK = 1024,    /* tokens: the buffers of a few operations stay in the first-level cache */
    BLOCK_SUM = 512, /* tokens a partial sum, as in engine/rowmath.h: a draw adds up what the sampler does */
    BLOCK_LANES = 16
};

/* Suffixes: r a row or mask, s a num, in the order of the operands. */
#define BLOCK_FNS(X)                                                                                         \
    X(copy)                                                                                                  \
    X(splat_num)                                                                                             \
    X(splat_bool)                                                                                            \
    X(index)                                                                                                 \
    X(hash)                                                                                                  \
    X(accepts)                                                                                               \
    X(neg)                                                                                                   \
    X(abs)                                                                                                   \
    X(exp)                                                                                                   \
    X(exp_affine)                                                                                            \
    X(log)                                                                                                   \
    X(tanh)                                                                                                  \
    X(sqrt)                                                                                                  \
    X(floor)                                                                                                 \
    X(add_rr)                                                                                                \
    X(add_rs)                                                                                                \
    X(sub_rr)                                                                                                \
    X(sub_rs)                                                                                                \
    X(sub_sr)                                                                                                \
    X(mul_rr)                                                                                                \
    X(mul_rs)                                                                                                \
    X(div_rr)                                                                                                \
    X(div_rs)                                                                                                \
    X(div_sr)                                                                                                \
    X(pow_rr)                                                                                                \
    X(pow_rs)                                                                                                \
    X(pow_sr)                                                                                                \
    X(min_rr)                                                                                                \
    X(min_rs)                                                                                                \
    X(max_rr)                                                                                                \
    X(max_rs)                                                                                                \
    X(lt_rr)                                                                                                 \
    X(lt_rs)                                                                                                 \
    X(lt_sr)                                                                                                 \
    X(le_rr)                                                                                                 \
    X(le_rs)                                                                                                 \
    X(le_sr)                                                                                                 \
    X(eq_rr)                                                                                                 \
    X(eq_rs)                                                                                                 \
    X(and)                                                                                                   \
    X(or)                                                                                                    \
    X(not )                                                                                                  \
    X(where_rr)                                                                                              \
    X(where_rs)                                                                                              \
    X(where_sr)                                                                                              \
    X(where_ss)                                                                                              \
    X(from)                                                                                                  \
    X(above)                                                                                                 \
    X(reduce_max)                                                                                            \
    X(reduce_min)                                                                                            \
    X(reduce_sum)                                                                                            \
    X(reduce_count)                                                                                          \
    X(weigh)                                                                                                 \
    X(keep)                                                                                                  \
    X(keep_weights)                                                                                          \
    X(keep_pairs)                                                                                            \
    X(check)

enum block_fn_id {
#define X(name) BLOCK_FN_##name,
    BLOCK_FNS(X)
#undef X
        BLOCK_N_FNS
};

/* What a reduction has gathered so far. */
struct block_acc {
    float best;         /* reduce_max, reduce_min */
    int32_t best_block; /* where it was met first: the begin of the block */
    double sum;         /* reduce_sum, weigh, keep_weights, keep_pairs */
    double *sums;       /* weigh: of each BLOCK_SUM tokens */
    int64_t count;      /* reduce_count */
    int32_t bad;        /* weigh: a negative weight; check: NaN or inf */
    int32_t any;        /* check: an element above -inf */
    float least, cut;   /* keep: elements >= least; keep_pairs: with weights > 0 and >= cut */
    int32_t n_kept;
    float *kept, *kept_weights; /* room for all tokens and a vector more */
};

/* One operation ready to run. Pointers are to the row's first element if the operand is a row in memory, and
 * to the block's if it is a buffer; or to a num. */
struct block_op {
    void (*fn)(const struct block_op *op, int32_t begin, int32_t n);
    void *out;
    const void *a, *b, *c;
    int32_t out_moves, a_moves, b_moves, c_moves; /* -1: a row in memory, 0: stays */
    uint32_t key[2];                              /* hash */
    const int32_t *next, *class_of;               /* accepts: the state's line, null: it has none */
    struct block_acc *acc;
};

typedef void block_fn(const struct block_op *op, int32_t begin, int32_t n);

struct block_isa {
    const char *name;
    block_fn *fns[BLOCK_N_FNS];
};

extern const struct block_isa block_isa_ref, block_isa_avx2, block_isa_avx512;

/* The best of this machine, or the one named; null if there is none such here. */
const struct block_isa *block_isa_find(const char *name);

#endif
