/* Runs of graphs: draws against the sampler, arguments, histories, variables, and what goes wrong. */

#include "base/mem.h"
#include "engine/counts.h"
#include "engine/sampler.h"
#include "graph/graph.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

_Static_assert(sizeof(struct graph_count) == sizeof(struct token_count), "one is used as the other");
_Static_assert(offsetof(struct graph_count, in_output) == offsetof(struct token_count, in_output),
               "the same");

static struct graph *parse(const char *text)
{
    struct graph *g = NULL;
    struct llm_error err = {0};
    if (graph_parse(text, strlen(text), &g, &err) != LLM_OK) fail_msg("%s\nin\n%s", err.message, text);
    return g;
}

static struct graph_scratch *scratch_of(int32_t n, const char *isa)
{
    struct graph_scratch *s = NULL;
    struct llm_error err = {0};
    if (graph_scratch_open(n, isa, &s, &err) != LLM_OK) fail_msg("%s", err.message);
    return s;
}

/* What lua/llm/graph/functions.lua makes of g.default. */
static const char sampling[] =
    "graph 1\n%0 row = logits\n%1 num = temperature\n%2 num = const 1e-05\n"
    "%3 num = max %1 %2\n%4 num = row_max %0\n%5 row = sub %0 %4\n%6 num = const 1\n"
    "%7 num = div %6 %3\n%8 row = mul %5 %7\n%9 row = exp %8\n%10 num = min_p\n"
    "%11 num = top_k\n%12 num = kth %9 %11\n%13 num = max %10 %12\n"
    "%14 mask = le %13 %9\n%15 num = const 0\n%16 row = where %14 %9 %15\n"
    "%17 num = top_p\n%18 num = quantile %16 %16 %17\n%19 mask = le %18 %16\n"
    "%20 row = where %19 %16 %15\n%21 bool = lt %1 %2\n%22 num = row_argmax %0\n"
    "%23 num = draw 0 %20\n%24 num = where %21 %22 %23\nresult token %24\n";

/* Same row, parameters, seed, stream, position: the same token. */
static void draws_what_the_sampler_draws(void **state)
{
    (void)state;
    static const int32_t sizes[] = {1, 3, 511, 512, 1500, 30011};
    static const float temperatures[] = {0, 0.3f, 1, 7}, top_ps[] = {1, 0.9f, 0.3f}, min_ps[] = {0, 0.05f};
    static const int32_t top_ks[] = {0, 1, 40, 20000};
    struct graph *g = parse(sampling);
    srand(3);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int32_t n = sizes[i];
        struct graph_scratch *s = scratch_of(n, NULL);
        struct sampler sampler;
        assert_int_equal(sampler_init(&sampler, n, NULL), LLM_OK);
        float *row = malloc(sizeof *row * (size_t)n);
        for (int c = 0; c < 4 * 3 * 2 * 4; c++) {
            for (int32_t k = 0; k < n; k++) row[k] = (float)(rand() % 2000) / 100 - (rand() % 50 ? 10 : 0);
            struct llm_sampling p;
            llm_sampling_init(&p);
            p.temperature = temperatures[c % 4];
            p.top_p = top_ps[c / 4 % 3];
            p.min_p = min_ps[c / 12 % 2];
            p.top_k = top_ks[c / 24];
            for (uint64_t position = 0; position < 5; position++) {
                struct sample_input in = {.params = &p, .seed = 7, .stream = 2, .position = position};
                struct graph_call call = {.row = row,
                                          .seed = 7,
                                          .stream = 2,
                                          .position = position,
                                          .temperature = p.temperature,
                                          .top_p = p.top_p,
                                          .min_p = p.min_p,
                                          .top_k = p.top_k};
                struct llm_error err = {0};
                if (graph_run(g, s, &call, &err) != LLM_OK) fail_msg("%s", err.message);
                assert_int_equal(call.token, sampler_pick(&sampler, row, &in));
            }
        }
        free(row);
        sampler_deinit(&sampler);
        graph_scratch_close(s);
    }
    graph_free(g);
}

enum { N = 1300 };

