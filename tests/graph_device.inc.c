/* Policy graphs on a device against the interpreter: every operation, every policy of scripts/policies
 * (tests/golden/graphs), failures, rows of a step that are another's. Whoever includes this opens the device
 * and says on what vocabularies:
 *
 *   static llm_status open_device(struct backend **out, struct llm_error *err);   LLM_EUNSUP: there is none
 *   static const int32_t case_sizes[], golden_sizes[];   for the operations, and the policies
 *   enum { N_COMPILERS };                                threads that compile
 *   LEFT_OUT()                                           true for a case to be left out
 *
 * and calls run_graph_tests. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "graph/args.h"
#include "kernels/device.h"

enum {
    N_ROWS = 7,
    N_SEATS = 9,
    MAX_LEN = 300,
    N_PROMPT = 90,
    N_TOKENS = 217, /* prompt and output */
    MOST_CASES = 256,
    N_STEPS = 2 /* with the variables that the one before left */
};

static struct backend *be;
static const struct sampling_ops *ops;
static int n_tokens_compared, n_tokens_off, n_rows_compared, n_elements_off;

/* ---- numbers ------------------------------------------------------------------------------------------- */

static uint64_t random_state = 11;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static float random_float(float low, float high)
{
    return low + (high - low) * (float)(random_bits() & 0xffffff) / (float)(1 << 24);
}

/* Logits of a kind: smooth, with ties, with much masked, nearly flat. */
static void random_logits(float *x, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        float v = random_float(-4, 4) + random_float(-4, 4) + random_float(-4, 4);
        if (random_bits() % 200 == 0) v += 9;
        if (kind == 1) v = floorf(v * 4) / 4;
        if (kind == 2 && random_bits() % 3) v = -INFINITY;
        if (kind == 3) v = random_float(0, 0.01f);
        x[i] = v;
    }
    if (kind == 2) x[random_bits() % (uint32_t)n] = 3;
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

struct builder {
    char text[1 << 15];
    size_t n;
    int nodes;
};

static void say(struct builder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct builder *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    b->n += (size_t)vsnprintf(b->text + b->n, sizeof b->text - b->n, format, args);
    va_end(args);
    assert_true(b->n < sizeof b->text);
}

/* A node; operands -1: none. Returns its number. */
static int node(struct builder *b, const char *type_and_op, int x, int y, int z)
{
    char type[16];
    sscanf(type_and_op, "%15s", type);
    say(b, "%%%d %s = %s", b->nodes, type, type_and_op + strlen(type) + 1);
    if (x >= 0) say(b, " %%%d", x);
    if (y >= 0) say(b, " %%%d", y);
    if (z >= 0) say(b, " %%%d", z);
    say(b, "\n");
    return b->nodes++;
}

static int constant(struct builder *b, double v)
{
    char text[64];
    snprintf(text, sizeof text, "num const %.17g", v);
    return node(b, text, -1, -1, -1);
}

static void begin(struct builder *b)
{
    *b = (struct builder){0};
    say(b, "graph 1\n");
}

/* A row that shows them all: each in its stripes. */
static int stripes(struct builder *b, const int *rows, int n)
{
    int index = node(b, "row index", -1, -1, -1), result = rows[0];
    for (int i = 1; i < n; i++) {
        int of = constant(b, n), over = node(b, "row div", index, of, -1);
        int whole = node(b, "row floor", over, -1, -1), back = node(b, "row mul", whole, of, -1);
        int rest = node(b, "row sub", index, back, -1), mine = node(b, "mask eq", rest, constant(b, i), -1);
        result = node(b, "row where", mine, rows[i], result);
    }
    return result;
}

/* Failures are another test's: what is not finite becomes a number that tells. */
static int told(struct builder *b, int row)
{
    int big = constant(b, 3e38), nan = constant(b, -77), inf = constant(b, -88);
    int right = node(b, "mask eq", row, row, -1), low = node(b, "mask lt", row, big, -1);
    int some = node(b, "row where", right, row, nan), all = node(b, "mask not", right, -1, -1);
    return node(b, "row where", node(b, "mask or", low, all, -1), some, inf);
}

static void give(struct builder *b, const char *kind, int result)
{
    say(b, "result %s %%%d\n", kind, result);
}

static void functions(struct builder *b)
{
    static const char *const of_one[] = {"neg", "abs", "exp", "log", "tanh", "sqrt", "floor"};
    static const char *const of_two[] = {"add", "sub", "mul", "div", "pow", "min", "max"};
    int rows[64], n = 0;
    begin(b);
    int x = node(b, "row logits", -1, -1, -1), s = constant(b, 1.7);
    int y = node(b, "row mul", x, constant(b, 8.3), -1), z = node(b, "row abs", y, -1, -1);
    for (size_t i = 0; i < 7; i++) {
        char op[32];
        snprintf(op, sizeof op, "row %s", of_one[i]);
        rows[n++] = told(b, node(b, op, y, -1, -1));
        rows[n++] = told(b, node(b, op, x, -1, -1));
        snprintf(op, sizeof op, "row %s", of_two[i]);
        rows[n++] = told(b, node(b, op, z, x, -1));
        rows[n++] = told(b, node(b, op, x, s, -1));
        rows[n++] = told(b, node(b, op, s, x, -1));
    }
    give(b, "row", stripes(b, rows, n));
}

