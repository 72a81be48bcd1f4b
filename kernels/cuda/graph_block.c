#include "kernels/cuda/graph_block.h"

/* A block in the making. */
struct block {
    char *host;
    const char *device;
    size_t at; /* bytes used */
    int32_t vocab_size;
};

/* The next part: *device is where it will lie. Null when only bytes are counted. */
static void *part(struct block *b, size_t bytes, const void **device)
{
    size_t at = b->at;
    b->at += (bytes + 15) / 16 * 16;
    *device = b->host ? b->device + at : NULL;
    return b->host ? b->host + at : NULL;
}

static uint32_t *put_bits(struct block *b, const struct graph_value *v, struct graph_arg *arg)
{
    const void *device;
    uint32_t *bits = part(b, ((size_t)b->vocab_size + 31) / 32 * sizeof *bits, &device);
    for (int32_t i = 0; bits && i < v->n; i++) bits[v->ids[i] / 32] |= 1u << v->ids[i] % 32;
    if (bits) arg->bits = device;
    return bits;
}

/* The numbers of equal ids are added up in their order, as the interpreter does. */
static void put_pairs(struct block *b, const struct graph_value *v, struct graph_arg *arg)
{
    const void *ranks_at, *values_at;
    const size_t words = ((size_t)b->vocab_size + 31) / 32;
    uint32_t *bits = put_bits(b, v, arg), *ranks = part(b, words * sizeof *ranks, &ranks_at);
    float *values = part(b, (size_t)v->n * sizeof *values, &values_at);
    if (!b->host) return;
    for (size_t w = 1; w < words; w++) ranks[w] = ranks[w - 1] + (uint32_t)__builtin_popcount(bits[w - 1]);
    for (int32_t i = 0; i < v->n; i++) {
        int32_t word = v->ids[i] / 32;
        uint32_t below = bits[word] & ((1u << v->ids[i] % 32) - 1);
        float *sum = &values[ranks[word] + (uint32_t)__builtin_popcount(below)];
        *sum += v->values[i];
        if (*sum == 0) *sum = -0.0f;
    }
    arg->ranks = ranks_at;
    arg->values = values_at;
}

size_t graph_block_write(const struct graph *g, const struct graph_args *args,
                         const struct graph_block_automaton *automata, char *host, const char *device)
{
    const void *unused;
    struct block b = {host, device, 0, args->vocab_size};
    struct graph_arg *list = part(&b, (size_t)g->n_params * sizeof *list, &unused);
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct graph_value *v = &args->values[i];
        struct graph_arg counted, *arg = list ? &list[i] : &counted;
        *arg = (struct graph_arg){.number = v->number};
        if (g->params[i].type == GRAPH_LIST) put_bits(&b, v, arg);
        if (g->params[i].type == GRAPH_PAIRS) put_pairs(&b, v, arg);
        if (!v->automaton) continue;
        arg->class_of = automata[i].class_of;
        arg->next = automata[i].next;
        arg->n_states = v->automaton->n_states;
        arg->n_classes = v->automaton->n_classes;
    }
    return b.at;
}
