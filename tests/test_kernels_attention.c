/* Attention over paged KV, with the rotation and cache writes before it, of every instruction set of this
 * machine: odd shapes against the reference; and invariance to batch, chunking, threads and pages, to the
 * bit. */

#include "test_kernels.h"

struct shape {
    int32_t n_heads, n_kv_heads, head_dim, page_size;
    enum llm_dtype dtype;
    int32_t window;
    float softcap;
};

/* Sequences in one batch: the last n_new[s] tokens of kv_len[s] are queries. */
struct batch {
    int32_t n_seqs;
    const int32_t *kv_len, *n_new;
};

enum { MAX_SEQS = 8, MAX_PAGES = 1024 };

struct scene {
    struct shape shape;
    struct kv_cache kv;
    int32_t stride; /* of the block table */
    int32_t *block_table, *seq_start;
    int32_t n_tokens, qkv_stride, out_stride;
    float *out;
};

/* K and V of position p of sequence s: the same whatever the batch. */
static void fill_token(const struct shape *shape, int32_t seq, int32_t p, float *qkv)
{
    const int32_t n = (shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim;
    for (int32_t i = 0; i < n; i++)
        qkv[i] = 2 * random_float(100 + (uint32_t)seq, (uint64_t)p * (uint64_t)n + (uint64_t)i);
}

static void scene_init(struct scene *sc, struct backend *be, const struct shape *shape,
                       const struct batch *batch, int reverse_pages)
{
    *sc = (struct scene){.shape = *shape};
    sc->kv = (struct kv_cache){.n_pages = MAX_PAGES,
                               .page_size = shape->page_size,
                               .n_layers = 2,
                               .n_kv_heads = shape->n_kv_heads,
                               .head_dim = shape->head_dim,
                               .dtype = shape->dtype};
    sc->kv.page_bytes = be->kv_page_bytes(be, &sc->kv);
    sc->kv.base = be->alloc(be, sc->kv.page_bytes * MAX_PAGES);
    /* What was in a page before must not matter. */
    sc->seq_start = calloc((size_t)batch->n_seqs + 1, sizeof *sc->seq_start);
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const int32_t pages = (batch->kv_len[s] + shape->page_size - 1) / shape->page_size;
        if (pages > sc->stride) sc->stride = pages;
        sc->seq_start[s + 1] = sc->seq_start[s] + batch->n_new[s];
    }
    sc->block_table = calloc((size_t)batch->n_seqs * (size_t)sc->stride, sizeof *sc->block_table);
    int32_t next = 0;
    for (int32_t s = 0; s < batch->n_seqs; s++)
        for (int32_t i = 0; i < sc->stride; i++, next++)
            sc->block_table[s * sc->stride + i] = reverse_pages ? MAX_PAGES - 1 - next : next;
    assert_true(next <= MAX_PAGES);
    for (int32_t i = 0; i < next; i++) {
        const int32_t page = reverse_pages ? MAX_PAGES - 1 - i : i;
        memset((uint8_t *)sc->kv.base + (size_t)page * sc->kv.page_bytes, 0x7f,
               sc->kv.page_bytes); /* NaN, huge */
    }
    sc->n_tokens = sc->seq_start[batch->n_seqs];
    sc->qkv_stride = (shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim + 4;
    sc->out_stride = shape->n_heads * shape->head_dim + 4;
    sc->out = calloc((size_t)sc->n_tokens * (size_t)sc->out_stride, sizeof *sc->out);
}

static void scene_free(struct scene *sc, struct backend *be)
{
    be->free(be, sc->kv.base, sc->kv.page_bytes * MAX_PAGES);
    free(sc->block_table), free(sc->seq_start), free(sc->out);
}

/* Writes K and V of positions [from, to) of sequence s; their rows stay in qkv, normed and rotated. */
static void put_tokens(struct backend *be, struct scene *sc, int32_t seq, int32_t from, int32_t to,
                       float *qkv)
{
    const struct shape *shape = &sc->shape;
    const int32_t rotary_dim = shape->head_dim / 4 * 2;
    int32_t *positions = malloc((size_t)(to - from + 1) * sizeof *positions),
            *slots = malloc((size_t)(to - from + 1) * sizeof *slots);
    float *table = malloc((size_t)to * (size_t)rotary_dim * sizeof *table + 1);
    float *norm = random_floats(7, (size_t)shape->head_dim);
    for (int32_t p = 0; p < to; p++)
        for (int32_t i = 0; i < rotary_dim / 2; i++) {
            const double angle = p * pow(10000, -2.0 * i / rotary_dim);
            table[p * rotary_dim + i] = (float)cos(angle);
            table[p * rotary_dim + rotary_dim / 2 + i] = (float)sin(angle);
        }
    for (int32_t p = from; p < to; p++) {
        positions[p - from] = p;
        slots[p - from] = sc->block_table[seq * sc->stride + p / shape->page_size] * shape->page_size +
                          p % shape->page_size;
        fill_token(shape, seq, p, qkv + (size_t)(p - from) * (size_t)sc->qkv_stride);
    }
    const struct rope_kv_args a = {
        .n_tokens = to - from,
        .n_heads = shape->n_heads,
        .qkv = qkv,
        .qkv_stride = sc->qkv_stride,
        .q_norm = {shape->n_heads == 4 ? NORM_RMS : NORM_NONE, 1e-6f, norm, NULL},
        .k_norm = {shape->n_heads == 4 ? NORM_RMS : NORM_NONE, 1e-6f, norm, NULL},
        .rope = (enum rope_kind)(shape->n_heads % 3),
        .rotary_dim = rotary_dim,
        .rope_table = table,
        .positions = positions,
        .slots = slots,
        .kv = &sc->kv,
        .layer = 1,
    };
    assert_int_equal(be->rope_kv(be, &a), LLM_OK);
    free(positions), free(slots), free(table), free(norm);
}

/* Everything a model's layer does with a batch: past tokens first, then the new ones, then attention. */
static void run_scene(struct backend *be, struct scene *sc, const struct batch *batch)
{
    float *past = calloc((size_t)sc->qkv_stride * 2048, sizeof *past);
    float *qkv = calloc((size_t)sc->qkv_stride * (size_t)sc->n_tokens, sizeof *qkv);
    for (int32_t s = 0; s < batch->n_seqs; s++) {
        const int32_t old = batch->kv_len[s] - batch->n_new[s];
        put_tokens(be, sc, s, 0, old, past);
        put_tokens(be, sc, s, old, batch->kv_len[s], qkv + (size_t)sc->seq_start[s] * (size_t)sc->qkv_stride);
    }
    const struct attention_args a = {
        .n_seqs = batch->n_seqs,
        .n_heads = sc->shape.n_heads,
        .q = qkv,
        .q_stride = sc->qkv_stride,
        .seq_start = sc->seq_start,
        .kv_len = batch->kv_len,
        .block_table = sc->block_table,
        .block_table_stride = sc->stride,
        .scale = 0.3f,
        .softcap = sc->shape.softcap,
        .window = sc->shape.window,
        .kv = &sc->kv,
        .layer = 1,
        .out = sc->out,
        .out_stride = sc->out_stride,
    };
    assert_int_equal(be->attention(be, &a), LLM_OK);
    free(past), free(qkv);
}

static void check(const char *isa, int32_t n_threads, const struct shape *shape, const struct batch *batch)
{
    struct backend *be = open_backend(isa, n_threads), *ref = open_backend("ref", 1);
    struct scene got, want;
    scene_init(&got, be, shape, batch, 0);
    scene_init(&want, ref, shape, batch, 1);
    run_scene(be, &got, batch);
    run_scene(ref, &want, batch);
    const int32_t n = shape->n_heads * shape->head_dim;
    /* f32 sums of some hundred products; K and V are rounded, and a rotation that differs in the last bit may
     * round to the other neighbour. */
    const double limit = shape->dtype == DTYPE_F32 ? 1e-5 : shape->dtype == DTYPE_F16 ? 5e-4 : 4e-3;
    for (int32_t i = 0; i < got.n_tokens; i++) {
        const double error = row_error(got.out + (size_t)i * (size_t)got.out_stride,
                                       want.out + (size_t)i * (size_t)want.out_stride, n);
        if (!(error <= limit))
            fail_msg("%s, %d threads: heads %d/%d of %d, page %d, %s, window %d, softcap %g: row %d of %d: "
                     "error %g",
                     isa, n_threads, shape->n_heads, shape->n_kv_heads, shape->head_dim, shape->page_size,
                     dtype_table[shape->dtype].name, shape->window, shape->softcap, i, got.n_tokens, error);
    }
    scene_free(&got, be);
    scene_free(&want, ref);
    be->close(be);
    ref->close(ref);
}

static void check_isas(int32_t n_threads, const struct shape *shape, const struct batch *batch)
{
    const char *isas[2];
    for (int i = 0, n = fast_isas(isas); i < n; i++) check(isas[i], n_threads, shape, batch);
}

#define BATCH(kv, new)                                                                                       \
    (struct batch)                                                                                           \
    {                                                                                                        \
        sizeof(kv) / sizeof *(kv), kv, new                                                                   \
    }

static void test_head_shapes(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {1, 70, 33}, n_new[] = {1, 9, 1};
    const int32_t dims[] = {64, 80, 96, 128, 256, 40, 24};
    for (int d = 0; d < 7; d++)
        for (int32_t group = 1; group <= 9; group += d == 0 ? 1 : 4) {
            const struct shape shape = {2 * group, 2, dims[d], 16, DTYPE_F16, 0, 0};
            check_isas(1, &shape, &BATCH(kv_len, n_new));
        }
    const struct shape many = {50, 1, 64, 16, DTYPE_F16, 0, 0}; /* more heads than a tile has rows */
    check_isas(2, &many, &BATCH(kv_len, n_new));
}

static void test_pages_and_dtypes(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {7, 8, 129, 255, 300}, n_new[] = {7, 1, 30, 1, 2};
    const int32_t sizes[] = {8, 16, 32, 64, 128};
    const enum llm_dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    for (int p = 0; p < 5; p++)
        for (int d = 0; d < 3; d++) {
            const struct shape shape = {4, 2, 64, sizes[p], dtypes[d], 0, 0};
            check_isas(1 + p % 3, &shape, &BATCH(kv_len, n_new));
        }
}

static void test_windows_and_softcap(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {700, 20, 128}, n_new[] = {40, 20, 1};
    const int32_t windows[] = {0, 1, 5, 16, 100, 128, 300, 699, 4096};
    for (int w = 0; w < 9; w++)
        for (int cap = 0; cap < 2; cap++) {
            const struct shape shape = {6, 2, 64, w % 2 ? 8 : 16, DTYPE_F32, windows[w], cap ? 5.0f : 0};
            check_isas(1 + w % 3, &shape, &BATCH(kv_len, n_new));
        }
}

static void test_lengths(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 700; n += n < 20 ? 1 : n < 260 ? 13 : 73) {
        const int32_t kv_len[] = {n}, one[] = {1}, some[] = {n < 50 ? n : 50};
        const struct shape shape = {3, 1, 64, 16, DTYPE_F16, 0, 0};
        check_isas(2, &shape, &BATCH(kv_len, one));
        check_isas(1, &shape, &BATCH(kv_len, some));
    }
}

