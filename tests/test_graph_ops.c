/* Every operation of graphs against the obvious evaluation of tests/naive_graph.h, on odd sizes, with every
 * instruction set this machine has: all of them must give the same bits. */

#include "naive_graph.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

static const int32_t sizes[] = {1, 2, 17, 511, 512, 513, 1023, 1024, 1025, 3001, 20011};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { N_ISAS = 3 };

static struct graph *parse(const char *text)
{
    struct graph *g = NULL;
    struct llm_error err = {0};
    if (graph_parse(text, strlen(text), &g, &err) != LLM_OK) fail_msg("%s\nin\n%s", err.message, text);
    return g;
}

static uint32_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

static float random_float(float low, float high)
{
    return low + (high - low) * (float)random_bits() / (float)(1 << 24);
}

/* ---- one operation ------------------------------------------------------------------------------------- */

/* Runs a graph that gives a row, with each instruction set; checks that all agree. Returns the status. */
static llm_status run_everywhere(const struct graph *g, const float *in, float *out, int32_t n,
                                 double *variables, struct llm_error *err)
{
    llm_status first = LLM_OK;
    double before[64], after[64];
    size_t state_bytes = sizeof(double) * (size_t)g->n_variables;
    assert_true(g->n_variables <= 64);
    if (variables) memcpy(before, variables, state_bytes);
    float *row = malloc(sizeof *row * (size_t)n);
    for (int32_t i = 0; i < N_ISAS; i++) {
        struct graph_scratch *s = NULL;
        if (graph_scratch_open(n, isas[i], &s, err) != LLM_OK) continue;
        if (variables) memcpy(variables, before, state_bytes);
        memcpy(row, in, sizeof *row * (size_t)n);
        struct graph_call call = {.row = row, .variables = variables};
        llm_status status = graph_run(g, s, &call, err);
        graph_scratch_close(s);
        if (i == 0) {
            first = status;
            memcpy(out, row, sizeof *row * (size_t)n);
            if (variables) memcpy(after, variables, state_bytes);
        }
        assert_int_equal(status, first);
        if (status == LLM_OK && g->gives == GRAPH_GIVES_ROW)
            assert_memory_equal(row, out, sizeof *row * (size_t)n);
        if (status == LLM_OK && variables) assert_memory_equal(variables, after, state_bytes);
    }
    free(row);
    return first;
}

struct function {
    const char *op;
    float low, high;
    double tolerance; /* relative, or absolute below 1 */
};

/* rr: two rows; rs, sr: a row and a num. */
static void check_function(const struct function *f, const char *text)
{
    struct graph *g = parse(text);
    for (int32_t s = 0; s < N_SIZES; s++) {
        int32_t n = sizes[s];
        float *in = malloc(sizeof *in * (size_t)n), *out = malloc(sizeof *out * (size_t)n);
        for (int32_t i = 0; i < n; i++) in[i] = random_float(f->low, f->high);
        struct llm_error err = {0};
        if (run_everywhere(g, in, out, n, NULL, &err) != LLM_OK)
            fail_msg("%s: %s\n%s", f->op, err.message, text);
        struct naive v;
        naive_run(&v, g, in, n);
        for (int32_t i = 0; i < n; i++) {
            double right = v.rows[g->result][i], off = fabs(out[i] - right);
            if (off > f->tolerance * fmax(1, fabs(right)))
                fail_msg("%s of element %d of %d (%.9g) gave %.9g, not %.9g", f->op, i, n, (double)in[i],
                         (double)out[i], right);
        }
        naive_free(&v);
        free(in);
        free(out);
    }
    graph_free(g);
}

static void functions_of_one_row(void **state)
{
    (void)state;
    static const struct function cases[] = {
        {"neg", -9, 9, 0},       {"abs", -9, 9, 0},       {"floor", -9, 9, 0},       {"sqrt", 0, 1e6f, 1e-7},
        {"exp", -90, 88, 4e-7},  {"exp", -1, 1, 3e-7},    {"log", 1e-30f, 1, 3e-7},  {"log", 0.5f, 2, 3e-7},
        {"log", 1, 1e30f, 3e-7}, {"tanh", -12, 12, 5e-7}, {"tanh", -.1f, .1f, 5e-7},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[200];
        snprintf(text, sizeof text, "graph 1\n%%0 row = logits\n%%1 row = %s %%0\nresult row %%1\n",
                 cases[i].op);
        check_function(&cases[i], text);
    }
}

