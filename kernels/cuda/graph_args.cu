/* Arguments of graphs on the device: one block of memory a request, automata shared among them. Memory comes
 * from the stream's pool: what is freed is used again only after the steps that were queued before. */

#include "kernels/cuda/graph_compile.cuh"

#include <algorithm>
#include <cstring>

enum { POOL_KEEPS = 64 << 20 /* bytes that the pool does not give back when the device is idle */ };

static cudaError_t take(struct cuda_backend *cu, void **p, size_t bytes)
{
    if (!cu->graphs->pool_is_set) {
        cudaMemPool_t pool;
        uint64_t keeps = POOL_KEEPS;
        if (cudaDeviceGetDefaultMemPool(&pool, cu->device) == cudaSuccess)
            cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keeps);
        cu->graphs->pool_is_set = 1;
    }
    return cudaMallocAsync(p, bytes, cu->stream);
}

/* Memory for n bytes of the host's, and the copy. The host's may change as soon as this returns. */
static llm_status upload(struct cuda_backend *cu, void **p, const void *from, size_t bytes,
                         struct llm_error *err)
{
    cudaError_t e = take(cu, p, bytes);
    if (e == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return llm_fail(err, LLM_ENOMEM, "no device memory for %zu bytes of a policy's arguments", bytes);
    }
    if (e == cudaSuccess) e = cudaMemcpyAsync(*p, from, bytes, cudaMemcpyHostToDevice, cu->stream);
    if (cuda_check(cu, e, "copying a policy's arguments") == LLM_OK) return LLM_OK;
    return llm_fail(err, LLM_EFAILED, "%s", cu->failure);
}

static void give_back(struct cuda_backend *cu, void *p)
{
    if (p) cuda_check(cu, cudaFreeAsync(p, cu->stream), "freeing a policy's arguments");
}

/* ---- automata --------------------------------------------------------------------------------------------
 */

static void drop(struct cuda_backend *cu, struct device_automaton *a)
{
    give_back(cu, a->class_of);
    give_back(cu, a->table);
    graph_automaton_unref(a->host);
    mem_free(a);
}

static llm_status automaton_get(struct cuda_backend *cu, struct graph_automaton *host,
                                struct device_automaton **out, struct llm_error *err)
{
    struct cuda_graphs *graphs = cu->graphs;
    for (struct device_automaton *a = graphs->automata; a; a = a->next) {
        if (a->host != host) continue;
        a->refs++;
        *out = a;
        return LLM_OK;
    }
    auto *a = static_cast<struct device_automaton *>(mem_zalloc(sizeof(struct device_automaton)));
    if (!a) return llm_fail(err, LLM_ENOMEM, "no memory for an automaton");
    graph_automaton_ref(host);
    a->host = host;
    llm_status st = upload(cu, reinterpret_cast<void **>(&a->class_of), host->class_of,
                           sizeof *host->class_of * (size_t)host->vocab_size, err);
    if (st == LLM_OK)
        st = upload(cu, reinterpret_cast<void **>(&a->table), host->next,
                    sizeof *host->next * (size_t)host->n_states * (size_t)host->n_classes, err);
    if (st != LLM_OK) {
        drop(cu, a);
        return st;
    }
    a->refs = 1;
    a->next = graphs->automata;
    graphs->automata = a;
    *out = a;
    return LLM_OK;
}

/* Those that no arguments name, and of which nobody but we has a reference: a policy's default stays while
 * the policy does. */
static void drop_unused(struct cuda_backend *cu)
{
    struct device_automaton **at = &cu->graphs->automata;
    while (*at) {
        struct device_automaton *a = *at;
        if (a->refs > 0 || __atomic_load_n(&a->host->refs, __ATOMIC_ACQUIRE) > 1) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        drop(cu, a);
    }
}

void graph_args_forget(struct cuda_backend *cu)
{
    while (cu->graphs->automata) {
        struct device_automaton *a = cu->graphs->automata;
        cu->graphs->automata = a->next;
        drop(cu, a);
    }
}

/* ---- the block -------------------------------------------------------------------------------------------
 */

/* A block in the making: on the host, with pointers into where it will lie. */
struct block {
    char *host, *device;
    size_t at; /* bytes used; the same twice: to measure, and to fill */
    int32_t vocab_size;
};

static void *part(struct block *b, size_t bytes, const void **device)
{
    size_t at = b->at;
    b->at += (bytes + 15) / 16 * 16;
    *device = b->device ? b->device + at : nullptr;
    return b->host ? b->host + at : nullptr;
}

static void put_bits(struct block *b, const struct graph_value *v, struct graph_arg *arg, uint32_t **bits)
{
    const void *device;
    const size_t words = (size_t)seat_bit_words(b->vocab_size);
    *bits = static_cast<uint32_t *>(part(b, words * sizeof **bits, &device));
    if (!*bits) return;
    for (int32_t i = 0; i < v->n; i++) (*bits)[v->ids[i] / 32] |= 1u << v->ids[i] % 32;
    arg->bits = static_cast<const uint32_t *>(device);
}