/* A sequence of 700 tokens: the last rows the same whether they come with the whole prompt, in chunks, one by
 * one, beside other sequences, on other pages, with other numbers of threads. */
static void test_invariance(void **state)
{
    (void)state;
    enum { LAST = 5 };
    const int32_t kv_len[] = {700, 300, 513}, alone[] = {700};
    const int32_t whole[] = {700}, chunk[] = {LAST}, mixed[] = {LAST, 300, 77};
    const char *isas[2];
    for (int i = 0, n = fast_isas(isas); i < n; i++)
        for (int32_t window = 0; window <= 200; window += 200) {
            const struct shape shape = {6, 2, 64, 16, DTYPE_F16, window, 0};
            float *want = NULL;
            for (int variant = 0; variant < 12; variant++) {
                const int kind = variant / 3;
                const struct batch batch = kind == 0   ? BATCH(alone, whole)
                                           : kind == 1 ? BATCH(alone, chunk)
                                                       : BATCH(kv_len, mixed);
                struct backend *be = open_backend(isas[i], 1 + variant % 3);
                struct scene sc;
                scene_init(&sc, be, &shape, &batch, kind == 3);
                run_scene(be, &sc, &batch);
                const size_t bytes = (size_t)LAST * (size_t)sc.out_stride * sizeof(float);
                const float *rows = sc.out + (size_t)(batch.n_new[0] - LAST) * (size_t)sc.out_stride;
                if (!want) {
                    want = malloc(bytes);
                    memcpy(want, rows, bytes);
                }
                if (memcmp(rows, want, bytes) != 0)
                    fail_msg("%s, window %d: batch %d with %d threads differs", isas[i], window, kind,
                             1 + variant % 3);
                scene_free(&sc, be);
                be->close(be);
            }
            free(want);
        }
}

static void test_copied_page(void **state)
{
    (void)state;
    struct backend *be = open_backend(NULL, 1);
    const int32_t kv_len[] = {16}, n_new[] = {16};
    const struct shape shape = {4, 2, 64, 16, DTYPE_F16, 0, 0};
    struct scene sc;
    const struct batch batch = BATCH(kv_len, n_new);
    scene_init(&sc, be, &shape, &batch, 0);
    run_scene(be, &sc, &batch);
    assert_int_equal(be->kv_copy(be, &sc.kv, 0, 9), LLM_OK);
    assert_memory_equal(sc.kv.base, (uint8_t *)sc.kv.base + 9 * sc.kv.page_bytes, sc.kv.page_bytes);
    scene_free(&sc, be);
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_shapes),         cmocka_unit_test(test_pages_and_dtypes),
        cmocka_unit_test(test_windows_and_softcap), cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_invariance),          cmocka_unit_test(test_copied_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