static void functions_of_two(void **state)
{
    (void)state;
    static const struct function cases[] = {
        {"add", -9, 9, 0}, {"sub", -9, 9, 0}, {"mul", -9, 9, 0},      {"div", 1, 9, 0},
        {"min", -9, 9, 0}, {"max", -9, 9, 0}, {"pow", 0.1f, 2, 2e-6},
    };
    static const char *const operands[] = {"%0 %1", "%0 %2", "%2 %0", "%0 %0"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (size_t k = 0; k < 4; k++) {
            char text[300];
            snprintf(text, sizeof text,
                     "graph 1\n%%0 row = logits\n%%1 row = floor %%0\n%%2 num = const 1.7\n"
                     "%%3 row = add %%1 %%2\n%%4 row = %s %s\nresult row %%4\n",
                     cases[i].op, operands[k]);
            check_function(&cases[i], text);
        }
    }
}

static void comparisons_and_masks(void **state)
{
    (void)state;
    static const char *const tests[] = {"lt %0 %1", "lt %0 %2", "lt %2 %0", "le %0 %1", "le %0 %2",
                                        "le %2 %0", "eq %0 %1", "eq %0 %2", "eq %2 %1"};
    static const char *const uses[] = {"%3", "%4", "%5", "%6", "%7", "%8"};
    static const char *const chosen[] = {"%0 %1", "%0 %2", "%2 %0", "%2 %9", "%1 %2"};
    static const struct function exact = {"a mask", -2, 3, 0};
    for (size_t t = 0; t < 9; t++)
        for (size_t u = 0; u < 6; u++)
            for (size_t c = 0; c < 5; c++) {
                if (u == 5 && c == 3) continue; /* no row at all */
                char text[500];
                snprintf(text, sizeof text,
                         "graph 1\n%%0 row = logits\n%%1 row = floor %%0\n%%2 num = const 1\n"
                         "%%3 mask = %s\n%%4 mask = not %%3\n%%5 mask = lt %%0 %%2\n%%6 mask = and %%3 %%5\n"
                         "%%7 mask = or %%3 %%5\n%%8 bool = le %%2 %%2\n%%9 num = const -3\n"
                         "%%10 row = where %s %s\nresult row %%10\n",
                         tests[t], uses[u], chosen[c]);
                check_function(&exact, text);
            }
}

/* exp(x - s) and exp((x - s) * t) run as one operation. */
static void scaled_exponentials(void **state)
{
    (void)state;
    static const struct function f = {"scaled exp", -20, 20, 3e-6};
    check_function(&f, "graph 1\n%0 row = logits\n%1 num = const 3\n%2 row = sub %0 %1\n%3 row = exp %2\n"
                       "result row %3\n");
    check_function(&f, "graph 1\n%0 row = logits\n%1 num = const 3\n%2 row = sub %0 %1\n%3 num = const 0.7\n"
                       "%4 row = mul %2 %3\n%5 row = exp %4\nresult row %5\n");
    check_function(&f, "graph 1\n%0 row = logits\n%1 num = const 3\n%2 row = sub %0 %1\n%3 num = const -5\n"
                       "%4 row = mul %3 %2\n%5 num = const 0.5\n%6 row = mul %4 %5\n%7 row = tanh %6\n"
                       "%8 row = exp %7\nresult row %8\n");
}

/* ---- edges --------------------------------------------------------------------------------------------- */

static void values_at_the_edges(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        float in;
        double right; /* NAN: the run fails, as a variable would become NaN */
    } cases[] = {
        {"exp", -INFINITY, 0},
        {"exp", INFINITY, INFINITY},
        {"exp", 89, INFINITY},
        {"exp", -88, 0},
        {"exp", 0, 1},
        {"exp", NAN, NAN},
        {"log", 0, -INFINITY},
        {"log", -1, NAN},
        {"log", INFINITY, INFINITY},
        {"log", 1, 0},
        {"log", NAN, NAN},
        {"log", 1e-42f, log(1e-42f)},
        {"tanh", INFINITY, 1},
        {"tanh", -INFINITY, -1},
        {"tanh", NAN, NAN},
        {"sqrt", -1, NAN},
        {"floor", -0.5f, -1},
        {"abs", -INFINITY, INFINITY},
        {"max %1", NAN, 2},
        {"min %1", NAN, 2},
        {"pow %1", -1, NAN},
        {"pow %1", 0, 0},
        {"pow %1", 1e30f, INFINITY},
        {"sub %0", INFINITY, NAN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char op[16], text[300];
        snprintf(op, sizeof op, "%s", cases[i].op);
        char *second = strchr(op, ' ');
        if (second) *second++ = 0;
        snprintf(text, sizeof text,
                 "graph 1\nstate y num 7\n%%0 row = logits\n%%1 num = const 2\n%%2 row = %s %%0 %s\n"
                 "%%3 num = vocab\n%%4 num = sub %%3 %%1\n%%5 num = gather %%2 %%4\nstore y %%5\nresult "
                 "token %%1\n",
                 op, second ? second : "");
        struct graph *g = parse(text);
        float in[700], out[700];
        for (int k = 0; k < 700; k++) in[k] = cases[i].in;
        double y = 7;
        struct llm_error err = {0};
        llm_status status = run_everywhere(g, in, out, 700, &y, &err);
        if (isnan(cases[i].right)) {
            assert_int_equal(status, LLM_EINVAL);
            assert_non_null(strstr(err.message, "y would become NaN"));
            assert_true(y == 7);
        } else if (status != LLM_OK || !(y == cases[i].right || fabs(y - cases[i].right) < 1e-4)) {
            fail_msg("%s of %g gave %g, not %g (%s)", cases[i].op, (double)cases[i].in, y, cases[i].right,
                     err.message);
        }
        graph_free(g);
    }
}

