/* Products of many rows through cuBLASLt, with passes of our own for what it cannot fuse (linear_rows.cu). */

#include "kernels/cuda/linear.cuh"

#include <algorithm>

enum { WORKSPACE_BYTES = 64 << 20 };

struct lt_state {
    cublasLtHandle_t handle;
    void *workspace;
    struct cuda_backend *cu;
};

llm_status lt_open(struct cuda_backend *cu, struct lt_state **out, struct llm_error *err)
{
    auto *lt = static_cast<struct lt_state *>(mem_zalloc(sizeof(struct lt_state)));
    if (!lt) return llm_fail(err, LLM_ENOMEM, "no memory for the state of cuBLASLt");
    lt->cu = cu;
    if (cublasLtCreate(&lt->handle) != CUBLAS_STATUS_SUCCESS) {
        lt_close(lt);
        return llm_fail(err, LLM_EFAILED, "cuBLASLt cannot be initialized on this device");
    }
    lt->workspace = cu->base.alloc(&cu->base, WORKSPACE_BYTES);
    if (!lt->workspace) {
        lt_close(lt);
        return llm_fail(err, LLM_ENOMEM, "no device memory for cuBLASLt's workspace of %d bytes",
                        WORKSPACE_BYTES);
    }
    *out = lt;
    return LLM_OK;
}

void lt_close(struct lt_state *lt)
{
    if (!lt) return;
    lt->cu->base.free(&lt->cu->base, lt->workspace, WORKSPACE_BYTES);
    if (lt->handle) cublasLtDestroy(lt->handle);
    mem_free(lt);
}

/* The library thinks in columns: its D [n, m] = A^T B with A = w [k, n], B = x [k, m]. */
struct call {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t a, b, d;
    float beta;
    void *y; /* where the product itself goes */
    int64_t y_stride;
    int wide; /* that is the wide buffer, and a pass of our own makes p->y of it */
};

static void make_call(const struct cuda_backend *cu, const struct product *p, struct call *c)
{
    const cudaDataType_t type = cu->base.act_dtype == DTYPE_F32   ? CUDA_R_32F
                                : cu->base.act_dtype == DTYPE_F16 ? CUDA_R_16F
                                                                  : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    c->wide = p->epilogue == LINEAR_GATED || (p->epilogue == LINEAR_ADD && p->act != ACT_NONE);
    c->y = c->wide ? cu->linear->wide : p->y;
    c->y_stride = c->wide ? (p->n + 7) / 8 * 8 : p->y_stride;
    c->beta = p->epilogue == LINEAR_ADD && !c->wide ? 1 : 0;
    cublasLtMatmulDescInit(&c->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&c->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    cublasLtMatrixLayoutInit(&c->a, type, (uint64_t)p->k, (uint64_t)p->n, p->w_stride);
    cublasLtMatrixLayoutInit(&c->b, type, (uint64_t)p->k, (uint64_t)p->m, p->x_stride);
    cublasLtMatrixLayoutInit(&c->d, p->f32_out ? CUDA_R_32F : type, (uint64_t)p->n, (uint64_t)p->m,
                             c->y_stride);
}

/* What the library cannot fuse. */
static llm_status finish_call(struct cuda_backend *cu, const struct product *p, const struct call *c)
{
    if (p->epilogue == LINEAR_GATED) return gated_rows(cu, p, c->y, c->y_stride);
    if (c->wide || p->bias || p->act != ACT_NONE) return finish_rows(cu, p, c->y, c->y_stride);
    return LLM_OK;
}

llm_status lt_run(struct lt_state *lt, const struct product *p, const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1;
    struct call c;
    make_call(lt->cu, p, &c);
    const cublasStatus_t e =
        cublasLtMatmul(lt->handle, &c.op, &one, p->w, &c.a, p->x, &c.b, &c.beta, c.y, &c.d, c.y, &c.d, algo,
                       lt->workspace, WORKSPACE_BYTES, lt->cu->stream);
    if (e == CUBLAS_STATUS_EXECUTION_FAILED) return cublas_check(lt->cu, e, "a product");
    if (e != CUBLAS_STATUS_SUCCESS) return LLM_EUNSUP;
    return finish_call(lt->cu, p, &c);
}

/* The largest power of two, up to 16, that divides p and a stride of bytes. */
static uint32_t alignment(const void *p, int64_t bytes)
{
    const uint64_t bits = reinterpret_cast<uintptr_t>(p) | (uint64_t)bytes | 16;
    return (uint32_t)(bits & (~bits + 1));
}

static void alignments(const struct cuda_backend *cu, const struct product *p, const struct call *c,
                       uint32_t out[3])
{
    const int64_t bytes = (int64_t)dtype_bytes(cu->base.act_dtype, 1);
    out[0] = alignment(p->w, p->w_stride * bytes);
    out[1] = alignment(p->x, p->x_stride * bytes);
    out[2] = alignment(c->y, c->y_stride * (p->f32_out ? 4 : bytes));
}

uint32_t lt_alignment(const struct lt_state *lt, const struct product *p)
{
    struct call c;
    uint32_t align[3];
    make_call(lt->cu, p, &c);
    alignments(lt->cu, p, &c, align);
    return std::min(std::min(align[0], align[1]), align[2]);
}

int lt_guesses(struct lt_state *lt, const struct product *p, cublasLtMatmulAlgo_t *out, int n)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    const uint64_t workspace = WORKSPACE_BYTES;
    struct call c;
    uint32_t align[3];
    int found = 0;
    make_call(lt->cu, p, &c);
    alignments(lt->cu, p, &c, align);
    cublasLtMatmulPreferenceInit(&preference);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    /* Parts of a sum are added up in f32, never in the type of the result. */
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                         sizeof schemes);
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const uint32_t *bytes;
    } of[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align[0]},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align[1]},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align[2]},
              {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align[2]}};
    for (const auto &a : of)
        cublasLtMatmulPreferenceSetAttribute(&preference, a.attribute, a.bytes, sizeof *a.bytes);
    cublasLtMatmulHeuristicResult_t results[LT_MAX_GUESSES];
    const cublasStatus_t e = cublasLtMatmulAlgoGetHeuristic(lt->handle, &c.op, &c.a, &c.b, &c.d, &c.d,
                                                            &preference, n, results, &found);
    if (e != CUBLAS_STATUS_SUCCESS) return 0;
    for (int i = 0; i < found; i++) out[i] = results[i].algo;
    return found;
}

void lt_clear_cache(struct lt_state *lt)
{
    cudaMemsetAsync(lt->workspace, 0, WORKSPACE_BYTES, lt->cu->stream);
}
