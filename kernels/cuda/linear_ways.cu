/* Which way a product of many rows goes: an algorithm of cuBLASLt or a kernel of our own, whichever was
 * fastest when tried. That depends on shape and number of rows, and cuBLASLt's own guess is often 10 % off.
 * What is found is kept, in a file too, so that the next start need not try; products that nobody tuned are
 * tried at their first run. While a step is being recorded nothing can be tried: the library's guess is taken
 * then, and not kept.
 *
 * Small products are bound by memory, and trials from a cold cache tell. Large ones run on a card at its
 * power limit, where the clock is what the power of the product itself allows: what is close in a first trial
 * is repeated in windows long enough for the clock to follow, in turns. */

#include "kernels/cuda/linear.cuh"

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>

enum { MAX_PLANS = 1024, MAX_WAYS = 24, MOST_RECORDED = 512, MOST_TRIED = 4096 };
enum { LEAST_ROUNDS = 3, MOST_ROUNDS = 40, MOST_FINALISTS = 4 };
/* What rounds take in all, first of all ways, then of finalists, if products take that long at least; a
 * finalist's time beside the best; a time that is as good. */
static const float cold_ms = 1, warm_ms = 40, long_ms = 100, large_ms = 0.15f, close_enough = 1.06f,
                   as_fast = 1.01f;

struct plan_key {
    int32_t bucket, n, k, flags; /* flags: of key_of */
};

/* How a product is done: by our kernel of this number, or, 0, by this algorithm of cuBLASLt. */
struct way {
    int32_t kernel;
    cublasLtMatmulAlgo_t algo;
};

struct plan {
    struct plan_key key;
    struct way way;
};

struct ways_state {
    struct cuda_backend *cu;
    cudaEvent_t from[MAX_WAYS], to[MAX_WAYS];
    char path[1024]; /* of the file of plans; "": none */
    int32_t n_plans;
    struct plan plans[MAX_PLANS];
};

/* ---- the file of plans ----------------------------------------------------------------------------------
 */

static void load_plans(struct ways_state *s)
{
    FILE *f = s->path[0] ? fopen(s->path, "r") : nullptr;
    if (!f) return;
    struct plan p;
    while (s->n_plans < MAX_PLANS &&
           fscanf(f, "%" SCNd32 " %" SCNd32 " %" SCNd32 " %" SCNx32 " %" SCNd32, &p.key.bucket, &p.key.n,
                  &p.key.k, reinterpret_cast<uint32_t *>(&p.key.flags), &p.way.kernel) == 5) {
        int n = 0;
        for (uint64_t &word : p.way.algo.data) n += fscanf(f, "%" SCNx64, &word);
        if (n != 8) break;
        s->plans[s->n_plans++] = p;
    }
    fclose(f);
}

/* Appends: another process may do so too, and a plan that is there twice does no harm. */
static void save_plan(const struct ways_state *s, const struct plan *p)
{
    FILE *f = s->path[0] ? fopen(s->path, "a") : nullptr;
    if (!f) return;
    char line[256];
    int n = snprintf(line, sizeof line, "%d %d %d %x %d", p->key.bucket, p->key.n, p->key.k,
                     (unsigned)p->key.flags, p->way.kernel);
    for (uint64_t word : p->way.algo.data)
        n += snprintf(line + n, sizeof line - (size_t)n, " %" PRIx64, word);
    fprintf(f, "%s\n", line);
    fclose(f);
}

/* Plans are of a device, a version of the library, a type, and what kernels of our own there are. */
static void name_file(struct ways_state *s)
{
    enum { OWN_KERNELS = 2 }; /* changes with them, so that what is new is tried */
    cudaDeviceProp prop;
    const struct cuda_backend *cu = s->cu;
    if (!cu->cache_dir[0] || cudaGetDeviceProperties(&prop, cu->device) != cudaSuccess) return;
    for (char *c = prop.name; *c; c++)
        if (*c == ' ' || *c == '/') *c = '-';
    snprintf(s->path, sizeof s->path, "%s/products-%d-%zu-%s-%d.%d-%d", cu->cache_dir, OWN_KERNELS,
             cublasLtGetVersion(), prop.name, cu->major, cu->minor, (int)cu->base.act_dtype);
}

