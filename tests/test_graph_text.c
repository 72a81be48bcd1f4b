/* The text of graphs: what is read is what is printed, and what is wrong is said with its line. */

#include "base/mem.h"
#include "graph/graph.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

/* Everything the text can have. */
static const char whole[] = "graph 1\n"
                            "param start num 1.2 0 inf\n"
                            "param banned list\n"
                            "param bias pairs\n"
                            "param dfa automaton\n"
                            "state mu num 10\n"
                            "state ring vec 3 0.1 -inf 1e-300\n"
                            "%0 row = logits\n"
                            "%1 num = param start\n"
                            "%2 num = const 0.30000000000000004\n"
                            "%3 row = div %0 %1\n"
                            "%4 list = param banned\n"
                            "%5 mask = set %4\n"
                            "%6 row = where %5 %2 %3\n"
                            "%7 num = row_max %6\n"
                            "%8 list = ids [1 2 3]\n"
                            "%9 list = ids []\n"
                            "%10 row = repeats 64 %2 %8\n"
                            "%11 row = counts output\n"
                            "%12 row = counts prompt\n"
                            "%13 num = state mu\n"
                            "%14 vec = state ring\n"
                            "%15 vec = push %14 %13\n"
                            "%16 num = random 7\n"
                            "%17 automaton = param dfa\n"
                            "%18 mask = accepts %17 %13\n"
                            "%19 row = row_hash %13 %16 %2\n"
                            "%20 row = where %18 %6 %19\n"
                            "%21 num = draw 0 %20\n"
                            "store mu %7\n"
                            "store ring %15\n"
                            "result token %21\n";

static void reads_what_it_prints(void **state)
{
    (void)state;
    struct graph *g = NULL;
    struct llm_error err = {0};
    assert_int_equal(graph_parse(whole, sizeof whole - 1, &g, &err), LLM_OK);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(graph_dump(g, &text, &bytes, &err), LLM_OK);
    assert_string_equal(text, whole);
    assert_int_equal(bytes, sizeof whole - 1);
    assert_int_equal(g->n_variables, 4);
    assert_int_equal(graph_find_param(g, "dfa"), 3);
    assert_int_equal(graph_find_param(g, "mu"), -1);
    double variables[4];
    graph_state_init(g, variables);
    assert_true(variables[0] == 10 && variables[1] == 0.1 && variables[3] == 1e-300);
    assert_true(g->uses_counts && g->uses_history);
    mem_free(text);
    graph_free(g);
}

/* Blanks, empty lines, a missing last newline and \r do not matter. */
static void forgives_blanks(void **state)
{
    (void)state;
    static const char loose[] = "graph 1\r\n\n  %0   row =\tlogits\r\n%1 list = ids [ 4  5]\nresult row %0";
    static const char tight[] = "graph 1\n%0 row = logits\n%1 list = ids [4 5]\nresult row %0\n";
    struct graph *g = NULL;
    assert_int_equal(graph_parse(loose, sizeof loose - 1, &g, NULL), LLM_OK);
    char *text = NULL;
    assert_int_equal(graph_dump(g, &text, NULL, NULL), LLM_OK);
    assert_string_equal(text, tight);
    mem_free(text);
    graph_free(g);
}

