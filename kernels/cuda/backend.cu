/* The device: opening it, its memory, copies, marks and recorded steps. */

#include "kernels/cuda/exchange.cuh"
#include "kernels/cuda/linear.cuh"

#include <cstdio>
#include <cstdlib>
#include <cstring>

struct device_recording {
    cudaGraphExec_t exec;
};

/* ---- errors ---------------------------------------------------------------------------------------------
 */

llm_status cuda_check(struct cuda_backend *cu, cudaError_t e, const char *what)
{
    if (e == cudaSuccess && !cu->failed) return LLM_OK;
    if (!cu->failed) {
        snprintf(cu->failure, sizeof cu->failure, "CUDA: %s: %s (%s)", what, cudaGetErrorString(e),
                 cudaGetErrorName(e));
        cu->failed = 1;
    }
    return LLM_EFAILED;
}

llm_status cublas_check(struct cuda_backend *cu, cublasStatus_t e, const char *what)
{
    if (e == CUBLAS_STATUS_SUCCESS && !cu->failed) return LLM_OK;
    if (!cu->failed) {
        snprintf(cu->failure, sizeof cu->failure, "cuBLASLt: %s: %s", what, cublasLtGetStatusString(e));
        cu->failed = 1;
    }
    return LLM_EFAILED;
}

static const char *device_failure(struct backend *be)
{
    struct cuda_backend *cu = cuda_of(be);
    return cu->failed ? cu->failure : "no failure";
}

/* ---- memory ---------------------------------------------------------------------------------------------
 */

static void *device_alloc(struct backend *be, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    void *p = nullptr;
    if (cu->failed || bytes == 0 || cudaMalloc(&p, bytes) != cudaSuccess) {
        cudaGetLastError(); /* no memory is not a failure of the device */
        return nullptr;
    }
    if (cuda_check(cu, cudaMemsetAsync(p, 0, bytes, cu->stream), "clearing memory")) {
        cudaFree(p);
        return nullptr;
    }
    return p;
}

static void device_free(struct backend *be, void *p, size_t bytes)
{
    (void)be;
    (void)bytes;
    if (p) cudaFree(p);
}

static size_t device_memory_left(struct backend *be, size_t *total)
{
    (void)be;
    size_t left = 0;
    *total = 0;
    return cudaMemGetInfo(&left, total) == cudaSuccess ? left : 0;
}

static void *device_alloc_pinned(struct backend *be, size_t bytes)
{
    (void)be;
    void *p = nullptr;
    if (cudaMallocHost(&p, bytes) == cudaSuccess) return memset(p, 0, bytes);
    cudaGetLastError();
    return nullptr;
}

static void device_free_pinned(struct backend *be, void *p)
{
    (void)be;
    if (p) cudaFreeHost(p);
}

/* ---- copies and marks -----------------------------------------------------------------------------------
 */

static llm_status copy_async(struct cuda_backend *cu, void *to, const void *from, size_t bytes,
                             enum cudaMemcpyKind kind)
{
    return cuda_check(cu, cudaMemcpyAsync(to, from, bytes, kind, cu->stream),
                      kind == cudaMemcpyHostToDevice ? "copying in" : "copying out");
}

static llm_status device_copy_in(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return is_small_copy(bytes, 1) ? small_copy(cu, to, 0, from, 0, bytes, 1)
                                   : copy_async(cu, to, from, bytes, cudaMemcpyHostToDevice);
}

static llm_status device_copy_out(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return is_small_copy(bytes, 1) ? small_copy(cu, to, 0, from, 0, bytes, 1)
                                   : copy_async(cu, to, from, bytes, cudaMemcpyDeviceToHost);
}

static llm_status device_copy_out_rows(struct backend *be, void *to, size_t to_pitch, const void *from,
                                       size_t from_pitch, size_t bytes, int32_t rows)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    /* Rows are dear to the copy engine: of the candidates of 64 rows they are 200 kB. */
    if (bytes % 4 == 0 && bytes * (size_t)rows <= 4 * SMALL_COPY_BYTES)
        return small_copy(cu, to, to_pitch, from, from_pitch, bytes, rows);
    return cuda_check(cu,
                      cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, (size_t)rows,
                                        cudaMemcpyDeviceToHost, cu->stream),
                      "copying out");
}