llm_status ways_open(struct cuda_backend *cu, struct ways_state **out, struct llm_error *err)
{
    auto *s = static_cast<struct ways_state *>(mem_zalloc(sizeof(struct ways_state)));
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory for the ways of products");
    s->cu = cu;
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < MAX_WAYS && e == cudaSuccess; i++) {
        e = cudaEventCreate(&s->from[i]);
        if (e == cudaSuccess) e = cudaEventCreate(&s->to[i]);
    }
    if (e != cudaSuccess) {
        ways_close(s);
        return llm_fail(err, LLM_EFAILED, "no events to time products with: %s", cudaGetErrorString(e));
    }
    name_file(s);
    load_plans(s);
    *out = s;
    return LLM_OK;
}

void ways_close(struct ways_state *s)
{
    if (!s) return;
    for (int i = 0; i < MAX_WAYS; i++) {
        if (s->from[i]) cudaEventDestroy(s->from[i]);
        if (s->to[i]) cudaEventDestroy(s->to[i]);
    }
    mem_free(s);
}

/* ---- kernels of our own ----------------------------------------------------------------------------------
 */

static int is_split(int32_t kernel)
{
    return kernel >= SPLIT_NUMBERS;
}

static int own_able(const struct cuda_backend *cu, const struct product *p, int32_t kernel)
{
    return is_split(kernel) ? split_able(cu, p, kernel) : tile_able(cu, p, kernel);
}

static llm_status own_product(struct cuda_backend *cu, const struct product *p, int32_t kernel)
{
    return is_split(kernel) ? split_product(cu, p, kernel) : tile_product(cu, p, kernel);
}

/* The i-th of all; 0: there are fewer. */
static int32_t own_kernel(int i)
{
    const int32_t *kernel = tile_kernels;
    while (*kernel && i) kernel++, i--;
    if (*kernel) return *kernel;
    for (kernel = split_kernels; *kernel && i; i--) kernel++;
    return *kernel;
}

/* ---- plans -----------------------------------------------------------------------------------------------
 */

/* Powers of two and the numbers half-way between them; beyond MOST_TRIED whole tiles fill any card. */
static int32_t bucket_of(int32_t m)
{
    int32_t b = 8;
    while (b < m && b < MOST_TRIED) b = b & (b - 1) ? b / 3 * 4 : b / 2 * 3;
    return b;
}

static int32_t bucket_before(int32_t b)
{
    return b & (b - 1) ? b / 3 * 2 : b / 4 * 3;
}

static struct plan_key key_of(const struct cuda_backend *cu, const struct product *p)
{
    const int library = cu->linear->path != PATH_AUTO;
    const int epilogue = (int)p->epilogue, bias = p->bias != nullptr, act = (int)p->act;
    return {bucket_of(p->m), p->n, p->k,
            epilogue | p->f32_out << 2 | bias << 3 | act << 4 | library << 7 |
                (int32_t)lt_alignment(cu->linear->lt, p) << 8};
}

static struct plan *find_plan(struct ways_state *s, const struct plan_key *key)
{
    for (int32_t i = 0; i < s->n_plans; i++)
        if (memcmp(&s->plans[i].key, key, sizeof *key) == 0) return &s->plans[i];
    return nullptr;
}

