/* The kernels of policy graphs without a GPU: compiled by the C++ compiler, with threads of the device
 * emulated (emulated_cuda.h), against the interpreter (graph_device.inc.c). Where no compiler can be run it
 * skips. */

#include "base/mem.h"
#include "kernels/cuda/graph_block.h"
#include "kernels/cuda/graph_emit.h"
#include "kernels/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N_COMPILERS = 2, CLUSTERS = 2 };
static const int32_t case_sizes[] = {5, 3001}, golden_sizes[] = {1000};

/* ---- a device that compiles graphs --------------------------------------------------------------------- */

typedef int emulate_fn(const struct sample_args *a, const struct graph_launch *l, int size, int n,
                       int shared_bytes);

struct device_graph {
    uint64_t id;
    const struct graph *graph;
    int32_t vocab_size;
    struct graph_source source;
    uint32_t *tables;
    void *library;
    emulate_fn *emulate;
};

struct device_graph_args {
    char *block;
};

static char directory[] = "/tmp/graph-device-XXXXXX";
static uint64_t n_ids;
static int cluster_size = 1;

static llm_status build_library(struct device_graph *d, struct llm_error *err)
{
    char path[128], command[1024];
    snprintf(path, sizeof path, "%s/%llu", directory, (unsigned long long)d->id);
    snprintf(command, sizeof command,
             "%s -std=gnu++17 -O1 -w -ffp-contract=off -fPIC -shared -I" TESTS_DIR "/../core -I" TESTS_DIR
             "/.. -x c++ %s.cc -o %s.so",
             CXX_COMPILER, path, path);
    strcat(path, ".cc");
    FILE *f = fopen(path, "w");
    if (!f) return llm_fail(err, LLM_EIO, "cannot write %s", path);
    fprintf(f, "#include \"" TESTS_DIR "/emulated_cuda.h\"\n%s\nEMULATE(" GRAPH_KERNEL_NAME ")\n",
            d->source.text);
    fclose(f);
    int status = system(command);
    strcpy(strrchr(path, '.'), ".so");
    d->library = status == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!d->library)
        return llm_fail(err, LLM_EFAILED, "the C++ compiler does not accept the source of a graph");
    void *symbol = dlsym(d->library, "emulate");
    memcpy(&d->emulate, &symbol, sizeof symbol);
    unlink(path);
    strcpy(strrchr(path, '.'), ".cc");
    unlink(path);
    return LLM_OK;
}

static llm_status compile_graph(struct backend *unused, const struct graph *g, int32_t vocab_size,
                                struct device_graph **out, struct llm_error *err)
{
    (void)unused;
    struct device_graph *d = calloc(1, sizeof *d);
    d->id = __atomic_add_fetch(&n_ids, 1, __ATOMIC_RELAXED);
    d->graph = g;
    d->vocab_size = vocab_size;
    llm_status status = graph_emit(g, vocab_size, &d->source, err);
    if (status == LLM_OK) status = build_library(d, err);
    if (status == LLM_OK)
        d->tables =
            calloc((size_t)CLUSTERS * (size_t)vocab_size * (size_t)d->source.n_tables + 1, sizeof *d->tables);
    *out = d;
    return status;
}

/* A run leaves its tables as it found them. */
static void close_graph(struct backend *unused, struct device_graph *d)
{
    (void)unused;
    const size_t n = (size_t)CLUSTERS * (size_t)d->vocab_size * (size_t)d->source.n_tables;
    for (size_t i = 0; i < n; i++)
        if (d->tables[i]) abort();
    dlclose(d->library);
    graph_source_free(&d->source);
    free(d->tables);
    free(d);
}

static uint64_t graph_id(const struct device_graph *d)
{
    return d->id;
}

static llm_status open_args(struct backend *unused, const struct device_graph *d,
                            const struct graph_args *args, struct device_graph_args **out,
                            struct llm_error *err)
{
    (void)unused;
    (void)err;
    struct graph_block_automaton automata[GRAPH_MAX_PARAMS] = {{0}};
    for (int32_t i = 0; i < d->graph->n_params; i++)
        if (args->values[i].automaton)
            automata[i] = (struct graph_block_automaton){args->values[i].automaton->class_of,
                                                         args->values[i].automaton->next};
    struct device_graph_args *a = calloc(1, sizeof *a);
    a->block = calloc(1, graph_block_write(d->graph, args, automata, NULL, NULL) + 1);
    graph_block_write(d->graph, args, automata, a->block, a->block);
    *out = a;
    return LLM_OK;
}

static void close_args(struct backend *unused, struct device_graph_args *a)
{
    (void)unused;
    free(a->block);
    free(a);
}

static const void *args_block(const struct device_graph_args *a)
{
    return a->block;
}

/* With clusters of one, two and four blocks by turns; fewer clusters than rows. */
static llm_status run_graph(struct backend *unused, const struct device_graph *d, int32_t round,
                            const struct sample_args *a)
{
    (void)unused;
    const struct graph_launch launch = {d->id, round, d->source.constants, d->tables};
    cluster_size = cluster_size == 4 ? 1 : 2 * cluster_size;
    return d->emulate(a, &launch, cluster_size, CLUSTERS, d->source.shared_bytes) ? LLM_EFAILED : LLM_OK;
}

static void *take(struct backend *unused, size_t bytes)
{
    (void)unused;
    return calloc(1, bytes);
}

static void give_back(struct backend *unused, void *p, size_t bytes)
{
    (void)unused;
    (void)bytes;
    free(p);
}

static llm_status copy_bytes(struct backend *unused, void *to, const void *from, size_t bytes)
{
    (void)unused;
    memcpy(to, from, bytes);
    return LLM_OK;
}

static llm_status pass_mark(struct backend *unused, int mark)
{
    (void)unused;
    (void)mark;
    return LLM_OK;
}

static const char *failure_of(struct backend *unused)
{
    (void)unused;
    return "a kernel's threads wait for each other for ever";
}

static void close_device(struct backend *unused)
{
    (void)unused;
    rmdir(directory);
}

static const struct sampling_ops sampling_table = {.graph_compile = compile_graph,
                                                   .graph_close = close_graph,
                                                   .graph_id = graph_id,
                                                   .graph_args_open = open_args,
                                                   .graph_args_close = close_args,
                                                   .graph_args_block = args_block,
                                                   .run_graph = run_graph};
static const struct device_ops device_table = {.upload = copy_bytes,
                                               .download = copy_bytes,
                                               .set_mark = pass_mark,
                                               .wait_mark = pass_mark,
                                               .failure = failure_of,
                                               .sampling = &sampling_table};
static struct backend emulated = {
    .name = "emulated", .alloc = take, .free = give_back, .device = &device_table, .close = close_device};

static llm_status open_device(struct backend **out, struct llm_error *err)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return llm_fail(err, LLM_EUNSUP, "sanitizers do not follow fibers");
#endif
    if (system(CXX_COMPILER " --version >/dev/null 2>&1") != 0 || !mkdtemp(directory))
        return llm_fail(err, LLM_EUNSUP, "the C++ compiler %s cannot be run here", CXX_COMPILER);
    *out = &emulated;
    return LLM_OK;
}

#define LEFT_OUT() 0
#include "graph_device.inc.c"

int main(void)
{
    return run_graph_tests();
}