/* Element 0 aside, rows whose maximum occurs often: ties go to the lower id. */
static void ties_go_to_the_lower_id(void **state)
{
    (void)state;
    struct graph *g = parse("graph 1\nstate y num 0\n%0 row = logits\n%1 num = row_argmax %0\nstore y %1\n"
                            "result row %0\n");
    for (int32_t s = 0; s < N_SIZES; s++) {
        int32_t n = sizes[s];
        float *in = malloc(sizeof *in * (size_t)n), *out = malloc(sizeof *out * (size_t)n);
        for (int32_t first = 0; first < n; first += n / 7 + 1) {
            for (int32_t i = 0; i < n; i++) in[i] = i >= first && (i - first) % 3 == 0 ? 5 : -1;
            double y = -1;
            assert_int_equal(run_everywhere(g, in, out, n, &y, NULL), LLM_OK);
            assert_int_equal((int32_t)y, first);
        }
        free(in);
        free(out);
    }
    graph_free(g);
}

/* ---- reductions ---------------------------------------------------------------------------------------- */

/* What a row is like decides which path a selection takes. */
static void fill(float *row, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        switch (kind) {
        case 0:
            row[i] = random_float(-9, 9);
            break;
        case 1:
            row[i] = (float)(random_bits() % 5);
            break; /* many equal */
        case 2:
            row[i] = random_bits() % 100 ? random_float(-3, 3) : random_float(3, 18);
            break; /* peaked */
        case 3:
            row[i] = random_bits() % 3 ? -INFINITY : random_float(-1, 1);
            break; /* masked */
        default:
            row[i] = i < n / 2 ? random_float(5, 6) : random_float(-6, -5);
            break; /* sorted by id */
        }
    }
}

/* `text` stores num in y; the naive value may differ by the tolerance times its size. */
static void check_num(const char *text, double tolerance)
{
    struct graph *g = parse(text);
    for (int32_t s = 0; s < N_SIZES; s++) {
        int32_t n = sizes[s];
        float *in = malloc(sizeof *in * (size_t)n), *out = malloc(sizeof *out * (size_t)n);
        for (int kind = 0; kind < 5; kind++) {
            fill(in, n, kind);
            in[random_bits() % (uint32_t)n] = 1; /* never all masked */
            double y = 0;
            struct llm_error err = {0};
            struct naive v;
            naive_run(&v, g, in, n);
            double right = v.nums[g->states[0].store];
            if (run_everywhere(g, in, out, n, &y, &err) != LLM_OK) fail_msg("%s\n%s", err.message, text);
            if (!(y == right || fabs(y - right) <= tolerance * fmax(1, fabs(right))))
                fail_msg("%s\non %d of kind %d gave %.9g, not %.9g", text, n, kind, y, right);
            naive_free(&v);
        }
        free(in);
        free(out);
    }
    graph_free(g);
}

static void reductions(void **state)
{
    (void)state;
    static const char *const exact[] = {"row_max %0", "row_min %0", "row_argmax %0", "mask_count %2",
                                        "gather %0 %3"};
    for (size_t i = 0; i < sizeof exact / sizeof *exact; i++) {
        char text[300];
        snprintf(text, sizeof text,
                 "graph 1\nstate y num 0\n%%0 row = logits\n%%1 num = const 0.5\n%%2 mask = lt %%0 %%1\n"
                 "%%3 num = const 0\n%%4 num = %s\nstore y %%4\nresult row %%0\n",
                 exact[i]);
        check_num(text, 0);
    }
    check_num("graph 1\nstate y num 0\n%0 row = logits\n%1 num = const 0\n%2 row = max %0 %1\n"
              "%3 num = row_sum %2\nstore y %3\nresult row %0\n",
              1e-5);
}

