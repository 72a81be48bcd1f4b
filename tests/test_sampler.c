/* The sampler against plain formulations that sort, and its distribution against the one asked for. */

#include "engine/rowmath.h"
#include "engine/sampler.h"
#include "engine/select.h"
#include "graph/elementary.h"
#include "graph/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { V = 5003 }; /* odd: rows end within a block and within a vector */

static uint64_t random_state;

static double uniform(void)
{
    random_state += 0x9E3779B97F4A7C15u;
    uint64_t x = random_state;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (double)((x ^ (x >> 31)) >> 11) * 0x1p-53;
}

/* Logits like a language model's: a few large ones above a broad floor; `peak` says how far. */
static void make_row(float *x, int32_t n, double peak)
{
    for (int32_t i = 0; i < n; i++) {
        x[i] = (float)(uniform() * 6 - 3);
        if (uniform() < 0.01) x[i] += (float)(uniform() * peak);
    }
}

static struct llm_sampling defaults(void)
{
    struct llm_sampling p;
    llm_sampling_init(&p);
    return p;
}

static int32_t pick(struct sampler *s, const float *x, const struct llm_sampling *p, uint64_t position)
{
    struct sample_input in = {.params = p, .seed = 42, .stream = 0, .position = position};
    return sampler_pick(s, x, &in);
}

/* ---- the passes ---------------------------------------------------------------------------------------- */

static void exp_is_accurate(void **state)
{
    (void)state;
    double worst = 0;
    for (double x = 0; x > -86.9; x -= 0.00037) {
        double want = exp((double)(float)x), e = fabs(exp_core((float)x) - want) / want;
        if (e > worst) worst = e;
    }
    assert_true(worst < 2.5e-7);
    assert_true(exp_core(0) == 1);
    assert_true(exp_core(-100) == 0 && exp_core(-INFINITY) == 0);
}

