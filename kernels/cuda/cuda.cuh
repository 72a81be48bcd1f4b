#ifndef LLM_KERNELS_CUDA_CUH
#define LLM_KERNELS_CUDA_CUH

/* What the files of the plug-in share: the backend's state, launching, the types of elements, the layout of
 * KV pages. Everything runs on one stream; an error stays (`fail`), and every later op answers it. */

extern "C" {
#include "base/mem.h"
#include "kernels/device.h"
}

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <utility>

struct cuda_attention; /* attention.cu's */
struct cuda_graphs;    /* graph_compile.cu's */
struct cuda_linear;    /* linear.cu's */

/* Streams beside the queue, one a direction (device.h). */
struct cuda_exchange {
    cudaStream_t out, in;
    cudaEvent_t begun, returned, ended; /* returned: of all until then */
    cudaEvent_t fetched[EXCHANGE_TICKETS];
    int used[EXCHANGE_TICKETS]; /* 1: it has given back a piece of this exchange */
};

struct cuda_backend {
    struct backend base; /* first */
    int device, n_sms, major, minor;
    size_t smem_max; /* bytes a block can have */
    size_t l2_bytes;
    cudaStream_t stream;
    cudaEvent_t marks[2];
    struct cuda_exchange exchange;
    struct step_shape shape;
    struct backend_limits limits;
    struct cuda_attention *attention;
    struct cuda_linear *linear;
    struct cuda_graphs *graphs;
    int failed;
    char failure[512];
    char description[256];
    char cache_dir[512]; /* "": none */
};

static inline struct cuda_backend *cuda_of(struct backend *be)
{
    return reinterpret_cast<struct cuda_backend *>(be);
}

/* Notes the first error; LLM_EFAILED if there is one, now or before. */
llm_status cuda_check(struct cuda_backend *cu, cudaError_t e, const char *what);
llm_status cublas_check(struct cuda_backend *cu, cublasStatus_t e, const char *what);

/* Launches a kernel on the backend's stream with programmatic dependent launch: it may begin before its
 * predecessor has ended, so the kernel must call pdl_wait() before it touches anything that an earlier kernel
 * writes or reads (weights and constants it may prefetch before). All its blocks must call it, or a later
 * kernel may overtake an earlier one. pdl_launch() lets the successor's blocks start as room comes free; they
 * wait in their own pdl_wait() for this kernel's end. */
template <typename... Params, typename... Args>
static inline llm_status cuda_launch(struct cuda_backend *cu, const char *what, void (*kernel)(Params...),
                                     dim3 grid, dim3 block, size_t smem, Args &&...args)
{
    if (cu->failed) return LLM_EFAILED;
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = cu->stream;
    config.attrs = &attribute;
    config.numAttrs = cu->major == 9 ? 1 : 0; /* elsewhere the code of compute_80 runs, which cannot wait */
    return cuda_check(cu, cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), what);
}

#ifdef __CUDACC__
__device__ __forceinline__ void pdl_wait()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void pdl_launch()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" :::);
#endif
}

/* Element types of activations and KV: float, __half, __nv_bfloat16. */
template <typename T> __device__ __forceinline__ float to_f32(T v);
template <> __device__ __forceinline__ float to_f32<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ float to_f32<__half>(__half v)
{
    return __half2float(v);
}
template <> __device__ __forceinline__ float to_f32<__nv_bfloat16>(__nv_bfloat16 v)
{
    return __bfloat162float(v);
}
template <typename T> __device__ __forceinline__ T from_f32(float v);
template <> __device__ __forceinline__ float from_f32<float>(float v)
{
    return v;
}
template <> __device__ __forceinline__ __half from_f32<__half>(float v)
{
    return __float2half_rn(v);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_f32<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}
#endif

/* ---- KV pages ------------------------------------------------------------------------------------------
 *
 * A page is [n_layers][2: k, v][n_kv_heads][page_size][head_dim]: for TMA a box of one page, head and kind is
 * page_size contiguous rows, and a page with all its layers is one contiguous block, for offload. */

/* Elements from the start of a page to row 0 of (layer, which, head); which: 0 k, 1 v. */
__host__ __device__ static inline int64_t kv_offset(const struct kv_cache *kv, int32_t layer, int32_t which,
                                                    int32_t head)
{
    return ((int64_t)(2 * layer + which) * kv->n_kv_heads + head) * kv->page_size * kv->head_dim;
}

