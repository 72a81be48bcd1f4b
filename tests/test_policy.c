/* Policies in C over a fake model: what hooks see and may do, chains, failures, generations, preemption. */

#define _GNU_SOURCE
#include "base/mem.h"
#include "engine/engine.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine_events.h"
#include "fake_model.inc.c"

enum { VOCAB = 97, PAGE = 16, LONGEST = 512 };

static struct llm_engine *start(int32_t n_pages)
{
    struct engine_config config = {.max_model_len = LONGEST,
                                   .max_num_seqs = 64,
                                   .max_num_batched_tokens = 128,
                                   .block_size = PAGE,
                                   .n_pages = n_pages,
                                   .prefix_caching = 1,
                                   .chunked_prefill = 1,
                                   .max_logprobs = 20};
    return start_over(&config, fake_model_new(VOCAB, PAGE, n_pages, 128));
}

/* ---- a policy of many uses ----------------------------------------------------------------------------- */

enum mode {
    PASS,      /* looks, does nothing */
    SECOND,    /* candidates: the second best */
    BAN_BEST,  /* logits: bans the likeliest */
    ONLY_ODD,  /* logits: bans even tokens */
    NANS,      /* logits: leaves NaN */
    MASK_ALL,  /* logits */
    BAD_ID,    /* candidates: beyond the vocabulary */
    FAIL_AT_3, /* candidates: fails on the third token */
    FAIL_BEGIN,
    REMEMBER /* candidates: checks that its state is that of its sequence */
};

struct policy_probe {
    enum mode mode;
    int32_t n_begun, n_done, n_calls, n_prepared, n_closed;
    int32_t largest; /* candidates seen */
    double mass;     /* of the last list */
};

static llm_status probe_prepare(void *self, const char *args, size_t bytes, struct llm_policy_args *out,
                                struct llm_error *err)
{
    struct policy_probe *p = self;
    if (args && (bytes != 2 || memcmp(args, "{}", 2)))
        return llm_fail(err, LLM_EINVAL, "unknown argument %.*s", (int)bytes, args);
    out->own = p;
    __atomic_fetch_add(&p->n_prepared, 1, __ATOMIC_RELAXED);
    return LLM_OK;
}

static void probe_forget(void *self, struct llm_policy_args *args)
{
    assert_ptr_equal(args->own, self);
    __atomic_fetch_sub(&((struct policy_probe *)self)->n_prepared, 1, __ATOMIC_RELAXED);
}

static llm_status probe_begin(void *self, struct llm_policy_run *run, struct llm_error *err)
{
    struct policy_probe *p = self;
    p->n_begun++;
    if (p->mode == FAIL_BEGIN) return llm_fail(err, LLM_EINVAL, "no such thing");
    assert_ptr_equal(run->args->own, p);
    run->own = calloc(2, sizeof(int32_t));
    return LLM_OK;
}

static void probe_done(void *self, struct llm_policy_run *run)
{
    ((struct policy_probe *)self)->n_done++;
    free(run->own);
}

static llm_status probe_logits(void *self, struct llm_policy_run *run, float *row, int32_t n,
                               struct llm_error *err)
{
    struct policy_probe *p = self;
    (void)run;
    (void)err;
    p->n_calls++;
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (row[i] > row[best]) best = i;
    if (p->mode == BAN_BEST) row[best] = -INFINITY;
    if (p->mode == NANS) row[best] = NAN;
    for (int32_t i = 0; i < n; i++)
        if (p->mode == MASK_ALL || (p->mode == ONLY_ODD && i % 2 == 0)) row[i] = -INFINITY;
    return LLM_OK;
}

