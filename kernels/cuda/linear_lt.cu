/* Products of many rows: through cuBLASLt, with passes of our own for what it cannot fuse (linear_rows.cu),
 * or by kernels of our own (linear_tile.cu). Which way is fastest depends on shape and number of rows, and
 * cuBLASLt's own guess is often 10 % off: the first product of a kind tries several of its algorithms and
 * each of our kernels, and the winner is kept, in a file too, so that the next start need not try. While a
 * step is being recorded nothing can be tried: the library's guess is taken then, and not kept. */

#include "kernels/cuda/linear.cuh"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

enum { WORKSPACE_BYTES = 64 << 20, MAX_PLANS = 1024, N_TRIED = 8, N_TRIALS = 5, MOST_RECORDED = 512 };

struct plan_key {
    int32_t bucket, n, k, flags; /* flags: of key_of */
};

/* How a product is done: by our kernel of so many columns, or, 0, by this algorithm of cuBLASLt. */
struct way {
    int32_t columns;
    cublasLtMatmulAlgo_t algo;
};

struct plan {
    struct plan_key key;
    struct way way;
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
           fscanf(f, "%" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNx32 " %" SCNd32, &p.key.bucket, &p.key.n,
                  &p.key.k, reinterpret_cast<uint32_t *>(&p.key.flags), &p.way.columns) == 5) {
        int n = 0;
        for (uint64_t &word : p.way.algo.data) n += fscanf(f, "%" SCNx64, &word);
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
    int n = snprintf(line, sizeof line, "%d %d %d %x %d", p->key.bucket, p->key.n, p->key.k,
                     (unsigned)p->key.flags, p->way.columns);
    for (uint64_t word : p->way.algo.data)
        n += snprintf(line + n, sizeof line - (size_t)n, " %" PRIx64, word);
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
            snprintf(lt->path, sizeof lt->path, "%s/products-%zu-%s-%d", cu->cache_dir, cublasLtGetVersion(),
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

/* ---- through the library ----------------------------------------------------------------------------------
 *
 * It thinks in columns: its D [n, m] = A^T B with A = w [k, n], B = x [k, m]. */

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

static cublasStatus_t do_call(struct lt_state *lt, const struct product *p, struct call *c,
                              const cublasLtMatmulAlgo_t *algo)
{
    const float one = 1;
    return cublasLtMatmul(lt->handle, &c->op, &one, p->w, &c->a, p->x, &c->b, &c->beta, c->y, &c->d, c->y,
                          &c->d, algo, lt->workspace, WORKSPACE_BYTES, lt->cu->stream);
}

/* Rows [first, first + n) of a product. */
static struct product rows_of(const struct cuda_backend *cu, const struct product *p, int32_t first,
                              int32_t n)
{
    const int64_t bytes = (int64_t)dtype_bytes(cu->base.act_dtype, 1);
    struct product part = *p;
    part.m = n;
    part.x = static_cast<const char *>(p->x) + first * p->x_stride * bytes;
    part.y = static_cast<char *>(p->y) + first * p->y_stride * (p->f32_out ? 4 : bytes);
    return part;
}

/* What the library cannot fuse. */
static llm_status finish_call(struct lt_state *lt, const struct product *p, const struct call *c)
{
    if (p->epilogue == LINEAR_GATED) return gated_rows(lt->cu, p, c->y, c->y_stride);
    if (c->wide || p->bias || p->act != ACT_NONE) return finish_rows(lt->cu, p, c->y, c->y_stride);
    return LLM_OK;
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

/* The library's guesses, best first. */
static int guesses(struct lt_state *lt, const struct product *p, struct call *c,
                   cublasLtMatmulHeuristicResult_t out[N_TRIED], int n)
{
    cublasLtMatmulPreferenceOpaque_t preference;
    const uint64_t workspace = WORKSPACE_BYTES;
    uint32_t align[3];
    int found = 0;
    alignments(lt->cu, p, c, align);
    cublasLtMatmulPreferenceInit(&preference);
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                         sizeof workspace);
    /* Parts of a sum are added up in f32, never in the type of the result. */
    const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes,
                                         sizeof schemes);
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

/* ---- choosing a way --------------------------------------------------------------------------------------
 */

static struct plan_key key_of(const struct cuda_backend *cu, const struct product *p, const struct call *c)
{
    uint32_t align[3];
    alignments(cu, p, c, align);
    const uint32_t least = std::min(std::min(align[0], align[1]), align[2]);
    const int library = cu->linear->path != PATH_AUTO;
    const int epilogue = (int)p->epilogue, bias = p->bias != nullptr, act = (int)p->act;
    return {bucket_of(p->m), p->n, p->k,
            epilogue | p->f32_out << 2 | bias << 3 | act << 4 | library << 7 | (int32_t)least << 8};
}

static llm_status do_way(struct lt_state *lt, const struct product *p, struct call *c, const struct way *way)
{
    if (way->columns) return tile_product(lt->cu, p, way->columns);
    llm_status st = do_call(lt, p, c, &way->algo) == CUBLAS_STATUS_SUCCESS ? LLM_OK : LLM_EUNSUP;
    return st ? st : finish_call(lt, p, c);
}

/* The least of N_TRIALS times, in ms; the trial before leaves no weights in the cache. */
static float time_way(struct lt_state *lt, const struct product *p, struct call *c, const struct way *way)
{
    float least = INFINITY;
    for (int i = 0; i < N_TRIALS; i++) {
        float ms = INFINITY;
        cudaMemsetAsync(lt->workspace, 0, WORKSPACE_BYTES, lt->cu->stream);
        cudaEventRecord(lt->from, lt->cu->stream);
        if (do_way(lt, p, c, way)) return INFINITY;
        cudaEventRecord(lt->to, lt->cu->stream);
        if (cudaEventSynchronize(lt->to) != cudaSuccess) return INFINITY;
        cudaEventElapsedTime(&ms, lt->from, lt->to);
        if (i > 0) least = std::min(least, ms);
    }
    return least;
}

/* Prompts run on a card at its power limit, trials on a cool one, which flatter the library where it writes
 * what a pass of its own reads again: there our gated products are 4 % faster than trials say
 * (docs/performance.md). */
static const float warm_gated = 0.96f;
static const int32_t warm_rows = 512;

/* The fastest of these algorithms and of our kernels. */
static struct way try_ways(struct lt_state *lt, const struct product *whole,
                           const cublasLtMatmulHeuristicResult_t *found, int n)
{
    struct way best = {0, found[0].algo};
    struct product p = *whole;
    struct call c;
    float least = INFINITY;
    if (p.epilogue == LINEAR_ADD) { /* what is there is added to once only */
        p.y = lt->cu->linear->wide;
        p.y_stride = (p.n_out + 7) / 8 * 8;
    }
    make_call(lt->cu, &p, &c);
    for (int i = 0; i < n; i++) {
        const struct way way = {0, found[i].algo};
        const float ms = time_way(lt, &p, &c, &way);
        if (ms < least) least = ms, best = way;
    }
    for (const int32_t *columns = tile_columns; *columns && lt->cu->linear->path == PATH_AUTO; columns++) {
        const struct way way = {*columns, {}};
        if (!tile_able(lt->cu, whole, *columns)) continue;
        const int is_warm = p.epilogue == LINEAR_GATED && p.m >= warm_rows;
        const float ms = time_way(lt, &p, &c, &way) * (is_warm ? warm_gated : 1);
        if (ms < least) least = ms, best = way;
    }
    return best;
}

/* Fills *way and *is_new (whether a plan was made): the plan there is, the fastest, or the library's guess.
 */
static llm_status choose(struct lt_state *lt, const struct product *p, struct call *c, struct way *way,
                         int *is_new)
{
    struct cuda_backend *cu = lt->cu;
    const struct plan_key key = key_of(cu, p, c);
    const struct plan *known = find_plan(lt, &key);
    if (known) {
        *way = known->way;
        return LLM_OK;
    }
    const int can_try = !is_recording(cu) && lt->n_plans < MAX_PLANS;
    cublasLtMatmulHeuristicResult_t found[N_TRIED];
    const int n = guesses(lt, p, c, found, can_try ? N_TRIED : 1);
    if (n == 0) return cublas_check(cu, CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for a product");
    *way = {0, found[0].algo};
    if (!can_try) return LLM_OK;
    *way = try_ways(lt, p, found, n);
    struct plan *made = &lt->plans[lt->n_plans++];
    *made = {key, *way};
    save_plan(lt, made);
    *is_new = 1;
    return cuda_check(cu, cudaGetLastError(), "trying ways of a product");
}

/* Plans for fewer rows too: decode steps of such batches are recorded, and then nothing can be tried. */
static llm_status choose_for_decodes(struct lt_state *lt, const struct product *p)
{
    llm_status st = LLM_OK;
    for (int32_t m = bucket_of(MOST_STREAMED + 1); m < p->m && m <= MOST_RECORDED && !st;
         m = bucket_of(m + 1)) {
        const struct product fewer = rows_of(lt->cu, p, 0, m);
        struct call c;
        struct way way;
        int is_new = 0;
        make_call(lt->cu, &fewer, &c);
        st = choose(lt, &fewer, &c, &way, &is_new);
    }
    return st;
}

static llm_status library_product(struct lt_state *lt, const struct product *p, const struct way *way)
{
    struct call c;
    make_call(lt->cu, p, &c);
    cublasStatus_t e = way->columns ? CUBLAS_STATUS_NOT_SUPPORTED : do_call(lt, p, &c, &way->algo);
    /* What was fastest for another number of rows of this bucket, or came from an old file, may not do. */
    cublasLtMatmulHeuristicResult_t found[N_TRIED];
    if (e != CUBLAS_STATUS_SUCCESS && guesses(lt, p, &c, found, 1) == 1)
        e = do_call(lt, p, &c, &found[0].algo);
    return e == CUBLAS_STATUS_SUCCESS ? finish_call(lt, p, &c) : cublas_check(lt->cu, e, "a product");
}

llm_status lt_product(struct cuda_backend *cu, struct lt_state *lt, const struct product *p)
{
    const int forced = (int)cu->linear->path - PATH_TILE;
    if (forced >= 0 && forced < PATH_PACKED - PATH_TILE && tile_able(cu, p, tile_columns[forced]))
        return tile_product(cu, p, tile_columns[forced]);
    /* The wide buffer must hold the library's result, or what trials add to. */
    const int32_t rows = p->epilogue == LINEAR_STORE ? p->m : rows_at_once(cu, p->m, p->n);
    const struct product first = rows_of(cu, p, 0, rows);
    struct call c;
    struct way way;
    int is_new = 0;
    make_call(cu, &first, &c);
    llm_status st = choose(lt, &first, &c, &way, &is_new);
    if (!st && is_new) st = choose_for_decodes(lt, &first);
    if (st) return st;
    if (way.columns && tile_able(cu, p, way.columns)) return tile_product(cu, p, way.columns);
    for (int32_t row = 0; row < p->m && !st; row += rows) {
        const struct product part = rows_of(cu, p, row, std::min(rows, p->m - row));
        st = library_product(lt, &part, &way);
    }
    return st;
}
