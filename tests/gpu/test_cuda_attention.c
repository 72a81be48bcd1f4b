/* Attention on a CUDA device against sums in double precision on the same rounded numbers: head shapes, page
 * edges, windows, batches of decodes and chunks, recorded steps. What no token may see is NaN: other layers,
 * other pages, rows of a page past the end, and the output before each run. Without a device it skips. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "cuda_tests.h"
#include "kernels/device.h"

struct shape {
    int32_t n_heads, n_kv_heads, head_dim, page_size;
    enum llm_dtype dtype; /* of activations and KV */
    int32_t window;
    float softcap, scale;
};

/* The last n_new[s] tokens of kv_len[s] are queries; those with one query come first. */
struct batch {
    int32_t n_seqs;
    const int32_t *kv_len, *n_new;
};

#define BATCH(kv, new)                                                                                       \
    (struct batch)                                                                                           \
    {                                                                                                        \
        sizeof(kv) / sizeof *(kv), kv, new                                                                   \
    }

enum { N_LAYERS = 2, LAYER = 1, MAX_CHECKED = 24 /* rows of a sequence */ };

static struct backend *devices[3]; /* F32, F16, BF16: of enum llm_dtype */

static struct backend *device_for(enum llm_dtype dtype)
{
    struct backend **be = &devices[dtype];
    if (*be) return *be;
    struct llm_error err = {0};
    const struct cuda_options options = {.act_dtype = dtype};
    if (cuda_backend_open(&options, be, &err)) fail_msg("%s", err.message);
    const struct backend_limits limits = {.max_rows = 8192,
                                          .max_n = 4096,
                                          .max_seqs = 300,
                                          .max_model_len = 32768,
                                          .n_heads = 64,
                                          .head_dim = 256};
    assert_int_equal((*be)->reserve(*be, &limits, &err), LLM_OK);
    return *be;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

static uint64_t random_state = 20261123;

static uint32_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static void put(void *p, size_t i, enum llm_dtype dtype, float v)
{
    if (dtype == DTYPE_F32)
        ((float *)p)[i] = v;
    else
        ((uint16_t *)p)[i] = dtype == DTYPE_F16 ? f32_to_f16(v) : f32_to_bf16(v);
}

static float get(const void *p, size_t i, enum llm_dtype dtype)
{
    if (dtype == DTYPE_F32) return ((const float *)p)[i];
    const uint16_t h = ((const uint16_t *)p)[i];
    return dtype == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

/* n numbers in [-1, 1) from element i on. */
static void put_random(void *p, size_t i, size_t n, enum llm_dtype dtype)
{
    for (size_t j = i; j < i + n; j++) put(p, j, dtype, (float)next_random() / 1073741824.0f - 1);
}

/* ---- a step -------------------------------------------------------------------------------------------- */

/* A batch on the host, and where it is on the device. */
struct scene {
    struct shape shape;
    struct backend *be;
    struct kv_cache kv;
    int32_t n_seqs, n_tokens, n_decode, max_query, max_kv, n_used;
    int32_t *seq_start, *kv_len, *table, table_stride;
    size_t q_stride, out_stride, element;
    uint8_t *pool, *q, *out;
    int32_t *d_seq_start, *d_kv_len, *d_table;
    void *d_q, *d_out;
};

static size_t pool_bytes(const struct scene *sc)
{
    return sc->kv.page_bytes * (size_t)sc->kv.n_pages;
}

/* Element 0 of a row of K (which 0) or V (1): pages are [layer][k, v][head][token][coordinate]. */
static size_t kv_element(const struct scene *sc, int32_t page, int32_t which, int32_t head, int32_t token)
{
    const struct kv_cache *kv = &sc->kv;
    const size_t plane = ((size_t)LAYER * 2 + (size_t)which) * (size_t)kv->n_kv_heads + (size_t)head;
    return (size_t)page * (kv->page_bytes / sc->element) +
           (plane * (size_t)kv->page_size + (size_t)token) * (size_t)kv->head_dim;
}

static void *device_copy(struct scene *sc, const void *from, size_t bytes)
{
    void *p = sc->be->alloc(sc->be, bytes);
    assert_non_null(p);
    assert_int_equal(sc->be->device->upload(sc->be, p, from, bytes), LLM_OK);
    return p;
}

/* Pages in a shuffled order; all that is not a token of the batch is NaN. */
static void fill_pool(struct scene *sc)
{
    const struct kv_cache *kv = &sc->kv;
    memset(sc->pool, 0xff, pool_bytes(sc));
    int32_t *order = malloc((size_t)kv->n_pages * sizeof *order);
    for (int32_t i = 0; i < kv->n_pages; i++) order[i] = i;
    for (int32_t i = kv->n_pages - 1; i > 0; i--) {
        const int32_t j = (int32_t)(next_random() % (uint32_t)(i + 1)), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    int32_t next = 0;
    for (int32_t s = 0; s < sc->n_seqs; s++)
        for (int32_t p = 0; p < sc->kv_len[s]; p += kv->page_size) {
            const int32_t page = order[next++];
            sc->table[s * sc->table_stride + p / kv->page_size] = page;
            const int32_t n = sc->kv_len[s] - p < kv->page_size ? sc->kv_len[s] - p : kv->page_size;
            for (int32_t h = 0; h < 2 * kv->n_kv_heads; h++)
                put_random(sc->pool, kv_element(sc, page, h / kv->n_kv_heads, h % kv->n_kv_heads, 0),
                           (size_t)n * (size_t)kv->head_dim, kv->dtype);
        }
    sc->n_used = next;
    free(order);
}

static void scene_init(struct scene *sc, const struct shape *shape, const struct batch *batch)
{
    struct backend *be = device_for(shape->dtype);
    *sc = (struct scene){.shape = *shape, .be = be, .n_seqs = batch->n_seqs};
    sc->element = (size_t)dtype_table[shape->dtype].bytes;
    sc->seq_start = calloc((size_t)sc->n_seqs + 1, sizeof *sc->seq_start);
    sc->kv_len = calloc((size_t)sc->n_seqs, sizeof *sc->kv_len);
    int32_t n_pages = 3;
    for (int32_t s = 0; s < sc->n_seqs; s++) {
        const int32_t pages = (batch->kv_len[s] + shape->page_size - 1) / shape->page_size;
        sc->kv_len[s] = batch->kv_len[s];
        sc->seq_start[s + 1] = sc->seq_start[s] + batch->n_new[s];
        if (pages > sc->table_stride) sc->table_stride = pages;
        if (batch->kv_len[s] > sc->max_kv) sc->max_kv = batch->kv_len[s];
        if (batch->n_new[s] == 1 && s == sc->n_decode)
            sc->n_decode++;
        else if (batch->n_new[s] > sc->max_query)
            sc->max_query = batch->n_new[s];
        n_pages += pages;
    }
    sc->n_tokens = sc->seq_start[sc->n_seqs];
    sc->kv = (struct kv_cache){.n_pages = n_pages,
                               .page_size = shape->page_size,
                               .n_layers = N_LAYERS,
                               .n_kv_heads = shape->n_kv_heads,
                               .head_dim = shape->head_dim,
                               .dtype = shape->dtype};
    sc->kv.page_bytes = be->kv_page_bytes(be, &sc->kv);
    sc->table = malloc((size_t)sc->n_seqs * (size_t)sc->table_stride * sizeof *sc->table);
    memset(sc->table, 0x7f, (size_t)sc->n_seqs * (size_t)sc->table_stride * sizeof *sc->table);
    sc->pool = malloc(pool_bytes(sc));
    fill_pool(sc);
    sc->q_stride = (size_t)((shape->n_heads + 2 * shape->n_kv_heads) * shape->head_dim);
    sc->out_stride = (size_t)(shape->n_heads * shape->head_dim + 8);
    sc->q = malloc((size_t)sc->n_tokens * sc->q_stride * sc->element);
    put_random(sc->q, 0, (size_t)sc->n_tokens * sc->q_stride, shape->dtype);
    sc->out = malloc((size_t)sc->n_tokens * sc->out_stride * sc->element);
    memset(sc->out, 0xff, (size_t)sc->n_tokens * sc->out_stride * sc->element);

    sc->kv.base = device_copy(sc, sc->pool, pool_bytes(sc));
    sc->d_seq_start = device_copy(sc, sc->seq_start, ((size_t)sc->n_seqs + 1) * sizeof *sc->seq_start);
    sc->d_kv_len = device_copy(sc, sc->kv_len, (size_t)sc->n_seqs * sizeof *sc->kv_len);
    sc->d_table =
        device_copy(sc, sc->table, (size_t)sc->n_seqs * (size_t)sc->table_stride * sizeof *sc->table);
    sc->d_q = device_copy(sc, sc->q, (size_t)sc->n_tokens * sc->q_stride * sc->element);
    sc->d_out = device_copy(sc, sc->out, (size_t)sc->n_tokens * sc->out_stride * sc->element);
}

static void scene_free(struct scene *sc)
{
    struct backend *be = sc->be;
    const size_t n_seqs = (size_t)sc->n_seqs;
    be->free(be, sc->kv.base, pool_bytes(sc));
    be->free(be, sc->d_seq_start, (n_seqs + 1) * sizeof *sc->seq_start);
    be->free(be, sc->d_kv_len, n_seqs * sizeof *sc->kv_len);
    be->free(be, sc->d_table, n_seqs * (size_t)sc->table_stride * sizeof *sc->table);
    be->free(be, sc->d_q, (size_t)sc->n_tokens * sc->q_stride * sc->element);
    be->free(be, sc->d_out, (size_t)sc->n_tokens * sc->out_stride * sc->element);
    free(sc->seq_start), free(sc->kv_len), free(sc->table), free(sc->pool), free(sc->q), free(sc->out);
}

static void begin_step(struct scene *sc, int32_t max_kv)
{
    const struct step_shape step = {.n_tokens = sc->n_tokens,
                                    .n_seqs = sc->n_seqs,
                                    .n_decode = sc->n_decode,
                                    .max_query = sc->max_query,
                                    .max_kv = max_kv,
                                    .seq_start = sc->d_seq_start,
                                    .kv_len = sc->d_kv_len};
    assert_int_equal(sc->be->device->begin(sc->be, &step), LLM_OK);
}

static void call_attention(struct scene *sc, int32_t layer)
{
    const struct attention_args a = {.n_seqs = sc->n_seqs,
                                     .n_heads = sc->shape.n_heads,
                                     .q = sc->d_q,
                                     .q_stride = (int64_t)sc->q_stride,
                                     .seq_start = sc->d_seq_start,
                                     .kv_len = sc->d_kv_len,
                                     .block_table = sc->d_table,
                                     .block_table_stride = sc->table_stride,
                                     .scale = sc->shape.scale,
                                     .softcap = sc->shape.softcap,
                                     .window = sc->shape.window,
                                     .kv = &sc->kv,
                                     .layer = layer,
                                     .out = sc->d_out,
                                     .out_stride = (int64_t)sc->out_stride};
    if (sc->be->attention(sc->be, &a)) fail_msg("%s", sc->be->device->failure(sc->be));
}

/* Every other time as a step's second call, which finds the plan made and begins before the first has ended.
 */
static void enqueue(struct scene *sc, int32_t max_kv)
{
    static unsigned time;
    begin_step(sc, max_kv);
    if (time++ % 2) call_attention(sc, LAYER - 1);
    call_attention(sc, LAYER);
}

static void fetch(struct scene *sc)
{
    const size_t bytes = (size_t)sc->n_tokens * sc->out_stride * sc->element;
    if (sc->be->device->download(sc->be, sc->out, sc->d_out, bytes))
        fail_msg("%s", sc->be->device->failure(sc->be));
}

/* ---- the reference ------------------------------------------------------------------------------------- */

/* Row `row` (of the chunk of s) and head, in double precision; out [head_dim]. */
static void attend(const struct scene *sc, int32_t s, int32_t row, int32_t head, double *out)
{
    const struct shape *shape = &sc->shape;
    const int32_t n = shape->head_dim, kv_head = head / (shape->n_heads / shape->n_kv_heads);
    const int32_t n_new = sc->seq_start[s + 1] - sc->seq_start[s], p = sc->kv_len[s] - n_new + row;
    const int32_t low = shape->window && p >= shape->window ? p - shape->window + 1 : 0;
    const size_t q = (size_t)(sc->seq_start[s] + row) * sc->q_stride + (size_t)head * (size_t)n;
    double top = -INFINITY, total = 0;
    memset(out, 0, (size_t)n * sizeof *out);
    for (int32_t k = low; k <= p; k++) {
        const int32_t page = sc->table[s * sc->table_stride + k / shape->page_size];
        const size_t at = kv_element(sc, page, 0, kv_head, k % shape->page_size);
        const size_t v_at = kv_element(sc, page, 1, kv_head, k % shape->page_size);
        double score = 0;
        for (int32_t i = 0; i < n; i++)
            score += (double)get(sc->q, q + (size_t)i, shape->dtype) *
                     (double)get(sc->pool, at + (size_t)i, shape->dtype);
        score *= (double)shape->scale;
        if (shape->softcap != 0) score = (double)shape->softcap * tanh(score / (double)shape->softcap);
        if (score > top) {
            const double keep = exp(top - score);
            for (int32_t i = 0; i < n; i++) out[i] *= keep;
            total *= keep;
            top = score;
        }
        const double weight = exp(score - top);
        total += weight;
        for (int32_t i = 0; i < n; i++)
            out[i] += weight * (double)get(sc->pool, v_at + (size_t)i, shape->dtype);
    }
    for (int32_t i = 0; i < n; i++) out[i] /= total;
}

/* Squares of errors and of values, of prompts and decodes, by head size / 8. */
static struct {
    double error, value;
} noise[2][65];

static void check_row(const struct scene *sc, int32_t s, int32_t row, int32_t head)
{
    static const double limits[] = {[DTYPE_F32] = 1e-5, [DTYPE_F16] = 3e-3, [DTYPE_BF16] = 2e-2};
    const struct shape *shape = &sc->shape;
    double want[512], largest = 0, error = 0;
    attend(sc, s, row, head, want);
    const size_t at = (size_t)(sc->seq_start[s] + row) * sc->out_stride + (size_t)(head * shape->head_dim);
    for (int32_t i = 0; i < shape->head_dim; i++) {
        const double got = (double)get(sc->out, at + (size_t)i, shape->dtype);
        const double d = isfinite(got) ? fabs(got - want[i]) : INFINITY;
        const int decode = sc->seq_start[s + 1] - sc->seq_start[s] == 1;
        if (shape->dtype == DTYPE_BF16 && isfinite(got)) {
            noise[decode][shape->head_dim / 8].error += d * d;
            noise[decode][shape->head_dim / 8].value += want[i] * want[i];
        }
        if (fabs(want[i]) > largest) largest = fabs(want[i]);
        if (d > error) error = d;
    }
    if (error > limits[shape->dtype] * largest)
        fail_msg(
            "heads %d/%d of %d, page %d, %s, window %d, softcap %g: sequence %d of %d (%d keys, %d new), "
            "row %d, head %d: error %g of %g",
            shape->n_heads, shape->n_kv_heads, shape->head_dim, shape->page_size,
            dtype_table[shape->dtype].name, shape->window, (double)shape->softcap, s, sc->n_seqs,
            sc->kv_len[s], sc->seq_start[s + 1] - sc->seq_start[s], row, head, error, largest);
}

/* Every sequence; all rows of short chunks, of long ones the ends and some between; one or two heads a row.
 */
static void check_output(const struct scene *sc)
{
    const size_t used = (size_t)(sc->shape.n_heads * sc->shape.head_dim) * sc->element;
    for (int32_t s = 0; s < sc->n_seqs; s++) {
        const int32_t n = sc->seq_start[s + 1] - sc->seq_start[s];
        for (int32_t i = 0; i < n && i < MAX_CHECKED; i++) {
            int32_t row = i;
            if (n > MAX_CHECKED) row = i < 2 ? i : i < 4 ? n + 1 - i : (int32_t)(next_random() % (uint32_t)n);
            check_row(sc, s, row, (int32_t)(next_random() % (uint32_t)sc->shape.n_heads));
            if (n <= 2) check_row(sc, s, row, sc->shape.n_heads - 1);
        }
    }
    for (int32_t i = 0; i < sc->n_tokens; i++) {
        const uint8_t *row = sc->out + (size_t)i * sc->out_stride * sc->element;
        for (size_t b = used; b < sc->out_stride * sc->element; b++) assert_int_equal(row[b], 0xff);
        for (int32_t j = 0; j < sc->shape.n_heads * sc->shape.head_dim; j++)
            if (!isfinite(get(row, (size_t)j, sc->shape.dtype))) fail_msg("row %d, %d: not written", i, j);
    }
}

static void check(struct shape shape, struct batch batch)
{
    struct scene sc;
    if (cuda_tests_left_out() || (cuda_tests_small && batch.kv_len[0] > 4096)) return;
    if (shape.scale == 0) shape.scale = 3 / sqrtf((float)shape.head_dim);
    scene_init(&sc, &shape, &batch);
    enqueue(&sc, sc.max_kv);
    fetch(&sc);
    check_output(&sc);
    scene_free(&sc);
}

/* ---- the cases ----------------------------------------------------------------------------------------- */

static void test_head_shapes(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {1, 70, 128, 33, 200}, n_new[] = {1, 1, 1, 9, 130};
    static const int32_t dims[] = {64, 80, 96, 128, 256, 40, 24, 512};
    for (int d = 0; d < 8; d++)
        for (int32_t group = 1; group <= 16; group += d == 0 || d == 3 ? 1 : 5)
            for (enum llm_dtype t = DTYPE_F32; t <= DTYPE_BF16; t++)
                if (d < 7 || group == 1)
                    check((struct shape){2 * group, 2, dims[d], 16, t, 0, 0, 0}, BATCH(kv_len, n_new));
}

static void test_page_sizes(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {1, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 300, 64, 65, 300},
                         n_new[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 64, 2, 129};
    for (int32_t page = 8; page <= 128; page *= 2) {
        check((struct shape){8, 2, 128, page, DTYPE_BF16, 0, 0, 0}, BATCH(kv_len, n_new));
        check((struct shape){6, 2, 64, page, DTYPE_F16, 0, 0, 0}, BATCH(kv_len, n_new));
        check((struct shape){4, 2, 256, page, DTYPE_BF16, 0, 0, 0}, BATCH(kv_len, n_new));
        check((struct shape){4, 2, 80, page, DTYPE_F16, 0, 0, 0}, BATCH(kv_len, n_new));
    }
}

static void test_windows_and_caps(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {1, 5, 64, 100, 1000, 600, 700, 90},
                         n_new[] = {1, 1, 1, 1, 1, 600, 300, 90};
    static const int32_t windows[] = {1, 7, 64, 65, 200, 4096};
    static const int32_t dims[] = {64, 128, 256, 40};
    for (int d = 0; d < 4; d++)
        for (int w = 0; w < 6; w++)
            for (int cap = 0; cap < 2; cap++)
                check((struct shape){8, 4, dims[d], 64, DTYPE_BF16, windows[w], cap ? 5.0f : 0, 0},
                      BATCH(kv_len, n_new));
}

/* Scores that differ by hundreds: a weight of 1 on one key. */
static void test_sharp_scores(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {900, 333, 700}, n_new[] = {1, 1, 500};
    for (enum llm_dtype t = DTYPE_F32; t <= DTYPE_BF16; t++) {
        check((struct shape){8, 2, 128, 32, t, 0, 0, 20}, BATCH(kv_len, n_new));
        check((struct shape){8, 2, 64, 32, t, 0, 0, 20}, BATCH(kv_len, n_new));
    }
}

/* The newest keys are written just before a call that, with its plan made, begins early. They are NaN until
 * then. */
static void test_newest_keys(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {1, 64, 65, 700, 2000}, n_new[] = {1, 1, 1, 1, 1};
    const struct shape shape = {32, 8, 128, 64, DTYPE_BF16, 0, 0, 0.2f};
    const size_t row = 128 * sizeof(uint16_t);
    struct scene sc;
    scene_init(&sc, &shape, &BATCH(kv_len, n_new));
    char *stale = malloc(pool_bytes(&sc)), *pool = (char *)sc.pool;
    const char *q = (const char *)sc.q;
    memcpy(stale, pool, pool_bytes(&sc));
    int32_t slots[5];
    for (int32_t s = 0; s < sc.n_seqs; s++) {
        const int32_t last = kv_len[s] - 1, page = sc.table[s * sc.table_stride + last / shape.page_size];
        slots[s] = page * shape.page_size + last % shape.page_size;
        for (int32_t which = 0; which < 2; which++)
            for (int32_t head = 0; head < shape.n_kv_heads; head++) {
                const size_t at = kv_element(&sc, page, which, head, last % shape.page_size) * sc.element;
                const int32_t column = shape.n_heads + which * shape.n_kv_heads + head;
                memset(stale + at, 0xff, row);
                memcpy(pool + at, q + (size_t)s * sc.q_stride * sc.element + (size_t)column * row, row);
            }
    }
    int32_t *d_slots = device_copy(&sc, slots, sizeof slots);
    for (int i = 0; i < (cuda_tests_small ? 2 : 20); i++) {
        assert_int_equal(sc.be->device->upload(sc.be, sc.kv.base, stale, pool_bytes(&sc)), LLM_OK);
        begin_step(&sc, sc.max_kv);
        call_attention(&sc, LAYER - 1);
        const struct rope_kv_args a = {.n_tokens = sc.n_tokens,
                                       .n_heads = shape.n_heads,
                                       .qkv = sc.d_q,
                                       .qkv_stride = (int64_t)sc.q_stride,
                                       .rope = ROPE_NONE,
                                       .positions = d_slots,
                                       .slots = d_slots,
                                       .kv = &sc.kv,
                                       .layer = LAYER};
        if (sc.be->rope_kv(sc.be, &a)) fail_msg("%s", sc.be->device->failure(sc.be));
        call_attention(&sc, LAYER);
        fetch(&sc);
        check_output(&sc);
    }
    sc.be->free(sc.be, d_slots, sizeof slots);
    free(stale);
    scene_free(&sc);
}

static void test_long(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {32768, 1, 20000, 9999, 30000}, n_new[] = {1, 1, 1, 77, 512};
    check((struct shape){32, 8, 128, 64, DTYPE_BF16, 0, 0, 0}, BATCH(kv_len, n_new));
    static const int32_t one[] = {32767}, one_new[] = {1};
    check((struct shape){8, 1, 128, 16, DTYPE_F16, 0, 0, 0}, BATCH(one, one_new));
    check((struct shape){9, 3, 64, 128, DTYPE_BF16, 0, 0, 0}, BATCH(one, one_new));
    static const int32_t chunk[] = {5000, 4000}, chunk_new[] = {5000, 2500};
    check((struct shape){8, 2, 128, 64, DTYPE_BF16, 0, 0, 0}, BATCH(chunk, chunk_new));
    check((struct shape){4, 4, 64, 16, DTYPE_F16, 0, 0, 0}, BATCH(chunk, chunk_new));
}

static void test_large_batch(void **state)
{
    (void)state;
    int32_t kv_len[300], n_new[300];
    for (int i = 0; i < 300; i++) {
        kv_len[i] = 1 + (int32_t)(next_random() % (i % 10 ? 200 : 3000));
        n_new[i] = i < 280 ? 1 : 1 + (int32_t)(next_random() % (uint32_t)(kv_len[i] < 300 ? kv_len[i] : 300));
    }
    check((struct shape){16, 4, 128, 64, DTYPE_BF16, 0, 0, 0}, BATCH(kv_len, n_new));
    check((struct shape){16, 4, 64, 16, DTYPE_F16, 100, 0, 0}, BATCH(kv_len, n_new));
    check((struct shape){4, 4, 40, 64, DTYPE_F32, 0, 0, 0}, BATCH(kv_len, n_new));
}

/* The same inputs give the same numbers, run after run, though blocks race to the end. */
static void test_repeats(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {3000, 17, 900, 5000, 1200, 700}, n_new[] = {1, 1, 1, 1, 700, 13};
    const struct shape shape = {32, 8, 128, 64, DTYPE_BF16, 0, 0, 0.2f};
    struct scene sc;
    scene_init(&sc, &shape, &BATCH(kv_len, n_new));
    const size_t bytes = (size_t)sc.n_tokens * sc.out_stride * sc.element;
    enqueue(&sc, sc.max_kv);
    fetch(&sc);
    check_output(&sc);
    uint8_t *first = malloc(bytes), *poison = malloc(bytes);
    memcpy(first, sc.out, bytes);
    memset(poison, 0xff, bytes);
    for (int i = 0; i < (cuda_tests_small ? 3 : 50); i++) {
        assert_int_equal(sc.be->device->upload(sc.be, sc.d_out, poison, bytes), LLM_OK);
        enqueue(&sc, sc.max_kv);
        fetch(&sc);
        assert_memory_equal(sc.out, first, bytes);
    }
    free(first), free(poison);
    scene_free(&sc);
}

/* A step recorded once and replayed for batches with other lengths. */
static void test_recorded(void **state)
{
    (void)state;
    static const int32_t kv_len[] = {2000, 2000, 2000, 2000, 2000, 2000, 2000},
                         n_new[] = {1, 1, 1, 1, 1, 1, 1};
    static const int32_t lengths[3][7] = {
        {1, 1, 1, 1, 1, 1, 1}, {1999, 3, 64, 640, 128, 1, 1}, {7, 1300, 2000, 2000, 65, 1024, 1}};
    const struct shape shape = {32, 8, 128, 64, DTYPE_BF16, 0, 0, 0.2f};
    struct scene sc;
    scene_init(&sc, &shape, &BATCH(kv_len, n_new));
    struct device_recording *recording;
    assert_int_equal(sc.be->device->record(sc.be), LLM_OK);
    enqueue(&sc, 32768);
    assert_int_equal(sc.be->device->recorded(sc.be, &recording), LLM_OK);
    const size_t bytes = (size_t)sc.n_tokens * sc.out_stride * sc.element;
    for (int i = 0; i < 3; i++) {
        memcpy(sc.kv_len, lengths[i], sizeof lengths[i]);
        memset(sc.out, 0xff, bytes);
        assert_int_equal(sc.be->device->upload(sc.be, sc.d_kv_len, sc.kv_len, sizeof lengths[i]), LLM_OK);
        assert_int_equal(sc.be->device->upload(sc.be, sc.d_out, sc.out, bytes), LLM_OK);
        assert_int_equal(sc.be->device->replay(sc.be, recording), LLM_OK);
        fetch(&sc);
        check_output(&sc);
    }
    sc.be->device->recording_free(sc.be, recording);
    scene_free(&sc);
}

static int close_devices(void **state)
{
    (void)state;
    for (int i = 0; i < 65; i++)
        if (noise[0][i].value > 0 && noise[1][i].value > 0)
            printf("heads of %3d, bf16: root mean square of errors %.1e in prompts, %.1e in decodes\n", 8 * i,
                   sqrt(noise[0][i].error / noise[0][i].value), sqrt(noise[1][i].error / noise[1][i].value));
    for (int i = 0; i < 3; i++)
        if (devices[i]) devices[i]->close(devices[i]);
    return 0;
}

int main(int argc, char **argv)
{
    const int skipped = cuda_tests_begin(argc, argv);
    if (skipped) return skipped;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head_shapes),  cmocka_unit_test(test_page_sizes),
        cmocka_unit_test(test_sharp_scores), cmocka_unit_test(test_windows_and_caps),
        cmocka_unit_test(test_large_batch),  cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_recorded),     cmocka_unit_test(test_newest_keys),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, close_devices);
}
