/* Policy graphs compiled for the device, and run. */

#include "kernels/cuda/graph_compile.cuh"

extern "C" {
#include "kernels/cuda/graph_cache.h"
}

#include <cstdio>

static uint64_t last_id; /* of all backends */

/* ---- compiling: any thread -------------------------------------------------------------------------------
 */

/* Whatever the device lacks for a graph, memory too, the host has. */
static llm_status cuda_fail(cudaError_t e, const char *what, struct llm_error *err)
{
    cudaGetLastError(); /* of this graph alone: the device is well */
    return llm_fail(err, LLM_EUNSUP, "a graph on the device: %s: %s", what, cudaGetErrorString(e));
}

static void destroy(struct device_graph *g)
{
    if (g->library) cudaLibraryUnload(g->library);
    if (g->passed) cudaEventDestroy(g->passed);
    cudaFree(g->constants);
    cudaFree(g->tables);
    mem_free(g);
}

/* Device memory, zeroed and then filled with `from` if that is not null, when it returns. On a stream of its
 * own: the engine's thread may be recording on the other. */
static cudaError_t place(uint32_t **to, const uint32_t *from, size_t words)
{
    cudaStream_t stream = nullptr;
    size_t bytes = words * sizeof **to;
    cudaError_t e = cudaMalloc(reinterpret_cast<void **>(to), bytes);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    if (e == cudaSuccess)
        e = from ? cudaMemcpyAsync(*to, from, bytes, cudaMemcpyHostToDevice, stream)
                 : cudaMemsetAsync(*to, 0, bytes, stream);
    if (e == cudaSuccess) e = cudaStreamSynchronize(stream);
    if (stream) cudaStreamDestroy(stream);
    return e;
}

/* From the code to a kernel that is ready: loading it at its first launch could wait for the device. */
static cudaError_t load(struct cuda_backend *cu, struct device_graph *g, const char *cubin)
{
    cudaFuncAttributes attributes;
    cudaError_t e = cudaLibraryLoadData(&g->library, cubin, nullptr, nullptr, 0, nullptr, nullptr, 0);
    if (e == cudaSuccess) e = cudaLibraryGetKernel(&g->kernel, g->library, GRAPH_KERNEL_NAME);
    if (e == cudaSuccess)
        e = cudaKernelSetAttributeForDevice(g->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            g->shared_bytes, cu->device);
    if (e == cudaSuccess) e = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(g->kernel));
    return e;
}

static llm_status fill(struct cuda_backend *cu, struct device_graph *g, const struct graph_source *s,
                       const struct graph_code *code, struct llm_error *err)
{
    cudaError_t e = load(cu, g, code->cubin);
    if (e != cudaSuccess) return cuda_fail(e, "loading it", err);
    if (s->n_constants) e = place(&g->constants, s->constants, s->n_constants);
    /* Tables are large: there are as many as fill the device with two blocks a row. */
    g->most_clusters = s->n_tables ? (cu->n_sms + 1) / 2 : cu->n_sms;
    if (e == cudaSuccess && s->n_tables)
        e = place(&g->tables, nullptr,
                  (size_t)g->most_clusters * (size_t)s->n_tables * (size_t)g->vocab_size);
    return e == cudaSuccess ? LLM_OK : cuda_fail(e, "its memory", err);
}

/* A device that takes the paths of an earlier one wants PTX: code for that would not run on it. */
static void name_arch(const struct cuda_backend *cu, char *out, size_t room)
{
    int major = cu->major, minor = cu->minor;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, cu->device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, cu->device);
    const int is_own = major == cu->major && minor == cu->minor;
    snprintf(out, room, "%s_%d%d", is_own ? "sm" : "compute", cu->major, cu->minor);
}

llm_status cuda_graph_compile(struct backend *be, const struct graph *graph, int32_t vocab_size,
                              struct device_graph **out, struct llm_error *err)
{
    struct cuda_backend *cu = cuda_of(be);
    struct graph_source source;
    struct graph_code code = {};
    char arch[32];
    struct device_graph *g = nullptr;
    cudaSetDevice(cu->device);
    name_arch(cu, arch, sizeof arch);
    llm_status status = graph_emit(graph, vocab_size, &source, err);
    if (status != LLM_OK) return status;
    if ((size_t)source.shared_bytes > cu->smem_max) {
        status = llm_fail(err, LLM_EUNSUP, "the graph needs %d bytes of shared memory; the device has %zu",
                          source.shared_bytes, cu->smem_max);
        goto fail;
    }
    status = graph_code_get(source.text, source.bytes, arch, cu->cache_dir, &code, err);
    if (status == LLM_EFAILED) status = LLM_EUNSUP; /* an older compiler, say */
    if (status != LLM_OK) goto fail;
    g = static_cast<struct device_graph *>(mem_zalloc(sizeof *g));
    if (!g) {
        status = llm_fail(err, LLM_ENOMEM, "no memory for a compiled graph");
        goto fail;
    }
    g->id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
    g->graph = graph;
    g->vocab_size = vocab_size;
    g->shared_bytes = source.shared_bytes;
    status = fill(cu, g, &source, &code, err);
    if (status == LLM_OK) *out = g;
fail:
    if (status != LLM_OK && g) destroy(g);
    mem_free(code.cubin);
    graph_source_free(&source);
    return status;
}

