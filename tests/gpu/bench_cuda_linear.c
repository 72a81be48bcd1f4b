/* Linear layers on a GPU: for the shapes of Llama-3.1-8B and numbers of rows, microseconds and the rate at
 * which weights are read or TFLOP/s, by our own kernels and by cuBLASLt, beside the ceilings of this GPU
 * measured in the same run: a copy in device memory, and a product of 8192 x 8192 matrices.
 *
 *   bench_cuda_linear [ROWS…]
 *   bench_cuda_linear quantized [ROWS…]
 *   bench_cuda_linear widths [ROWS…]
 *
 * A figure is the least of several replays of a recorded sequence of the same layer on different weights, so
 * that no weight is in the cache. "step": all linear layers of a decode step, with their norms.
 * Without ROWS, layers of quantized weights follow. quantized: those of many rows, beside dense weights in
 * the same run; widths: the same for each width of their kernels' tiles. */

#define _GNU_SOURCE
#include "kernels/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_COPIES = 16,
    MAX_ROWS = 8192,
    HIDDEN = 4096,
    WIDE = 14336,
    QKV = 6144,
    VOCABULARY = 128256,
    LAYERS = 32
};
enum path { PATH_AUTO, PATH_LT, PATH_PACKED = 64 }; /* as in kernels/cuda/linear.cuh */

struct shape {
    const char *name;
    int32_t n_in, n_out;
    enum linear_epilogue epilogue;
    int normed, f32_out;
    int32_t n_copies;
    struct weight *copy[MAX_COPIES];
};

static struct backend *be;
static void *x, *y, *norm_weight;
/* Of the plug-in, for benchmarks. */
static void (*set_path)(struct backend *, int);
static llm_status (*copy)(struct backend *, void *, const void *, size_t);