static void says_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "graph line 0: a graph begins"},
        {"graph 2\n", "graph line 1: a graph begins"},
        {"graph 1\n", "without a result"},
        {"graph 1\nnonsense\n", "line 2: \"nonsense\" begins no line"},
        {"graph 1\n%1 row = logits\n", "\"%1\" in place of %0"},
        {"graph 1\n%0 row logits\n", "\"logits\" in place of ="},
        {"graph 1\n%0 thing = logits\n", "\"thing\" is no type"},
        {"graph 1\n%0 row = frobnicate\n", "\"frobnicate\" is no operation"},
        {"graph 1\n%0 row = logits %0\n", "\"%0\" is one word too many"},
        {"graph 1\n%0 num = logits\n", "logits gives a row here, not a num"},
        {"graph 1\n%0 row = neg %0\n", "\"%0\" comes before it is made"},
        {"graph 1\n%0 row = neg\n", "the end of the line is no node"},
        {"graph 1\n%0 row = neg %x\n", "\"%x\" is no node"},
        {"graph 1\n%0 row = neg %99999999999999999999\n", "is no node"},
        {"graph 1\n%0 row = logits\n%1 num = kth %0 %0\n", "operand 2 of kth is a row; it must be a num"},
        {"graph 1\n%0 row = logits\n%1 mask = not %0\n", "must be a mask or a bool"},
        {"graph 1\n%0 num = const nan\n", "\"nan\" is no number"},
        {"graph 1\n%0 num = const 1x\n", "\"1x\" is no number"},
        {"graph 1\n%0 num = const 1e999\n", "is no number"},
        {"graph 1\n%0 num = const 1-1\n", "is no number"},
        {"graph 1\n%0 num = const\n", "the end of the line is no number"},
        {"graph 1\n%0 num = param x\n", "there is no parameter x"},
        {"graph 1\n%0 num = state x\n", "there is no variable x"},
        {"graph 1\n%0 num = random 70000\n", "the site is 70000"},
        {"graph 1\n%0 num = random 1.5\n", "the site is 1.5"},
        {"graph 1\n%0 row = counts both\n", "\"both\" is neither prompt nor output"},
        {"graph 1\n%0 list = ids 1\n", "\"1\" in place of ["},
        {"graph 1\n%0 list = ids [1\n", "the end of the line is no number"},
        {"graph 1\n%0 list = ids [-1]\n", "a token id is -1"},
        {"graph 1\n%0 num = hash\n", "is no node"},
        {"graph 1\nparam 1x num 0 0 0\n", "\"1x\" is no name"},
        {"graph 1\nparam x row\n", "a parameter is a num"},
        {"graph 1\nparam x num 5 0 1\n", "the default of x is 5; it must be from 0 to 1"},
        {"graph 1\nparam x num inf 0 inf\n", "the default of x is inf"},
        {"graph 1\nparam x list\nparam x list\n", "two parameters x"},
        {"graph 1\nstate x row\n", "a variable is a num or a vec"},
        {"graph 1\nstate x vec 0\n", "the length is 0"},
        {"graph 1\nstate x vec 2000\n", "the length is 2000"},
        {"graph 1\nstate x vec 2 1\n", "the end of the line is no number"},
        {"graph 1\nstate x num 1\nstate x num 1\n", "two variables x"},
        {"graph 1\nstate x num 1\n%0 row = logits\nstore x %0\n", "another type or length"},
        {"graph 1\nstate x vec 2 1 1\nstate y vec 1 1\n%0 vec = state x\nstore y %0\n",
         "another type or length"},
        {"graph 1\nstate x num 1\n%0 num = state x\nstore x %0\nstore x %0\n", "x is stored twice"},
        {"graph 1\n%0 num = position\nstore x %0\n", "there is no variable x"},
        {"graph 1\n%0 row = logits\nresult token %0\n", "the result is a row; it must be a num"},
        {"graph 1\n%0 row = logits\nresult both %0\n", "the result is \"both\""},
        {"graph 1\n%0 row = logits\nresult row %0\n%1 row = logits\n", "something comes after the result"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct llm_error err = {0};
        struct graph *g = NULL;
        assert_int_equal(graph_parse(cases[i].text, strlen(cases[i].text), &g, &err), LLM_EINVAL);
        assert_null(g);
        if (!strstr(err.message, cases[i].message))
            fail_msg("%s\ngave \"%s\",\nnot     \"%s\"", cases[i].text, err.message, cases[i].message);
    }
}

/* Every prefix of a text is refused, none of them crashes. */
static void refuses_what_is_cut_off(void **state)
{
    (void)state;
    for (size_t n = 0; n + 2 < sizeof whole - 1; n++) {
        struct graph *g = NULL;
        llm_status status = graph_parse(whole, n, &g, NULL);
        /* "result token %2" is a graph too. */
        if (status == LLM_OK) assert_int_equal(n, sizeof whole - 3);
        if (status == LLM_OK) graph_free(g);
    }
}

static void survives_want_of_memory(void **state)
{
    (void)state;
    uint64_t before = mem_count();
    struct graph *g = NULL;
    char *text = NULL;
    assert_int_equal(graph_parse(whole, sizeof whole - 1, &g, NULL), LLM_OK);
    assert_int_equal(graph_dump(g, &text, NULL, NULL), LLM_OK);
    uint64_t n = mem_count() - before;
    mem_free(text);
    graph_free(g);
    for (uint64_t i = 1; i <= n; i++) {
        g = NULL;
        text = NULL;
        mem_fail_at(i);
        llm_status status = graph_parse(whole, sizeof whole - 1, &g, NULL);
        if (status == LLM_OK) status = graph_dump(g, &text, NULL, NULL);
        mem_fail_at(0);
        assert_int_equal(status, LLM_ENOMEM);
        assert_null(text);
        graph_free(g);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_it_prints),    cmocka_unit_test(forgives_blanks),
        cmocka_unit_test(says_what_is_wrong),      cmocka_unit_test(refuses_what_is_cut_off),
        cmocka_unit_test(survives_want_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
