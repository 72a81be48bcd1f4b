/* A timeline of what a program does on a CUDA device, summed up when it ends: for each recorded step (CUDA
 * graph) how long it takes and how long the device rests until the next, or what each kernel of it takes.
 *
 * The driver loads this library into any program that asks for it:
 *
 *   CUDA_INJECTION64_PATH=libllmlua_trace.so LLMLUA_TRACE=steps|kernels llmlua …
 *
 * `steps` takes graphs as wholes, as tracing their kernels one by one keeps them from overlapping; `kernels`
 * does just that, and is right about shares only. The report goes to LLMLUA_TRACE_FILE, or standard error. */

#include <cupti.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *__cxa_demangle(const char *mangled, char *room, size_t *length, int *status);

enum { BUFFER_BYTES = 8 << 20, MAX_NAMES = 4096, NAME_CHARS = 100, LEAST_LAUNCHES = 8 };
enum kind { GRAPH, KERNEL, COPY };

struct record {
    uint64_t start, end; /* ns */
    uint32_t graph;      /* 0: outside of graphs */
    uint32_t launch;     /* the same for all kernels of one launch of a graph */
    int32_t name;        /* of a kernel */
    enum kind kind;
};

static struct {
    pthread_mutex_t lock;
    struct record *records;
    size_t n, room, lost;
    char *names[MAX_NAMES]; /* mangled */
    int32_t n_names;
    int by_kernel;
} trace = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- collecting ---------------------------------------------------------------------------------------- */

static int32_t name_of(const char *name)
{
    for (int32_t i = 0; i < trace.n_names; i++)
        if (strcmp(trace.names[i], name) == 0) return i;
    if (trace.n_names == MAX_NAMES) return MAX_NAMES - 1;
    trace.names[trace.n_names] = strdup(name);
    return trace.n_names++;
}

static void keep(struct record r)
{
    if (trace.n == trace.room) {
        size_t room = trace.room ? 2 * trace.room : 1 << 16;
        struct record *more = realloc(trace.records, room * sizeof *more);
        if (!more) {
            trace.lost++;
            return;
        }
        trace.records = more;
        trace.room = room;
    }
    trace.records[trace.n++] = r;
}

static void take(const CUpti_Activity *activity)
{
    if (activity->kind == CUPTI_ACTIVITY_KIND_GRAPH_TRACE) {
        const CUpti_ActivityGraphTrace2 *g = (const void *)activity;
        keep((struct record){g->start, g->end, g->graphId, g->correlationId, -1, GRAPH});
    } else if (activity->kind == CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) {
        const CUpti_ActivityKernel10 *k = (const void *)activity;
        keep((struct record){k->start, k->end, k->graphId, k->correlationId, name_of(k->name), KERNEL});
    } else if (activity->kind == CUPTI_ACTIVITY_KIND_MEMCPY) {
        const CUpti_ActivityMemcpy6 *c = (const void *)activity;
        keep((struct record){c->start, c->end, c->graphId, c->correlationId, -1, COPY});
    }
}

static void CUPTIAPI give_buffer(uint8_t **buffer, size_t *size, size_t *max_records)
{
    *buffer = aligned_alloc(64, BUFFER_BYTES);
    *size = *buffer ? BUFFER_BYTES : 0;
    *max_records = 0;
}

static void CUPTIAPI take_buffer(CUcontext context, uint32_t stream, uint8_t *buffer, size_t size,
                                 size_t valid)
{
    (void)context;
    (void)stream;
    (void)size;
    pthread_mutex_lock(&trace.lock);
    CUpti_Activity *activity = NULL;
    while (cuptiActivityGetNextRecord(buffer, valid, &activity) == CUPTI_SUCCESS) take(activity);
    pthread_mutex_unlock(&trace.lock);
    free(buffer);
}

/* ---- reporting ----------------------------------------------------------------------------------------- */