static void largest_elements(void **state)
{
    (void)state;
    static const double ks[] = {-1, 0, 0.5, 1, 2.9, 3, 17, 50, 400, 5000, 20011, 1e9, NAN};
    for (size_t i = 0; i + 1 < sizeof ks / sizeof *ks; i++) {
        char text[400];
        snprintf(text, sizeof text,
                 "graph 1\nstate y num 0\n%%0 row = logits\n%%1 num = const %.9g\n%%2 num = kth %%0 %%1\n"
                 "store y %%2\nresult row %%0\n",
                 ks[i]);
        check_num(text, 0);
        /* Of weights, where the guesses are others. */
        snprintf(
            text, sizeof text,
            "graph 1\nstate y num 0\n%%0 row = logits\n%%1 num = const %.9g\n%%2 num = row_max %%0\n"
            "%%3 row = sub %%0 %%2\n%%4 row = exp %%3\n%%5 num = kth %%4 %%1\nstore y %%5\nresult row %%0\n",
            ks[i]);
        check_num(text, 1e-6);
    }
}

/* Weights that are exact in f32 and add up exactly, so that the threshold is a matter of logic alone. */
static void quantiles(void **state)
{
    (void)state;
    static const double ps[] = {-1, 0, 1e-9, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999999, 1, 2};
    for (size_t i = 0; i < sizeof ps / sizeof *ps; i++) {
        char text[500];
        /* floor(max(x, 0) * 4): integers from 0 to 72 */
        static const char head[] =
            "graph 1\nstate y num 0\n%0 row = logits\n%1 num = const 0\n"
            "%2 row = max %0 %1\n%3 num = const 4\n%4 row = mul %2 %3\n%5 row = floor %4\n";
        snprintf(text, sizeof text,
                 "%s%%6 num = const %.9g\n%%7 num = quantile %%5 %%5 %%6\nstore y %%7\n"
                 "result row %%0\n",
                 head, ps[i]);
        check_num(text, 0);
        snprintf(text, sizeof text,
                 "%s%%6 num = const %.9g\n%%7 row = neg %%0\n%%8 num = quantile %%7 %%5 %%6\nstore y %%8\n"
                 "result row %%0\n",
                 head, ps[i]);
        check_num(text, 0);
        /* Light weights: 2^-30 of the above. */
        snprintf(text, sizeof text,
                 "%s%%6 num = const %.9g\n%%7 num = const 9.31322574615478515625e-10\n%%8 row = mul %%5 %%7\n"
                 "%%9 num = quantile %%0 %%8 %%6\n%%10 num = quantile %%8 %%8 %%6\n%%11 num = add %%9 %%10\n"
                 "store y %%11\nresult row %%0\n",
                 head, ps[i]);
        check_num(text, 0);
    }
}

/* ---- random graphs ------------------------------------------------------------------------------------- */

struct maker {
    char text[16384];
    size_t bytes;
    int32_t n, types[160]; /* 0 row, 1 mask, 2 num, 3 bool */
};

static int32_t pick(const struct maker *m, int32_t type)
{
    int32_t found[160], n = 0;
    for (int32_t i = 0; i < m->n; i++)
        if (m->types[i] == type) found[n++] = i;
    return n ? found[random_bits() % (uint32_t)n] : -1;
}

static void emit(struct maker *m, int32_t type, const char *op, int32_t a, int32_t b, int32_t c)
{
    static const char *const names[] = {"row", "mask", "num", "bool"};
    char *at = m->text + m->bytes;
    int n = snprintf(at, sizeof m->text - m->bytes, "%%%d %s = %s", m->n, names[type], op);
    const int32_t args[] = {a, b, c};
    for (int i = 0; i < 3 && args[i] >= 0; i++)
        n += snprintf(at + n, sizeof m->text - m->bytes - (size_t)n, " %%%d", args[i]);
    n += snprintf(at + n, sizeof m->text - m->bytes - (size_t)n, "\n");
    m->bytes += (size_t)n;
    m->types[m->n++] = type;
}

