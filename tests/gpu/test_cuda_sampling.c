/* The stages of sampling on a CUDA device against the engine's own sampler, for sequences that advance token
 * by token: adjusted rows to the bit, draws but where rounding decides, candidates and log-probabilities.
 * Without a device it skips. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "cuda_tests.h"
#include "engine/counts.h"
#include "engine/rowmath.h"
#include "engine/sampler.h"
#include "kernels/device.h"

enum {
    MAX_LEN = 30100,
    LONGEST = 30000,
    STEPS = 4,
    MOST_LISTED = 64, /* entries of a list of a request here */
    N_KINDS = 6
};

static struct backend *be;

#include "sampling_batch.inc.c"

/* ---- comparisons --------------------------------------------------------------------------------------- */

static struct {
    int rows, barren, other_token, lists, other_list, scored;
} seen;

/* The counts of a sequence's tokens, as the engine keeps them; the caller frees them. */
static void count_tokens(const struct sequence *q, struct token_counts *c)
{
    struct token_count *list = allocated((size_t)q->n, sizeof *list);
    counts_init(c, list, allocated(counts_slots_for(q->n), sizeof(int32_t)), q->n);
    for (int32_t i = 0; i < q->n; i++) {
        if (i < q->n_prompt)
            counts_add_prompt(c, q->tokens[i]);
        else
            counts_add_output(c, q->tokens[i]);
    }
}

/* Leaves the host's row in b->adjusted; 1 if it is barren. */
static int compare_row(struct batch *b, int32_t i, const struct sample_input *in)
{
    const float *raw = b->logits + (size_t)i * (size_t)b->vocab,
                *at = b->a.logits + (size_t)i * (size_t)b->vocab;
    const float *want = sampler_adjust(&b->sampler, raw, in);
    int barren = !isfinite(row_max(want, b->vocab)), hooked = b->rows[i].seat >= 0 && b->rows[i].flags;
    memcpy(b->adjusted, want, sizeof *want * (size_t)b->vocab);
    if (want != raw || hooked) assert_int_equal(b->out[i].flags, barren ? SAMPLED_BARREN : 0);
    if (!barren && hooked)
        assert_ptr_equal(b->state[i].at, b->a.seats.work + (size_t)b->rows[i].seat * 2 * (size_t)b->vocab);
    if (want == raw && !hooked) assert_ptr_equal(b->state[i].at, at);
    get(b->got, b->state[i].at, sizeof *want * (size_t)b->vocab);
    want = barren ? raw : b->adjusted;
    for (int32_t t = 0; t < b->vocab; t++)
        if (memcmp(&b->got[t], &want[t], sizeof *want))
            fail_msg("vocabulary %d, row %d, token %d: adjusted to %g, not %g from %g", b->vocab, i, t,
                     (double)b->got[t], (double)want[t], (double)raw[t]);
    return barren;
}

static int close_to(float got, float want)
{
    return got == want || fabs((double)got - (double)want) <= 2e-6 * fmax(1, fabs((double)want));
}

/* 1 if the lists are the same: tokens, order, probabilities. */
static int same_list(const struct sample_candidate *got, int32_t n, const struct sample_best *want)
{
    if (n != want->n) return 0;
    for (int32_t i = 0; i < n; i++) {
        double p = (double)want->list[i].prob;
        if (got[i].token != want->list[i].token || fabs((double)got[i].prob - p) > 2e-6 * p ||
            !close_to(got[i].logprob, want->list[i].logprob))
            return 0;
    }
    return 1;
}

