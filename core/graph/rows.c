/* Programs over blocks of a row. */

#include "graph/scratch.h"

#include "base/rng.h"
#include "graph/hash.h"

struct place {
    void *at;
    int32_t moves; /* as in struct block_op */
};

static struct place place(const struct run *r, struct ref ref)
{
    static float one = 1;
    struct graph_scratch *s = r->s;
    switch (ref.kind) {
    case REF_BUFFER:
        return (struct place){s->buffers + (size_t)ref.index * BLOCK, 0};
    case REF_STORED:
        return (struct place){s->stored + s->stride * (size_t)ref.index, -1};
    case REF_TABLE:
        return (struct place){scratch_table(s, ref.index), -1};
    case REF_LOGITS:
    case REF_RESULT:
        return (struct place){r->call->row, -1};
    case REF_NUM:
        return (struct place){&s->values_f[ref.index], 0};
    case REF_ONE:
        return (struct place){&one, 0};
    case REF_NONE:
        break;
    }
    return (struct place){NULL, 0};
}

static void set_hash(const struct run *r, const struct graph_node *n, struct block_op *op)
{
    if (n->op == GRAPH_OP_row_random) {
        struct rng_block b =
            rng_philox_at(r->call->seed, r->call->stream, r->call->position, (uint32_t)n->index);
        op->key[0] = b.word[2];
        op->key[1] = b.word[3];
        return;
    }
    double key[GRAPH_MAX_ARGS];
    for (int32_t i = 0; i < n->n_args; i++) key[i] = r->s->values[n->args[i]];
    struct hash_key k = hash_fold(key, n->n_args);
    op->key[0] = k.k[0];
    op->key[1] = k.k[1];
}

static void set_automaton(const struct run *r, const struct graph_node *n, struct block_op *op)
{
    const struct graph_automaton *a = r->call->args->values[r->g->nodes[n->args[0]].index].automaton;
    double state = r->s->values[n->args[1]];
    if (!a || !(state >= 0 && state < a->n_states)) return;
    op->class_of = a->class_of;
    op->next = a->next + (size_t)state * (size_t)a->n_classes;
}

static struct block_op ready(const struct run *r, const struct plan_op *o)
{
    struct place out = place(r, o->out), a = place(r, o->a), b = place(r, o->b), c = place(r, o->c);
    struct block_op op = {.fn = r->s->isa->fns[o->fn],
                          .out = out.at,
                          .a = a.at,
                          .b = b.at,
                          .c = c.at,
                          .out_moves = out.moves,
                          .a_moves = a.moves,
                          .b_moves = b.moves,
                          .c_moves = c.moves};
    if (o->fn == BLOCK_FN_hash) set_hash(r, &r->g->nodes[o->node], &op);
    if (o->fn == BLOCK_FN_accepts) set_automaton(r, &r->g->nodes[o->node], &op);
    if (o->reduction == PLAN_CHECK) op.acc = &r->s->check;
    if (o->reduction >= 0) op.acc = &r->s->accs[o->reduction];
    return op;
}

int32_t run_prepare(const struct run *r, const struct program *program, const uint8_t *skip)
{
    const struct plan_op *ops = r->p->ops + program->first;
    for (int32_t i = 0; i < program->n_once; i++) {
        struct block_op op = ready(r, &ops[i]);
        op.fn(&op, 0, BLOCK);
    }
    int32_t n = 0;
    for (int32_t i = program->n_once; i < program->n; i++) {
        if (skip && ops[i].reduction >= 0 && skip[ops[i].reduction]) continue;
        r->s->ops[n++] = ready(r, &ops[i]);
    }
    return n;
}

void run_block(const struct run *r, int32_t n_ops, int32_t begin, int32_t n)
{
    const struct block_op *ops = r->s->ops;
    for (int32_t i = 0; i < n_ops; i++) ops[i].fn(&ops[i], begin, n);
}

const float *run_ready_row(const struct run *r, const struct program *program, int32_t n_ops, int32_t begin,
                           int32_t n)
{
    run_block(r, n_ops, begin, n);
    struct place p = place(r, program->result);
    return (const float *)p.at + (begin & p.moves);
}

const float *run_row(const struct run *r, const struct program *program, int32_t begin, int32_t n)
{
    return run_ready_row(r, program, run_prepare(r, program, NULL), begin, n);
}