static llm_status wait_all(struct cuda_backend *cu, const char *what)
{
    return cuda_check(cu, cudaStreamSynchronize(cu->stream), what);
}

static llm_status device_upload(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    if (bytes >= STAGED_BYTES) return staged_upload(cu, to, from, bytes);
    llm_status st = copy_async(cu, to, from, bytes, cudaMemcpyHostToDevice);
    return st ? st : wait_all(cu, "copying in");
}

static llm_status device_download(struct backend *be, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    llm_status st = copy_async(cu, to, from, bytes, cudaMemcpyDeviceToHost);
    return st ? st : wait_all(cu, "copying out");
}

/* For tests: after so many steps one does what a faulty kernel does. 0: never. */
static int steps_until_fault;

extern "C" __attribute__((visibility("default"))) void cuda_plugin_fault_after(int steps)
{
    steps_until_fault = steps;
}

static __global__ void faulty_kernel()
{
    *reinterpret_cast<volatile int *>(64) = 0; /* no memory is mapped there */
}

static llm_status device_set_mark(struct backend *be, int mark)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    if (steps_until_fault > 0 && --steps_until_fault == 0) faulty_kernel<<<1, 1, 0, cu->stream>>>();
    cuda_graphs_reap(cu);
    return cuda_check(cu, cudaEventRecord(cu->marks[mark], cu->stream), "setting a mark");
}

static llm_status device_wait_mark(struct backend *be, int mark)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return cuda_check(cu, cudaEventSynchronize(cu->marks[mark]), "running a step");
}

/* ---- recorded steps -------------------------------------------------------------------------------------
 */

static llm_status device_record(struct backend *be)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return cuda_check(cu, cudaStreamBeginCapture(cu->stream, cudaStreamCaptureModeThreadLocal),
                      "recording a step");
}

static llm_status device_recorded(struct backend *be, struct device_recording **out)
{
    struct cuda_backend *cu = cuda_of(be);
    cudaGraph_t graph = nullptr;
    cudaError_t e = cudaStreamEndCapture(cu->stream, &graph);
    llm_status st = cuda_check(cu, e, "recording a step");
    auto *r = st ? nullptr : static_cast<struct device_recording *>(mem_zalloc(sizeof(device_recording)));
    if (!st && !r) st = cuda_check(cu, cudaErrorMemoryAllocation, "recording a step");
    if (!st) st = cuda_check(cu, cudaGraphInstantiate(&r->exec, graph, 0), "recording a step");
    if (!st) st = cuda_check(cu, cudaGraphUpload(r->exec, cu->stream), "recording a step");
    if (graph) cudaGraphDestroy(graph);
    if (st)
        mem_free(r);
    else
        *out = r;
    return st;
}

static llm_status device_replay(struct backend *be, struct device_recording *r)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return cuda_check(cu, cudaGraphLaunch(r->exec, cu->stream), "running a step");
}

static void device_recording_free(struct backend *be, struct device_recording *r)
{
    (void)be;
    if (!r) return;
    cudaGraphExecDestroy(r->exec);
    mem_free(r);
}

/* ---- steps ----------------------------------------------------------------------------------------------
 */

static llm_status device_begin(struct backend *be, const struct step_shape *shape)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    cu->shape = *shape;
    return attention_begin(cu, shape);
}

static llm_status cuda_reserve(struct backend *be, const struct backend_limits *limits, struct llm_error *err)
{
    struct cuda_backend *cu = cuda_of(be);
    cu->limits = *limits;
    llm_status st = attention_open(cu, err);
    return st ? st : linear_open(cu, err);
}

static size_t cuda_kv_page_bytes(const struct backend *be, const struct kv_cache *shape)
{
    (void)be;
    return (size_t)kv_offset(shape, shape->n_layers, 0, 0) * dtype_bytes(shape->dtype, 1);
}

static llm_status cuda_kv_copy(struct backend *be, const struct kv_cache *kv, int32_t from, int32_t to)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    char *base = static_cast<char *>(kv->base);
    return cuda_check(cu,
                      cudaMemcpyAsync(base + kv->page_bytes * (size_t)to,
                                      base + kv->page_bytes * (size_t)from, kv->page_bytes,
                                      cudaMemcpyDeviceToDevice, cu->stream),
                      "copying a KV page");
}