static const char tables[] =
    "graph 1\nparam l list\nparam p pairs\nparam a automaton\nparam q num 2 0 1280\n"
    "state y num 0\nstate q num 0\n"
    "%0 row = logits\n%1 list = param l\n%2 mask = set %1\n%3 pairs = param p\n"
    "%4 row = scatter %3\n%5 row = counts prompt\n%6 row = counts output\n"
    "%7 num = const 3\n%8 row = recent %7\n%9 list = ids [9]\n%10 row = repeats 4 %7 %9\n"
    "%11 automaton = param a\n%12 num = state q\n%13 mask = accepts %11 %12\n"
    "%14 num = const 1\n%15 num = last %14\n%16 num = step %11 %12 %15\n"
    "%17 num = const 0\n%18 row = where %2 %14 %17\n%19 row = where %13 %14 %17\n"
    "%20 num = const 10\n%21 row = mul %4 %20\n%22 row = add %18 %21\n"
    "%23 num = const 1000\n%24 row = mul %5 %23\n%25 row = mul %24 %20\n"
    "%26 row = add %22 %25\n%27 row = add %26 %6\n%28 num = param q\n"
    "%29 row = mul %8 %28\n%30 row = add %27 %29\n%31 row = add %30 %10\n"
    "%32 row = add %31 %19\nstore y %15\nstore q %16\nresult row %32\n";

/* Tokens from 1000 up lead from state 0 to 1 and are refused there. */
static struct graph_automaton *automaton_of(void)
{
    static int32_t class_of[N];
    static const int32_t next[] = {0, 1, 1, -1};
    for (int32_t i = 0; i < N; i++) class_of[i] = i >= 1000;
    struct graph_automaton *a = NULL;
    assert_int_equal(graph_automaton_new(N, 2, 2, class_of, next, &a, NULL), LLM_OK);
    return a;
}

static struct graph_args *args_of(const struct graph *g)
{
    static const int32_t list[] = {0, 5, 5, 1299}, ids[] = {5, 7, 5, 8, 8};
    static const float values[] = {1, 2, 3, 4, -4};
    struct graph_args *args = NULL, *copy = NULL;
    struct graph_automaton *a = automaton_of();
    assert_int_equal(graph_args_new(g, N, &args, NULL), LLM_OK);
    assert_int_equal(graph_args_list(args, graph_find_param(g, "l"), list, 4, NULL), LLM_OK);
    assert_int_equal(graph_args_pairs(args, graph_find_param(g, "p"), ids, values, 5, NULL), LLM_OK);
    assert_int_equal(graph_args_automaton(args, graph_find_param(g, "a"), a, NULL), LLM_OK);
    assert_int_equal(graph_args_number(args, graph_find_param(g, "q"), 100, NULL), LLM_OK);
    graph_automaton_unref(a);
    assert_int_equal(graph_args_copy(args, &copy, NULL), LLM_OK);
    graph_args_free(args);
    return copy;
}

static float expected(int32_t token, const int32_t *prompt, int32_t n_prompt, const int32_t *output,
                      int32_t n_output, int automaton_state)
{
    float v = (token == 0 || token == 5 || token == 1299) + 10.0f * (float)(token == 5   ? 4
                                                                            : token == 7 ? 2
                                                                                         : 0);
    int in_prompt = 0;
    for (int32_t i = 0; i < n_prompt; i++) in_prompt |= prompt[i] == token;
    v += 10000.0f * (float)in_prompt;
    for (int32_t i = 0; i < n_output; i++) v += output[i] == token;
    for (int32_t i = n_output - 3; i < n_output; i++) v += 100.0f * (float)(output[i] == token);
    return v + (float)(automaton_state == 0 || token < 1000);
}