static void masks(struct builder *b)
{
    int rows[32], n = 0;
    begin(b);
    int x = node(b, "row logits", -1, -1, -1), s = constant(b, 1.5), zero = constant(b, 0);
    int y = node(b, "row floor", x, -1, -1), yes = node(b, "bool lt", zero, s, -1);
    int lt = node(b, "mask lt", y, x, -1), le = node(b, "mask le", x, s, -1),
        eq = node(b, "mask eq", y, x, -1);
    int and = node(b, "mask and", lt, le, -1), or = node(b, "mask or", eq, le, -1);
    int mixed = node(b, "mask and", yes, le, -1), not = node(b, "mask not", mixed, -1, -1);
    rows[n++] = node(b, "row where", lt, x, y);
    rows[n++] = node(b, "row where", le, x, s);
    rows[n++] = node(b, "row where", eq, s, x);
    rows[n++] = node(b, "row where", and, zero, s);
    rows[n++] = node(b, "row where", or, y, zero);
    rows[n++] = node(b, "row where", not, x, zero);
    rows[n++] = node(b, "row where", yes, x, y);
    rows[n++] = node(b, "row where", node(b, "mask lt", s, x, -1), s, zero);
    rows[n++] = node(b, "row where", node(b, "mask le", s, x, -1), s, zero);
    give(b, "row", stripes(b, rows, n));
}

/* Every reduction, each into a variable of its own; and a row. */
static void reductions(struct builder *b)
{
    static const char *const of_row[] = {"row_max", "row_min", "row_sum", "row_argmax"};
    int stored[48], n = 0;
    begin(b);
    say(b, "state s0 num 0\n");
    for (int i = 1; i < 30; i++) say(b, "state s%d num %d\n", i, i);
    int x = node(b, "row logits", -1, -1, -1), e = node(b, "row exp", x, -1, -1);
    int top = node(b, "num row_max", x, -1, -1), d = node(b, "row sub", x, top, -1);
    int w = node(b, "row exp", d, -1, -1);
    for (size_t i = 0; i < 4; i++) {
        char op[32];
        snprintf(op, sizeof op, "num %s", of_row[i]);
        stored[n++] = node(b, op, e, -1, -1);
        stored[n++] = node(b, op, w, -1, -1);
    }
    stored[n++] = node(b, "num row_argmax", x, -1, -1);
    stored[n++] = node(b, "num mask_count", node(b, "mask lt", x, constant(b, 0.5), -1), -1, -1);
    static const double ks[] = {1, 2, 3.9, 50, 400};
    for (size_t i = 0; i < 5; i++)
        stored[n++] =
            node(b, "num max", node(b, "num kth", x, constant(b, ks[i]), -1), constant(b, -1e30), -1);
    stored[n++] = node(b, "num kth", w, constant(b, 4), -1);
    static const double ps[] = {0, 0.1, 0.5, 0.9, 0.999};
    for (size_t i = 0; i < 5; i++) stored[n++] = node(b, "num quantile", w, w, constant(b, ps[i]));
    int even = node(b, "row index", -1, -1, -1);
    stored[n++] = node(b, "num quantile", even, w, constant(b, 0.3));
    int surprise = node(b, "row abs", node(b, "row sub", d, constant(b, -4), -1), -1, -1);
    stored[n++] = node(b, "num quantile", surprise, w, constant(b, 0.6));
    stored[n++] = node(b, "num gather", w, constant(b, 2.5), -1);
    int first = node(b, "num draw 0", w, -1, -1), second = node(b, "num draw 3", e, -1, -1);
    stored[n++] = first;
    stored[n++] = second;
    int total = node(b, "num row_sum", w, -1, -1);
    int result = node(b, "row div", d, total, -1);
    for (int i = 0; i < n; i++) say(b, "store s%d %%%d\n", i, stored[i]);
    give(b, "row", told(b, result));
}