/* ---- open -----------------------------------------------------------------------------------------------
 */

static void cuda_close(struct backend *be)
{
    struct cuda_backend *cu = cuda_of(be);
    if (!cu) return;
    if (cu->stream) cudaStreamSynchronize(cu->stream);
    attention_close(cu);
    linear_close(cu);
    cuda_graphs_close(cu);
    for (cudaEvent_t mark : cu->marks)
        if (mark) cudaEventDestroy(mark);
    exchange_close(&cu->exchange);
    if (cu->stream) cudaStreamDestroy(cu->stream);
    mem_free(cu);
}

static struct sampling_ops make_sampling_table(void)
{
    struct sampling_ops s = {};
    s.fill_seats = cuda_fill_seats;
    s.adjust = cuda_adjust;
    s.check = cuda_check_rows;
    s.run_graph = cuda_run_graph;
    s.graph_compile = cuda_graph_compile;
    s.graph_close = cuda_graph_close;
    s.graph_id = cuda_graph_id;
    s.graph_args_open = cuda_graph_args_open;
    s.graph_args_close = cuda_graph_args_close;
    s.graph_args_block = cuda_graph_args_block;
    s.sample = cuda_sample;
    s.candidates = cuda_candidates;
    s.logprobs = cuda_logprobs;
    s.score = cuda_score;
    return s;
}

static const struct sampling_ops sampling_table = make_sampling_table();

static struct device_ops make_device_table(void)
{
    struct device_ops d = {};
    d.memory_left = device_memory_left;
    d.alloc_pinned = device_alloc_pinned;
    d.free_pinned = device_free_pinned;
    d.upload = device_upload;
    d.download = device_download;
    d.copy_in = device_copy_in;
    d.copy_out = device_copy_out;
    d.copy_out_rows = device_copy_out_rows;
    d.begin_exchange = cuda_begin_exchange;
    d.fetch = cuda_fetch;
    d.await = cuda_await;
    d.give_back = cuda_give_back;
    d.end_exchange = cuda_end_exchange;
    d.set_mark = device_set_mark;
    d.wait_mark = device_wait_mark;
    d.begin = device_begin;
    d.intake = cuda_intake;
    d.feed = cuda_feed;
    d.deliver = cuda_deliver;
    d.sampling = &sampling_table;
    d.record = device_record;
    d.recorded = device_recorded;
    d.replay = device_replay;
    d.recording_free = device_recording_free;
    d.upload_f16 = cuda_upload_f16;
    d.tune = cuda_tune;
    d.fill = cuda_fill;
    d.failure = device_failure;
    return d;
}

static const struct device_ops device_table = make_device_table();

static void fill_table(struct backend *be, enum llm_dtype act_dtype)
{
    be->name = "cuda";
    be->act_dtype = act_dtype;
    be->device = &device_table;
    be->close = cuda_close;
    be->reserve = cuda_reserve;
    be->alloc = device_alloc;
    be->free = device_free;
    be->weight_create = cuda_weight_create;
    be->weight_destroy = cuda_weight_destroy;
    be->weight_bytes = cuda_weight_bytes;
    be->kv_page_bytes = cuda_kv_page_bytes;
    be->kv_copy = cuda_kv_copy;
    be->embed = cuda_embed;
    be->norm = cuda_norm;
    be->linear = cuda_linear;
    be->gather = cuda_gather;
    be->logits = cuda_logits;
    be->rope_kv = cuda_rope_kv;
    be->attention = cuda_attention;
}

static int has_code_for_hopper()
{
    cudaFuncAttributes a;
    return cudaFuncGetAttributes(&a, faulty_kernel) == cudaSuccess && a.ptxVersion >= 90;
}

/* Which paths are taken. A plug-in that was built without Hopper's code runs there what it has for 8.0.
 * LLMLUA_CUDA_COMPUTE=8.0 takes the paths of an earlier device, so that they can be tested on a later one. */