static llm_status probe_candidates(void *self, struct llm_policy_run *run, const struct llm_candidate *best,
                                   int32_t n, int32_t *token, struct llm_error *err)
{
    struct policy_probe *p = self;
    int32_t *seen = run->own;
    p->n_calls++;
    p->largest = n > p->largest ? n : p->largest;
    p->mass = 0;
    for (int32_t i = 0; i < n; i++) {
        p->mass += (double)best[i].prob;
        if (i > 0) assert_true(best[i].prob <= best[i - 1].prob);
        assert_true(fabsf(logf(best[i].prob) - best[i].logprob) < 1e-5f);
    }
    assert_int_equal(seen[0], run->n_output);
    if (*token >= 0) assert_int_equal(*token, -2); /* it comes as -1 */
    if (seen[0] > 0 && seen[1] >= 0) assert_int_equal(seen[1], run->output[run->n_output - 1]);
    seen[0]++;
    if (p->mode == SECOND) *token = best[1].token;
    if (p->mode == BAD_ID) *token = VOCAB;
    if (p->mode == FAIL_AT_3 && run->n_output == 2) return llm_fail(err, LLM_EFAILED, "three is too many");
    if (p->mode == REMEMBER) *token = best[(run->n_output + run->index) % 2].token;
    seen[1] = *token;
    return LLM_OK;
}

static const char *probe_details(void *self)
{
    (void)self;
    return "line 1\nline 2";
}

static void probe_close(void *self)
{
    __atomic_fetch_add(&((struct policy_probe *)self)->n_closed, 1, __ATOMIC_RELAXED);
}

static struct llm_policy table_of(struct policy_probe *p, const char *name)
{
    int row = p->mode == BAN_BEST || p->mode == ONLY_ODD || p->mode == NANS || p->mode == MASK_ALL;
    return (struct llm_policy){.name = name,
                               .self = p,
                               .prepare = probe_prepare,
                               .forget = probe_forget,
                               .begin = probe_begin,
                               .done = probe_done,
                               .logits = row ? probe_logits : NULL,
                               .candidates = row ? NULL : probe_candidates,
                               .details = probe_details,
                               .close = probe_close};
}