static void passes_over_rows_of_all_lengths(void **state)
{
    (void)state;
    float x[1600], w[1600];
    double sums[8];
    for (int32_t n = 1; n < 1600; n += n < 70 ? 1 : 97) {
        make_row(x, n, 10);
        float max = x[0];
        int32_t best = 0, count = 0;
        for (int32_t i = 1; i < n; i++)
            if (x[i] > max) max = x[best = i];
        assert_true(row_max(x, n) == max);
        assert_int_equal(row_argmax(x, n), best);
        double total = 0, part = 0, sum = 0;
        for (int32_t i = 0; i < n; i++) {
            double e = exp((x[i] - max) / 0.7);
            total += e;
            if (e >= 0.3) part += e;
            count += e >= 0.3;
        }
        assert_true(fabs(row_weights(x, n, max, 1 / 0.7f, w, sums) - total) < 1e-5 * total);
        for (int32_t b = 0; b < row_blocks(n); b++) sum += sums[b];
        assert_true(fabs(sum - total) < 1e-5 * total);
        assert_true(fabs(row_sum_from(w, n, 0.3f, sums) - part) < 1e-5 * part);
        assert_int_equal(row_count_from(w, n, 0.3f), count);
        double lse = 0;
        for (int32_t i = 0; i < n; i++) lse += exp(x[i]);
        assert_true(fabs(row_logsumexp(x, n, max) - log(lse)) < 1e-5);
    }
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

static void thresholds_against_sorting(void **state)
{
    (void)state;
    static float w[V], sorted[V], rest[V + SELECT_SLACK];
    static double sums[V / ROW_BLOCK + 1];
    for (int round = 0; round < 300; round++) {
        int32_t n = round % 3 ? V : 1 + (int32_t)(uniform() * 40);
        make_row(w, n, round % 5 * 6);
        if (round % 4 == 0) /* many equals */
            for (int32_t i = 0; i < n; i++) w[i] = floorf(w[i]);
        double total = row_weights(w, n, row_max(w, n), 1 / (float)(0.05 + uniform() * 2), w, sums);
        memcpy(sorted, w, sizeof *w * (size_t)n);
        qsort(sorted, (size_t)n, sizeof *sorted, descending);
        int32_t k = 1 + (int32_t)(uniform() * (round % 2 ? 50 : n));
        if (k > n) k = n;
        assert_true(select_kth(w, n, k, rest) == sorted[k - 1]);
        double mass = uniform() * total, sum = 0;
        float got = select_mass(w, n, 0, mass, rest);
        int32_t last = 0;
        for (; last < n; last++) {
            sum += sorted[last];
            if (sum >= mass) break;
        }
        /* a sum in another order may tip at the boundary, by one distinct value at most */
        float want = sorted[last < n ? last : n - 1];
        double above = 0, with = 0;
        for (int32_t i = 0; i < n; i++) {
            if (sorted[i] > got) above += sorted[i];
            if (sorted[i] >= got) with += sorted[i];
        }
        assert_true(got == want || fabs(above - mass) < 1e-6 * total || fabs(with - mass) < 1e-6 * total);
    }
}

/* ---- the choice ---------------------------------------------------------------------------------------- */

static void greedy_takes_the_lowest_of_equals(void **state)
{
    (void)state;
    static float x[V];
    struct sampler s;
    assert_int_equal(sampler_init(&s, V, NULL), LLM_OK);
    struct llm_sampling p = defaults();
    p.temperature = 0;
    make_row(x, V, 5);
    x[77] = x[3000] = x[4999] = 50;
    assert_int_equal(pick(&s, x, &p, 0), 77);
    sampler_deinit(&s);
}

struct token_weight {
    int32_t token;
    double p;
};

static int likelier(const void *a, const void *b)
{
    const struct token_weight *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return x->token - y->token;
}

/* vLLM's definition, by sorting: temperature, min_p, top_k, top_p; probabilities by token. */
static void plain_distribution(const float *x, int32_t n, const struct llm_sampling *p, double *out)
{
    struct token_weight *t = malloc(sizeof *t * (size_t)n);
    double max = -INFINITY, total = 0;
    for (int32_t i = 0; i < n; i++)
        if (x[i] > max) max = x[i];
    for (int32_t i = 0; i < n; i++) t[i] = (struct token_weight){i, exp((x[i] - max) / p->temperature)};
    qsort(t, (size_t)n, sizeof *t, likelier);
    int32_t keep = n;
    while (keep > 1 && t[keep - 1].p < p->min_p) keep--;
    if (p->top_k > 0 && p->top_k < keep) keep = p->top_k;
    for (int32_t i = 0; i < keep; i++) total += t[i].p;
    if (p->top_p < 1) {
        double sum = 0;
        int32_t m = 0;
        while (m < keep && sum < p->top_p * total) sum += t[m++].p;
        keep = m;
        total = sum;
    }
    for (int32_t i = 0; i < n; i++) out[i] = 0;
    for (int32_t i = 0; i < keep; i++) out[t[i].token] = t[i].p / total;
    free(t);
}

/* Pearson's statistic over the tokens that are expected at least 8 times, the others pooled. */
static void expect_distribution(struct sampler *s, const float *x, int32_t n, const struct llm_sampling *p)
{
    enum { DRAWS = 10000 };
    double *want = malloc(sizeof *want * (size_t)n);
    int32_t *got = calloc((size_t)n, sizeof *got);
    plain_distribution(x, n, p, want);
    for (int32_t i = 0; i < DRAWS; i++) {
        int32_t token = pick(s, x, p, (uint64_t)i);
        assert_in_range(token, 0, n - 1);
        assert_true(want[token] > 0); /* nothing that was to be cut off */
        got[token]++;
    }
    double chi2 = 0, rest_want = 0, rest_got = 0;
    int32_t cells = 0;
    for (int32_t i = 0; i < n; i++) {
        double e = want[i] * DRAWS;
        if (e < 8) {
            rest_want += e;
            rest_got += got[i];
            continue;
        }
        chi2 += (got[i] - e) * (got[i] - e) / e;
        cells++;
    }
    if (rest_want >= 8) {
        chi2 += (rest_got - rest_want) * (rest_got - rest_want) / rest_want;
        cells++;
    }
    /* mean cells - 1, variance 2 (cells - 1): five deviations. Draws are keyed: no luck is involved. */
    double dof = cells > 1 ? cells - 1 : 1;
    assert_true(chi2 < dof + 5 * sqrt(2 * dof) + 8);
    free(want);
    free(got);
}

static void draws_follow_the_distribution(void **state)
{
    (void)state;
    static float x[V];
    struct sampler s;
    random_state = 99;
    const struct {
        float temperature, top_p, min_p;
        int32_t top_k, n;
        double peak;
    } cases[] = {{1, 1, 0, 0, V, 9},        {0.7f, 1, 0, 0, V, 12},     {2, 1, 0, 0, 130, 3},
                 {1, 0.9f, 0, 0, V, 9},     {1, 0.5f, 0, 0, V, 4},      {1, 1, 0.1f, 0, V, 9},
                 {1, 1, 0, 20, V, 9},       {0.8f, 0.95f, 0, 40, V, 9}, {1.3f, 0.8f, 0.02f, 50, V, 9},
                 {1, 1, 0, 1, V, 9},        {1, 0.0001f, 0, 0, V, 9},   {0.01f, 1, 0, 0, V, 9},
                 {1, 0.99f, 0, 4000, V, 1}, {1, 1, 0, -1, 17, 2},       {1, 1, 1, 0, V, 9}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(sampler_init(&s, cases[i].n, NULL), LLM_OK);
        make_row(x, cases[i].n, cases[i].peak);
        struct llm_sampling p = defaults();
        p.temperature = cases[i].temperature;
        p.top_p = cases[i].top_p;
        p.top_k = cases[i].top_k;
        p.min_p = cases[i].min_p;
        expect_distribution(&s, x, cases[i].n, &p);
        sampler_deinit(&s);
    }
}

static void draws_depend_on_seed_stream_and_position_alone(void **state)
{
    (void)state;
    static float x[V];
    struct sampler s, t;
    assert_int_equal(sampler_init(&s, V, NULL), LLM_OK);
    assert_int_equal(sampler_init(&t, V, NULL), LLM_OK);
    struct llm_sampling p = defaults();
    p.temperature = 1.5f;
    make_row(x, V, 3);
    int differ = 0;
    for (uint32_t i = 0; i < 200; i++) {
        struct sample_input a = {.params = &p, .seed = 7, .stream = i % 3, .position = i};
        struct sample_input b = a;
        int32_t first = sampler_pick(&s, x, &a);
        assert_int_equal(sampler_pick(&t, x, &b), first);
        b.stream++;
        differ += sampler_pick(&s, x, &b) != first;
        b = a;
        b.seed++;
        differ += sampler_pick(&s, x, &b) != first;
    }
    assert_true(differ > 350);
    sampler_deinit(&s);
    sampler_deinit(&t);
}

/* ---- changes to the logits ----------------------------------------------------------------------------- */

/* Which token greedy takes shows what was done to the row. */
static void masks_and_biases(void **state)
{
    (void)state;
    float x[10] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct sampler s;
    assert_int_equal(sampler_init(&s, 10, NULL), LLM_OK);
    struct llm_sampling p = defaults();
    p.temperature = 0;
    struct sample_input in = {.params = &p};
    assert_int_equal(sampler_pick(&s, x, &in), 9);

    p.allowed_token_ids = (int32_t[]){2, 5, 3};
    p.n_allowed_token_ids = 3;
    assert_int_equal(sampler_pick(&s, x, &in), 5);
    p.logit_bias = (struct llm_token_bias[]){{3, 4}, {9, 100}}; /* 9 is not allowed: bias does not help */
    p.n_logit_bias = 2;
    assert_int_equal(sampler_pick(&s, x, &in), 3);
    p = defaults();
    p.temperature = 0;

    p.min_tokens = 2;
    p.stop_token_ids = (int32_t[]){8};
    p.n_stop_token_ids = 1;
    in.end_tokens = (int32_t[]){9};
    in.n_end_tokens = 1;
    in.n_output = 1;
    int32_t output[4] = {1, 4, 4, 6};
    in.output = output;
    assert_int_equal(sampler_pick(&s, x, &in), 7);
    in.n_output = 2;
    assert_int_equal(sampler_pick(&s, x, &in), 9);

    int32_t one[] = {9}, two[] = {4, 8}, three[] = {1, 4, 7};
    struct token_span bad[] = {{one, 1}, {two, 2}, {three, 3}};
    in.bad_words = bad;
    in.n_bad_words = 3; /* output ends in 1 4: 9, 8 and 7 are banned */
    assert_int_equal(sampler_pick(&s, x, &in), 6);
    in.n_output = 1; /* ends in 1: only 9 is; and 8 as a stop token before min_tokens */
    assert_int_equal(sampler_pick(&s, x, &in), 7);
    in.n_output = 0;
    p.min_tokens = 0;
    assert_int_equal(sampler_pick(&s, x, &in), 8);

    p.allowed_token_ids = one; /* nothing is left: the row as it was */
    p.n_allowed_token_ids = 1;
    assert_int_equal(sampler_pick(&s, x, &in), 9);
    sampler_deinit(&s);
}

/* Penalties on random sequences, by counting in vocabulary-sized arrays; the row is read back through a draw
 * of log-probabilities at temperature 0: the order of all tokens must agree. */
static void penalties_against_plain_counts(void **state)
{
    (void)state;
    enum { N = 61 };
    struct sampler s;
    assert_int_equal(sampler_init(&s, N, NULL), LLM_OK);
    for (int round = 0; round < 500; round++) {
        float x[N], want[N];
        int32_t in_prompt[N] = {0}, in_output[N] = {0}, output[100];
        struct token_count list[N];
        int32_t slots[256] = {0};
        assert_true(counts_slots_for(N) <= 256);
        struct token_counts counts;
        counts_init(&counts, list, slots, N);
        make_row(x, N, 4);
        struct llm_sampling p = defaults();
        p.temperature = 0;
        p.presence_penalty = (float)(uniform() * 4 - 2);
        p.frequency_penalty = (float)(uniform() * 4 - 2);
        p.repetition_penalty = (float)(0.5 + uniform() * 1.5);
        int32_t n = (int32_t)(uniform() * 100);
        for (int32_t i = 0; i < 30; i++) {
            int32_t t = (int32_t)(uniform() * N);
            in_prompt[t] = 1;
            counts_add_prompt(&counts, t);
        }
        for (int32_t i = 0; i < n; i++) {
            output[i] = (int32_t)(uniform() * N);
            in_output[output[i]]++;
            counts_add_output(&counts, output[i]);
        }
        int32_t best = 0;
        for (int32_t i = 0; i < N; i++) {
            want[i] = x[i];
            if (in_prompt[i] || in_output[i])
                want[i] = want[i] > 0 ? want[i] / p.repetition_penalty : want[i] * p.repetition_penalty;
            want[i] -= p.frequency_penalty * (float)in_output[i];
            want[i] -= p.presence_penalty * (float)(in_output[i] > 0);
            if (want[i] > want[best]) best = i;
        }
        struct sample_input in = {.params = &p, .counts = &counts, .output = output, .n_output = n};
        assert_int_equal(sampler_pick(&s, x, &in), best);
        for (int32_t i = 0; i < N; i++) assert_true(fabsf(s.work[i] - want[i]) < 1e-5f);
    }
    sampler_deinit(&s);
}

/* ---- log-probabilities --------------------------------------------------------------------------------- */

static void logprobs_against_sorting(void **state)
{
    (void)state;
    static float x[V];
    static struct llm_logprob row[V + 1];
    static struct token_weight sorted[V];
    struct sampler s;
    assert_int_equal(sampler_init(&s, V, NULL), LLM_OK);
    for (int round = 0; round < 30; round++) {
        make_row(x, V, 8);
        if (round % 3 == 0)
            for (int32_t i = 0; i < V; i++) x[i] = roundf(x[i] * 4) / 4; /* many equals */
        double total = 0;
        for (int32_t i = 0; i < V; i++) {
            total += exp(x[i]);
            sorted[i] = (struct token_weight){i, x[i]};
        }
        qsort(sorted, V, sizeof *sorted, likelier);
        int32_t place = (int32_t)(uniform() * V), k = round == 29 ? V : round % 7 * 3;
        sampler_logprobs(&s, x, sorted[place].token, k, row);
        assert_int_equal(row[0].token, sorted[place].token);
        assert_int_equal(row[0].rank, place + 1);
        assert_true(fabs(row[0].logprob - (sorted[place].p - log(total))) < 1e-5);
        for (int32_t i = 0; i < k; i++) {
            assert_int_equal(row[i + 1].token, sorted[i].token);
            assert_int_equal(row[i + 1].rank, i + 1);
            assert_true(fabs(row[i + 1].logprob - (sorted[i].p - log(total))) < 1e-5);
        }
    }
    sampler_deinit(&s);
}

/* The candidates of policies: those that a plain sort puts first, of what top_k keeps; the draw is the same.
 */
static void candidates_against_sorting(void **state)
{
    (void)state;
    static float x[V];
    static struct token_weight sorted[V];
    struct llm_candidate list[LLM_MAX_CANDIDATES];
    struct sampler s;
    assert_int_equal(sampler_init(&s, V, NULL), LLM_OK);
    for (int round = 0; round < 60; round++) {
        make_row(x, V, round % 4 * 6);
        if (round % 3 == 0)
            for (int32_t i = 0; i < V; i++) x[i] = roundf(x[i] * 4) / 4; /* many equals */
        if (round % 5 == 0)
            for (int32_t i = 0; i < V; i++) x[i] = i % 1000 == 3 ? x[i] : -INFINITY;
        struct llm_sampling p = defaults();
        p.temperature = round % 7 ? 1 : 0;
        p.top_k = p.temperature > 0 && round % 2 ? 40 : 0;
        for (int32_t i = 0; i < V; i++) sorted[i] = (struct token_weight){i, x[i]};
        qsort(sorted, V, sizeof *sorted, likelier);
        int32_t kept = 0;
        double total = 0, last = p.top_k ? fmax(sorted[39].p, -1e30) : -1e30;
        for (; kept < V && sorted[kept].p >= last; kept++) total += exp(sorted[kept].p);
        struct sample_input in = {.params = &p, .seed = 42, .position = (uint64_t)round};
        struct sample_best best = {list, round % 6 ? LLM_MAX_CANDIDATES : 1 + round % 11};
        int32_t room = best.n < kept ? best.n : kept, token = sampler_choose(&s, x, &in, &best);
        assert_int_equal(token, sampler_choose(&s, x, &in, NULL));
        assert_int_equal(best.n, room);
        for (int32_t i = 0; i < room; i++) {
            /* logits that are almost equal have equal weights, and then ids count */
            if (round % 3 == 0) assert_int_equal(list[i].token, sorted[i].token);
            assert_true(fabs(x[list[i].token] - sorted[i].p) < 1e-5);
            assert_true(fabs(list[i].logprob - (sorted[i].p - log(total))) < 1e-4);
            assert_true(fabs(list[i].prob - exp(list[i].logprob)) < 1e-5);
        }
    }
    for (int32_t i = 0; i < V; i++) x[i] = -INFINITY;
    struct llm_sampling p = defaults();
    struct sample_input in = {.params = &p};
    assert_int_equal(sampler_choose(&s, x, &in, NULL), -1);
    sampler_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_accurate),
        cmocka_unit_test(passes_over_rows_of_all_lengths),
        cmocka_unit_test(thresholds_against_sorting),
        cmocka_unit_test(greedy_takes_the_lowest_of_equals),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(draws_depend_on_seed_stream_and_position_alone),
        cmocka_unit_test(masks_and_biases),
        cmocka_unit_test(penalties_against_plain_counts),
        cmocka_unit_test(logprobs_against_sorting),
        cmocka_unit_test(candidates_against_sorting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