static void compare_choice(struct batch *b, int32_t i, const struct sample_input *in, int barren)
{
    struct llm_candidate list[LLM_MAX_CANDIDATES];
    struct sample_best best = {list, b->rows[i].n_candidates};
    const struct sample_candidate *got = b->candidates + (size_t)i * SAMPLE_MAX_CANDIDATES;
    int lists = b->rows[i].seat >= 0 && best.n > 0;
    int32_t token = b->out[i].token, want;
    assert_int_equal(b->last[b->rows[i].slot], token);
    assert_in_range(token, 0, b->vocab - 1);
    seen.rows++;
    if (barren) {
        seen.barren++;
        assert_int_equal(token, row_argmax(b->logits + (size_t)i * (size_t)b->vocab, b->vocab));
        assert_int_equal(b->out[i].n_candidates, 0);
        return;
    }
    want = sampler_choose(&b->sampler, b->adjusted, in, lists ? &best : NULL);
    assert_true(b->adjusted[token] > -INFINITY);
    if (b->rows[i].temperature == 0) assert_int_equal(token, want);
    seen.other_token += token != want;
    if (!lists) {
        assert_int_equal(b->out[i].n_candidates, 0);
        return;
    }
    seen.lists++;
    if (same_list(got, b->out[i].n_candidates, &best)) return;
    if (seen.other_list++ < 10)
        printf(
            "vocabulary %d, row %d: temperature %g, top_k %d, top_p %g, min_p %g: %d candidates, not %d; the "
            "first: token %d with %.9g, not %d with %.9g\n",
            b->vocab, i, (double)b->rows[i].temperature, b->rows[i].top_k, (double)b->rows[i].top_p,
            (double)b->rows[i].min_p, b->out[i].n_candidates, best.n, got[0].token, (double)got[0].prob,
            list[0].token, (double)list[0].prob);
}

static void compare_logprobs(struct batch *b, int32_t i)
{
    struct llm_logprob want[1 + SAMPLE_MAX_LOGPROBS];
    const struct sample_logprob *got = b->logprobs + (size_t)i * (1 + SAMPLE_MAX_LOGPROBS);
    int32_t k = b->rows[i].n_logprobs;
    if (k >= 0)
        sampler_logprobs(&b->sampler, b->logits + (size_t)i * (size_t)b->vocab, b->out[i].token, k, want);
    for (int32_t j = 0; j <= k; j++)
        if (got[j].token != want[j].token || got[j].rank != want[j].rank ||
            !close_to(got[j].logprob, want[j].logprob))
            fail_msg("vocabulary %d, row %d, entry %d of %d: token %d, rank %d, %.9g; not %d, %d, %.9g",
                     b->vocab, i, j, k, got[j].token, got[j].rank, (double)got[j].logprob, want[j].token,
                     want[j].rank, (double)want[j].logprob);
    assert_int_equal(got[k + 1 <= SAMPLE_MAX_LOGPROBS ? k + 1 : 0].rank == (int32_t)0xa5a5a5a5,
                     k + 1 <= SAMPLE_MAX_LOGPROBS);
}

static void compare(struct batch *b)
{
    for (int32_t i = 0; i < b->n + 1; i++) {
        struct sequence *q = i < b->n ? &b->sequences[i] : NULL;
        struct llm_sampling p;
        struct token_counts counts = {0};
        llm_sampling_init(&p);
        if (q) p = q->params;
        p.temperature = b->rows[i].temperature, p.top_p = b->rows[i].top_p;
        p.min_p = b->rows[i].min_p, p.top_k = b->rows[i].top_k;
        struct sample_input in = {.params = &p,
                                  .seed = b->rows[i].seed,
                                  .stream = b->rows[i].stream,
                                  .position = b->rows[i].position};
        if (q) {
            in.bad_words = q->bad, in.n_bad_words = q->n_bad;
            in.end_tokens = q->young, in.n_end_tokens = q->n_young;
            in.output = q->tokens + q->n_prompt, in.n_output = q->n - q->n_prompt;
            if (sampler_counts_needed(&p)) count_tokens(q, &counts), in.counts = &counts;
        }
        int barren = compare_row(b, i, &in);
        compare_choice(b, i, &in, barren);
        compare_logprobs(b, i);
        free(counts.list), free(counts.slots);
    }
    const struct sampled *padding = &b->out[b->n + 1];
    assert_int_equal(padding->flags, 0xa5a5a5a5);
    assert_int_equal(padding->token, (int32_t)0xa5a5a5a5);
}

/* The batch's rows as if they were a prompt's: any token's log-probability, and the likeliest, of all but the
 * first `skip`. */
