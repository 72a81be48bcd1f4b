/* Products through cuBLASLt. Which of its algorithms is fastest depends on shape and number of rows, and its
 * own guess is often 10 % off: the first product of a kind tries several, and the winner is kept, in a file
 * too, so that the next start need not try. While a step is being recorded nothing can be tried: the
 * library's guess is taken then, and not kept. */

#include "kernels/cuda/linear.cuh"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

enum { WORKSPACE_BYTES = 64 << 20, MAX_PLANS = 1024, N_TRIED = 8, N_TRIALS = 5, MOST_RECORDED = 512 };

struct plan_key {
    int32_t bucket, n, k, flags; /* flags: add, f32_out, log2 of the least alignment */
};

struct plan {
    struct plan_key key;
    cublasLtMatmulAlgo_t algo;
};

struct lt_state {
    cublasLtHandle_t handle;
    void *workspace;
    struct cuda_backend *cu;
    cudaEvent_t from, to;
    char path[1024]; /* of the file of plans; "": none */
    int32_t n_plans;
    struct plan plans[MAX_PLANS];
};

/* ---- the file of plans ----------------------------------------------------------------------------------
 */

static void load_plans(struct lt_state *lt)
{
    FILE *f = lt->path[0] ? fopen(lt->path, "r") : nullptr;
    if (!f) return;
    struct plan p;
    while (lt->n_plans < MAX_PLANS &&
           fscanf(f, "%" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNx32, &p.key.bucket, &p.key.n, &p.key.k,
                  reinterpret_cast<uint32_t *>(&p.key.flags)) == 4) {
        int n = 0;
        for (uint64_t &word : p.algo.data) n += fscanf(f, "%" SCNx64, &word);
        if (n != 8) break;
        lt->plans[lt->n_plans++] = p;
    }
    fclose(f);
}

/* Appends: another process may do so too, and a plan that is there twice does no harm. */
static void save_plan(const struct lt_state *lt, const struct plan *p)
{
    FILE *f = lt->path[0] ? fopen(lt->path, "a") : nullptr;
    if (!f) return;
    char line[256];
    int n =
        snprintf(line, sizeof line, "%d %d %d %x", p->key.bucket, p->key.n, p->key.k, (unsigned)p->key.flags);
    for (uint64_t word : p->algo.data) n += snprintf(line + n, sizeof line - (size_t)n, " %" PRIx64, word);
    fprintf(f, "%s\n", line);
    fclose(f);
}

/* ---- opening ---------------------------------------------------------------------------------------------
 */

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
    cudaError_t e = cudaEventCreate(&lt->from);
    if (e == cudaSuccess) e = cudaEventCreate(&lt->to);
    if (!lt->workspace || e != cudaSuccess) {
        lt_close(lt);
        return llm_fail(err, LLM_ENOMEM, "no device memory for cuBLASLt's workspace of %d bytes",
                        WORKSPACE_BYTES);
    }
    if (cu->cache_dir[0]) {
        cudaDeviceProp prop;
        if (cudaGetDeviceProperties(&prop, cu->device) == cudaSuccess) {
            for (char *c = prop.name; *c; c++)
                if (*c == ' ' || *c == '/') *c = '-';
            snprintf(lt->path, sizeof lt->path, "%s/cublaslt-%zu-%s-%d", cu->cache_dir, cublasLtGetVersion(),
                     prop.name, (int)cu->base.act_dtype);
        }
    }
    load_plans(lt);
    *out = lt;
    return LLM_OK;
}

void lt_close(struct lt_state *lt)
{
    if (!lt) return;
    if (lt->from) cudaEventDestroy(lt->from);
    if (lt->to) cudaEventDestroy(lt->to);
    lt->cu->base.free(&lt->cu->base, lt->workspace, WORKSPACE_BYTES);
    if (lt->handle) cublasLtDestroy(lt->handle);
    mem_free(lt);
}