/* ---- copies (copy.cu) -----------------------------------------------------------------------------------
 */

/* Between pinned memory and the device, by a kernel: `rows` rows of `bytes` bytes, of 4-byte words, as
 * pitches and addresses are. */
enum { SMALL_COPY_BYTES = 64 << 10 };
int is_small_copy(size_t bytes, int32_t rows);
llm_status small_copy(struct cuda_backend *cu, void *to, size_t to_pitch, const void *from, size_t from_pitch,
                      size_t bytes, int32_t rows);

/* ---- the ops, one file each ---------------------------------------------------------------------------- */

llm_status cuda_norm(struct backend *be, const struct norm_args *a);
llm_status cuda_embed(struct backend *be, const struct embed_args *a);
llm_status cuda_rope_kv(struct backend *be, const struct rope_kv_args *a);
llm_status cuda_gather(struct backend *be, const struct gather_args *a);
llm_status cuda_logits(struct backend *be, const struct logits_args *a);
llm_status cuda_intake(struct backend *be, const struct intake_args *a);
llm_status cuda_deliver(struct backend *be, const struct deliver_args *a);
llm_status cuda_feed(struct backend *be, const struct feed_args *a);
llm_status cuda_fill_seats(struct backend *be, const struct seat_fill *fills, int32_t n,
                           const struct seats *seats);
llm_status cuda_adjust(struct backend *be, const struct sample_args *a);
llm_status cuda_check_rows(struct backend *be, const struct sample_args *a);
llm_status cuda_sample(struct backend *be, const struct sample_args *a);
llm_status cuda_candidates(struct backend *be, const struct sample_args *a);
llm_status cuda_logprobs(struct backend *be, const struct sample_args *a);
llm_status cuda_score(struct backend *be, const struct score_args *a);
llm_status cuda_fill(struct backend *be, void *to, enum llm_dtype dtype, int64_t n, uint64_t state,
                     float deviation);

/* attention.cu. open: workspaces for these limits (cu->limits), called by reserve, again if they grow. begin:
 * enqueues whatever plan all layers of the step share. */
llm_status attention_open(struct cuda_backend *cu, struct llm_error *err);
void attention_close(struct cuda_backend *cu);
llm_status attention_begin(struct cuda_backend *cu, const struct step_shape *shape);
llm_status cuda_attention(struct backend *be, const struct attention_args *a);

/* linear.cu. open: handles and workspaces for cu->limits, called by reserve. */
llm_status linear_open(struct cuda_backend *cu, struct llm_error *err);
void linear_close(struct cuda_backend *cu);
llm_status cuda_weight_create(struct backend *be, const struct weight_spec *spec, struct weight **out,
                              struct llm_error *err);
void cuda_weight_destroy(struct backend *be, struct weight *w);
size_t cuda_weight_bytes(const struct weight *w);
llm_status cuda_upload_f16(struct backend *be, void *to, const struct tensor *rows);
llm_status cuda_linear(struct backend *be, const struct linear_args *a);
llm_status cuda_tune(struct backend *be, const struct linear_args *a);

/* graph_compile.cu, graph_args.cu: policy graphs, as sampling.h says. reap: by the engine's thread, now and
 * then: frees what was closed and no step can use any more. */
llm_status cuda_graphs_open(struct cuda_backend *cu, struct llm_error *err);
void cuda_graphs_close(struct cuda_backend *cu);
void cuda_graphs_reap(struct cuda_backend *cu);
llm_status cuda_graph_compile(struct backend *be, const struct graph *graph, int32_t vocab_size,
                              struct device_graph **out, struct llm_error *err);
void cuda_graph_close(struct backend *be, struct device_graph *g);
uint64_t cuda_graph_id(const struct device_graph *g);
llm_status cuda_graph_args_open(struct backend *be, const struct device_graph *g,
                                const struct graph_args *args, struct device_graph_args **out,
                                struct llm_error *err);
void cuda_graph_args_close(struct backend *be, struct device_graph_args *a);
const void *cuda_graph_args_block(const struct device_graph_args *a);
llm_status cuda_run_graph(struct backend *be, const struct device_graph *g, int32_t round,
                          const struct sample_args *a);

#endif