static llm_status take_compute(struct cuda_backend *cu, const cudaDeviceProp *prop, struct llm_error *err)
{
    const char *text = getenv("LLMLUA_CUDA_COMPUTE");
    char end = 0;
    cu->major = prop->major;
    cu->minor = prop->minor;
    cu->smem_max = prop->sharedMemPerBlockOptin;
    if (cu->major == 9 && !has_code_for_hopper()) cu->major = 8, cu->minor = 0;
    if (!text || !*text) return LLM_OK;
    if (sscanf(text, "%d.%d%c", &cu->major, &cu->minor, &end) != 2 || cu->major < 8 || cu->minor < 0 ||
        cu->major * 10 + cu->minor > prop->major * 10 + prop->minor)
        return llm_fail(err, LLM_EINVAL,
                        "LLMLUA_CUDA_COMPUTE is \"%s\"; it must be from 8.0 to the device's %d.%d", text,
                        prop->major, prop->minor);
    if (cu->major == 8) cu->smem_max = (cu->minor == 0 || cu->minor == 7 ? 163 : 99) * (size_t)1024;
    return LLM_OK;
}

static llm_status open_device(struct cuda_backend *cu, const struct cuda_options *options,
                              struct llm_error *err)
{
    int n = 0;
    cudaError_t e = cudaGetDeviceCount(&n);
    if (e != cudaSuccess || n == 0)
        return llm_fail(err, LLM_EUNSUP, "no CUDA device: %s",
                        e != cudaSuccess ? cudaGetErrorString(e) : "the driver sees no GPU");
    if (options->device < 0 || options->device >= n)
        return llm_fail(err, LLM_EINVAL, "device is %d; this machine has %d: 0 to %d", options->device, n,
                        n - 1);
    cudaDeviceProp prop;
    e = cudaSetDevice(options->device);
    if (e == cudaSuccess) e = cudaGetDeviceProperties(&prop, options->device);
    if (e != cudaSuccess)
        return llm_fail(err, LLM_EFAILED, "CUDA device %d: %s", options->device, cudaGetErrorString(e));
    if (prop.major < 8)
        return llm_fail(err, LLM_EUNSUP, "%s has compute capability %d.%d; 8.0 or later is needed", prop.name,
                        prop.major, prop.minor);
    llm_status status = take_compute(cu, &prop, err);
    if (status) return status;
    cu->device = options->device;
    cu->n_sms = prop.multiProcessorCount;
    cu->l2_bytes = (size_t)prop.l2CacheSize;
    snprintf(cu->description, sizeof cu->description, "%.128s, %d SMs, compute capability %d.%d", prop.name,
             cu->n_sms, cu->major, cu->minor);
    e = cudaStreamCreateWithFlags(&cu->stream, cudaStreamNonBlocking);
    for (cudaEvent_t &mark : cu->marks)
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&mark, cudaEventDisableTiming);
    if (e == cudaSuccess) e = exchange_open(&cu->exchange);
    return e == cudaSuccess
               ? LLM_OK
               : llm_fail(err, LLM_EFAILED, "CUDA device %d: %s", options->device, cudaGetErrorString(e));
}

extern "C" __attribute__((visibility("default"))) llm_status cuda_plugin_open(
    const struct cuda_options *options, struct backend **out, struct llm_error *err)
{
    if (options->act_dtype != DTYPE_BF16 && options->act_dtype != DTYPE_F16 &&
        options->act_dtype != DTYPE_F32)
        return llm_fail(err, LLM_EINVAL, "activations on a CUDA device are float32, float16 or bfloat16");
    auto *cu = static_cast<struct cuda_backend *>(mem_zalloc(sizeof(struct cuda_backend)));
    if (!cu) return llm_fail(err, LLM_ENOMEM, "no memory for the CUDA backend");
    fill_table(&cu->base, options->act_dtype);
    if (options->cache_dir) snprintf(cu->cache_dir, sizeof cu->cache_dir, "%s", options->cache_dir);
    llm_status st = open_device(cu, options, err);
    if (!st) st = cuda_graphs_open(cu, err);
    if (st)
        cuda_close(&cu->base);
    else
        *out = &cu->base;
    return st;
}

extern "C" __attribute__((visibility("default"))) const char *cuda_plugin_describe(const struct backend *be)
{
    return reinterpret_cast<const struct cuda_backend *>(be)->description;
}