/* ---- one product ------------------------------------------------------------------------------------------
 *
 * The library thinks in columns: its D [n, m] = A^T B with A = w [k, n], B = x [k, m]. */

struct call {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t a, b, d;
    float beta;
};

static void make_call(const struct cuda_backend *cu, const struct product *p, struct call *c)
{
    const cudaDataType_t type = cu->base.act_dtype == DTYPE_F32   ? CUDA_R_32F
                                : cu->base.act_dtype == DTYPE_F16 ? CUDA_R_16F
                                                                  : CUDA_R_16BF;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    cublasLtMatmulDescInit(&c->op, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatmulDescSetAttribute(&c->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    cublasLtMatrixLayoutInit(&c->a, type, (uint64_t)p->k, (uint64_t)p->n, p->w_stride);
    cublasLtMatrixLayoutInit(&c->b, type, (uint64_t)p->k, (uint64_t)p->m, p->x_stride);
    cublasLtMatrixLayoutInit(&c->d, p->f32_out ? CUDA_R_32F : type, (uint64_t)p->n, (uint64_t)p->m,
                             p->y_stride);
    c->beta = p->add ? 1 : 0;
}

static cublasStatus_t do_call(struct lt_state *lt, const struct product *p, struct call *c, void *y,
                              const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1;
    return cublasLtMatmul(lt->handle, &c->op, &one, p->w, &c->a, p->x, &c->b, &c->beta, y, &c->d, y, &c->d,
                          algo, lt->workspace, WORKSPACE_BYTES, lt->cu->stream);
}

/* The largest power of two, up to 16, that divides p and a stride of bytes. */
static uint32_t alignment(const void *p, int64_t bytes)
{
    const uint64_t bits = reinterpret_cast<uintptr_t>(p) | (uint64_t)bytes | 16;
    return (uint32_t)(bits & (~bits + 1));
}

static void alignments(const struct cuda_backend *cu, const struct product *p, uint32_t out[3])
{
    const int64_t bytes = (int64_t)dtype_bytes(cu->base.act_dtype, 1);
    out[0] = alignment(p->w, p->w_stride * bytes);
    out[1] = alignment(p->x, p->x_stride * bytes);
    out[2] = alignment(p->y, p->y_stride * (p->f32_out ? 4 : bytes));
}

/* The library's guesses, best first. */
static int guesses(struct lt_state *lt, const struct product *p, struct call *c,
                   cublasLtMatmulHeuristicResult_t out[N_TRIED], int n)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    const uint64_t workspace = WORKSPACE_BYTES;
    uint32_t align[3];
    int found = 0;
    alignments(lt->cu, p, align);
    cublasLtMatmulPreferenceInit(&preference);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &align[0],
                                         4);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &align[1],
                                         4);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &align[2],
                                         4);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &align[2],
                                         4);
    cublasStatus_t e = cublasLtMatmulAlgoGetHeuristic(lt->handle, &c->op, &c->a, &c->b, &c->d, &c->d,
                                                      &preference, n, out, &found);
    return e == CUBLAS_STATUS_SUCCESS ? found : 0;
}

/* The least of N_TRIALS times, in ms; the trial before leaves no weights in the cache. */
static float time_call(struct lt_state *lt, const struct product *p, struct call *c, void *y,
                       const cublasLtMatmulAlgo_t *algo)
{
    float least = INFINITY;
    for (int i = 0; i < N_TRIALS; i++) {
        float ms = INFINITY;
        cudaMemsetAsync(lt->workspace, 0, WORKSPACE_BYTES, lt->cu->stream);
        cudaEventRecord(lt->from, lt->cu->stream);
        if (do_call(lt, p, c, y, algo) != CUBLAS_STATUS_SUCCESS) return INFINITY;
        cudaEventRecord(lt->to, lt->cu->stream);
        if (cudaEventSynchronize(lt->to) != cudaSuccess) return INFINITY;
        cudaEventElapsedTime(&ms, lt->from, lt->to);
        if (i > 0) least = std::min(least, ms);
    }
    return least;
}