static void compare_scores(struct batch *b, int32_t skip)
{
    static const int32_t widths[] = {0, 1, 5, 20, 64};
    int32_t n = b->n + 1 - skip, k = widths[random_below(5)];
    if (k > b->vocab) k = b->vocab;
    size_t bytes = (size_t)n * (size_t)(1 + k) * sizeof(struct llm_logprob);
    struct llm_logprob *got = allocated(1, bytes), want[1 + SAMPLE_MAX_LOGPROBS];
    int32_t *tokens = allocated((size_t)n, sizeof *tokens), *on = on_device((size_t)n * sizeof *tokens);
    struct sample_logprob *out = on_device(bytes);
    for (int32_t i = 0; i < n; i++) tokens[i] = random_below(b->vocab);
    put(on, tokens, sizeof *tokens * (size_t)n);
    const struct score_args a = {.n = n,
                                 .vocab_size = b->vocab,
                                 .n_logprobs = k,
                                 .tokens = on,
                                 .logits = b->a.logits + (size_t)skip * (size_t)b->vocab,
                                 .logits_stride = b->vocab,
                                 .out = out};
    assert_int_equal(be->device->sampling->score(be, &a), LLM_OK);
    get(got, out, bytes);
    for (int32_t i = 0; i < n; i++) {
        const struct llm_logprob *row = got + (size_t)i * (size_t)(1 + k);
        sampler_logprobs(&b->sampler, b->logits + (size_t)(skip + i) * (size_t)b->vocab, tokens[i], k, want);
        for (int32_t j = 0; j <= k; j++)
            if (row[j].token != want[j].token || row[j].rank != want[j].rank ||
                !close_to(row[j].logprob, want[j].logprob))
                fail_msg(
                    "vocabulary %d, scored row %d, entry %d of %d: token %d, rank %d, %.9g; not %d, %d, %.9g",
                    b->vocab, i, j, k, row[j].token, row[j].rank, (double)row[j].logprob, want[j].token,
                    want[j].rank, (double)want[j].logprob);
    }
    seen.scored += n;
    be->free(be, on, 0), be->free(be, out, 0);
    free(got), free(tokens);
}

