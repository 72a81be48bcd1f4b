#ifndef LLM_KERNELS_H
#define LLM_KERNELS_H

/* The op set: what a backend does for the decoder, at the granularity of fused transformer stages. One
 * documented struct of arguments an op, one table of functions a backend.
 *
 * Activations are matrices of rows, one row a token, in the backend's activation type (CPU: f32), in memory
 * that the backend's `alloc` returned; strides are in elements. Weights are opaque: made once at load from
 * stored tensors, in whatever layout the backend reads fastest. A stored quantized type stays quantized.
 *
 * Invariance (CPU): an op's result for a row is a function of that row's inputs alone, to the bit. It does
 * not depend on how many rows are in the call, on their order, on the number of threads, on how a prompt was
 * cut into chunks, or on which pages hold a sequence. Whence: the same request gives the same tokens whatever
 * else is in the batch. Results may differ between instruction sets.
 *
 * Specification: kernels/cpu/ref.c, scalar and plain. Tolerances are against it, relative to the largest
 * magnitude in the reference's row: 2e-6 * sqrt(K) for float weights; for quantized weights 2e-2 (activations
 * are rounded to 8 bits a block of 32), and 1e-5 against a reference that rounds the same way. A device that
 * computes with bf16 activations: 2e-2 against the reference on the same rounded inputs.
 *
 * Where pointers point: activations, weights, KV, norm vectors, biases, tables and the arrays of a batch are
 * in memory of the backend (`alloc`, `place`), which for the CPU is any memory. On a device (`device` is not
 * null, see device.h) ops are enqueued in order and return before they have run; what is read or written by
 * the host goes through device.h.
 *
 * All functions are called from one thread (the engine's). Pointers in argument structs are borrowed for the
 * call. Shapes were checked by the decoder at load: ops do not check them again. Errors: only LLM_EFAILED,
 * from a device; the CPU's ops cannot fail. */

#include "base/dtype.h"
#include "base/status.h"

#include <stdint.h>

struct backend;
struct device_ops;
struct pool;
struct weight; /* a linear layer's matrix [n_out, n_in] in a backend's own layout */

/* ---- normalization ------------------------------------------------------------------------------------- */

enum norm_kind {
    NORM_NONE,
    NORM_RMS,   /* x / sqrt(mean(x^2) + eps) * weight            (Zhang & Sennrich, 2019) */
    NORM_LAYER, /* (x - mean) / sqrt(var + eps) * weight + bias  (Ba et al., 2016) */
};

struct norm {
    enum norm_kind kind;
    float eps;
    const float *weight; /* [n]; null: 1. A stored offset (Gemma's 1 + w) is added at load */
    const float *bias;   /* [n]; null: 0 */
};

/* y = norm(x) [+ y]. x [n_rows, n], y [n_rows, n]; y may be x. */
struct norm_args {
    int32_t n_rows, n;
    const void *x;
    int64_t x_stride;
    struct norm norm;
    int add; /* 1: the result is added to y (a norm after a block, before the residual) */
    void *y;
    int64_t y_stride;
};

/* ---- embedding ----------------------------------------------------------------------------------------- */

/* x[i] = table[tokens[i]] * scale (+ positions_table[positions[i] + position_offset]). Tables are stored
 * tensors [rows, n] of any dtype, read in place. tokens, positions [n_tokens]; x [n_tokens, n]. */
struct embed_args {
    int32_t n_tokens, n;
    const int32_t *tokens;
    const struct tensor *table;
    float scale;
    const struct tensor *position_table; /* null: none (rotary models) */
    const int32_t *positions;
    int32_t position_offset; /* OPT: 2 */
    void *x;
    int64_t x_stride;
};

/* ---- linear -------------------------------------------------------------------------------------------- */

enum activation { ACT_NONE, ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_RELU };