/* Powers of two and the numbers half-way between them. */
static int32_t bucket_of(int32_t m)
{
    int32_t b = 8;
    while (b < m) b = b & (b - 1) ? b / 3 * 4 : b / 2 * 3;
    return b;
}

static struct plan *find_plan(struct lt_state *lt, const struct plan_key *key)
{
    for (int32_t i = 0; i < lt->n_plans; i++)
        if (memcmp(&lt->plans[i].key, key, sizeof *key) == 0) return &lt->plans[i];
    return nullptr;
}

static int is_recording(const struct cuda_backend *cu)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(cu->stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

/* Fills *algo and *is_new (whether a plan was made): the plan there is, the fastest of the library's guesses,
 * or the first of them. */
static llm_status choose(struct lt_state *lt, const struct product *p, struct call *c, void *scratch,
                         cublasLtMatmulAlgo_t *algo, int *is_new)
{
    struct cuda_backend *cu = lt->cu;
    uint32_t align[3];
    alignments(cu, p, align);
    const uint32_t least = std::min(std::min(align[0], align[1]), align[2]);
    const struct plan_key key = {bucket_of(p->m), p->n, p->k, p->add | p->f32_out << 1 | (int32_t)least << 2};
    const struct plan *known = find_plan(lt, &key);
    if (known) {
        *algo = known->algo;
        return LLM_OK;
    }
    const int can_try = !is_recording(cu) && lt->n_plans < MAX_PLANS;
    cublasLtMatmulHeuristicResult_t found[N_TRIED];
    const int n = guesses(lt, p, c, found, can_try ? N_TRIED : 1);
    if (n == 0) return cublas_check(cu, CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for a product");
    *algo = found[0].algo;
    if (!can_try) return LLM_OK;
    float least_ms = INFINITY;
    for (int i = 0; i < n; i++) {
        const float ms = time_call(lt, p, c, p->add ? scratch : p->y, &found[i].algo);
        if (ms < least_ms) {
            least_ms = ms;
            *algo = found[i].algo;
        }
    }
    struct plan *made = &lt->plans[lt->n_plans++];
    made->key = key;
    made->algo = *algo;
    save_plan(lt, made);
    *is_new = 1;
    return cuda_check(cu, cudaGetLastError(), "trying cuBLASLt's algorithms");
}

/* Plans for fewer rows too: decode steps of such batches are recorded, and then nothing can be tried. */
static llm_status choose_for_decodes(struct lt_state *lt, const struct product *p, void *scratch)
{
    llm_status st = LLM_OK;
    for (int32_t m = bucket_of(MOST_STREAMED + 1); m < p->m && m <= MOST_RECORDED && !st;
         m = bucket_of(m + 1)) {
        struct product fewer = *p;
        struct call c;
        cublasLtMatmulAlgo_t algo;
        int is_new = 0;
        fewer.m = m;
        make_call(lt->cu, &fewer, &c);
        st = choose(lt, &fewer, &c, scratch, &algo, &is_new);
    }
    return st;
}

llm_status lt_product(struct cuda_backend *cu, struct lt_state *lt, const struct product *p, void *scratch)
{
    struct call c;
    cublasLtMatmulAlgo_t algo;
    int is_new = 0;
    make_call(cu, p, &c);
    llm_status st = choose(lt, p, &c, scratch, &algo, &is_new);
    if (!st && is_new) st = choose_for_decodes(lt, p, scratch);
    if (st) return st;
    cublasStatus_t e = do_call(lt, p, &c, p->y, &algo);
    if (e == CUBLAS_STATUS_SUCCESS) return LLM_OK;
    /* What was fastest for another number of rows of this bucket, or came from an old file, may not do. */
    cublasLtMatmulHeuristicResult_t found[N_TRIED];
    if (guesses(lt, p, &c, found, 1) == 1) e = do_call(lt, p, &c, p->y, &found[0].algo);
    return cublas_check(cu, e, "a product");
}