static void numbers(struct builder *b)
{
    static const char *const inputs[] = {"position", "n_prompt", "n_output", "vocab",   "temperature",
                                         "top_k",    "top_p",    "min_p",    "random 7"};
    static const char *const of_two[] = {"add", "sub", "mul", "div", "pow", "min", "max"};
    int stored[64], n = 0;
    begin(b);
    say(b, "param x num 1.25 -10 10\n");
    for (int i = 0; i < 40; i++) say(b, "state s%d num 0.5\n", i);
    char op[64];
    for (size_t i = 0; i < 9; i++) {
        snprintf(op, sizeof op, "num %s", inputs[i]);
        stored[n++] = node(b, op, -1, -1, -1);
    }
    int x = node(b, "num param x", -1, -1, -1), s = node(b, "num state s3", -1, -1, -1);
    static const char *const of_one[] = {"neg", "abs", "exp", "log", "tanh", "sqrt", "floor"};
    for (size_t i = 0; i < 7; i++) {
        snprintf(op, sizeof op, "num %s", of_one[i]);
        stored[n++] = node(b, op, x, -1, -1);
        snprintf(op, sizeof op, "num %s", of_two[i]);
        stored[n++] = node(b, op, x, stored[0], -1);
    }
    int lt = node(b, "bool lt", x, s, -1), le = node(b, "bool le", s, x, -1),
        eq = node(b, "bool eq", x, x, -1);
    int both = node(b, "bool and", le, eq, -1), either = node(b, "bool or", lt, both, -1);
    int neither = node(b, "bool not", either, -1, -1);
    stored[n++] = node(b, "num where", lt, x, s);
    stored[n++] = node(b, "num where", both, x, s);
    stored[n++] = node(b, "num where", neither, x, s);
    stored[n++] = node(b, "num last", constant(b, 1), -1, -1);
    stored[n++] = node(b, "num last", constant(b, 150), -1, -1);
    stored[n++] = node(b, "num last", constant(b, 100000), -1, -1);
    stored[n++] = node(b, "num hash", x, stored[0], s);
    stored[n++] = constant(b, 12.5);
    stored[n++] = node(b, "num add", s, constant(b, 1), -1);
    int result = node(b, "num last", constant(b, 2), -1, -1);
    for (int i = 0; i < n; i++) say(b, "store s%d %%%d\n", i, stored[i]);
    give(b, "token", result);
}

static void tables(struct builder *b)
{
    int rows[32], n = 0;
    begin(b);
    say(b, "param list list\nparam pairs pairs\nparam dfa automaton\nparam window num 60 0 1000\n"
           "state at num 0\nstate v vec 5 1 2 3 4 5\nstate w vec 3 0 0 0\nstate seen num 0\n");
    int x = node(b, "row logits", -1, -1, -1), zero = constant(b, 0), one = constant(b, 1);
    int list = node(b, "list param list", -1, -1, -1), pairs = node(b, "pairs param pairs", -1, -1, -1);
    int dfa = node(b, "automaton param dfa", -1, -1, -1), window = node(b, "num param window", -1, -1, -1);
    int few = node(b, "list ids [1 3]", -1, -1, -1), none = node(b, "list ids []", -1, -1, -1);
    int many = node(b, "list ids [0 2 4 6 8 10 12 14 16 18 900 5000 100000]", -1, -1, -1);
    int at = node(b, "num state at", -1, -1, -1);
    int lists[] = {list, few, none, many};
    for (size_t i = 0; i < 4; i++)
        rows[n++] = node(b, "row where", node(b, "mask set", lists[i], -1, -1), one, x);
    rows[n++] = node(b, "row scatter", pairs, -1, -1);
    rows[n++] = node(b, "row recent", window, -1, -1);
    rows[n++] = node(b, "row recent", constant(b, 1e9), -1, -1);
    rows[n++] = node(b, "row repeats 20", window, none, -1);
    rows[n++] = node(b, "row repeats 3", constant(b, 1000), list, -1);
    rows[n++] = node(b, "row repeats 64", constant(b, 1000), few, -1);
    rows[n++] = node(b, "row row_hash", one, at, -1);
    rows[n++] = node(b, "row row_random 5", -1, -1, -1);
    rows[n++] = node(b, "row counts prompt", -1, -1, -1);
    rows[n++] = node(b, "row counts output", -1, -1, -1);
    rows[n++] = node(b, "row where", node(b, "mask accepts", dfa, at, -1), one, zero);
    rows[n++] = node(b, "row where", node(b, "mask accepts", dfa, constant(b, 99), -1), one, zero);
    int newest = node(b, "num last", one, -1, -1), next = node(b, "num step", dfa, at, newest);
    int v = node(b, "vec state v", -1, -1, -1), pushed = node(b, "vec push", v, newest, -1);
    int put = node(b, "vec put", pushed, constant(b, 2), at),
        lost = node(b, "vec put", put, constant(b, 9), at);
    int third = node(b, "num at", lost, constant(b, 3), -1);
    int w = node(b, "vec push", node(b, "vec state w", -1, -1, -1), third, -1);
    say(b, "store at %%%d\nstore v %%%d\nstore w %%%d\nstore seen %%%d\n", next, lost, w, third);
    give(b, "row", stripes(b, rows, n));
}