enum linear_epilogue {
    LINEAR_STORE, /* y = act(v)                        v = norm(x) W^T + bias, [n_rows, n_out] */
    LINEAR_ADD,   /* y = y + v                         the residual */
    LINEAR_GATED, /* y = act(v[:, :n_out/2]) * v[:, n_out/2:]   y is [n_rows, n_out / 2]; weight made GATED */
};

/* x [n_rows, n_in]; y as the epilogue says. x and y do not overlap. */
struct linear_args {
    int32_t n_rows;
    const void *x;
    int64_t x_stride;
    struct norm norm;       /* applied to x's rows first; NORM_NONE: x as it is */
    const struct weight *w; /* [n_out, n_in] */
    const float *bias;      /* [n_out]; null: 0 */
    enum linear_epilogue epilogue;
    enum activation act;
    void *y; /* activation type; f32 if f32_out */
    int64_t y_stride;
    int f32_out; /* 1: the logits */
};

/* Chosen rows: y[i] = x[rows[i]], n elements each. y does not overlap x. */
struct gather_args {
    int32_t n_rows, n;
    const int32_t *rows; /* [n_rows] */
    const void *x;
    int64_t x_stride;
    void *y;
    int64_t y_stride;
};

/* In place on logits x [n_rows, n], f32: x = softcap(scale * x), softcap(v) = c * tanh(v / c); c = 0: v. */
struct logits_args {
    int32_t n_rows, n;
    float *x;
    int64_t x_stride;
    float scale, softcap;
};

enum weight_layout {
    WEIGHT_PLAIN, /* parts stacked along n_out in order (q, k, v) */
    WEIGHT_GATED, /* exactly two parts of one shape, gate then up; for LINEAR_GATED only */
};

/* Parts may differ in dtype, not in n_in. On a device a part may have no data: it is to be filled with the
 * random values of device_ops.fill from its state, so that gigabytes need not be made on the host. */
struct weight_spec {
    int32_t n_parts;       /* 1 to 3 */
    struct tensor part[3]; /* [n_i, n_in] each, in host memory */
    enum weight_layout layout;
    uint64_t random_state[3]; /* of parts without data */
    float random_deviation[3];
};

/* ---- paged KV ------------------------------------------------------------------------------------------ */

/* Pages hold page_size tokens of all layers; the inside of a page is the backend's own business. A slot is
 * page * page_size + offset. Page p starts at base + p * page_bytes. */
struct kv_cache {
    void *base;
    size_t page_bytes;
    int32_t n_pages, page_size; /* page_size: 8, 16, 32, 64 or 128 tokens */
    int32_t n_layers, n_kv_heads, head_dim;
    enum llm_dtype dtype; /* F32, F16 or BF16 */
};

enum rope_kind {
    ROPE_NONE,
    ROPE_NEOX,        /* pairs (i, i + rotary_dim / 2) */
    ROPE_INTERLEAVED, /* pairs (2i, 2i + 1): GPT-J, and Llama as GGUF stores it */
};

/* In place on the projections qkv [n_tokens, (n_heads + 2 n_kv_heads) * head_dim] (q heads, then k, then v):
 * norm of each q and k head where q_norm/k_norm say so, rotation of the first rotary_dim of each q and k
 * head; then k and v are written to the cache at slots[i]. Rotary embedding: Su et al., RoFormer, 2021.
 * rope_table [max positions, rotary_dim]: for a position, rotary_dim/2 cosines then as many sines, f32. */
struct rope_kv_args {
    int32_t n_tokens, n_heads;
    void *qkv;
    int64_t qkv_stride;
    struct norm q_norm, k_norm; /* over head_dim; NORM_NONE for most families */
    enum rope_kind rope;
    int32_t rotary_dim; /* even, <= head_dim */
    const float *rope_table;
    const int32_t *positions; /* [n_tokens] */
    const int32_t *slots;     /* [n_tokens] */
    const struct kv_cache *kv;
    int32_t layer;
};