static void check(llm_status status, const char *what)
{
    if (status == LLM_OK) return;
    fprintf(stderr, "%s: %s\n", what, be->device->failure(be));
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void wait_all(void)
{
    check(be->device->set_mark(be, 0), "mark");
    check(be->device->wait_mark(be, 0), "waiting");
}

static struct weight *make_weight(int32_t n_in, int32_t n_out, int gated)
{
    static uint64_t state = 1;
    struct weight *w = NULL;
    struct llm_error err = {0};
    struct weight_spec spec = {.n_parts = gated ? 2 : 1, .layout = gated ? WEIGHT_GATED : WEIGHT_PLAIN};
    for (int i = 0; i < spec.n_parts; i++) {
        spec.part[i] = (struct tensor){DTYPE_BF16, 2, {n_out / spec.n_parts, n_in}, NULL};
        spec.random_state[i] = state++ * 0x123456789ABCDEFu;
        spec.random_deviation[i] = 0.02f;
    }
    if (be->weight_create(be, &spec, &w, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    return w;
}

/* Random blocks of a quantized type, `bytes` of them, with scales that are numbers. */
static void random_blocks(enum llm_dtype t, uint8_t *out, size_t bytes)
{
    const size_t block = (size_t)dtype_table[t].bytes;
    const size_t scale_at = t == DTYPE_Q6_K ? 208 : 0, n_scales = t == DTYPE_Q4_K ? 2 : 1;
    uint64_t state = 1;
    for (size_t i = 0; i < bytes; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        out[i] = (uint8_t)(state >> 56);
    }
    for (size_t b = 0; b < bytes / block; b++)
        for (size_t i = 0; i < n_scales; i++) {
            const uint16_t scale = f32_to_f16(0.0005f * (float)(1 + b % 7));
            memcpy(out + b * block + scale_at + 2 * i, &scale, sizeof scale);
        }
}

/* Some random rows over and over: making them is slow. */
static struct weight *make_quantized(enum llm_dtype t, const struct shape *s)
{
    enum { ROWS = 64 };
    const size_t some = dtype_bytes(t, (int64_t)ROWS * s->n_in);
    const size_t bytes = dtype_bytes(t, (int64_t)s->n_out * s->n_in);
    const int gated = s->epilogue == LINEAR_GATED;
    struct weight_spec spec = {.n_parts = gated ? 2 : 1, .layout = gated ? WEIGHT_GATED : WEIGHT_PLAIN};
    struct weight *w = NULL;
    struct llm_error err = {0};
    uint8_t *data = malloc(bytes);
    if (!data) exit(1);
    random_blocks(t, data, some);
    for (size_t at = some; at < bytes; at += some)
        memcpy(data + at, data, bytes - at < some ? bytes - at : some);
    for (int i = 0; i < spec.n_parts; i++)
        spec.part[i] = (struct tensor){
            t, 2, {s->n_out / spec.n_parts, s->n_in}, data + bytes / (size_t)spec.n_parts * (size_t)i};
    if (be->weight_create(be, &spec, &w, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    free(data);
    return w;
}

static void run_linear(const struct shape *s, const struct weight *w, int32_t n_rows)
{
    const int gated = s->epilogue == LINEAR_GATED;
    const struct linear_args a = {.n_rows = n_rows,
                                  .x = x,
                                  .x_stride = s->n_in,
                                  .norm = {.kind = s->normed ? NORM_RMS : NORM_NONE,
                                           .eps = 1e-5f,
                                           .weight = s->normed ? norm_weight : NULL},
                                  .w = w,
                                  .epilogue = s->epilogue,
                                  .act = gated ? ACT_SILU : ACT_NONE,
                                  .y = y,
                                  .y_stride = gated ? s->n_out / 2 : s->n_out,
                                  .f32_out = s->f32_out};
    check(be->linear(be, &a), s->name);
}

/* Least microseconds of what `enqueue` records, over some replays; it is run once before, for tuning. */
static double time_recorded(void (*enqueue)(void *), void *arg, int n_replays)
{
    struct device_recording *r;
    double least = 1e30;
    enqueue(arg);
    check(be->device->record(be), "recording");
    enqueue(arg);
    check(be->device->recorded(be, &r), "recording");
    check(be->device->replay(be, r), "replaying");
    wait_all();
    for (int i = 0; i < n_replays; i++) {
        const double begin = now_us();
        check(be->device->replay(be, r), "replaying");
        wait_all();
        const double us = now_us() - begin;
        if (us < least) least = us;
    }
    be->device->recording_free(be, r);
    return least;
}

struct repeat {
    const struct shape *shape;
    int32_t n_rows, times;
};

static void enqueue_shape(void *arg)
{
    const struct repeat *r = arg;
    for (int32_t i = 0; i < r->times; i++)
        run_linear(r->shape, r->shape->copy[i % r->shape->n_copies], r->n_rows);
}

static double time_shape(const struct shape *s, int32_t n_rows, int path)
{
    const double work_us = 2.0 * s->n_in * s->n_out * (1 / 4.2e6 + n_rows / 7e8);
    struct repeat r = {s, n_rows, (int32_t)(3000 / work_us) + s->n_copies};
    set_path(be, path);
    return time_recorded(enqueue_shape, &r, 4) / r.times;
}

struct step {
    struct shape *shapes; /* qkv, o, gate_up, down, head */
    int32_t n_rows;
};

static void enqueue_step(void *arg)
{
    const struct step *s = arg;
    for (int layer = 0; layer < LAYERS; layer++)
        for (int i = 0; i < 4; i++)
            run_linear(&s->shapes[i], s->shapes[i].copy[layer % s->shapes[i].n_copies], s->n_rows);
    run_linear(&s->shapes[4], s->shapes[4].copy[0], s->n_rows);
}

enum { COPY_BYTES = 1 << 30 };

static void enqueue_copy(void *arg)
{
    for (int i = 0; i < 4; i++) check(copy(be, (char *)arg + COPY_BYTES, arg, COPY_BYTES), "copying");
}

static double copy_ceiling(void) /* TB/s, read and written */
{
    void *p = be->alloc(be, 2 * (size_t)COPY_BYTES);
    if (!p) exit(1);
    const double us = time_recorded(enqueue_copy, p, 4) / 4;
    be->free(be, p, 2 * (size_t)COPY_BYTES);
    return 2.0 * COPY_BYTES / us * 1e-6;
}

static double product_ceiling(void) /* TFLOP/s */
{
    struct shape s = {.name = "8192", .n_in = 8192, .n_out = 8192, .n_copies = 1};
    s.copy[0] = make_weight(8192, 8192, 0);
    struct repeat r = {&s, 8192, 3};
    set_path(be, PATH_LT);
    const double us = time_recorded(enqueue_shape, &r, 4) / r.times;
    be->weight_destroy(be, s.copy[0]);
    return 2.0 * 8192 * 8192 * 8192 / us * 1e-6;
}

static void open_device(void)
{
    struct llm_error err = {0};
    const struct backend_limits limits = {.max_rows = MAX_ROWS,
                                          .max_n = 2 * WIDE,
                                          .max_seqs = 256,
                                          .max_model_len = 2048,
                                          .n_heads = 32,
                                          .head_dim = 128};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_BF16}, &be, &err) != LLM_OK ||
        be->reserve(be, &limits, &err) != LLM_OK) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    void *plugin = dlopen("libllmlua_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    *(void **)&set_path = plugin ? dlsym(plugin, "cuda_plugin_linear_path") : NULL;
    *(void **)&copy = plugin ? dlsym(plugin, "cuda_plugin_copy") : NULL;
    const int64_t n = (int64_t)MAX_ROWS * 2 * WIDE;
    x = be->alloc(be, (size_t)n * 2);
    y = be->alloc(be, (size_t)n * 4);
    norm_weight = be->alloc(be, WIDE * 4);
    if (!set_path || !copy || !x || !y || !norm_weight) exit(1);
    check(be->device->fill(be, x, DTYPE_BF16, n, 7, 1), "filling");
    check(be->device->fill(be, norm_weight, DTYPE_F32, WIDE, 8, 1), "filling");
}

static void bench_quantized(enum llm_dtype t, double bandwidth)
{
    struct shape shapes[] = {
        {.name = "o", .n_in = HIDDEN, .n_out = HIDDEN, .epilogue = LINEAR_ADD, .n_copies = MAX_COPIES},
        {.name = "gate_up", .n_in = HIDDEN, .n_out = 2 * WIDE, .epilogue = LINEAR_GATED, .n_copies = 3},
    };
    const int32_t rows[] = {1, 8, 16, 64};
    for (int i = 0; i < 2; i++) {
        struct shape *s = &shapes[i];
        for (int c = 0; c < s->n_copies; c++) s->copy[c] = make_quantized(t, s);
        const double bytes = (double)be->weight_bytes(s->copy[0]);
        printf("%s %-8s", dtype_table[t].name, s->name);
        for (int r = 0; r < 4; r++) {
            const double us = time_shape(s, rows[r], PATH_AUTO);
            printf("  rows %d: %.1f us %.2f TB/s (%.0f %%)", rows[r], us, bytes / us * 1e-6,
                   bytes / us * 1e-4 / bandwidth);
        }
        printf("\n");
        for (int c = 0; c < s->n_copies; c++) be->weight_destroy(be, s->copy[c]);
    }
}

static const enum llm_dtype quantized[] = {DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q6_K, DTYPE_Q8_0};
enum { N_QUANTIZED = sizeof quantized / sizeof *quantized, N_WIDTHS = 4 };

/* Microseconds of dense weights, the faster way and cuBLASLt; then of quantized ones, and what part of the
 * dense ones' time that is. */
static void bench_many_rows(const struct shape *shape, const int32_t *rows, int n_rows, int widths)
{
    struct shape dense = *shape, types[N_QUANTIZED];
    for (int c = 0; c < dense.n_copies; c++)
        dense.copy[c] = make_weight(dense.n_in, dense.n_out, dense.epilogue == LINEAR_GATED);
    for (int t = 0; t < N_QUANTIZED; t++) {
        types[t] = *shape;
        for (int c = 0; c < shape->n_copies; c++) types[t].copy[c] = make_quantized(quantized[t], shape);
    }
    for (int r = 0; r < n_rows; r++) {
        const double best = time_shape(&dense, rows[r], PATH_AUTO), lt = time_shape(&dense, rows[r], PATH_LT);
        printf("rows %4d %-8s dense %8.1f us, cuBLASLt %8.1f us", rows[r], shape->name, best, lt);
        for (int t = 0; t < N_QUANTIZED; t++) {
            const double us = time_shape(&types[t], rows[r], PATH_AUTO);
            printf("  %s %8.1f us (%.2f)", dtype_table[quantized[t]].name, us, us / best);
            for (int i = 0; i < N_WIDTHS && widths; i++)
                printf("%s%.1f", i ? " " : " by width ", time_shape(&types[t], rows[r], PATH_PACKED + i));
        }
        printf("\n");
    }
    for (int c = 0; c < shape->n_copies; c++) {
        be->weight_destroy(be, dense.copy[c]);
        for (int t = 0; t < N_QUANTIZED; t++) be->weight_destroy(be, types[t].copy[c]);
    }
}

static void bench_all_many_rows(int widths, int n_given, char **given)
{
    const struct shape shapes[] = {
        {.name = "qkv", .n_in = HIDDEN, .n_out = QKV, .n_copies = 6},
        {.name = "o", .n_in = HIDDEN, .n_out = HIDDEN, .epilogue = LINEAR_ADD, .n_copies = 8},
        {.name = "gate_up", .n_in = HIDDEN, .n_out = 2 * WIDE, .epilogue = LINEAR_GATED, .n_copies = 2},
        {.name = "down", .n_in = WIDE, .n_out = HIDDEN, .epilogue = LINEAR_ADD, .n_copies = 3},
    };
    int32_t rows[16] = {65, 96, 128, 256, 512, 2048, 8192};
    const int n_rows = n_given == 0 ? 7 : n_given < 16 ? n_given : 16;
    for (int i = 0; i < n_given && i < 16; i++) rows[i] = atoi(given[i]);
    for (int i = 0; i < 4; i++) bench_many_rows(&shapes[i], rows, n_rows, widths);
}

int main(int argc, char **argv)
{
    static struct shape shapes[] = {
        {.name = "qkv", .n_in = HIDDEN, .n_out = QKV, .normed = 1, .n_copies = 12},
        {.name = "o", .n_in = HIDDEN, .n_out = HIDDEN, .epilogue = LINEAR_ADD, .n_copies = 16},
        {.name = "gate_up",
         .n_in = HIDDEN,
         .n_out = 2 * WIDE,
         .epilogue = LINEAR_GATED,
         .normed = 1,
         .n_copies = 3},
        {.name = "down", .n_in = WIDE, .n_out = HIDDEN, .epilogue = LINEAR_ADD, .n_copies = 5},
        {.name = "head", .n_in = HIDDEN, .n_out = VOCABULARY, .normed = 1, .f32_out = 1, .n_copies = 1},
    };
    open_device();
    printf("%s\n", cuda_backend_describe(be));
    if (argc > 1 && (!strcmp(argv[1], "quantized") || !strcmp(argv[1], "widths"))) {
        for (int t = 0; t < N_QUANTIZED; t++) bench_quantized(quantized[t], copy_ceiling());
        bench_all_many_rows(argv[1][0] == 'w', argc - 2, argv + 2);
        be->close(be);
        return 0;
    }
    const double bandwidth = copy_ceiling(), product = product_ceiling();
    printf("copy %.2f TB/s, product %.0f TFLOP/s\n", bandwidth, product);
    for (int i = 0; i < 5; i++)
        for (int c = 0; c < shapes[i].n_copies; c++)
            shapes[i].copy[c] =
                make_weight(shapes[i].n_in, shapes[i].n_out, shapes[i].epilogue == LINEAR_GATED);
    const int32_t standard[] = {1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192};
    const int n_rows = argc > 1 ? argc - 1 : (int)(sizeof standard / sizeof *standard);
    for (int r = 0; r < n_rows; r++) {
        const int32_t rows = argc > 1 ? atoi(argv[r + 1]) : standard[r];
        for (int i = 0; i < 5; i++) {
            if (shapes[i].f32_out && rows > 512) continue; /* logits are of few rows */
            const double bytes = 2.0 * shapes[i].n_in * shapes[i].n_out, flop = bytes * rows;
            const double ours = time_shape(&shapes[i], rows, PATH_AUTO),
                         lt = time_shape(&shapes[i], rows, PATH_LT);
            printf("rows %4d %-8s %8.1f us %5.2f TB/s (%3.0f %%) %4.0f TFLOP/s (%3.0f %%)  cuBLASLt %8.1f "
                   "us, %4.2fx\n",
                   rows, shapes[i].name, ours, bytes / ours * 1e-6, bytes / ours * 1e-4 / bandwidth,
                   flop / ours * 1e-6, flop / ours * 1e-4 / product, lt, lt / ours);
        }
        if (rows > 512) continue;
        struct step step = {shapes, rows};
        set_path(be, PATH_AUTO);
        const double ours = time_recorded(enqueue_step, &step, 4);
        set_path(be, PATH_LT);
        const double lt = time_recorded(enqueue_step, &step, 4);
        printf(
            "rows %4d step     %8.1f us                                         cuBLASLt %8.1f us, %4.2fx\n",
            rows, ours, lt, lt / ours);
    }
    for (int i = 0; i < N_QUANTIZED && argc == 1; i++) bench_quantized(quantized[i], bandwidth);
    be->close(be);
    return 0;
}