static void reads_tables_and_histories(void **state)
{
    (void)state;
    struct graph *g = parse(tables);
    struct graph_args *args = args_of(g);
    static const int32_t prompt[] = {1, 2, 2, 40}, output[] = {9, 1000, 9, 7, 7, 7};
    static const struct graph_count counts[] = {{1, 1, 0}, {2, 1, 0},    {40, 1, 0},
                                                {9, 0, 2}, {1000, 0, 1}, {7, 0, 3}};
    static const char *const isas[] = {"ref", "avx2", "avx512"};
    for (int i = 0; i < 6; i++) {
        struct graph_scratch *s = NULL;
        if (graph_scratch_open(N, isas[i / 2], &s, NULL) != LLM_OK) continue;
        double variables[2] = {0, i % 2};
        for (int again = 0; again < 3; again++) {
            static float row[N];
            memset(row, 0, sizeof row);
            int automaton_state = again == 0 ? i % 2 : (int)variables[1];
            struct graph_call call = {.row = row,
                                      .variables = variables,
                                      .args = args,
                                      .prompt = prompt,
                                      .output = output,
                                      .n_prompt = 4,
                                      .n_output = 6};
            if (again == 1) {
                call.counts = counts;
                call.n_counts = 6;
            }
            struct llm_error err = {0};
            uint64_t before = mem_count();
            if (graph_run(g, s, &call, &err) != LLM_OK) fail_msg("%s", err.message);
            assert_int_equal(mem_count(), before);
            for (int32_t t = 0; t < N; t++) {
                /* of the last three, 7 7 7, "7 7" occurs before followed by 7 */
                float right = expected(t, prompt, 4, output, 6, automaton_state) + (t == 7 ? 2 : 0);
                if (row[t] != right) fail_msg("token %d: %g, not %g", t, (double)row[t], (double)right);
            }
            assert_true(variables[0] == 7 && variables[1] == automaton_state);
        }
        graph_scratch_close(s);
    }
    graph_args_free(args);
    graph_free(g);
}

static void says_what_is_wrong_with_arguments(void **state)
{
    (void)state;
    struct graph *g = parse(tables);
    struct graph_args *args = NULL;
    struct llm_error err = {0};
    assert_int_equal(graph_args_new(g, 10, &args, &err), LLM_OK);
    static const int32_t ids[] = {3, 10}, negative[] = {-1};
    static const float nan[] = {NAN, 0};
    assert_int_equal(graph_args_list(args, 0, ids, 2, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "l has token 10; the vocabulary has 10"));
    assert_int_equal(graph_args_list(args, 0, negative, 1, &err), LLM_EINVAL);
    assert_int_equal(graph_args_list(args, 1, ids, 1, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "p is a pairs, not a list"));
    assert_int_equal(graph_args_pairs(args, 1, ids, nan, 1, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "not finite"));
    assert_int_equal(graph_args_number(args, 3, 1281, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "q is 1281; it must be from 0 to 1280"));
    assert_int_equal(graph_args_number(args, 3, NAN, &err), LLM_EINVAL);
    assert_int_equal(graph_args_number(args, 77, 1, &err), LLM_EINVAL);
    struct graph_automaton *a = automaton_of();
    assert_int_equal(graph_args_automaton(args, 2, a, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "over 1300 tokens; the vocabulary has 10"));
    graph_automaton_unref(a);
    static const int32_t class_of[] = {0, 1}, next[] = {0, 2};
    a = NULL;
    assert_int_equal(graph_automaton_new(2, 1, 1, class_of, next, &a, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "class 1 of the automaton is 1"));
    assert_int_equal(graph_automaton_new(2, 1, 2, class_of, next, &a, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "transition 1 of the automaton is 2"));
    assert_null(a);
    /* Arguments of another vocabulary. */
    struct graph_scratch *s = scratch_of(11, "ref");
    float row[11] = {0};
    double variables[2];
    struct graph_call call = {.row = row, .variables = variables, .args = args};
    assert_int_equal(graph_run(g, s, &call, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "another graph or another vocabulary"));
    graph_scratch_close(s);
    graph_args_free(args);
    graph_free(g);
    assert_int_equal(graph_scratch_open(10, "sse9", &s, &err), LLM_EINVAL);
    assert_int_equal(graph_scratch_open(0, NULL, &s, &err), LLM_EINVAL);
}