/* A sampler, to which gather, rank and counting tokens are added. */
static void sampler(struct builder *b)
{
    begin(b);
    say(b, "state rank num 0\n");
    int x = node(b, "row logits", -1, -1, -1), t = node(b, "num temperature", -1, -1, -1);
    int d = node(b, "row sub", x, node(b, "num row_max", x, -1, -1), -1);
    int inverse = node(b, "num div", constant(b, 1), node(b, "num max", t, constant(b, 1e-5), -1), -1);
    int w = node(b, "row exp", node(b, "row mul", d, inverse, -1), -1, -1), zero = constant(b, 0);
    int kth = node(b, "num kth", w, node(b, "num top_k", -1, -1, -1), -1);
    int least = node(b, "num max", node(b, "num min_p", -1, -1, -1), kth, -1);
    int kept = node(b, "row where", node(b, "mask le", least, w, -1), w, zero);
    int q = node(b, "num quantile", kept, kept, node(b, "num top_p", -1, -1, -1));
    int some = node(b, "row where", node(b, "mask le", q, kept, -1), kept, zero);
    int drawn = node(b, "num draw 0", some, -1, -1), own = node(b, "num gather", x, drawn, -1);
    int rank = node(b, "num mask_count", node(b, "mask lt", own, x, -1), -1, -1);
    say(b, "store rank %%%d\n", rank);
    give(b, "token", drawn);
}

static const char *const failures[] = {
    "%0 row = logits\n%1 num = const -1\n%2 row = mul %0 %1\n%3 row = abs %2\n%4 row = mul %3 %1\n%5 num = "
    "const 1\n"
    "%6 row = sub %4 %5\n%7 row = log %6\nresult row %7\n",
    "%0 row = logits\n%1 num = const inf\n%2 row = sub %0 %1\nresult row %2\n",
    "%0 row = logits\n%1 num = const -inf\n%2 row = sub %0 %1\nresult row %2\n",
    "%0 row = logits\n%1 num = const 100\n%2 row = sub %0 %1\n%3 num = draw 0 %2\nresult token %3\n",
    "%0 row = logits\n%1 row = index\n%2 row = sub %1 %1\n%3 num = draw 0 %2\nresult token %3\n",
    "%0 row = logits\n%1 row = index\n%2 num = const inf\n%3 row = add %1 %2\n%4 num = draw 0 %3\nresult "
    "token %4\n",
    "state s num 4\nstate t num 5\n%0 row = logits\n%1 num = const -1\n%2 num = log %1\n%3 num = const 2\n"
    "store s %3\nstore t %2\nresult row %0\n",
    "state s vec 3 1 2 3\n%0 row = logits\n%1 num = const -1\n%2 num = sqrt %1\n%3 vec = state s\n"
    "%4 vec = push %3 %2\n%5 num = row_argmax %0\nstore s %4\nresult token %5\n",
    "%0 num = const 1.5\nresult token %0\n",
    "%0 num = const -1\nresult token %0\n",
    "%0 num = vocab\nresult token %0\n",
    "%0 row = logits\n%1 num = const 0\n%2 num = gather %0 %1\n%3 num = const 2000000\n%4 num = gather %0 "
    "%3\n"
    "result token %4\n",
    "%0 row = logits\nresult row %0\n",
    "%0 num = const 3\nresult token %0\n",
};

/* ---- cases --------------------------------------------------------------------------------------------- */

struct test_case {
    char name[64];
    int32_t vocab_size;
    struct graph *g;
    struct device_graph *d;
    double tolerance; /* of variables, relative: for f64 functions of the C library */
    llm_status status;
    struct llm_error err;
};

static struct test_case cases[MOST_CASES];
static int n_cases;

