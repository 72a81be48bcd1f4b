/* Rows that come from token lists and the history. They lie in memory that is zero but for the tokens noted
 * in `touched`, so that a run costs the length of the lists and not that of the vocabulary. */

#include "graph/scratch.h"

#include <math.h>

struct table {
    float *row;
    int32_t *touched, *n_touched;
    int32_t vocab_size;
};

static struct table table_of(const struct run *r, int32_t index)
{
    struct graph_scratch *s = r->s;
    return (struct table){scratch_table(s, index), s->touched + s->stride * (size_t)index,
                          &s->n_touched[index], s->vocab_size};
}

/* The element of a token, noted; null if it is no token. */
static float *touch(const struct table *t, int32_t token)
{
    if ((uint32_t)token >= (uint32_t)t->vocab_size) return NULL;
    union {
        float f;
        uint32_t bits;
    } v = {t->row[token]};
    if (!v.bits) t->touched[(*t->n_touched)++] = token;
    return &t->row[token];
}

static void put(const struct table *t, int32_t token, float value)
{
    float *at = touch(t, token);
    if (at) *at = value;
}

static void add(const struct table *t, int32_t token, float value)
{
    float *at = touch(t, token);
    if (!at) return;
    *at += value;
    if (*at == 0) *at = -0.0f; /* not the zero of a token that is not noted: none is noted twice */
}

void run_clear_tables(const struct run *r)
{
    for (int32_t i = 0; i < PLAN_MAX_TABLES; i++) {
        struct table t = table_of(r, i);
        for (int32_t k = 0; k < *t.n_touched; k++) t.row[t.touched[k]] = 0;
        *t.n_touched = 0;
    }
}

struct ids {
    const int32_t *ids;
    int32_t n;
};

static struct ids list_of(const struct run *r, int32_t node)
{
    const struct graph_node *n = &r->g->nodes[node];
    if (n->op == GRAPH_OP_ids) return (struct ids){r->g->ids + n->index, n->count};
    const struct graph_value *v = &r->call->args->values[n->index];
    return (struct ids){v->ids, v->n};
}

static void set_mask(const struct table *t, struct ids list)
{
    union {
        int32_t i;
        float f;
    } all = {-1};
    for (int32_t i = 0; i < list.n; i++) put(t, list.ids[i], all.f);
}

static int32_t token_at(const struct graph_call *c, int32_t i)
{
    return i < c->n_prompt ? c->prompt[i] : c->output[i - c->n_prompt];
}

static void count(const struct run *r, const struct table *t, int output)
{
    const struct graph_call *c = r->call;
    for (int32_t i = 0; c->counts && i < c->n_counts; i++) {
        int32_t n = output ? c->counts[i].in_output : c->counts[i].in_prompt;
        if (n) put(t, c->counts[i].token, (float)n);
    }
    if (c->counts) return;
    for (int32_t i = 0; output && i < c->n_output; i++) add(t, c->output[i], 1);
    for (int32_t i = 0; !output && i < c->n_prompt; i++) put(t, c->prompt[i], 1);
}

/* The index in the history of the first of the last `window` tokens. */
static int32_t window_begin(const struct graph_call *c, double window)
{
    int32_t n = c->n_prompt + c->n_output;
    if (window >= n) return 0;
    return window >= 1 ? n - (int32_t)window : n;
}

static void repeats(const struct run *r, const struct table *t, const struct table *breakers,
                    const struct graph_node *node)
{
    const struct graph_call *c = r->call;
    const int32_t n = c->n_prompt + c->n_output, most = node->index;
    const int32_t begin = window_begin(c, r->s->values[node->args[0]]);
    set_mask(breakers, list_of(r, node->args[1]));
    if (begin >= n - 1) return;
    const int32_t newest = token_at(c, n - 1);
    for (int32_t end = begin; end < n - 1; end++) {
        if (token_at(c, end) != newest) continue;
        int32_t length = 0;
        while (length < most && end - length >= begin) {
            int32_t token = token_at(c, end - length);
            if (token != token_at(c, n - 1 - length) || (uint32_t)token >= (uint32_t)t->vocab_size ||
                breakers->row[token] != 0)
                break;
            length++;
        }
        int32_t next = token_at(c, end + 1);
        if (length && (uint32_t)next < (uint32_t)t->vocab_size && t->row[next] < (float)length)
            put(t, next, (float)length);
    }
}

void run_table(const struct run *r, int32_t node)
{
    const struct graph_node *n = &r->g->nodes[node];
    const struct graph_call *c = r->call;
    struct table t = table_of(r, r->p->table_of[node]);
    switch (n->op) {
    case GRAPH_OP_set:
        set_mask(&t, list_of(r, n->args[0]));
        break;
    case GRAPH_OP_scatter: {
        const struct graph_value *v = &c->args->values[r->g->nodes[n->args[0]].index];
        for (int32_t i = 0; i < v->n; i++) add(&t, v->ids[i], v->values[i]);
        break;
    }
    case GRAPH_OP_counts:
        count(r, &t, n->index);
        break;
    case GRAPH_OP_recent:
        for (int32_t i = window_begin(c, r->s->values[n->args[0]]); i < c->n_prompt + c->n_output; i++)
            add(&t, token_at(c, i), 1);
        break;
    case GRAPH_OP_repeats: {
        struct table breakers = table_of(r, r->p->table_of[node] + 1);
        repeats(r, &t, &breakers, n);
        break;
    }
    default:
        break;
    }
}