static void failing_runs(void **state)
{
    (void)state;
    static const struct {
        const char *body, *message;
    } cases[] = {
        {"%2 row = div %0 %1\nresult row %2\n", "NaN or infinity"},
        {"%2 num = const inf\n%3 row = add %0 %2\nresult row %3\n", "NaN or infinity"},
        {"%2 num = const -inf\n%3 row = add %0 %2\nresult row %3\n", "masks all tokens"},
        {"%2 num = const 700\nresult token %2\n", "the graph's token is 700"},
        {"%2 num = const -1\nresult token %2\n", "the graph's token is -1"},
        {"%2 num = const 1.5\nresult token %2\n", "the graph's token is 1.5"},
        {"%2 num = log %1\n%3 num = mul %2 %1\nresult token %3\n", "the graph's token is "},
        {"%2 row = mul %0 %1\n%3 num = draw 0 %2\nresult token %3\n", "draw %3 has nothing to draw from"},
        {"%2 row = neg %0\n%3 num = draw 0 %2\nresult token %3\n", "negative, infinite or NaN"},
        {"%2 row = div %0 %1\n%3 num = draw 0 %2\nresult token %3\n", "negative, infinite or NaN"},
        {"%2 num = log %1\nstore y %2\nresult row %0\n", ""},
        {"%2 num = log %1\n%3 num = mul %2 %1\nstore y %3\nresult row %0\n", "y would become NaN"},
    };
    struct graph_scratch *s = scratch_of(700, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[400];
        snprintf(text, sizeof text, "graph 1\nstate y num 5\n%%0 row = logits\n%%1 num = const 0\n%s",
                 cases[i].body);
        struct graph *g = parse(text);
        float row[700];
        for (int k = 0; k < 700; k++) row[k] = 1;
        double y = 5;
        struct graph_call call = {.row = row, .variables = &y, .token = -7};
        struct llm_error err = {0};
        llm_status status = graph_run(g, s, &call, &err);
        if (!*cases[i].message) {
            assert_int_equal(status, LLM_OK);
            assert_true(y == -INFINITY);
        } else if (status != LLM_EINVAL || !strstr(err.message, cases[i].message)) {
            fail_msg("%s\ngave %d \"%s\", not \"%s\"", text, (int)status, err.message, cases[i].message);
        } else {
            assert_true(y == 5 && call.token == -7);
        }
        graph_free(g);
    }
    graph_scratch_close(s);
}

/* Every allocation of opening and binding may fail; nothing leaks and the message says what. */
static void survives_want_of_memory(void **state)
{
    (void)state;
    struct graph *g = parse(tables);
    static const int32_t ids[] = {1, 2};
    static const float values[] = {1, 2};
    static const int32_t class_of[10] = {0}, next[] = {0};
    for (uint64_t i = 1;; i++) {
        struct graph_args *args = NULL, *copy = NULL;
        struct graph_scratch *s = NULL;
        struct graph_automaton *a = NULL;
        struct llm_error err = {0};
        mem_fail_at(i);
        llm_status status = graph_args_new(g, 10, &args, &err);
        if (!status) status = graph_args_list(args, 0, ids, 2, &err);
        if (!status) status = graph_args_pairs(args, 1, ids, values, 2, &err);
        if (!status) status = graph_automaton_new(10, 1, 1, class_of, next, &a, &err);
        if (!status) status = graph_args_automaton(args, 2, a, &err);
        if (!status) status = graph_args_copy(args, &copy, &err);
        if (!status) status = graph_scratch_open(10, NULL, &s, &err);
        mem_fail_at(0);
        graph_automaton_unref(a);
        graph_args_free(args);
        graph_args_free(copy);
        graph_scratch_close(s);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
        assert_true(err.message[0]);
        assert_true(i < 100);
    }
    graph_free(g);
}

static void explains_its_passes(void **state)
{
    (void)state;
    struct graph *g = parse(sampling);
    char *text = NULL;
    assert_int_equal(graph_explain(g, &text, NULL, NULL), LLM_OK);
    assert_non_null(strstr(text, "pass 3"));
    assert_null(strstr(text, "pass 4"));
    assert_non_null(strstr(text, "exp_affine logits %4 %7"));
    mem_free(text);
    graph_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_what_the_sampler_draws),      cmocka_unit_test(reads_tables_and_histories),
        cmocka_unit_test(says_what_is_wrong_with_arguments), cmocka_unit_test(failing_runs),
        cmocka_unit_test(survives_want_of_memory),           cmocka_unit_test(explains_its_passes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
