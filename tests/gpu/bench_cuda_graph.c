/* What policy graphs cost a step: every row of a batch under one graph, beside reading and copying the same
 * rows. usage: bench_cuda_graph [vocab_size [rows [rounds]]] Prints a line a graph: microseconds a launch
 * (the median of rounds), and the multiple of a copy of the rows. */

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "graph/args.h"
#include "kernels/device.h"

enum { MAX_LEN = 2048, MOST_ROUNDS = 101, LAUNCHES = 50 };

static struct backend *be;
static const struct sampling_ops *ops;
static int32_t n = 128256, n_rows = 64, rounds = 11;

static void die(const char *what)
{
    fprintf(stderr, "bench_cuda_graph: %s\n", what);
    exit(1);
}

static void check(llm_status status)
{
    if (status) die(be->device->failure(be));
}

static uint64_t random_state = 3;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static float random_float(void)
{
    return (float)(random_bits() & 0xffffff) / (float)(1 << 24);
}

/* As a model's: most tokens are far below a few. */
static float random_logit(void)
{
    float v = 2.5f * (random_float() + random_float() + random_float() + random_float() - 2) * 1.7f;
    return random_bits() % 3000 == 0 ? v + 10 : v;
}

static void *device(size_t bytes)
{
    void *p = be->alloc(be, bytes);
    if (!p) die("no device memory");
    return p;
}