/* Exact operations only. row_hash is dear, so rows get stored and loaded. Rows stay finite. */
static void emit_random(struct maker *m)
{
    static const char *const unary[] = {"neg", "abs", "floor"};
    static const char *const binary[] = {"min", "max", "sub", "add"};
    static const char *const tests[] = {"lt", "le", "eq"};
    static const char *const reductions_of[] = {"row_max", "row_min", "row_argmax"};
    int32_t row = pick(m, 0), num = pick(m, 2), mask = pick(m, 1), choice = random_bits() % 11;
    int32_t either = random_bits() % 3 ? pick(m, 0) : num;
    switch (choice) {
    case 0:
        emit(m, 0, unary[random_bits() % 3], row, -1, -1);
        break;
    case 1:
        if (random_bits() % 2)
            emit(m, 0, binary[random_bits() % 4], row, either, -1);
        else
            emit(m, 0, binary[random_bits() % 4], either, row, -1);
        break;
    case 2:
        emit(m, 1, tests[random_bits() % 3], row, either, -1);
        break;
    case 3:
        emit(m, 1, tests[random_bits() % 3], num, row, -1);
        break;
    case 4:
        emit(m, 0, "where", mask, row, either);
        break;
    case 5:
        emit(m, 0, "where", mask, either, row);
        break;
    case 6:
        emit(m, 2, reductions_of[random_bits() % 3], row, -1, -1);
        break;
    case 7:
        emit(m, 2, random_bits() % 2 ? "kth" : "gather", row, num, -1);
        break;
    case 8:
        emit(m, 0, "row_hash", num, -1, -1);
        break;
    case 9:
        emit(m, 2, "mask_count", mask, -1, -1);
        break;
    default:
        if (random_bits() % 2)
            emit(m, 1, random_bits() % 2 ? "and" : "or", mask, pick(m, 1), -1);
        else
            emit(m, 3, "lt", num, pick(m, 2), -1), emit(m, 0, "where", m->n - 1, row, num);
        break;
    }
}

/* A num that may be infinite or NaN becomes one from -50 to 50. */
static void tame(struct maker *m)
{
    if (m->types[m->n - 1] != 2) return;
    emit(m, 2, "max", m->n - 1, 2, -1);
    emit(m, 2, "min", m->n - 1, 3, -1);
}

static void random_graphs(void **state)
{
    (void)state;
    for (int round = 0; round < 400; round++) {
        static struct maker m;
        m = (struct maker){0};
        m.bytes = (size_t)snprintf(m.text, sizeof m.text, "graph 1\nstate y num 0\n");
        emit(&m, 0, "logits", -1, -1, -1);
        emit(&m, 0, "index", -1, -1, -1);
        emit(&m, 2, "const -50", -1, -1, -1);
        emit(&m, 2, "const 50", -1, -1, -1);
        emit(&m, 1, "lt", 0, 1, -1);
        for (int i = 0; i < 30; i++) {
            emit_random(&m);
            tame(&m);
        }
        int32_t num = pick(&m, 2), row = pick(&m, 0);
        emit(&m, 2, "max", num, 2, -1);
        emit(&m, 2, "min", m.n - 1, 3, -1);
        emit(&m, 0, "max", row, 2, -1);
        emit(&m, 0, "min", m.n - 1, 3, -1);
        snprintf(m.text + m.bytes, sizeof m.text - m.bytes, "store y %%%d\nresult row %%%d\n", m.n - 3,
                 m.n - 1);
        struct graph *g = parse(m.text);
        int32_t n = sizes[round % N_SIZES];
        float *in = malloc(sizeof *in * (size_t)n), *out = malloc(sizeof *out * (size_t)n);
        fill(in, n, round % 3);
        double y = 0;
        struct llm_error err = {0};
        struct naive v;
        naive_run(&v, g, in, n);
        llm_status status = run_everywhere(g, in, out, n, &y, &err);
        if (status != LLM_OK) fail_msg("%s\n%s", err.message, m.text);
        for (int32_t i = 0; i < n; i++)
            if (out[i] != v.rows[g->result][i])
                fail_msg("element %d of %d is %.9g, not %.9g\n%s", i, n, (double)out[i],
                         (double)v.rows[g->result][i], m.text);
        if (y != v.nums[g->states[0].store])
            fail_msg("y is %.9g, not %.9g\n%s", y, v.nums[g->states[0].store], m.text);
        naive_free(&v);
        free(in);
        free(out);
        graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_of_one_row),
        cmocka_unit_test(functions_of_two),
        cmocka_unit_test(comparisons_and_masks),
        cmocka_unit_test(scaled_exponentials),
        cmocka_unit_test(values_at_the_edges),
        cmocka_unit_test(ties_go_to_the_lower_id),
        cmocka_unit_test(reductions),
        cmocka_unit_test(largest_elements),
        cmocka_unit_test(quantiles),
        cmocka_unit_test(random_graphs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
