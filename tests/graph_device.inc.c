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
#include "seat_input.h"

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

#include "graph_cases.inc.c"

/* ---- compiling ----------------------------------------------------------------------------------------- */

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
    struct graph_call call = seat_input_graph(r, row, s->history[r->seat], N_PROMPT, N_TOKENS);
    call.variables = &s->variables[r->seat][s->links[i][1].variables];
    call.args = s->args;
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