static void *filled(const void *from, size_t bytes)
{
    void *p = device(bytes);
    check(be->device->upload(be, p, from, bytes));
    return p;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* ---- the step ------------------------------------------------------------------------------------------ */

static struct sample_args step;
static struct sample_row *rows;
static struct graph_link *links;
static struct sample_state *states;
static char *beginnings; /* [2] states, then what comes back: as they begin, and as they are */
static size_t beginning_bytes;

static void make_step(void)
{
    const size_t r = (size_t)n_rows, v = (size_t)n;
    float *logits = malloc(sizeof *logits * r * v);
    int32_t *history = malloc(sizeof *history * r * MAX_LEN);
    rows = calloc(r, sizeof *rows);
    links = calloc(r * SAMPLE_MAX_ROUNDS, sizeof *links);
    states = calloc(r, sizeof *states);
    struct seat *seats = calloc(r, sizeof *seats);
    for (size_t i = 0; i < r * v; i++) logits[i] = random_logit();
    for (size_t i = 0; i < r * MAX_LEN; i++) history[i] = (int32_t)(random_bits() % 500 % (uint32_t)n);
    step = (struct sample_args){.n = n_rows, .vocab_size = n, .logits_stride = n};
    step.seats = (struct seats){.n = n_rows, .max_len = MAX_LEN, .vocab_size = n};
    step.logits = filled(logits, sizeof *logits * r * v);
    for (int32_t i = 0; i < n_rows; i++) {
        rows[i] = (struct sample_row){.row = i,
                                      .slot = i,
                                      .top_k = 50,
                                      .temperature = 1,
                                      .top_p = 0.95f,
                                      .seed = 5,
                                      .position = MAX_LEN - 1,
                                      .n_logprobs = -1,
                                      .stream = (uint32_t)i,
                                      .seat = i};
        states[i].at = step.logits + (size_t)i * v;
        seats[i].n_prompt = MAX_LEN / 2;
    }
    step.rows = filled(rows, sizeof *rows * r);
    step.links = device(sizeof *links * r * SAMPLE_MAX_ROUNDS);
    beginning_bytes = (sizeof *states + sizeof(struct sampled)) * r;
    beginnings = device(2 * beginning_bytes);
    check(be->device->upload(be, beginnings, states, sizeof *states * r));
    step.state = (struct sample_state *)(beginnings + beginning_bytes);
    step.out = (struct sampled *)(step.state + r);
    step.seats.seat = filled(seats, sizeof *seats * r);
    step.seats.history = filled(history, sizeof *history * r * MAX_LEN);
    step.seats.counts = device(sizeof(uint32_t) * r * v);
    step.seats.variables = device(sizeof(double) * r * SEAT_VARIABLES);
    step.seats.work = device(sizeof(float) * 2 * r * v);
    free(logits);
    free(history);
    free(seats);
}

/* Microseconds of a recording of LAUNCHES runs of it. */
static double timed(llm_status (*enqueue)(const void *what), const void *what)
{
    struct device_recording *recording = NULL;
    double took[MOST_ROUNDS];
    const struct device_ops *d = be->device;
    check(enqueue(what));
    check(d->record(be));
    for (int i = 0; i < LAUNCHES; i++) check(enqueue(what));
    check(d->recorded(be, &recording));
    for (int i = -2; i < rounds; i++) {
        check(d->set_mark(be, 0));
        check(d->wait_mark(be, 0));
        double from = now();
        check(d->replay(be, recording));
        check(d->set_mark(be, 0));
        check(d->wait_mark(be, 0));
        if (i >= 0) took[i] = (now() - from) / LAUNCHES;
    }
    d->recording_free(be, recording);
    qsort(took, (size_t)rounds, sizeof *took, ascending);
    return took[rounds / 2];
}

static llm_status enqueue_copy(const void *unused)
{
    (void)unused;
    const struct kv_cache rows_as_pages = {.base = step.seats.work,
                                           .page_bytes = sizeof(float) * (size_t)n * (size_t)n_rows};
    return be->kv_copy(be, &rows_as_pages, 0, 1);
}

/* After a run a row is at its result, or a token chosen: before each the step is as at first. */
static llm_status enqueue_reset(const void *unused)
{
    (void)unused;
    const struct kv_cache began = {.base = beginnings, .page_bytes = beginning_bytes};
    return be->kv_copy(be, &began, 0, 1);
}

static llm_status enqueue_graph(const void *graph)
{
    llm_status status = enqueue_reset(NULL);
    return status ? status : ops->run_graph(be, graph, 0, &step);
}

static double copy_us, reset_us;

static void bench(const char *name, const char *text, struct graph_automaton *automaton)
{
    struct llm_error err = {0};
    struct graph *g = NULL;
    struct device_graph *d = NULL;
    struct graph_args *args = NULL;
    struct device_graph_args *device_args = NULL;
    if (graph_parse(text, strlen(text), &g, &err) || ops->graph_compile(be, g, n, &d, &err) ||
        graph_args_new(g, n, &args, &err))
        die(err.message);
    for (int32_t i = 0; i < g->n_params; i++) {
        int32_t ids[200];
        for (int k = 0; k < 200; k++) ids[k] = (int32_t)(random_bits() % (uint32_t)n);
        if (g->params[i].type == GRAPH_LIST) graph_args_list(args, i, ids, 200, &err);
        if (g->params[i].type == GRAPH_AUTOMATON) graph_args_automaton(args, i, automaton, &err);
    }
    if (ops->graph_args_open(be, d, args, &device_args, &err)) die(err.message);
    double *variables = calloc((size_t)n_rows * SEAT_VARIABLES, sizeof *variables);
    for (int32_t i = 0; i < n_rows; i++) {
        graph_state_init(g, variables + (size_t)i * SEAT_VARIABLES);
        links[i * SAMPLE_MAX_ROUNDS] =
            (struct graph_link){.graph = ops->graph_id(d), .args = ops->graph_args_block(device_args)};
    }
    check(be->device->upload(be, step.seats.variables, variables,
                             sizeof *variables * (size_t)n_rows * SEAT_VARIABLES));
    check(be->device->upload(be, (void *)step.links, links,
                             sizeof *links * (size_t)n_rows * SAMPLE_MAX_ROUNDS));
    double us = timed(enqueue_graph, d) - reset_us;
    struct sampled first;
    check(be->device->download(be, &first, step.out, sizeof first));
    printf("%-22s %8.1f us %6.2f copies%s\n", name, us, us / copy_us,
           first.flags & SAMPLED_FAILED ? "   FAILED" : "");
    ops->graph_args_close(be, device_args);
    ops->graph_close(be, d);
    check(be->device->set_mark(be, 0));
    check(be->device->wait_mark(be, 0));
    check(be->device->set_mark(be, 0));
    graph_args_free(args);
    graph_free(g);
    free(variables);
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

static const char nothing[] = "graph 1\n%0 num = const 3\nresult token %0\n";

static struct graph_automaton *make_automaton(void)
{
    enum { STATES = 64, CLASSES = 40 };
    struct llm_error err;
    struct graph_automaton *a = NULL;
    int32_t *class_of = malloc(sizeof *class_of * (size_t)n), next[STATES * CLASSES];
    for (int32_t i = 0; i < n; i++) class_of[i] = i < 500 ? 0 : (int32_t)(random_bits() % CLASSES);
    for (int i = 0; i < STATES * CLASSES; i++) /* what the history has, is never refused */
        next[i] = i % CLASSES == 0 || random_bits() % 4 ? (int32_t)(random_bits() % STATES) : -1;
    if (graph_automaton_new(n, STATES, CLASSES, class_of, next, &a, &err)) die(err.message);
    free(class_of);
    return a;
}

static void bench_file(const char *dir, const char *file, struct graph_automaton *automaton)
{
    char path[1024], name[256];
    static char text[1 << 16];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "r");
    if (!f) return;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    snprintf(name, sizeof name, "%.*s", (int)(strlen(file) - 6), file);
    bench(name, text, automaton);
}

static int by_name(const struct dirent *e)
{
    return strstr(e->d_name, ".graph") != NULL;
}

static void bench_policies(struct graph_automaton *automaton)
{
    char dir[512] = TESTS_DIR "/golden/graphs";
    struct dirent **files;
    int count = scandir(dir, &files, by_name, alphasort);
    ssize_t length = count < 0 ? readlink("/proc/self/exe", dir, sizeof dir - 40) : 0;
    if (length > 0) {
        dir[length] = 0;
        strcpy(strrchr(dir, '/'), "/../tests/graphs");
        count = scandir(dir, &files, by_name, alphasort);
    }
    for (int i = 0; i < count; i++) {
        bench_file(dir, files[i]->d_name, automaton);
        free(files[i]);
    }
    if (count >= 0) free(files);
}

int main(int argc, char **argv)
{
    struct llm_error err = {0};
    if (argc > 1) n = atoi(argv[1]);
    if (argc > 2) n_rows = atoi(argv[2]);
    if (argc > 3) rounds = atoi(argv[3]);
    if (n < 1 || n_rows < 1 || rounds < 1 || rounds > MOST_ROUNDS) die("bad arguments");
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_F32}, &be, &err)) {
        printf("skipped: %s\n", err.message);
        return 0;
    }
    ops = be->device->sampling;
    printf("%s\n%d rows of %d\n", cuda_backend_describe(be), n_rows, n);
    make_step();
    copy_us = timed(enqueue_copy, NULL);
    reset_us = timed(enqueue_reset, NULL);
    const double bytes = sizeof(float) * (double)n * n_rows;
    printf("%-22s %8.1f us  %.0f GB/s read and written\n", "copy", copy_us, 2e-3 * bytes / copy_us);
    struct graph_automaton *automaton = make_automaton();
    bench("a token, nothing else", nothing, NULL);
    bench_policies(automaton);
    graph_automaton_unref(automaton);
    be->close(be);
    return 0;
}