static int by_start(const void *a, const void *b)
{
    const struct record *x = a, *y = b;
    return (x->start > y->start) - (x->start < y->start);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Microseconds. */
static double quantile(double *sorted, size_t n, double share)
{
    return n ? sorted[(size_t)((double)(n - 1) * share)] : 0;
}

/* The launches of one graph, and the pauses between two of them with nothing but copies between. */
static void report_graph(FILE *out, uint32_t graph)
{
    double *lengths = calloc(trace.n, sizeof *lengths), *gaps = calloc(trace.n, sizeof *gaps);
    size_t n = 0, n_gaps = 0;
    double copies = 0, copied = 0;
    const struct record *last = NULL; /* the last thing but copies, if it is a launch of this graph */
    for (size_t i = 0; lengths && gaps && i < trace.n; i++) {
        const struct record *r = &trace.records[i];
        if (r->kind == COPY) {
            copied += (double)(r->end - r->start) * 1e-3;
            continue;
        }
        int mine = r->kind == GRAPH && r->graph == graph;
        if (mine) lengths[n++] = (double)(r->end - r->start) * 1e-3;
        if (mine && last) {
            gaps[n_gaps++] = ((double)r->start - (double)last->end) * 1e-3;
            copies += copied;
        }
        last = mine ? r : NULL;
        copied = 0;
    }
    if (n >= LEAST_LAUNCHES && n_gaps) {
        qsort(lengths, n, sizeof *lengths, by_size);
        qsort(gaps, n_gaps, sizeof *gaps, by_size);
        fprintf(out,
                "graph %3u: %5zu launches of %9.1f us; then %5.1f us to the next (p10 %.1f, p90 %.1f, most "
                "%.1f), of "
                "which copies %.1f\n",
                graph, n, quantile(lengths, n, 0.5), quantile(gaps, n_gaps, 0.5), quantile(gaps, n_gaps, 0.1),
                quantile(gaps, n_gaps, 0.9), gaps[n_gaps - 1], copies / (double)n_gaps);
    }
    free(lengths);
    free(gaps);
}

/* Of a kernel, what it adds: the time from the end of all that began before it to its own end. A kernel that
 * is launched early (programmatic dependent launch) waits for its predecessor, and that is not its own time.
 */
struct share {
    double us;
    size_t calls;
    int32_t name;
};

static int by_share(const void *a, const void *b)
{
    const struct share *x = a, *y = b;
    return (x->us < y->us) - (x->us > y->us);
}

static void print_name(FILE *out, const char *mangled)
{
    int status;
    char *name = __cxa_demangle(mangled, NULL, NULL, &status);
    const char *text = name ? name : mangled;
    if (strncmp(text, "void ", 5) == 0) text += 5;
    const char *end = strstr(text, ">(");
    size_t n = end ? (size_t)(end - text) + 1 : strcspn(text, "(");
    fprintf(out, "%.*s\n", (int)(n < NAME_CHARS ? n : NAME_CHARS), text);
    free(name);
}

static void report_kernels(FILE *out, uint32_t graph)
{
    struct share *shares = calloc(MAX_NAMES, sizeof *shares);
    size_t launches = 0;
    uint32_t launch = 0;
    uint64_t ended = 0;
    double total = 0;
    for (size_t i = 0; shares && i < trace.n; i++) {
        const struct record *r = &trace.records[i];
        uint64_t began = r->start > ended ? r->start : ended;
        double us = r->end > began ? (double)(r->end - began) * 1e-3 : 0;
        if (r->end > ended) ended = r->end;
        if (r->kind != KERNEL || r->graph != graph) continue;
        launches += r->launch != launch || launches == 0;
        launch = r->launch;
        shares[r->name].name = r->name;
        shares[r->name].us += us;
        shares[r->name].calls++;
        total += us;
    }
    if (shares && launches >= LEAST_LAUNCHES) {
        double n = graph ? (double)launches : 1;
        qsort(shares, MAX_NAMES, sizeof *shares, by_share);
        if (graph)
            fprintf(out, "\ngraph %u, %zu launches: %.1f us of kernels each\n", graph, launches, total / n);
        else
            fprintf(out, "\noutside of graphs: %.1f us of kernels\n", total);
        for (int32_t i = 0; i < MAX_NAMES && shares[i].us > total * 2e-3; i++) {
            fprintf(out, "%5.1f %%  %11.1f us  %7.1f x %8.2f us  ", 100 * shares[i].us / total,
                    shares[i].us / n, (double)shares[i].calls / n, shares[i].us / (double)shares[i].calls);
            print_name(out, trace.names[shares[i].name]);
        }
    }
    free(shares);
}

static void report(void)
{
    cuptiActivityFlushAll(1);
    pthread_mutex_lock(&trace.lock);
    const char *path = getenv("LLMLUA_TRACE_FILE");
    FILE *file = path ? fopen(path, "a") : NULL, *out = file ? file : stderr;
    uint32_t last = 0;
    qsort(trace.records, trace.n, sizeof *trace.records, by_start);
    for (size_t i = 0; i < trace.n; i++)
        if (trace.records[i].graph > last) last = trace.records[i].graph;
    for (uint32_t graph = 0; graph <= last; graph++)
        if (trace.by_kernel)
            report_kernels(out, graph);
        else if (graph)
            report_graph(out, graph);
    if (trace.lost) fprintf(out, "%zu records were lost: no memory\n", trace.lost);
    if (file) fclose(file);
    pthread_mutex_unlock(&trace.lock);
}

/* Called by the driver when the program first uses CUDA. */
__attribute__((visibility("default"))) int InitializeInjection(void);
int InitializeInjection(void)
{
    const char *what = getenv("LLMLUA_TRACE");
    trace.by_kernel = what && strcmp(what, "kernels") == 0;
    CUptiResult e = cuptiActivityRegisterCallbacks(give_buffer, take_buffer);
    if (!e && !trace.by_kernel) e = cuptiActivityEnable(CUPTI_ACTIVITY_KIND_GRAPH_TRACE);
    if (!e) e = cuptiActivityEnable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
    if (!e) e = cuptiActivityEnable(CUPTI_ACTIVITY_KIND_MEMCPY);
    if (e) {
        const char *why = "";
        cuptiGetResultString(e, &why);
        fprintf(stderr, "trace: CUPTI does not work here: %s\n", why);
        return 1;
    }
    atexit(report);
    return 1;
}