/* The numbers of equal ids are added up in their order, as the interpreter does. */
static void put_pairs(struct block *b, const struct graph_value *v, struct graph_arg *arg)
{
    const void *ranks_at, *values_at;
    const int32_t words = seat_bit_words(b->vocab_size);
    uint32_t *bits;
    put_bits(b, v, arg, &bits);
    auto *ranks = static_cast<uint32_t *>(part(b, (size_t)words * sizeof(uint32_t), &ranks_at));
    auto *values = static_cast<float *>(part(b, (size_t)v->n * sizeof(float) + 4, &values_at));
    if (!bits) return;
    for (int32_t w = 1; w < words; w++) ranks[w] = ranks[w - 1] + (uint32_t)__builtin_popcount(bits[w - 1]);
    for (int32_t i = 0; i < v->n; i++) {
        int32_t word = v->ids[i] / 32;
        uint32_t below = bits[word] & ((1u << v->ids[i] % 32) - 1);
        float *sum = &values[ranks[word] + (uint32_t)__builtin_popcount(below)];
        *sum = *sum + v->values[i];
        if (*sum == 0) *sum = -0.0f;
    }
    arg->ranks = static_cast<const uint32_t *>(ranks_at);
    arg->values = static_cast<const float *>(values_at);
}

static void put_all(struct block *b, const struct device_graph_args *a, const struct graph *g,
                    const struct graph_args *args)
{
    const void *device;
    auto *list =
        static_cast<struct graph_arg *>(part(b, (size_t)g->n_params * sizeof(struct graph_arg), &device));
    for (int32_t i = 0; i < g->n_params; i++) {
        const struct graph_value *v = &args->values[i];
        struct graph_arg measured = {}, *arg = list ? &list[i] : &measured;
        uint32_t *bits;
        arg->number = v->number;
        if (g->params[i].type == GRAPH_LIST) put_bits(b, v, arg, &bits);
        if (g->params[i].type == GRAPH_PAIRS) put_pairs(b, v, arg);
        const struct device_automaton *automaton = a->automata[i];
        if (!automaton) continue;
        arg->class_of = automaton->class_of;
        arg->next = automaton->table;
        arg->n_states = automaton->host->n_states;
        arg->n_classes = automaton->host->n_classes;
    }
}

static llm_status put_block(struct cuda_backend *cu, struct device_graph_args *a, const struct graph *g,
                            const struct graph_args *args, struct llm_error *err)
{
    struct block b = {nullptr, nullptr, 0, args->vocab_size};
    put_all(&b, a, g, args);
    size_t bytes = b.at;
    void *host = mem_zalloc(bytes);
    if (!host) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of a policy's arguments", bytes);
    cudaError_t e = take(cu, &a->block, bytes);
    if (e != cudaSuccess) {
        mem_free(host);
        if (e != cudaErrorMemoryAllocation) cuda_check(cu, e, "memory for a policy's arguments");
        cudaGetLastError();
        return llm_fail(err, e == cudaErrorMemoryAllocation ? LLM_ENOMEM : LLM_EFAILED,
                        "no device memory for %zu bytes of a policy's arguments", bytes);
    }
    b = {static_cast<char *>(host), static_cast<char *>(a->block), 0, args->vocab_size};
    put_all(&b, a, g, args);
    e = cudaMemcpyAsync(a->block, host, bytes, cudaMemcpyHostToDevice, cu->stream);
    mem_free(host); /* pageable memory has been read when this returns */
    if (cuda_check(cu, e, "copying a policy's arguments") == LLM_OK) return LLM_OK;
    return llm_fail(err, LLM_EFAILED, "%s", cu->failure);
}

/* ---- open and close --------------------------------------------------------------------------------------
 */

static void free_args(struct cuda_backend *cu, struct device_graph_args *a)
{
    for (int32_t i = 0; i < a->n_params; i++)
        if (a->automata[i]) a->automata[i]->refs--;
    give_back(cu, a->block);
    mem_free(a);
}

llm_status cuda_graph_args_open(struct backend *be, const struct device_graph *g,
                                const struct graph_args *args, struct device_graph_args **out,
                                struct llm_error *err)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return llm_fail(err, LLM_EFAILED, "%s", cu->failure);
    const struct graph *graph = g->graph;
    auto *a = static_cast<struct device_graph_args *>(mem_zalloc(sizeof(struct device_graph_args)));
    if (!a) return llm_fail(err, LLM_ENOMEM, "no memory for a policy's arguments");
    a->n_params = graph->n_params;
    llm_status st = LLM_OK;
    for (int32_t i = 0; st == LLM_OK && i < graph->n_params; i++)
        if (args->values[i].automaton)
            st = automaton_get(cu, args->values[i].automaton, &a->automata[i], err);
    if (st == LLM_OK && graph->n_params) st = put_block(cu, a, graph, args, err);
    if (st == LLM_OK)
        *out = a;
    else
        free_args(cu, a);
    return st;
}

const void *cuda_graph_args_block(const struct device_graph_args *a)
{
    return a->block;
}

void cuda_graph_args_close(struct backend *be, struct device_graph_args *a)
{
    struct cuda_graphs *graphs = cuda_of(be)->graphs;
    if (!a) return;
    pthread_mutex_lock(&graphs->lock);
    a->next = graphs->closed_args;
    graphs->closed_args = a;
    __atomic_add_fetch(&graphs->n_closed, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&graphs->lock);
}

void graph_args_reap(struct cuda_backend *cu, struct device_graph_args *closed)
{
    while (closed) {
        struct device_graph_args *a = closed;
        closed = a->next;
        free_args(cu, a);
    }
    drop_unused(cu);
}