static void add_case(const char *name, const char *text, int32_t vocab_size, double tolerance)
{
    struct llm_error err = {0};
    if (LEFT_OUT()) return;
    assert_true(n_cases < MOST_CASES);
    struct test_case *c = &cases[n_cases++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->vocab_size = vocab_size;
    c->tolerance = tolerance;
    if (graph_parse(text, strlen(text), &c->g, &err)) fail_msg("%s: %s\n%s", name, err.message, text);
}

static void add_built(const char *name, void (*build)(struct builder *b), int32_t vocab_size,
                      double tolerance)
{
    static struct builder b;
    build(&b);
    add_case(name, b.text, vocab_size, tolerance);
}

static void add_golden(const char *dir, const char *file)
{
    char path[1024];
    static char text[1 << 16];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    for (size_t i = 0; i < sizeof golden_sizes / sizeof *golden_sizes; i++)
        add_case(file, text, golden_sizes[i], 1e-13);
}

/* tests/golden/graphs: in a tree, or in a bundle beside the program. */
static void add_goldens(void)
{
    char dir[512] = TESTS_DIR "/golden/graphs";
    DIR *d = opendir(dir);
    ssize_t n = d ? 0 : readlink("/proc/self/exe", dir, sizeof dir - 40);
    if (!d && n > 0) {
        dir[n] = 0;
        strcpy(strrchr(dir, '/'), "/../tests/graphs");
        d = opendir(dir);
    }
    if (!d) fail_msg("the graphs of the policies are not at %s", dir);
    for (struct dirent *e; (e = readdir(d));)
        if (strstr(e->d_name, ".graph")) add_golden(dir, e->d_name);
    closedir(d);
}

static int next_case;

static void *compile_some(void *unused)
{
    (void)unused;
    for (;;) {
        int i = __atomic_fetch_add(&next_case, 1, __ATOMIC_RELAXED);
        if (i >= n_cases) return NULL;
        struct test_case *c = &cases[i];
        c->status = ops->graph_compile(be, c->g, c->vocab_size, &c->d, &c->err);
    }
}

/* ---- a step -------------------------------------------------------------------------------------------- */

static void *device(size_t bytes)
{
    void *p = be->alloc(be, bytes);
    if (!p) fail_msg("no device memory for %zu bytes", bytes);
    return p;
}

static void up(void *to, const void *from, size_t bytes)
{
    if (be->device->upload(be, to, from, bytes)) fail_msg("%s", be->device->failure(be));
}

static void down(void *to, const void *from, size_t bytes)
{
    if (be->device->download(be, to, from, bytes)) fail_msg("%s", be->device->failure(be));
}

/* The host's side of a step of N_ROWS. */
struct step {
    int32_t n; /* vocab_size */
    float *logits;
    int32_t history[N_SEATS][MAX_LEN];
    double variables[N_SEATS][SEAT_VARIABLES];
    struct sample_row rows[N_ROWS];
    struct graph_link links[N_ROWS][SAMPLE_MAX_ROUNDS];
    struct sampled out[N_ROWS];
    struct sample_state state[N_ROWS];
    struct graph_args *args;
    struct graph_automaton *automaton;
    struct device_graph_args *device_args;
    struct sample_args a;
};

static struct graph_automaton *random_automaton(int32_t n)
{
    enum { STATES = 4, CLASSES = 6 };
    struct llm_error err;
    struct graph_automaton *a = NULL;
    int32_t *class_of = malloc(sizeof *class_of * (size_t)n), next[STATES * CLASSES];
    for (int32_t i = 0; i < n; i++) class_of[i] = (int32_t)(random_bits() % CLASSES);
    for (int i = 0; i < STATES * CLASSES; i++) next[i] = (int32_t)(random_bits() % (STATES + 1)) - 1;
    assert_int_equal(graph_automaton_new(n, STATES, CLASSES, class_of, next, &a, &err), LLM_OK);
    free(class_of);
    return a;
}

static void make_args(struct step *s, const struct graph *g)
{
    struct llm_error err = {0};
    assert_int_equal(graph_args_new(g, s->n, &s->args, &err), LLM_OK);
    s->automaton = random_automaton(s->n);
    for (int32_t i = 0; i < g->n_params; i++) {
        int32_t ids[40];
        float values[40];
        for (int k = 0; k < 40; k++) ids[k] = (int32_t)(random_bits() % (uint32_t)s->n);
        for (int k = 0; k < 40; k++) values[k] = random_float(-2, 2);
        if (g->params[i].type == GRAPH_LIST) graph_args_list(s->args, i, ids, s->n < 10 ? 2 : 40, &err);
        if (g->params[i].type == GRAPH_PAIRS) graph_args_pairs(s->args, i, ids, values, 40, &err);
        if (g->params[i].type == GRAPH_AUTOMATON) graph_args_automaton(s->args, i, s->automaton, &err);
    }
}

static void make_rows(struct step *s, const struct test_case *c)
{
    static const float temperatures[] = {1, 0.7f, 0, 2, 1, 1, 1},
                       top_ps[] = {1, 0.9f, 1, 0.5f, 0.99f, 1, 0.2f};
    static const int32_t top_ks[] = {0, 50, 3, 0, 7, 0, 100};
    for (int i = 0; i < N_ROWS; i++) {
        s->rows[i] = (struct sample_row){.row = i,
                                         .slot = i,
                                         .top_k = top_ks[i],
                                         .temperature = temperatures[i],
                                         .top_p = top_ps[i],
                                         .min_p = i == 4 ? 0.05f : 0,
                                         .stream = (uint32_t)i,
                                         .seed = 1000u + (unsigned)i,
                                         .position = N_TOKENS,
                                         .n_logprobs = -1,
                                         .seat = (i * 4 + 1) % N_SEATS};
        random_logits(s->logits + (size_t)i * (size_t)s->n, s->n, i % 4);
        s->links[i][1] =
            (struct graph_link){.graph = ops->graph_id(c->d),
                                .args = s->device_args ? ops->graph_args_block(s->device_args) : NULL,
                                .variables = 3 * i,
                                .place = i + 1};
        graph_state_init(c->g, &s->variables[s->rows[i].seat][3 * i]);
    }
    s->rows[2].slot = -1;             /* padding */
    s->links[3][1].graph = 1u << 30;  /* another's */
    s->out[5].flags = SAMPLED_CHOSEN; /* by a graph before */
}

static void make_histories(struct step *s)
{
    const uint32_t alphabet = s->n < 12 ? (uint32_t)s->n : 12;
    for (int k = 0; k < N_SEATS; k++)
        for (int i = 0; i < N_TOKENS; i++) s->history[k][i] = (int32_t)(random_bits() % alphabet);
}

/* Memory of the device, and what is in it. */
static void make_device(struct step *s)
{
    const size_t n = (size_t)s->n;
    struct seats *seats = &s->a.seats;
    s->a = (struct sample_args){.n = N_ROWS, .vocab_size = s->n, .logits_stride = s->n};
    *seats = (struct seats){.n = N_SEATS, .max_len = MAX_LEN, .vocab_size = s->n};
    seats->seat = device(sizeof(struct seat) * N_SEATS);
    seats->history = device(sizeof s->history);
    seats->counts = device(sizeof(uint32_t) * N_SEATS * n);
    seats->variables = device(sizeof s->variables);
    seats->work = device(sizeof(float) * 2 * N_SEATS * n);
    s->a.rows = device(sizeof s->rows);
    s->a.links = device(sizeof s->links);
    s->a.logits = device(sizeof(float) * N_ROWS * n);
    s->a.state = device(sizeof s->state);
    s->a.out = device(sizeof s->out);
    struct seat seat = {.flags = SEAT_COUNTED, .n_prompt = N_PROMPT};
    uint32_t *counts = malloc(sizeof *counts * n);
    for (int k = 0; k < N_SEATS; k++) {
        memset(counts, 0, sizeof *counts * n);
        for (int i = 0; i < N_TOKENS; i++) {
            if (i < N_PROMPT)
                counts[s->history[k][i]] |= SEAT_IN_PROMPT;
            else
                counts[s->history[k][i]]++;
        }
        up(seats->counts + (size_t)k * n, counts, sizeof *counts * n);
        up(&seats->seat[k], &seat, sizeof seat);
    }
    free(counts);
    up(seats->history, s->history, sizeof s->history);
    up(seats->variables, s->variables, sizeof s->variables);
    up((void *)s->a.rows, s->rows, sizeof s->rows);
    up((void *)s->a.links, s->links, sizeof s->links);
    up((void *)s->a.logits, s->logits, sizeof(float) * N_ROWS * n);
    for (int i = 0; i < N_ROWS; i++) { /* raw, or in one of the halves */
        float *work = seats->work + 2 * n * (size_t)s->rows[i].seat + (i % 3 == 2 ? n : 0);
        s->state[i].at = i % 3 ? work : s->a.logits + (size_t)i * n;
        if (i % 3) up(work, s->logits + (size_t)i * n, sizeof(float) * n);
    }
    up(s->a.state, s->state, sizeof s->state);
    up(s->a.out, s->out, sizeof s->out);
}

static void free_step(struct step *s)
{
    struct seats *seats = &s->a.seats;
    void *all[] = {seats->seat,       seats->history,     seats->counts,       seats->variables, seats->work,
                   (void *)s->a.rows, (void *)s->a.links, (void *)s->a.logits, s->a.state,       s->a.out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) be->free(be, all[i], 0);
    ops->graph_args_close(be, s->device_args);
    graph_args_free(s->args);
    graph_automaton_unref(s->automaton);
    free(s->logits);
    free(s);
}

static struct step *make_step(const struct test_case *c)
{
    struct llm_error err = {0};
    struct step *s = calloc(1, sizeof *s);
    s->n = c->vocab_size;
    s->logits = malloc(sizeof(float) * N_ROWS * (size_t)s->n);
    make_args(s, c->g);
    if (ops->graph_args_open(be, c->d, s->args, &s->device_args, &err)) fail_msg("%s", err.message);
    make_histories(s);
    make_rows(s, c);
    make_device(s);
    return s;
}

/* ---- comparing ----------------------------------------------------------------------------------------- */

struct expected {
    llm_status status;
    struct llm_error err;
    int32_t token;
};

/* The interpreter on row i: variables in s change, the row comes in `row`. */
static struct expected interpret(struct step *s, const struct test_case *c, struct graph_scratch *scratch,
                                 int i, float *row)
{
    struct expected e = {0};
    const struct sample_row *r = &s->rows[i];
    struct graph_call call = {.row = row,
                              .variables = &s->variables[r->seat][s->links[i][1].variables],
                              .args = s->args,
                              .prompt = s->history[r->seat],
                              .output = s->history[r->seat] + N_PROMPT,
                              .n_prompt = N_PROMPT,
                              .n_output = N_TOKENS - N_PROMPT,
                              .seed = r->seed,
                              .stream = r->stream,
                              .position = r->position,
                              .temperature = r->temperature,
                              .top_p = r->top_p,
                              .min_p = r->min_p,
                              .top_k = r->top_k};
    e.status = graph_run(c->g, scratch, &call, &e.err);
    e.token = call.token;
    return e;
}

static void compare_rows(const struct test_case *c, int i, const float *right, const float *got, int32_t n)
{
    int off = 0, worst = -1;
    double most = 0;
    for (int32_t k = 0; k < n; k++) {
        if (memcmp(&right[k], &got[k], 4) == 0) continue;
        double d = fabs((double)right[k] - (double)got[k]) / fmax(1, fabs((double)right[k]));
        off += right[k] != got[k];
        if (!(d <= most)) {
            most = d;
            worst = k;
        }
    }
    n_rows_compared++;
    n_elements_off += off;
    if (off && (c->tolerance == 0 || !(most < 1e-6)))
        fail_msg("%s of %d, row %d: %d elements differ; %d is %.9g, not %.9g", c->name, n, i, off, worst,
                 (double)got[worst], (double)right[worst]);
}

static void compare_variables(const struct test_case *c, int i, const double *right, const double *got)
{
    for (int k = 0; k < SEAT_VARIABLES; k++) {
        double tolerance = c->tolerance * fmax(1, fabs(right[k]));
        if (right[k] == got[k] || fabs(right[k] - got[k]) <= tolerance) continue;
        fail_msg("%s of %d, row %d: variable %d is %.17g, not %.17g", c->name, c->vocab_size, i, k, got[k],
                 right[k]);
    }
}

/* Row i, which the graph has run: what it left, against what the interpreter makes of the same. */
static void compare_run(struct step *s, const struct test_case *c, struct graph_scratch *scratch, int i)
{
    const size_t n = (size_t)s->n;
    const int seat = s->rows[i].seat;
    static double got[SEAT_VARIABLES];
    float *row = malloc(sizeof *row * n), *result = malloc(sizeof *result * n);
    struct sampled out;
    struct sample_state state;
    memcpy(row, s->logits + (size_t)i * n, sizeof *row * n);
    struct expected e = interpret(s, c, scratch, i, row);
    down(&out, &s->a.out[i], sizeof out);
    down(&state, &s->a.state[i], sizeof state);
    down(got, s->a.seats.variables + (size_t)seat * SEAT_VARIABLES, sizeof got);
    compare_variables(c, i, s->variables[seat], got);
    if (e.status != LLM_OK) {
        struct llm_error err;
        graph_fail(c->g, s->n, (enum graph_failure)out.failure, out.where, out.number, &err);
        if (!(out.flags & SAMPLED_FAILED)) fail_msg("%s, row %d did not fail: %s", c->name, i, e.err.message);
        assert_string_equal(err.message, e.err.message);
        assert_int_equal(out.place, i + 1);
        assert_ptr_equal(state.at, s->state[i].at);
    } else if (c->g->gives == GRAPH_GIVES_TOKEN) {
        if (out.flags != SAMPLED_CHOSEN)
            fail_msg("%s of %d, row %d: flags %x, failure %d", c->name, s->n, i, out.flags, out.failure);
        n_tokens_compared++;
        n_tokens_off += out.token != e.token;
        assert_ptr_equal(state.at, s->state[i].at);
    } else {
        if (out.flags)
            fail_msg("%s of %d, row %d: flags %x, failure %d", c->name, s->n, i, out.flags, out.failure);
        const float *work = s->a.seats.work + 2 * n * (size_t)seat;
        assert_ptr_equal(state.at, s->state[i].at == work ? work + n : work);
        down(result, state.at, sizeof *result * n);
        compare_rows(c, i, row, result, s->n);
    }
    free(row);
    free(result);
}

/* A row that is not the graph's is as it was. */
static void compare_untouched(struct step *s, int i)
{
    struct sampled out;
    struct sample_state state;
    down(&out, &s->a.out[i], sizeof out);
    down(&state, &s->a.state[i], sizeof state);
    assert_memory_equal(&out, &s->out[i], sizeof out);
    assert_ptr_equal(state.at, s->state[i].at);
}

static void run_case(const struct test_case *c)
{
    struct llm_error err = {0};
    struct graph_scratch *scratch = NULL;
    if (c->status != LLM_OK) fail_msg("%s of %d: %s", c->name, c->vocab_size, c->err.message);
    assert_int_equal(graph_scratch_open(c->vocab_size, NULL, &scratch, &err), LLM_OK);
    struct step *s = make_step(c);
    for (int step = 0; step < N_STEPS; step++) {
        up(s->a.state, s->state, sizeof s->state);
        up(s->a.out, s->out, sizeof s->out);
        assert_int_equal(ops->run_graph(be, c->d, 1, &s->a), LLM_OK);
        for (int i = 0; i < N_ROWS; i++) {
            if (i == 2 || i == 3 || i == 5)
                compare_untouched(s, i);
            else
                compare_run(s, c, scratch, i);
        }
    }
    free_step(s);
    graph_scratch_close(scratch);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static int has_device(void)
{
    struct llm_error err = {0};
    if (!be && open_device(&be, &err)) {
        print_message("skipped: %s\n", err.message);
        return 0;
    }
    ops = be->device->sampling;
    return 1;
}

static void compiles_in_many_threads(void **state)
{
    (void)state;
    if (!has_device()) skip();
    for (size_t i = 0; i < sizeof case_sizes / sizeof *case_sizes; i++) {
        add_built("functions", functions, case_sizes[i], 0);
        add_built("masks", masks, case_sizes[i], 0);
        add_built("reductions", reductions, case_sizes[i], 0);
        add_built("numbers", numbers, case_sizes[i], 1e-13);
        add_built("tables", tables, case_sizes[i], 0);
        add_built("sampler", sampler, case_sizes[i], 0);
    }
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        char name[32], text[1024];
        snprintf(name, sizeof name, "failure %zu", i);
        snprintf(text, sizeof text, "graph 1\n%s", failures[i]);
        add_case(name, text, 1000, 0);
    }
    add_goldens();
    pthread_t threads[N_COMPILERS];
    for (int i = 0; i < N_COMPILERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, compile_some, NULL), 0);
    for (int i = 0; i < N_COMPILERS; i++) pthread_join(threads[i], NULL);
    if (n_cases && cases[0].status == LLM_EUNSUP) {
        print_message("skipped: %s\n", cases[0].err.message);
        n_cases = 0;
        skip();
    }
}

