/* Rotation tables against transformers' (golden/rope.json), from the config.json on. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/rope.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static json_t *read_golden(void)
{
    json_error_t e;
    json_t *cases = json_load_file(TESTS_DIR "/golden/rope.json", 0, &e);
    if (!cases) fail_msg("rope.json: %s", e.text);
    assert_true(json_array_size(cases) >= 15);
    return cases;
}

static struct model_config read_config(const json_t *golden)
{
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    char *text = json_dumps(json_object_get(golden, "config"), 0);
    if (config_from_json(text, strlen(text), NULL, 0, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    free(text);
    return c;
}

static double number_at(const json_t *array, size_t i)
{
    return json_number_value(json_array_get(array, i));
}

static void expect_near(const char *name, const char *what, size_t i, double got, double expected,
                        double tolerance)
{
    if (!(fabs(got - expected) <= tolerance))
        fail_msg("%s: %s %zu is %.9g, expected %.9g", name, what, i, got, expected);
}

/* transformers computes in float32: its frequencies carry a few rounding errors, its angles one more. */
static void check_case(const json_t *golden)
{
    const char *name = json_string_value(json_object_get(golden, "name"));
    const json_t *frequencies = json_object_get(golden, "frequencies");
    const json_t *positions = json_object_get(golden, "positions");
    int32_t n = (int32_t)json_integer_value(json_object_get(golden, "n_positions"));
    struct model_config c = read_config(golden);
    size_t half = (size_t)c.rope.rotary_dim / 2;
    double *got = malloc(half * sizeof *got);
    float *table = malloc((size_t)n * 2 * half * sizeof *table);
    assert_non_null(got);
    assert_non_null(table);

    assert_int_equal(json_array_size(frequencies), half);
    rope_frequencies(&c.rope, n, got);
    for (size_t i = 0; i < half; i++)
        expect_near(name, "frequency", i, got[i], number_at(frequencies, i), 2e-6 * got[i]);
    expect_near(name, "attention factor", 0, rope_attention_factor(&c.rope),
                json_number_value(json_object_get(golden, "attention_factor")), 1e-6);

    assert_int_equal(rope_table_fill(&c.rope, n, table, NULL), LLM_OK);
    for (size_t p = 0; p < json_array_size(positions); p++) {
        size_t position = (size_t)json_integer_value(json_array_get(positions, p));
        const json_t *cosines = json_array_get(json_object_get(golden, "cos"), p);
        const json_t *sines = json_array_get(json_object_get(golden, "sin"), p);
        for (size_t i = 0; i < half; i++) {
            double tolerance = 1e-6 + 1e-6 * (double)position * got[i];
            expect_near(name, "cosine", i, (double)table[position * 2 * half + i], number_at(cosines, i),
                        tolerance);
            expect_near(name, "sine", i, (double)table[position * 2 * half + half + i], number_at(sines, i),
                        tolerance);
        }
    }
    free(table);
    free(got);
    config_free(&c);
}

static void test_golden(void **state)
{
    (void)state;
    json_t *cases = read_golden();
    for (size_t i = 0; i < json_array_size(cases); i++) check_case(json_array_get(cases, i));
    json_decref(cases);
}

/* Far from zero a float32 angle is off by a visible part of a turn: the table must not be. */
static void test_exact_far_out(void **state)
{
    (void)state;
    enum { N = 100001 };
    const struct rope_config rope = {.kind = ROPE_NEOX, .rotary_dim = 4, .theta = 10000, .factor = 1};
    float *table = malloc((size_t)N * 4 * sizeof *table);
    assert_non_null(table);
    assert_int_equal(rope_table_fill(&rope, N, table, NULL), LLM_OK);
    const float *row = table + (size_t)100000 * 4;
    assert_true(fabs((double)row[0] - cos(100000.0)) < 1e-7);
    assert_true(fabs((double)row[2] - sin(100000.0)) < 1e-7);
    assert_true(fabs((double)row[1] - cos(1000.0)) < 1e-7);
    assert_true(fabs((double)row[3] - sin(1000.0)) < 1e-7);
    free(table);
}

/* GGUF's rope_freqs.weight: a divisor of each frequency, whatever the scaling. */
static void test_stored_divisors(void **state)
{
    (void)state;
    float divisors[2] = {1, 8};
    struct rope_config rope = {.kind = ROPE_INTERLEAVED,
                               .rotary_dim = 4,
                               .theta = 10000,
                               .factor = 1,
                               .original_max_position = 10,
                               .short_factor = divisors};
    double f[2];
    rope_frequencies(&rope, 100, f);
    assert_true(f[0] == 1 && fabs(f[1] - 0.01 / 8) < 1e-12);
    rope.scaling = ROPE_SCALE_LINEAR;
    rope.factor = 2;
    rope_frequencies(&rope, 100, f);
    assert_true(f[0] == 0.5 && fabs(f[1] - 0.01 / 16) < 1e-12);
    assert_true(rope_attention_factor(&rope) == 1);
}

static void test_no_memory(void **state)
{
    (void)state;
    const struct rope_config rope = {.kind = ROPE_NEOX, .rotary_dim = 4, .theta = 10000, .factor = 1};
    struct llm_error err;
    float table[4] = {7, 7, 7, 7};
    mem_fail_at(1);
    assert_int_equal(rope_table_fill(&rope, 1, table, &err), LLM_ENOMEM);
    assert_true(table[0] == 7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_exact_far_out),
        cmocka_unit_test(test_stored_divisors),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