static void add(struct llm_engine *e, struct policy_probe *p, const char *name)
{
    struct llm_policy table = table_of(p, name);
    int32_t generation = 0;
    assert_int_equal(llm_policy_add(e, &table, &generation, NULL), LLM_OK);
    assert_true(generation > 0);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

struct answer {
    int32_t tokens[4][64], n[4];
    enum llm_finish_reason finish[4];
    char error[500], details[64];
    float logprob[64]; /* of sequence 0 */
};

static struct llm_request_spec spec_of(const int32_t *ids, int32_t n, const struct llm_policy_use *uses,
                                       size_t n_uses)
{
    struct llm_request_spec s;
    llm_request_spec_init(&s);
    s.prompt_ids = ids;
    s.n_prompt_ids = (size_t)n;
    s.stream = 1;
    s.sampling.temperature = 0;
    s.sampling.max_tokens = 24;
    s.policies = uses;
    s.n_policies = n_uses;
    return s;
}

static void take(const struct llm_event *ev, struct answer *a)
{
    int32_t i = ev->index;
    for (size_t k = 0; k < ev->n_tokens; k++) {
        if (i == 0 && ev->n_logprobs) a->logprob[a->n[0]] = ev->logprobs[k * (size_t)ev->n_logprobs].logprob;
        a->tokens[i][a->n[i]++] = ev->tokens[k];
    }
    if (ev->finish == LLM_FINISH_NONE) return;
    a->finish[i] = ev->finish;
    if (ev->finish != LLM_FINISH_ERROR) return;
    snprintf(a->error, sizeof a->error, "%s", ev->error->message);
    snprintf(a->details, sizeof a->details, "%s", ev->error_details ? ev->error_details : "");
}

/* All at once; the answers in order. */
static void ask(struct llm_client *c, const struct llm_request_spec *specs, int32_t n, struct answer *out)
{
    struct llm_request *requests[64];
    memset(out, 0, sizeof *out * (size_t)n);
    for (int32_t i = 0; i < n; i++) {
        struct llm_request_spec s = specs[i];
        s.user = &out[i];
        assert_int_equal(llm_submit(c, &s, &requests[i], NULL), LLM_OK);
    }
    for (int32_t left = n; left > 0;) {
        struct llm_event ev;
        next_event(c, &ev);
        take(&ev, ev.user);
        left -= ev.request_done;
    }
    for (int32_t i = 0; i < n; i++) llm_release(requests[i]);
}

static const int32_t prompt[20] = {5, 9, 2, 44, 61, 7, 7, 30, 12, 80, 1, 3, 3, 18, 92, 66, 50, 41, 29, 13};

/* The tokens that a rule makes of the model's rows, the rule being: the k-th best among the tokens that
 * `allowed` allows, k by position and index. */
static void expect(int odd_only, int32_t first, int alternate, int32_t *out, int32_t n)
{
    int32_t all[128];
    float row[VOCAB];
    memcpy(all, prompt, sizeof prompt);
    for (int32_t t = 0; t < n; t++) {
        fake_logits(all, 20 + t, VOCAB, row);
        int32_t rank = alternate ? (t + first) % 2 : first, token = -1;
        for (int32_t r = 0; r <= rank; r++) {
            if (token >= 0) row[token] = -INFINITY;
            token = -1;
            for (int32_t i = odd_only; i < VOCAB; i += 1 + odd_only)
                if (token < 0 || row[i] > row[token]) token = i;
        }
        out[t] = all[20 + t] = token;
    }
}

static void rest(struct llm_client *c, struct llm_engine *e)
{
    llm_client_close(c);
    llm_engine_close(e);
}

/* ---- tests --------------------------------------------------------------------------------------------- */

static void hooks_choose(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe pass = {.mode = PASS}, second = {.mode = SECOND}, ban = {.mode = BAN_BEST},
                        odd = {.mode = ONLY_ODD};
    add(e, &pass, "pass");
    add(e, &second, "second");
    add(e, &ban, "ban");
    add(e, &odd, "odd");
    const struct llm_policy_use uses[] = {
        {"pass", NULL, 0}, {"second", "{}", 2}, {"ban", NULL, 0}, {"odd", NULL, 0}};
    const struct llm_policy_use both[] = {uses[3], uses[2]}, all[] = {uses[0], uses[2], uses[3], uses[1]};
    struct llm_request_spec specs[] = {spec_of(prompt, 20, NULL, 0),     spec_of(prompt, 20, &uses[0], 1),
                                       spec_of(prompt, 20, &uses[1], 1), spec_of(prompt, 20, &uses[2], 1),
                                       spec_of(prompt, 20, &uses[3], 1), spec_of(prompt, 20, both, 2),
                                       spec_of(prompt, 20, all, 4)};
    /* ban, then odd: the second best of all is banned only if it is the best */
    struct answer a[7];
    ask(c, specs, 7, a);
    int32_t want[24];
    const struct {
        int odd;
        int32_t rank;
    } rules[] = {{0, 0}, {0, 0}, {0, 1}, {0, 1}, {1, 0}, {1, 1}};
    for (int i = 0; i < 6; i++) {
        expect(rules[i].odd, rules[i].rank, 0, want, 24);
        assert_int_equal(a[i].n[0], 24);
        assert_memory_equal(a[i].tokens[0], want, sizeof want);
    }
    assert_int_equal(a[6].n[0], 24);
    for (int i = 0; i < 24; i++) assert_int_equal(a[6].tokens[0][i] % 2, 1);
    assert_int_equal(pass.n_calls, 48);
    assert_int_equal(pass.n_begun, 2);
    assert_int_equal(pass.largest, VOCAB); /* with temperature 0, the distribution of temperature 1 */
    assert_true(fabs(pass.mass - 1) < 1e-5);
    rest(c, e);
    assert_int_equal(pass.n_done, 2);
    assert_int_equal(pass.n_closed + second.n_closed + ban.n_closed + odd.n_closed, 4);
    assert_int_equal(pass.n_prepared + all[0].args_bytes, 0);
}

static void candidates_are_what_is_drawn_from(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe pass = {.mode = PASS};
    struct llm_policy table = table_of(&pass, "pass");
    table.begin = NULL;
    table.candidates = NULL;
    table.done = NULL;
    table.prepare = NULL;
    table.forget = NULL;
    int32_t generation;
    assert_int_equal(llm_policy_add(e, &table, &generation, NULL), LLM_EINVAL); /* no hook */
    add(e, &pass, "pass");
    const struct llm_policy_use use = {"pass", NULL, 0};
    struct llm_request_spec s[2] = {spec_of(prompt, 20, NULL, 0), spec_of(prompt, 20, &use, 1)};
    for (int i = 0; i < 2; i++) {
        s[i].sampling.temperature = 0.9f;
        s[i].sampling.top_k = 7;
        s[i].sampling.max_tokens = 1;
        s[i].sampling.has_seed = 1;
        s[i].sampling.seed = 77;
        s[i].sampling.logprobs = 3;
    }
    struct answer a[2];
    ask(c, s, 2, a);
    assert_int_equal(pass.largest, 7);
    assert_true(fabs(pass.mass - 1) < 1e-5);
    assert_int_equal(a[0].tokens[0][0], a[1].tokens[0][0]); /* who passes leaves the draw as it was */
    assert_true(a[0].logprob[0] == a[1].logprob[0]);
    rest(c, e);
}

static void sequences_have_their_own_state(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe p = {.mode = REMEMBER};
    add(e, &p, "remember");
    const struct llm_policy_use use = {"remember", NULL, 0};
    struct llm_request_spec s = spec_of(prompt, 20, &use, 1);
    s.sampling.n = 4;
    s.sampling.temperature = 1;
    struct answer a;
    ask(c, &s, 1, &a);
    for (int32_t i = 0; i < 4; i++) {
        int32_t want[24];
        expect(0, i, 1, want, 24);
        assert_int_equal(a.n[i], 24);
        assert_memory_equal(a.tokens[i], want, sizeof want);
    }
    assert_int_equal(p.n_begun, 4);
    rest(c, e);
    assert_int_equal(p.n_done, 4);
}

static void a_failure_is_its_requests_alone(void **state)
{
    (void)state;
    enum { N = 6 };
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    const struct {
        enum mode mode;
        const char *name, *message;
        int32_t n;
    } cases[N] = {
        {PASS, "pass", "", 24},
        {NANS, "nans", "policy nans: after the logits hook the row has NaN", 0},
        {MASK_ALL, "mask", "every token is masked", 0},
        {BAD_ID, "id", "policy id: the candidates hook chose token 97; the model's tokens are 0 to 96", 0},
        {FAIL_AT_3, "three", "policy three: three is too many", 2},
        {FAIL_BEGIN, "begin", "policy begin: no such thing", 0}};
    struct policy_probe p[N];
    struct llm_policy_use uses[N];
    struct llm_request_spec specs[N];
    struct answer a[N];
    for (int i = 0; i < N; i++) {
        p[i] = (struct policy_probe){.mode = cases[i].mode};
        add(e, &p[i], cases[i].name);
        uses[i] = (struct llm_policy_use){cases[i].name, NULL, 0};
        specs[i] = spec_of(prompt, 20, &uses[i], 1);
    }
    ask(c, specs, N, a);
    int32_t want[24];
    expect(0, 0, 0, want, 24);
    for (int i = 0; i < N; i++) {
        assert_int_equal(a[i].n[0], cases[i].n);
        assert_memory_equal(a[i].tokens[0], want, sizeof *want * (size_t)cases[i].n);
        assert_int_equal(a[i].finish[0], i ? LLM_FINISH_ERROR : LLM_FINISH_LENGTH);
        assert_non_null(strstr(a[i].error, cases[i].message));
        assert_string_equal(a[i].details, i ? "line 1\nline 2" : "");
        assert_int_equal(p[i].n_begun, 1);
    }
    struct llm_policy_info info[N];
    assert_int_equal(llm_policy_list(e, info, N), N);
    for (int i = 0; i < N; i++) assert_int_equal(info[i].n_failures, strcmp(info[i].name, "pass") != 0);
    rest(c, e);
    for (int i = 0; i < N; i++) assert_int_equal(p[i].n_done, 1);
}

static void a_policy_may_be_left_out_when_it_fails(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe p[3] = {{.mode = NANS}, {.mode = FAIL_AT_3}, {.mode = ONLY_ODD}};
    const struct llm_policy_use uses[3] = {{"0", NULL, 0}, {"1", NULL, 0}, {"2", NULL, 0}};
    for (int i = 0; i < 3; i++) {
        struct llm_policy table = table_of(&p[i], uses[i].name);
        table.ignore_errors = 1;
        int32_t generation;
        assert_int_equal(llm_policy_add(e, &table, &generation, NULL), LLM_OK);
    }
    struct llm_request_spec s = spec_of(prompt, 20, uses, 3);
    struct answer a;
    ask(c, &s, 1, &a);
    int32_t want[24];
    expect(1, 0, 0, want, 24);
    assert_int_equal(a.n[0], 24);
    assert_memory_equal(a.tokens[0], want, sizeof want);
    assert_int_equal(p[0].n_calls, 1);
    assert_int_equal(p[1].n_calls, 3);
    assert_int_equal(p[2].n_calls, 24);
    rest(c, e);
}

static struct graph *graph_of(const char *text)
{
    struct graph *g = NULL;
    struct llm_error err = {0};
    if (graph_parse(text, strlen(text), &g, &err)) fail_msg("%s", err.message);
    return g;
}

/* Gives its graph's arguments to the engine. */
static llm_status graph_prepare(void *self, const char *args, size_t bytes, struct llm_policy_args *out,
                                struct llm_error *err)
{
    (void)args;
    (void)bytes;
    struct graph_args *a = NULL;
    llm_status status = graph_args_new(self, VOCAB, &a, err);
    if (!status) out->graph = a;
    return status;
}

static void graph_forget(void *self, struct llm_policy_args *args)
{
    (void)self;
    graph_args_free((struct graph_args *)args->graph);
}

static void graphs_take_part(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    const struct {
        const char *name, *text;
    } graphs[] = {
        {"odd", "graph 1\n%0 row = logits\n%1 row = index\n%2 num = const 2\n%3 row = div %1 %2\n"
                "%4 row = floor %3\n%5 mask = eq %3 %4\n%6 num = const -inf\n%7 row = where %5 %6 %0\n"
                "result row %7\n"},
        {"greedy", "graph 1\n%0 row = logits\n%1 num = row_argmax %0\nresult token %1\n"},
        {"broken", "graph 1\n%0 row = logits\n%1 num = const -inf\n%2 row = add %0 %1\nresult row %2\n"},
        {"alternate", "graph 1\nstate t num 0\n%0 num = state t\n%1 num = const 1\n%2 num = sub %1 %0\n"
                      "store t %2\n%3 row = logits\n%4 num = row_max %3\n%5 mask = eq %3 %4\n"
                      "%6 num = const -inf\n%7 row = where %5 %6 %3\n%8 bool = eq %0 %1\n"
                      "%9 row = where %8 %7 %3\nresult row %9\n"}};
    struct graph *g[4];
    struct llm_policy_use uses[4];
    for (int i = 0; i < 4; i++) {
        g[i] = graph_of(graphs[i].text);
        struct llm_policy table = {.name = graphs[i].name,
                                   .self = g[i],
                                   .graph = g[i],
                                   .prepare = graph_prepare,
                                   .forget = graph_forget};
        int32_t generation;
        assert_int_equal(llm_policy_add(e, &table, &generation, NULL), LLM_OK);
        uses[i] = (struct llm_policy_use){graphs[i].name, NULL, 0};
    }
    struct policy_probe second = {.mode = SECOND};
    add(e, &second, "second");
    const struct llm_policy_use second_use = {"second", NULL, 0};
    const struct llm_policy_use odd_second[] = {uses[0], second_use}, greedy_second[] = {uses[1], second_use};
    struct llm_request_spec specs[] = {
        spec_of(prompt, 20, &uses[0], 1),   spec_of(prompt, 20, &uses[1], 1),
        spec_of(prompt, 20, odd_second, 2), spec_of(prompt, 20, greedy_second, 2),
        spec_of(prompt, 20, &uses[3], 1),   spec_of(prompt, 20, &uses[2], 1)};
    struct answer a[6];
    ask(c, specs, 6, a);
    int32_t want[24];
    const struct {
        int odd, alternate;
        int32_t rank;
    } rules[] = {{1, 0, 0}, {0, 0, 0}, {1, 0, 1}, {0, 0, 0}, {0, 1, 0}};
    for (int i = 0; i < 5; i++) {
        expect(rules[i].odd, rules[i].rank, rules[i].alternate, want, 24);
        assert_string_equal(a[i].error, "");
        assert_int_equal(a[i].n[0], 24);
        assert_memory_equal(a[i].tokens[0], want, sizeof want);
    }
    assert_int_equal(a[5].finish[0], LLM_FINISH_ERROR);
    assert_non_null(strstr(a[5].error, "policy broken: "));
    assert_int_equal(second.n_calls, 24); /* where a graph has sampled, nobody is asked */
    rest(c, e);
    for (int i = 0; i < 4; i++) graph_free(g[i]);
}

static void requests_keep_the_generation_they_began_with(void **state)
{
    (void)state;
    struct llm_engine *e = start(256);
    struct llm_client *c = connect_to(e);
    enum { N = 40 };
    static struct policy_probe p[N + 1];
    struct llm_policy_use use = {"which", NULL, 0};
    struct llm_request *requests[N];
    static struct answer a[N];
    memset(a, 0, sizeof a);
    for (int i = 0; i < N; i++) {
        p[i].mode = i % 2 ? SECOND : PASS;
        add(e, &p[i], "which");
        struct llm_request_spec s = spec_of(prompt, 20, &use, 1);
        s.user = &a[i];
        assert_int_equal(llm_submit(c, &s, &requests[i], NULL), LLM_OK);
    }
    for (int32_t left = N; left > 0;) {
        struct llm_event ev;
        next_event(c, &ev);
        take(&ev, ev.user);
        left -= ev.request_done;
    }
    int32_t want[2][24];
    for (int i = 0; i < 2; i++) expect(0, i, 0, want[i], 24);
    for (int i = 0; i < N; i++) {
        assert_memory_equal(a[i].tokens[0], want[i % 2], sizeof want[0]);
        assert_int_equal(p[i].n_calls, 24);
        assert_int_equal(p[i].n_closed, 0);
        llm_release(requests[i]);
        assert_int_equal(p[i].n_closed, i < N - 4); /* the last four can serve again */
    }
    int32_t generation;
    for (int i = N - 1; i > N - 4; i--) {
        assert_int_equal(llm_policy_rollback(e, "which", &generation, NULL), LLM_OK);
        assert_int_equal(generation, i);
    }
    assert_int_equal(llm_policy_rollback(e, "which", &generation, NULL), LLM_ENOENT);
    struct llm_request_spec s = spec_of(prompt, 20, &use, 1);
    struct answer once;
    ask(c, &s, 1, &once);
    assert_int_equal(p[N - 4].n_calls, 48);
    assert_int_equal(llm_policy_remove(e, "which", NULL), LLM_OK);
    struct llm_error err;
    struct llm_request *r;
    assert_int_equal(llm_submit(c, &s, &r, &err), LLM_EINVAL);
    assert_string_equal(err.message, "policy 'which' does not exist; there are: none");
    for (int i = 0; i < N; i++) assert_int_equal(p[i].n_closed, 1);
    rest(c, e);
}

static void old_generations_are_bounded(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    static struct policy_probe p[200];
    struct llm_policy_use use = {"which", NULL, 0};
    struct llm_request *requests[200];
    struct llm_request_spec s = spec_of(prompt, 20, &use, 1);
    int n = 0;
    struct llm_error err;
    for (; n < 200; n++) {
        struct llm_policy table = table_of(&p[n], "which");
        int32_t generation;
        llm_status status = llm_policy_add(e, &table, &generation, &err);
        if (status) {
            assert_int_equal(status, LLM_EFULL);
            break;
        }
        assert_int_equal(llm_submit(c, &s, &requests[n], NULL), LLM_OK);
    }
    assert_true(n >= LLM_MAX_POLICY_GENERATIONS && n < 200);
    for (int i = 0; i < n; i++) llm_release(requests[i]);
    rest(c, e);
    for (int i = 0; i < n; i++) assert_int_equal(p[i].n_closed, 1);
}

static void submitting_checks_the_chain(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe p = {.mode = PASS};
    add(e, &p, "one");
    add(e, &p, "two");
    struct llm_policy_use unknown = {"three", NULL, 0}, bad = {"one", "{\"x\":1}", 7},
                          many[LLM_MAX_CHAIN + 1];
    for (int i = 0; i <= LLM_MAX_CHAIN; i++) many[i] = (struct llm_policy_use){"one", NULL, 0};
    struct llm_request *r;
    struct llm_error err;
    struct llm_request_spec s = spec_of(prompt, 20, &unknown, 1);
    assert_int_equal(llm_submit(c, &s, &r, &err), LLM_EINVAL);
    assert_string_equal(err.message, "policy 'three' does not exist; there are: two, one");
    s = spec_of(prompt, 20, &bad, 1);
    assert_int_equal(llm_submit(c, &s, &r, &err), LLM_EINVAL);
    assert_string_equal(err.message, "policy one: unknown argument {\"x\":1}");
    s = spec_of(prompt, 20, many, LLM_MAX_CHAIN + 1);
    assert_int_equal(llm_submit(c, &s, &r, &err), LLM_EINVAL);
    assert_int_equal(p.n_begun + p.n_prepared, 0);
    rest(c, e);
    assert_int_equal(p.n_closed, 2);
}

/* Pages for about four of 24 sequences: they are preempted, and choose as if alone. */
static void preemption_changes_nothing(void **state)
{
    (void)state;
    enum { N = 24 };
    struct llm_engine *e = start(32);
    struct llm_client *c = connect_to(e);
    struct policy_probe p = {.mode = SECOND};
    add(e, &p, "second");
    const struct llm_policy_use use = {"second", NULL, 0};
    struct llm_request_spec specs[N];
    static struct answer a[N];
    for (int i = 0; i < N; i++) {
        specs[i] = spec_of(prompt, 20, &use, 1);
        specs[i].sampling.max_tokens = 60;
        specs[i].cache_salt = (const char *[]){"a", "b", "c", "d", "e", "f", "g"}[i % 7];
    }
    ask(c, specs, N, a);
    int32_t want[60];
    expect(0, 1, 0, want, 60);
    for (int i = 0; i < N; i++) {
        assert_int_equal(a[i].n[0], 60);
        assert_memory_equal(a[i].tokens[0], want, sizeof want);
    }
    struct llm_stats stats;
    llm_engine_stats(e, &stats);
    assert_true(stats.n_preemptions > 0);
    rest(c, e);
}

static void steps_allocate_nothing(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe second = {.mode = SECOND}, odd = {.mode = ONLY_ODD};
    add(e, &second, "second");
    add(e, &odd, "odd");
    const struct llm_policy_use uses[] = {{"second", NULL, 0}, {"odd", NULL, 0}};
    struct llm_request_spec s = spec_of(prompt, 20, uses, 2);
    s.sampling.max_tokens = 60;
    struct llm_request *r;
    assert_int_equal(llm_submit(c, &s, &r, NULL), LLM_OK);
    uint64_t before = 0;
    struct llm_event ev = {0};
    for (int i = 0; !ev.request_done; i++) {
        next_event(c, &ev);
        if (i == 0) before = mem_count();
    }
    assert_int_equal(mem_count(), before);
    llm_release(r);
    rest(c, e);
}

static void without_memory_nothing_is_left(void **state)
{
    (void)state;
    struct llm_engine *e = start(64);
    struct llm_client *c = connect_to(e);
    struct policy_probe p = {.mode = SECOND};
    const struct llm_policy_use use = {"second", NULL, 0};
    struct llm_request_spec s = spec_of(prompt, 20, &use, 1);
    struct llm_policy table = table_of(&p, "second");
    int32_t generation;
    for (uint64_t n = 1;; n++) {
        mem_fail_at(n);
        llm_status status = llm_policy_add(e, &table, &generation, NULL);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
    }
    struct llm_request *r = NULL;
    for (uint64_t n = 1; !r; n++) {
        mem_fail_at(n);
        llm_status status = llm_submit(c, &s, &r, NULL);
        mem_fail_at(0);
        if (status) assert_int_equal(status, LLM_ENOMEM);
    }
    llm_release(r);
    rest(c, e);
    assert_int_equal(p.n_begun, p.n_done);
    assert_int_equal(p.n_prepared, 0);
    assert_int_equal(p.n_closed, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hooks_choose),
        cmocka_unit_test(candidates_are_what_is_drawn_from),
        cmocka_unit_test(sequences_have_their_own_state),
        cmocka_unit_test(a_failure_is_its_requests_alone),
        cmocka_unit_test(a_policy_may_be_left_out_when_it_fails),
        cmocka_unit_test(graphs_take_part),
        cmocka_unit_test(requests_keep_the_generation_they_began_with),
        cmocka_unit_test(old_generations_are_bounded),
        cmocka_unit_test(submitting_checks_the_chain),
        cmocka_unit_test(preemption_changes_nothing),
        cmocka_unit_test(steps_allocate_nothing),
        cmocka_unit_test(without_memory_nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
