#ifndef TESTS_NAIVE_GRAPH_H
#define TESTS_NAIVE_GRAPH_H

/* A graph evaluated the obvious way: node by node, whole rows, sorting where order matters. For the
 * operations whose results do not depend on how they are computed the interpreter must give the same bits. */

#include "graph/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct naive {
    const struct graph *g;
    int32_t n;
    float **rows; /* [n_nodes] rows and masks (0, 1) */
    double *nums; /* [n_nodes] */
};

static double naive_scalar(enum graph_op op, double a, double b, double c)
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
        return isnan(a) ? b : isnan(b) ? a : a < b ? a : b;
    case GRAPH_OP_max:
        return isnan(a) ? b : isnan(b) ? a : a > b ? a : b;
    case GRAPH_OP_lt:
        return a < b;
    case GRAPH_OP_le:
        return a <= b;
    case GRAPH_OP_eq:
        return a == b;
    case GRAPH_OP_and:
        return a && b;
    case GRAPH_OP_or:
        return a || b;
    case GRAPH_OP_not:
        return !a;
    case GRAPH_OP_where:
        return a ? b : c;
    default:
        abort();
    }
}

struct naive_pair {
    float key, weight;
};

static int naive_descending(const void *a, const void *b)
{
    float x = ((const struct naive_pair *)a)->key, y = ((const struct naive_pair *)b)->key;
    return (x < y) - (x > y);
}

/* kth (weights null: k counts) and quantile (p). */
static double naive_select(const float *x, const float *w, int32_t n, double k)
{
    if (w ? !(k < 1) : !(floor(k) >= 1 && floor(k) <= n)) return -INFINITY;
    struct naive_pair *sorted = malloc(sizeof *sorted * (size_t)n);
    int32_t m = 0;
    double total = 0, sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (w && !(w[i] > 0)) continue;
        sorted[m++] = (struct naive_pair){isnan(x[i]) ? -INFINITY : x[i], w ? w[i] : 1};
        total += sorted[m - 1].weight;
    }
    qsort(sorted, (size_t)m, sizeof *sorted, naive_descending);
    double result = m ? sorted[m - 1].key : -INFINITY;
    for (int32_t i = 0; i < m; i++) {
        sum += sorted[i].weight;
        if (sum < (w ? k * total : floor(k))) continue;
        result = sorted[i].key;
        break;
    }
    free(sorted);
    return result;
}

static double naive_reduce(const struct naive *v, const struct graph_node *n)
{
    const float *x = v->rows[n->args[0]];
    double best = n->op == GRAPH_OP_row_min ? INFINITY : -INFINITY, sum = 0, count = 0, argmax = 0;
    for (int32_t i = 0; i < v->n; i++) {
        if (n->op == GRAPH_OP_row_min ? x[i] < best : x[i] > best) best = x[i], argmax = i;
        sum += x[i];
        count += x[i] != 0;
    }
    double at = n->n_args > 1 ? floor(v->nums[n->args[1]]) : 0;
    switch (n->op) {
    case GRAPH_OP_row_max:
    case GRAPH_OP_row_min:
        return best;
    case GRAPH_OP_row_sum:
        return sum;
    case GRAPH_OP_row_argmax:
        return argmax;
    case GRAPH_OP_mask_count:
        return count;
    case GRAPH_OP_kth:
        return naive_select(x, NULL, v->n, v->nums[n->args[1]]);
    case GRAPH_OP_quantile:
        return naive_select(x, v->rows[n->args[1]], v->n, v->nums[n->args[2]]);
    case GRAPH_OP_gather:
        return at >= 0 && at < v->n ? (double)x[(int32_t)at] : NAN;
    default:
        abort();
    }
}

static float naive_operand(const struct naive *v, int32_t node, int32_t i)
{
    return v->rows[node] ? v->rows[node][i] : (float)v->nums[node];
}

static float naive_element(const struct naive *v, const struct graph_node *n, int32_t i, const float *logits)
{
    double key[GRAPH_MAX_ARGS], x[3] = {0};
    switch (n->op) {
    case GRAPH_OP_logits:
        return logits[i];
    case GRAPH_OP_index:
        return (float)i;
    case GRAPH_OP_row_hash:
        for (int32_t a = 0; a < n->n_args; a++) key[a] = v->nums[n->args[a]];
        return graph_token_hash(key, n->n_args, i);
    default:
        for (int32_t a = 0; a < n->n_args; a++) x[a] = naive_operand(v, n->args[a], i);
        return (float)naive_scalar(n->op, x[0], x[1], x[2]);
    }
}

/* Of nodes without parameters, history, variables and random numbers. */
static void naive_run(struct naive *v, const struct graph *g, const float *logits, int32_t vocab_size)
{
    *v = (struct naive){.g = g, .n = vocab_size};
    v->rows = calloc((size_t)g->n_nodes, sizeof *v->rows);
    v->nums = calloc((size_t)g->n_nodes, sizeof *v->nums);
    for (int32_t node = 0; node < g->n_nodes; node++) {
        const struct graph_node *n = &g->nodes[node];
        if (n->type == GRAPH_ROW || n->type == GRAPH_MASK) {
            float *row = malloc(sizeof *row * (size_t)vocab_size);
            for (int32_t i = 0; i < vocab_size; i++) row[i] = naive_element(v, n, i, logits);
            v->rows[node] = row;
        } else if (n->op == GRAPH_OP_const) {
            v->nums[node] = n->number;
        } else if (n->op == GRAPH_OP_vocab) {
            v->nums[node] = vocab_size;
        } else if (n->op >= GRAPH_OP_row_max && n->op <= GRAPH_OP_gather) {
            v->nums[node] = naive_reduce(v, n);
        } else {
            double x[3] = {0};
            for (int32_t a = 0; a < n->n_args; a++) x[a] = v->nums[n->args[a]];
            v->nums[node] = naive_scalar(n->op, x[0], x[1], x[2]);
        }
    }
}

static void naive_free(struct naive *v)
{
    for (int32_t i = 0; i < v->g->n_nodes; i++) free(v->rows[i]);
    free(v->rows);
    free(v->nums);
}

#endif