static int is_recording(const struct cuda_backend *cu)
{
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(cu->stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
}

/* ---- trials ----------------------------------------------------------------------------------------------
 */

struct trial {
    struct way way;
    float ms; /* of a product, in the mean; INFINITY: it cannot be done so */
};

static llm_status run_way(struct cuda_backend *cu, const struct product *p, const struct way *way)
{
    return way->kernel ? own_product(cu, p, way->kernel) : lt_run(cu->linear->lt, p, &way->algo);
}

/* Runs each way once, in turn, and adds to `sums` what they took, in ms. All are queued before anything is
 * waited for, so that the device does not rest. */
static void run_round(struct ways_state *s, const struct product *p, struct trial *t, int n, int is_cold,
                      float *sums)
{
    struct cuda_backend *cu = s->cu;
    for (int i = 0; i < n; i++) {
        if (t[i].ms == INFINITY) continue;
        if (is_cold) lt_clear_cache(cu->linear->lt);
        cudaEventRecord(s->from[i], cu->stream);
        if (run_way(cu, p, &t[i].way)) t[i].ms = INFINITY;
        cudaEventRecord(s->to[i], cu->stream);
    }
    cudaStreamSynchronize(cu->stream);
    for (int i = 0; i < n; i++) {
        float ms = INFINITY;
        if (t[i].ms < INFINITY && cudaEventElapsedTime(&ms, s->from[i], s->to[i]) != cudaSuccess)
            t[i].ms = INFINITY;
        sums[i] += ms;
    }
}

/* Runs the first n in turn, after a round that is not counted, for about this long and at least thrice,
 * unless that takes long_ms, and puts them in order of their time. */
static void compare_ways(struct ways_state *s, const struct product *p, struct trial *t, int n, int is_cold,
                         float for_ms)
{
    float sums[MAX_WAYS] = {}, total = 0;
    int rounds = 0;
    run_round(s, p, t, n, is_cold, sums);
    for (float &sum : sums) sum = 0;
    for (; total < for_ms ? rounds < MOST_ROUNDS : rounds < LEAST_ROUNDS && total < long_ms; rounds++) {
        run_round(s, p, t, n, is_cold, sums);
        total = 0;
        for (int i = 0; i < n; i++) total += t[i].ms < INFINITY ? sums[i] : 0;
    }
    for (int i = 0; i < n; i++) t[i].ms = t[i].ms < INFINITY ? sums[i] / (float)rounds : INFINITY;
    std::sort(t, t + n, [](const struct trial &a, const struct trial &b) { return a.ms < b.ms; });
}

/* The ways there are: guesses of the library's, n of them, and our kernels. */
static int list_ways(const struct cuda_backend *cu, const struct product *p, const cublasLtMatmulAlgo_t *algo,
                     int n, struct trial out[MAX_WAYS])
{
    int32_t kernel;
    for (int i = 0; i < n; i++) out[i] = {{0, algo[i]}, 0};
    for (int i = 0; cu->linear->path == PATH_AUTO && n < MAX_WAYS && (kernel = own_kernel(i)); i++)
        if (own_able(cu, p, kernel) && (!is_split(kernel) || split_worth(cu, p, kernel)))
            out[n++] = {{kernel, {}}, 0};
    return n;
}

/* In turns ways share a clock. By itself, what moves less memory has a higher one, as the power goes to the
 * tensor cores: of gated products as fast as each other, take ours, which write no wide rows. */
static struct way best_of(const struct product *p, const struct trial *t, int n)
{
    for (int i = 0; i < n && p->epilogue == LINEAR_GATED && t[0].ms >= large_ms; i++)
        if (t[i].way.kernel && t[i].ms < t[0].ms * as_fast) return t[i].way;
    return t[0].way;
}

static struct way try_ways(struct ways_state *s, const struct product *whole,
                           const cublasLtMatmulAlgo_t *algo, int n)
{
    struct trial trials[MAX_WAYS];
    struct product p = *whole;
    if (p.epilogue == LINEAR_ADD) { /* what is there is added to once only */
        p.y = s->cu->linear->wide;
        p.y_stride = (p.n_out + 7) / 8 * 8;
    }
    n = list_ways(s->cu, &p, algo, n, trials);
    compare_ways(s, &p, trials, n, 1, cold_ms);
    int finalists = 1;
    while (finalists < n && trials[finalists].ms < trials[0].ms * close_enough) finalists++;
    if (trials[0].ms >= large_ms && finalists > 1)
        compare_ways(s, &p, trials, std::min(finalists, (int)MOST_FINALISTS), 0, warm_ms);
    return best_of(&p, trials, std::min(finalists, (int)MOST_FINALISTS));
}

/* Fills *way and *is_new (whether a plan was made): the plan there is, the fastest, or the library's guess.
 */
static llm_status choose(struct ways_state *s, const struct product *p, struct way *way, int *is_new)
{
    struct cuda_backend *cu = s->cu;
    const struct plan_key key = key_of(cu, p);
    const struct plan *known = find_plan(s, &key);
    if (known) {
        *way = known->way;
        return LLM_OK;
    }
    const int can_try = !is_recording(cu) && s->n_plans < MAX_PLANS;
    cublasLtMatmulAlgo_t algo[LT_MAX_GUESSES];
    const int n = lt_guesses(cu->linear->lt, p, algo, can_try ? LT_MAX_GUESSES : 1);
    if (n == 0) return cublas_check(cu, CUBLAS_STATUS_NOT_SUPPORTED, "no algorithm for a product");
    *way = {0, algo[0]};
    if (!can_try) return LLM_OK;
    *way = try_ways(s, p, algo, n);
    struct plan *made = &s->plans[s->n_plans++];
    *made = {key, *way};
    save_plan(s, made);
    *is_new = 1;
    return cuda_check(cu, cudaGetLastError(), "trying ways of a product");
}

/* ---- products --------------------------------------------------------------------------------------------
 */

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

/* Plans for the first `most` rows, and fewer. */
static llm_status choose_for_fewer(struct ways_state *s, const struct product *p, int32_t most)
{
    llm_status st = LLM_OK;
    for (int32_t m = std::min(p->m, most); m > MOST_STREAMED && !st; m = bucket_before(bucket_of(m))) {
        const struct product fewer = rows_of(s->cu, p, 0, std::min(m, (int32_t)MOST_TRIED));
        struct way way;
        int is_new = 0;
        st = choose(s, &fewer, &way, &is_new);
    }
    return st;
}

static llm_status library_product(struct cuda_backend *cu, const struct product *p, const struct way *way)
{
    llm_status st = way->kernel ? LLM_EUNSUP : lt_run(cu->linear->lt, p, &way->algo);
    if (st != LLM_EUNSUP) return st;
    /* What was fastest for another number of rows of this bucket, or came from an old file, may not do. */
    cublasLtMatmulAlgo_t algo;
    if (lt_guesses(cu->linear->lt, p, &algo, 1) == 1) st = lt_run(cu->linear->lt, p, &algo);
    return st == LLM_EUNSUP ? cublas_check(cu, CUBLAS_STATUS_NOT_SUPPORTED, "a product") : st;
}

llm_status ways_product(struct cuda_backend *cu, const struct product *p)
{
    struct ways_state *s = cu->linear->ways;
    const int forced = (int)cu->linear->path - PATH_OWN;
    if (forced >= 0 && own_able(cu, p, own_kernel(forced))) return own_product(cu, p, own_kernel(forced));
    /* The wide buffer must hold the library's result, or what trials add to. */
    const int32_t rows = p->epilogue == LINEAR_STORE ? p->m : rows_at_once(cu, p->m, p->n);
    const struct product first = rows_of(cu, p, 0, rows);
    if (cu->linear->tuning) return choose_for_fewer(s, &first, rows);
    struct way way;
    int is_new = 0;
    llm_status st = choose(s, &first, &way, &is_new);
    /* Steps of fewer rows are recorded, and then nothing can be tried. */
    if (!st && is_new) st = choose_for_fewer(s, &first, MOST_RECORDED);
    if (st) return st;
    if (way.kernel && own_able(cu, p, way.kernel)) return own_product(cu, p, way.kernel);
    for (int32_t row = 0; row < p->m && !st; row += rows) {
        const struct product part = rows_of(cu, p, row, std::min(rows, p->m - row));
        st = library_product(cu, &part, &way);
    }
    return st;
}