/* Histories and counts on the device are the host's. The last token has not been noted. */
static void compare_seats(struct batch *b)
{
    const struct seats *s = &b->a.seats;
    uint32_t *want = allocated((size_t)b->vocab, sizeof *want),
             *got = allocated((size_t)b->vocab, sizeof *got);
    int32_t *history = allocated(MAX_LEN, sizeof *history);
    for (int32_t i = 0; i < b->n; i++) {
        const struct sequence *q = &b->sequences[i];
        size_t at = (size_t)seat_of(b, i), bytes = sizeof *want * (size_t)b->vocab;
        get(history, s->history + at * MAX_LEN, sizeof *history * MAX_LEN);
        assert_memory_equal(history, q->tokens, sizeof *history * (size_t)(q->n - 1));
        if (!q->counted) continue;
        memset(want, 0, bytes);
        for (int32_t k = 0; k < q->n - 1; k++) {
            uint32_t *c = &want[q->tokens[k]];
            *c = k < q->n_prompt ? *c | SEAT_IN_PROMPT : *c + 1;
        }
        get(got, s->counts + at * (size_t)b->vocab, bytes);
        assert_memory_equal(got, want, bytes);
    }
    free(want), free(got), free(history);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

/* Sequences go on with their token, or with one that begins a bad word. */
static void advance(struct batch *b)
{
    for (int32_t i = 0; i < b->n; i++) {
        struct sequence *q = &b->sequences[i];
        int32_t word = q->n_bad ? random_below(q->n_bad) : -1;
        q->tokens[q->n++] =
            word >= 0 && q->bad[word].n > 1 && random_below(2) ? q->bad[word].ids[0] : b->out[i].token;
    }
}

static void follow(int32_t vocab, int32_t n)
{
    struct batch b;
    begin_batch(&b, n, vocab);
    for (int32_t i = 0; i < n; i++) {
        int32_t length = i % 8 == 7   ? LONGEST - random_below(100)
                         : i % 4 == 0 ? 1 + i / 4
                                      : 1 + random_below(3000);
        begin_sequence(&b.sequences[i], vocab, length, (unsigned)i % (ALL + 1));
    }
    /* One that bans all it allows. */
    struct sequence *q = &b.sequences[n / 2];
    begin_sequence(q, vocab, 10, ALLOWED | YOUNG);
    q->params.n_allowed_token_ids = 1;
    q->young[0] = q->allowed[0];
    q->params.min_tokens = 100;
    fill_seats(&b, 0, 1);
    for (int step = 0; step < STEPS; step++) {
        if (step == 2) fill_seats(&b, 0, 2);
        make_rows(&b, step);
        run_stages(&b);
        compare(&b);
        compare_scores(&b, step % 3);
        advance(&b);
    }
    compare_seats(&b);
    end_batch(&b);
}

static void sequences(void **state)
{
    (void)state;
    memset(&seen, 0, sizeof seen);
    const int32_t n = cuda_tests_small ? 9 : 64;
    for (int round = 0; round < (cuda_tests_small ? 1 : 3); round++) {
        follow(5, n);
        follow(1000, n);
        follow(32003, n);
    }
    if (!cuda_tests_small) {
        follow(128256, n);
        follow(600001, 8); /* chunks of two pieces */
    }
    printf(
        "%d rows, %d barren, %d scored; %d draws and %d of %d lists of candidates differ from the host's\n",
        seen.rows, seen.barren, seen.scored, seen.other_token, seen.other_list, seen.lists);
    assert_true(seen.barren > 0 && seen.lists > 0 && seen.scored > 0);
    assert_true(seen.other_token * 100 < seen.rows);
    assert_true(seen.other_list * 100 < seen.lists);
}

/* Rows that the host has looked at, and tokens that a graph has given. */
static void marked(void **state)
{
    (void)state;
    enum { V = 32003, N = 6 };
    const struct sampling_ops *s = be->device->sampling;
    struct batch b;
    begin_batch(&b, N, V);
    for (int32_t i = 0; i < N; i++) begin_sequence(&b.sequences[i], V, 5, 0);
    fill_seats(&b, 0, 1);
    make_rows(&b, 0);
    for (int32_t i = 0; i < N; i++) {
        fill_logits(b.logits + (size_t)i * V, V, 0);
        b.rows[i].flags = SAMPLE_HOOKED;
        b.rows[i].n_candidates = 4;
    }
    put((void *)b.a.rows, b.rows, sizeof *b.rows * (N + 2));
    put((void *)b.a.logits, b.logits, sizeof *b.logits * (N + 2) * V);
    assert_int_equal(s->adjust(be, &b.a), LLM_OK);

    float *row = b.adjusted;
    const float bad[] = {NAN, INFINITY};
    for (int32_t i = 0; i < 4; i++) { /* 0, 1: one bad number; 2: nothing; 3: all but one */
        memcpy(row, b.logits + (size_t)i * V, sizeof *row * V);
        if (i < 2) row[V - 1] = bad[i];
        for (int32_t t = 0; i >= 2 && t < V; t++) row[t] = i == 3 && t == V - 7 ? -1e30f : -INFINITY;
        put(b.a.seats.work + (size_t)seat_of(&b, i) * 2 * V, row, sizeof *row * V);
    }
    assert_int_equal(s->check(be, &b.a), LLM_OK);
    get(b.out, b.a.out, sizeof *b.out * (N + 2));
    for (int32_t i = 0; i < N; i++) {
        assert_int_equal(b.out[i].flags, i < 3 ? SAMPLED_FAILED : 0);
        assert_int_equal(b.out[i].place, i < 3 ? -1 : 0);
    }
    b.out[4].flags = SAMPLED_CHOSEN, b.out[4].token = 1234;
    put(b.a.out, b.out, sizeof *b.out * (N + 2));
    assert_int_equal(s->sample(be, &b.a), LLM_OK);
    assert_int_equal(s->candidates(be, &b.a), LLM_OK);
    get(b.out, b.a.out, sizeof *b.out * (N + 2));
    get(b.last, b.a.last, sizeof *b.last * (N + 2));
    for (int32_t i = 0; i < N; i++) assert_in_range(b.last[b.rows[i].slot], 0, V - 1);
    assert_int_equal(b.out[3].token, V - 7);
    assert_int_equal(b.out[3].n_candidates, 1);
    assert_int_equal(b.out[4].token, 1234);
    assert_int_equal(b.last[b.rows[4].slot], 1234);
    assert_int_equal(b.out[4].n_candidates, 0);
    assert_int_equal(b.out[0].n_candidates, 0);
    end_batch(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sequences), cmocka_unit_test(marked)};
    const int skipped = cuda_tests_begin(argc, argv);
    if (skipped) return skipped;
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_F32}, &be, NULL)) return 1;
    int failures = cmocka_run_group_tests(tests, NULL, NULL);
    be->close(be);
    return failures;
}