uint64_t cuda_graph_id(const struct device_graph *g)
{
    return g->id;
}

/* ---- running: the engine's thread ------------------------------------------------------------------------
 */

/* Blocks a row: as many as fill the device. */
static int cluster_size(const struct cuda_backend *cu, const struct device_graph *g, int32_t n)
{
    if (cu->major < 9) return 1;
    int size = g->tables ? 2 : 1;
    while (size < 8 && 2 * size * n <= cu->n_sms) size *= 2;
    return size;
}

llm_status cuda_run_graph(struct backend *be, const struct device_graph *g, int32_t round,
                          const struct sample_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    struct sample_args args = *a;
    struct graph_launch launch = {g->id, round, g->constants, g->tables};
    void *params[] = {&args, &launch};
    const int size = cluster_size(cu, g, a->n);
    const int n_clusters = a->n < g->most_clusters ? a->n : g->most_clusters;
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim = {(unsigned)size, 1, 1};
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)(n_clusters * size));
    config.blockDim = dim3(GRAPH_SOURCE_THREADS);
    config.dynamicSmemBytes = (size_t)g->shared_bytes;
    config.stream = cu->stream;
    config.attrs = attributes;
    config.numAttrs = cu->major >= 9 ? 2 : 0;
    return cuda_check(cu, cudaLaunchKernelExC(&config, reinterpret_cast<const void *>(g->kernel), params),
                      "a policy's graph");
}

/* ---- closing: any thread ---------------------------------------------------------------------------------
 */

void cuda_graph_close(struct backend *be, struct device_graph *g)
{
    struct cuda_graphs *graphs = cuda_of(be)->graphs;
    if (!g) return;
    pthread_mutex_lock(&graphs->lock);
    g->next = graphs->closed_graphs;
    graphs->closed_graphs = g;
    __atomic_add_fetch(&graphs->n_closed, 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&graphs->lock);
}

/* Destroys those that the device has passed; returns the others. */
static struct device_graph *reap_graphs(struct cuda_backend *cu, struct device_graph *closed)
{
    struct device_graph *left = nullptr;
    while (closed) {
        struct device_graph *g = closed;
        closed = g->next;
        if (!g->passed) {
            cudaError_t e = cudaEventCreateWithFlags(&g->passed, cudaEventDisableTiming);
            if (e == cudaSuccess) e = cudaEventRecord(g->passed, cu->stream);
            cuda_check(cu, e, "closing a graph");
        } else if (cudaEventQuery(g->passed) == cudaSuccess) {
            destroy(g);
            continue;
        }
        g->next = left;
        left = g;
    }
    return left;
}

void cuda_graphs_reap(struct cuda_backend *cu)
{
    struct cuda_graphs *graphs = cu->graphs;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (!graphs || cu->failed || !__atomic_load_n(&graphs->n_closed, __ATOMIC_ACQUIRE)) return;
    if (cudaStreamIsCapturing(cu->stream, &capture) != cudaSuccess || capture != cudaStreamCaptureStatusNone)
        return;
    pthread_mutex_lock(&graphs->lock);
    struct device_graph *closed = graphs->closed_graphs;
    struct device_graph_args *args = graphs->closed_args;
    graphs->closed_graphs = nullptr;
    graphs->closed_args = nullptr;
    graphs->n_closed = 0;
    pthread_mutex_unlock(&graphs->lock);
    graph_args_reap(cu, args);
    struct device_graph *left = reap_graphs(cu, closed);
    while (left) {
        struct device_graph *g = left;
        left = g->next;
        cuda_graph_close(&cu->base, g);
    }
}

/* ---- open and close --------------------------------------------------------------------------------------
 */

llm_status cuda_graphs_open(struct cuda_backend *cu, struct llm_error *err)
{
    cu->graphs = static_cast<struct cuda_graphs *>(mem_zalloc(sizeof *cu->graphs));
    if (!cu->graphs) return llm_fail(err, LLM_ENOMEM, "no memory for policy graphs");
    pthread_mutex_init(&cu->graphs->lock, nullptr);
    return LLM_OK;
}

/* The device is idle. */
void cuda_graphs_close(struct cuda_backend *cu)
{
    struct cuda_graphs *graphs = cu->graphs;
    if (!graphs) return;
    graph_args_reap(cu, graphs->closed_args);
    while (graphs->closed_graphs) {
        struct device_graph *g = graphs->closed_graphs;
        graphs->closed_graphs = g->next;
        destroy(g);
    }
    graph_args_forget(cu);
    pthread_mutex_destroy(&graphs->lock);
    mem_free(graphs);
    cu->graphs = nullptr;
}
