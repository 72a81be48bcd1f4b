/* Arguments of graphs on the device: one block of memory a request, automata shared among them. Memory comes
 * from the stream's pool: what is freed is used again only after the steps that were queued before. */

#include "kernels/cuda/graph_compile.cuh"

extern "C" {
#include "kernels/cuda/graph_block.h"
}

enum { POOL_KEEPS = 64 << 20 /* bytes that the pool does not give back when the device is idle */ };

static llm_status take(struct cuda_backend *cu, void **p, size_t bytes, struct llm_error *err)
{
    if (!cu->graphs->pool_is_set) {
        cudaMemPool_t pool;
        uint64_t keeps = POOL_KEEPS;
        if (cudaDeviceGetDefaultMemPool(&pool, cu->device) == cudaSuccess)
            cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keeps);
        cu->graphs->pool_is_set = 1;
    }
    cudaError_t e = cudaMallocAsync(p, bytes, cu->stream);
    if (e == cudaSuccess) return LLM_OK;
    cudaGetLastError();
    if (e == cudaErrorMemoryAllocation)
        return llm_fail(err, LLM_ENOMEM, "no device memory for %zu bytes of a policy's arguments", bytes);
    cuda_check(cu, e, "memory for a policy's arguments");
    return llm_fail(err, LLM_EFAILED, "%s", cu->failure);
}

/* The host's memory may change as soon as this returns: it is pageable, and has been read. */
static llm_status fill(struct cuda_backend *cu, void *to, const void *from, size_t bytes,
                       struct llm_error *err)
{
    cudaError_t e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cu->stream);
    if (cuda_check(cu, e, "copying a policy's arguments") == LLM_OK) return LLM_OK;
    return llm_fail(err, LLM_EFAILED, "%s", cu->failure);
}

static llm_status upload(struct cuda_backend *cu, int32_t **p, const int32_t *from, size_t n,
                         struct llm_error *err)
{
    llm_status st = take(cu, reinterpret_cast<void **>(p), n * sizeof **p, err);
    return st ? st : fill(cu, *p, from, n * sizeof **p, err);
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
    llm_status st = upload(cu, &a->class_of, host->class_of, (size_t)host->vocab_size, err);
    if (st == LLM_OK)
        st = upload(cu, &a->table, host->next, (size_t)host->n_states * (size_t)host->n_classes, err);
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

static llm_status put_block(struct cuda_backend *cu, struct device_graph_args *a, const struct graph *g,
                            const struct graph_args *args, struct llm_error *err)
{
    struct graph_block_automaton automata[GRAPH_MAX_PARAMS] = {};
    for (int32_t i = 0; i < g->n_params; i++)
        if (a->automata[i]) automata[i] = {a->automata[i]->class_of, a->automata[i]->table};
    const size_t bytes = graph_block_write(g, args, automata, nullptr, nullptr);
    auto *host = static_cast<char *>(mem_zalloc(bytes));
    if (!host) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of a policy's arguments", bytes);
    llm_status st = take(cu, &a->block, bytes, err);
    if (st == LLM_OK) {
        graph_block_write(g, args, automata, host, static_cast<const char *>(a->block));
        st = fill(cu, a->block, host, bytes, err);
    }
    mem_free(host);
    return st;
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