static void run_named(const char *name)
{
    if (!n_cases) skip();
    for (int i = 0; i < n_cases; i++)
        if (strncmp(cases[i].name, name, strlen(name)) == 0) run_case(&cases[i]);
}

static void functions_are_the_interpreters(void **state)
{
    (void)state;
    run_named("functions");
}

static void masks_are_the_interpreters(void **state)
{
    (void)state;
    run_named("masks");
}

static void reductions_are_the_interpreters(void **state)
{
    (void)state;
    run_named("reductions");
}

static void numbers_are_the_interpreters(void **state)
{
    (void)state;
    run_named("numbers");
}

static void tables_are_the_interpreters(void **state)
{
    (void)state;
    run_named("tables");
}

static void draws_are_the_interpreters(void **state)
{
    (void)state;
    run_named("sampler");
}

static void failures_are_the_interpreters(void **state)
{
    (void)state;
    run_named("failure");
}

static void policies_are_the_interpreters(void **state)
{
    (void)state;
    if (!n_cases) skip();
    for (int i = 0; i < n_cases; i++)
        if (strstr(cases[i].name, ".graph")) run_case(&cases[i]);
    print_message("%d rows, %d elements off; %d tokens, %d off\n", n_rows_compared, n_elements_off,
                  n_tokens_compared, n_tokens_off);
    assert_true(n_tokens_off * 200 <= n_tokens_compared);
}

