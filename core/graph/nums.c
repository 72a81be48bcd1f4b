/* What is one number, or a small array, a sequence. */

#include "graph/scratch.h"

#include "base/rng.h"
#include "graph/hash.h"

#include <math.h>
#include <string.h>

/* i rounded down, if that is in [0, n); else -1. */
static int32_t index_of(double i, int32_t n)
{
    double f = floor(i);
    return f >= 0 && f < n ? (int32_t)f : -1;
}

static int32_t token_at_end(const struct graph_call *c, double i)
{
    int32_t n = c->n_prompt + c->n_output, back = index_of(i - 1, n);
    if (back < 0) return -1;
    int32_t at = n - 1 - back;
    return at < c->n_prompt ? c->prompt[at] : c->output[at - c->n_prompt];
}

static double step(const struct graph_automaton *a, double state, double token)
{
    if (!a) return -1;
    int32_t s = index_of(state, a->n_states), t = index_of(token, a->vocab_size);
    if (s < 0 || t < 0) return -1;
    return a->next[(size_t)s * (size_t)a->n_classes + (size_t)a->class_of[t]];
}

static double input(const struct run *r, const struct graph_node *n)
{
    const struct graph_call *c = r->call;
    switch (n->op) {
    case GRAPH_OP_const:
        return n->number;
    case GRAPH_OP_param:
        return c->args->values[n->index].number;
    case GRAPH_OP_state:
        return c->variables[r->g->states[n->index].offset];
    case GRAPH_OP_position:
        return (double)c->n_prompt + (double)c->n_output;
    case GRAPH_OP_n_prompt:
        return c->n_prompt;
    case GRAPH_OP_n_output:
        return c->n_output;
    case GRAPH_OP_vocab:
        return r->s->vocab_size;
    case GRAPH_OP_temperature:
        return c->temperature;
    case GRAPH_OP_top_k:
        return c->top_k > 0 ? c->top_k : 0;
    case GRAPH_OP_top_p:
        return c->top_p;
    case GRAPH_OP_min_p:
        return c->min_p;
    case GRAPH_OP_random:
        return hash_uniform(rng_philox_at(c->seed, c->stream, c->position, (uint32_t)n->index).word[0]);
    default:
        return NAN;
    }
}

static double arithmetic(enum graph_op op, double a, double b, double c)
{
    switch (op) {
    case GRAPH_OP_neg:
        return -a;
    case GRAPH_OP_abs:
        return fabs(a);
    case GRAPH_OP_exp:
        return exp(a);
    case GRAPH_OP_log:
        return log(a);
    case GRAPH_OP_tanh:
        return tanh(a);
    case GRAPH_OP_sqrt:
        return sqrt(a);
    case GRAPH_OP_floor:
        return floor(a);
    case GRAPH_OP_add:
        return a + b;
    case GRAPH_OP_sub:
        return a - b;
    case GRAPH_OP_mul:
        return a * b;
    case GRAPH_OP_div:
        return a / b;
    case GRAPH_OP_pow:
        return pow(a, b);
    case GRAPH_OP_min:
        return fmin(a, b);
    case GRAPH_OP_max:
        return fmax(a, b);
    case GRAPH_OP_lt:
        return a < b;
    case GRAPH_OP_le:
        return a <= b;
    case GRAPH_OP_eq:
        return a == b;
    case GRAPH_OP_and:
        return a != 0 && b != 0;
    case GRAPH_OP_or:
        return a != 0 || b != 0;
    case GRAPH_OP_not:
        return a == 0;
    case GRAPH_OP_where:
        return a != 0 ? b : c;
    default:
        return NAN;
    }
}

/* state, put and push. */
static void array(const struct run *r, int32_t node)
{
    const struct graph_node *n = &r->g->nodes[node];
    double *v = r->s->vecs + r->p->vec_at[node];
    size_t bytes = sizeof *v * (size_t)n->length;
    if (n->op == GRAPH_OP_state) {
        memcpy(v, r->call->variables + r->g->states[n->index].offset, bytes);
        return;
    }
    const double *from = r->s->vecs + r->p->vec_at[n->args[0]], *values = r->s->values;
    if (n->op == GRAPH_OP_push) {
        memcpy(v, from + 1, bytes - sizeof *v);
        v[n->length - 1] = values[n->args[1]];
        return;
    }
    memcpy(v, from, bytes);
    int32_t i = index_of(values[n->args[1]] - 1, n->length);
    if (i >= 0) v[i] = values[n->args[2]];
}

static double from_tables(const struct run *r, const struct graph_node *n)
{
    const double *values = r->s->values;
    switch (n->op) {
    case GRAPH_OP_last:
        return token_at_end(r->call, values[n->args[0]]);
    case GRAPH_OP_step:
        return step(r->call->args->values[r->g->nodes[n->args[0]].index].automaton, values[n->args[1]],
                    values[n->args[2]]);
    case GRAPH_OP_at: {
        int32_t i = index_of(values[n->args[1]] - 1, r->g->nodes[n->args[0]].length);
        return i < 0 ? NAN : r->s->vecs[r->p->vec_at[n->args[0]] + i];
    }
    case GRAPH_OP_hash: {
        double key[GRAPH_MAX_ARGS];
        for (int32_t i = 0; i < n->n_args; i++) key[i] = values[n->args[i]];
        return graph_hash(key, n->n_args);
    }
    default:
        return NAN;
    }
}

void run_num(const struct run *r, int32_t node)
{
    const struct graph_node *n = &r->g->nodes[node];
    if (n->type == GRAPH_VEC) array(r, node);
    if (n->type != GRAPH_NUM && n->type != GRAPH_BOOL) return;
    const double *values = r->s->values;
    double v;
    if (n->op < GRAPH_OP_neg)
        v = input(r, n);
    else if (n->op <= GRAPH_OP_where)
        v = arithmetic(n->op, values[n->args[0]], n->n_args > 1 ? values[n->args[1]] : 0,
                       n->n_args > 2 ? values[n->args[2]] : 0);
    else
        v = from_tables(r, n);
    r->s->values[node] = v;
    r->s->values_f[node] = (float)v;
}