/* Causal scaled-dot-product attention of n_seqs sequences over their pages. Sequence s has query rows
 * seq_start[s] .. seq_start[s+1]-1, which are the last of its kv_len[s] tokens (already in the cache); its
 * page table is block_table + s * block_table_stride, ceil(kv_len[s] / page_size) entries. scores =
 * softcap(scale * q.k); a query at position p sees keys in (p - window, p]; window 0: all. q [n_tokens,
 * n_heads * head_dim] with q_stride; out [n_tokens, n_heads * head_dim]. */
struct attention_args {
    int32_t n_seqs, n_heads;
    const void *q;
    int64_t q_stride;
    const int32_t *seq_start; /* [n_seqs + 1] */
    const int32_t *kv_len;    /* [n_seqs] */
    const int32_t *block_table;
    int32_t block_table_stride;
    float scale, softcap; /* softcap 0: none; else s = softcap * tanh(s / softcap)  (Gemma 2) */
    int32_t window;
    const struct kv_cache *kv;
    int32_t layer;
    void *out;
    int64_t out_stride;
};

/* ---- the backend --------------------------------------------------------------------------------------- */

/* Scratch memory is sized once, at open, from these: the steady state allocates nothing. */
struct backend_limits {
    int32_t max_rows; /* of any op */
    int32_t max_n;    /* widest n_in or n_out of any linear but the head */
    int32_t max_seqs, max_model_len;
    int32_t n_heads, head_dim;
};

struct backend {
    const char *name; /* "cpu" */
    enum llm_dtype act_dtype;
    void (*close)(struct backend *be);
    /* Before the first op, and again before an op beyond these limits. */
    llm_status (*reserve)(struct backend *be, const struct backend_limits *limits, struct llm_error *err);

    /* Memory for ops, zeroed, lazily backed where the system can; null when there is none. */
    void *(*alloc)(struct backend *be, size_t bytes);
    void (*free)(struct backend *be, void *p, size_t bytes);
    const struct device_ops *device; /* null: ops run on the host, in its memory */

    /* Errors: LLM_ENOMEM, LLM_EUNSUP (the message names the dtype). The stored tensors are not needed
     * afterwards. */
    llm_status (*weight_create)(struct backend *be, const struct weight_spec *spec, struct weight **out,
                                struct llm_error *err);
    void (*weight_destroy)(struct backend *be, struct weight *w);
    size_t (*weight_bytes)(const struct weight *w); /* read by one pass over it: for the roofline */

    size_t (*kv_page_bytes)(const struct backend *be, const struct kv_cache *shape); /* base unset */
    llm_status (*kv_copy)(struct backend *be, const struct kv_cache *kv, int32_t from_page, int32_t to_page);

    llm_status (*embed)(struct backend *be, const struct embed_args *a);
    llm_status (*norm)(struct backend *be, const struct norm_args *a);
    llm_status (*linear)(struct backend *be, const struct linear_args *a);
    llm_status (*gather)(struct backend *be, const struct gather_args *a);
    llm_status (*logits)(struct backend *be, const struct logits_args *a);
    llm_status (*rope_kv)(struct backend *be, const struct rope_kv_args *a);
    llm_status (*attention)(struct backend *be, const struct attention_args *a);
};

struct cpu_options {
    int32_t n_threads; /* 0: as many as this process may use */
    const char *isa;   /* null: the best here; "ref", "avx2", "avx512" */
};

/* The CPU backend owns its thread pool. Errors: LLM_EINVAL (isa unknown, or not on this machine), LLM_ENOMEM.
 */
llm_status cpu_backend_open(const struct cpu_options *options, struct backend **out, struct llm_error *err);

/* ISA in use, e.g. "avx512"; and its threads. */
const char *cpu_backend_isa(const struct backend *be);
int32_t cpu_backend_threads(const struct backend *be);

/* Its thread pool, borrowed: for work on the host between ops, such as sampling. Called from the thread that
 * calls the ops. */
struct pool *cpu_backend_pool(const struct backend *be);

/* Row `row` of a stored tensor [rows, n], any dtype, as f32. The scalar definition of every stored type. */
void dequantize_row(const struct tensor *t, int64_t row, float *out);

#endif