static void a_forgiving_graph_is_left_out(void **state)
{
    (void)state;
    int i = 0;
    while (i < n_cases && strcmp(cases[i].name, "failure 1") != 0) i++;
    if (i >= n_cases) skip();
    const struct test_case *c = &cases[i];
    struct step *s = make_step(c);
    s->links[0][1].forgiving = 1;
    up((void *)s->a.links, s->links, sizeof s->links);
    for (int step = 0; step < 2; step++) {
        struct sampled out;
        double left_out;
        up(s->a.out, s->out, sizeof s->out);
        assert_int_equal(ops->run_graph(be, c->d, 1, &s->a), LLM_OK);
        down(&out, &s->a.out[0], sizeof out);
        down(&left_out, &s->a.seats.variables[s->rows[0].seat * SEAT_VARIABLES], sizeof left_out);
        assert_true(left_out == 1);
        assert_int_equal(out.flags, 0);
        assert_int_equal(out.forgiven, step == 0 ? 2 : 0);
        compare_untouched(s, 5);
    }
    free_step(s);
}

/* Closed while a step is queued, from another thread's point of view: nothing may break. */
static void closing_waits_for_the_device(void **state)
{
    (void)state;
    if (!n_cases) skip();
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < n_cases; i++) {
            if (!cases[i].d || i % 3 != round) continue;
            struct step *s = make_step(&cases[i]);
            assert_int_equal(ops->run_graph(be, cases[i].d, 1, &s->a), LLM_OK);
            ops->graph_close(be, cases[i].d);
            assert_int_equal(be->device->set_mark(be, 0), LLM_OK);
            assert_int_equal(be->device->wait_mark(be, 0), LLM_OK);
            free_step(s);
        }
        assert_int_equal(be->device->set_mark(be, 0), LLM_OK);
    }
    for (int i = 0; i < n_cases; i++) graph_free(cases[i].g);
    be->close(be);
}

static int run_graph_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compiles_in_many_threads),      cmocka_unit_test(functions_are_the_interpreters),
        cmocka_unit_test(masks_are_the_interpreters),    cmocka_unit_test(reductions_are_the_interpreters),
        cmocka_unit_test(numbers_are_the_interpreters),  cmocka_unit_test(tables_are_the_interpreters),
        cmocka_unit_test(draws_are_the_interpreters),    cmocka_unit_test(failures_are_the_interpreters),
        cmocka_unit_test(policies_are_the_interpreters), cmocka_unit_test(a_forgiving_graph_is_left_out),
        cmocka_unit_test(closing_waits_for_the_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
