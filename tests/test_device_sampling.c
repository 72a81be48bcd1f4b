/* All that a request can ask of sampling, on a device that samples (fake_device.h) and on the host: the same
 * tokens, log-probabilities and errors, whoever made them and however often that changed. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>

#include "device_asks.inc.c"

#include "fake_tokenizer.h"

/* ---- policies ------------------------------------------------------------------------------------------ */

enum hook {
    NO_HOOK,
    SCALE,   /* logits: halves the row */
    SOME,    /* logits: bans every fourth */
    NAN_AT,  /* logits: leaves NaN for the token number `at` */
    FAIL_AT, /* logits: fails there */
    SECOND,  /* candidates: the second best, if there is one, for each other token */
    PICKY,   /* candidates: fails at the token number `at` */
    MEMORY   /* candidates: the best, and checks that what it chose is what came */
};

struct rule {
    const char *name;
    enum hook hook;
    int32_t at;
    int ignores, fatal; /* fatal: it ends some of its requests */
    const char *graph;
};

#define EVEN_IS_UNLIKELY                                                                                     \
    "%0 row = logits\n%1 row = index\n%2 num = const 2\n%3 row = div %1 %2\n%4 row = floor %3\n"             \
    "%5 mask = eq %3 %4\n%6 num = const 3\n%7 row = sub %0 %6\n%8 row = where %5 %7 %0\nresult row %8\n"

/* A variable that counts, and becomes NaN at the seventh token. */
#define BREAKS_AT_SEVEN                                                                                      \
    "graph 1\nstate y num 1\n%0 row = logits\n%1 num = n_output\n%2 num = const 7\n%3 bool = eq %1 %2\n"     \
    "%4 num = const -1\n%5 num = log %4\n%6 num = state y\n%7 num = const 1\n%8 num = add %6 %7\n"           \
    "%9 num = where %3 %5 %8\nstore y %9\n%10 row = div %0 %8\nresult row %10\n"

static const struct rule rules[] = {
    {"scale", SCALE, 0, 0, 0, NULL},
    {"some", SOME, 0, 0, 0, NULL},
    {"nan_forgiven", NAN_AT, 4, 1, 0, NULL},
    {"second", SECOND, 0, 0, 0, NULL},
    {"memory", MEMORY, 0, 0, 0, NULL},
    {"picky_forgiven", PICKY, 3, 1, 0, NULL},
    {"graph_odd", NO_HOOK, 0, 0, 0, "graph 1\n" EVEN_IS_UNLIKELY},
    {"graph_and_hooks", SECOND, 0, 0, 0, "graph 1\n" EVEN_IS_UNLIKELY},
    {"alternate", NO_HOOK, 0, 0, 0,
     "graph 1\nstate t num 0\n%0 num = state t\n%1 num = const 1\n%2 num = sub %1 %0\n"
     "store t %2\n%3 row = logits\n%4 num = row_max %3\n%5 mask = eq %3 %4\n%6 num = const -inf\n"
     "%7 row = where %5 %6 %3\n%8 bool = eq %0 %1\n%9 row = where %8 %7 %3\nresult row %9\n"},
    {"history", NO_HOOK, 0, 0, 0,
     "graph 1\nstate seen vec 3 0 0 0\n%0 row = logits\n%1 row = counts output\n%2 row = counts prompt\n"
     "%3 num = const 0.5\n%4 row = mul %1 %3\n%5 row = sub %0 %4\n%6 num = const 0.25\n%7 row = mul %2 %6\n"
     "%8 row = sub %5 %7\n%9 num = const 1\n%10 num = last %9\n%11 vec = state seen\n"
     "%12 vec = push %11 %10\nstore seen %12\n%13 num = at %12 %9\n%14 num = const 100\n"
     "%15 num = div %13 %14\n%16 num = add %15 %9\n%17 row = mul %8 %16\nresult row %17\n"},
    {"parameters", NO_HOOK, 0, 0, 0,
     "graph 1\nparam by num 0.5 0 5\nparam some list\n%0 row = logits\n%1 list = param some\n"
     "%2 mask = set %1\n%3 num = param by\n%4 row = add %0 %3\n%5 row = where %2 %4 %0\nresult row %5\n"},
    {"draw", NO_HOOK, 0, 0, 0,
     "graph 1\n%0 row = logits\n%1 num = row_max %0\n%2 row = sub %0 %1\n%3 row = exp %2\n"
     "%4 num = draw 3 %3\nresult token %4\n"},
    {"masks_forgiven", NO_HOOK, 0, 1, 0,
     "graph 1\n%0 row = logits\n%1 num = n_output\n%2 num = const 5\n%3 bool = lt %2 %1\n"
     "%4 num = const -inf\n%5 num = const 0.1\n%6 num = where %3 %4 %5\n%7 row = add %0 %6\nresult row %7\n"},
    {"breaks_forgiven", NO_HOOK, 0, 1, 0, BREAKS_AT_SEVEN},
    {"breaks", NO_HOOK, 0, 0, 1, BREAKS_AT_SEVEN},
    {"bad_token", NO_HOOK, 0, 0, 1,
     "graph 1\n%0 num = n_output\n%1 num = const 9\n%2 num = mul %0 %1\nresult token %2\n"},
    {"nan", NAN_AT, 6, 0, 1, NULL},
    {"fail", FAIL_AT, 2, 0, 1, NULL},
    {"picky", PICKY, 9, 0, 1, NULL},
};
enum { N_RULES = sizeof rules / sizeof *rules, N_GENTLE = N_RULES - 5 };

struct policy_self {
    const struct rule *rule;
    struct graph *graph;
};

static llm_status rule_begin(void *self, struct llm_policy_run *run, struct llm_error *err)
{
    (void)self;
    (void)err;
    run->own = calloc(2, sizeof(int32_t));
    return LLM_OK;
}

static void rule_done(void *self, struct llm_policy_run *run)
{
    (void)self;
    free(run->own);
}

static llm_status rule_logits(void *self, struct llm_policy_run *run, float *row, int32_t n,
                              struct llm_error *err)
{
    const struct rule *r = ((struct policy_self *)self)->rule;
    if (r->hook == FAIL_AT && run->n_output == r->at) return llm_fail(err, LLM_EFAILED, "no more");
    for (int32_t i = 0; i < n; i++) {
        if (isnan(row[i])) return llm_fail(err, LLM_EFAILED, "a row that nobody made");
        if (r->hook == SCALE) row[i] *= 0.5f;
        if (r->hook == SOME && i % 4 == 3) row[i] = -INFINITY;
    }
    if (r->hook == NAN_AT && run->n_output == r->at) row[3] = NAN;
    return LLM_OK;
}

static llm_status rule_candidates(void *self, struct llm_policy_run *run, const struct llm_candidate *best,
                                  int32_t n, int32_t *token, struct llm_error *err)
{
    const struct rule *r = ((struct policy_self *)self)->rule;
    int32_t *chosen = run->own;
    if (r->hook == PICKY && run->n_output == r->at) return llm_fail(err, LLM_EFAILED, "not to my liking");
    for (int32_t i = 1; i < n; i++)
        if (!(best[i].prob <= best[i - 1].prob)) return llm_fail(err, LLM_EFAILED, "not in order");
    if (r->hook == SECOND && run->n_output % 2) *token = best[n > 1].token;
    if (r->hook != MEMORY) return LLM_OK;
    if (chosen[0] > 0 && chosen[0] == run->n_output && run->output[run->n_output - 1] != chosen[1])
        return llm_fail(err, LLM_EFAILED, "chose %d, got %d", chosen[1], run->output[run->n_output - 1]);
    chosen[0] = run->n_output + 1;
    *token = chosen[1] = best[0].token;
    return LLM_OK;
}

static llm_status rule_prepare(void *self, const char *args, size_t bytes, struct llm_policy_args *out,
                               struct llm_error *err)
{
    static const int32_t ids[] = {1, 5, 20, 21, 60};
    struct policy_self *s = self;
    struct graph_args *a;
    (void)bytes;
    if (!s->graph) return LLM_OK;
    llm_status status = graph_args_new(s->graph, VOCAB, &a, err);
    if (status) return status;
    if (s->graph->n_params) status = graph_args_number(a, 0, args ? strtod(args, NULL) : 1, err);
    if (!status && s->graph->n_params) status = graph_args_list(a, 1, ids, 5, err);
    out->graph = a;
    return status;
}

static void rule_forget(void *self, struct llm_policy_args *args)
{
    (void)self;
    graph_args_free((struct graph_args *)(uintptr_t)args->graph);
}

static void rule_close(void *self)
{
    struct policy_self *s = self;
    graph_free(s->graph);
    free(s);
}

static void add_policies(struct llm_engine *e)
{
    for (int i = 0; i < N_RULES; i++) {
        const struct rule *r = &rules[i];
        struct policy_self *s = calloc(1, sizeof *s);
        struct llm_error err;
        s->rule = r;
        if (r->graph && graph_parse(r->graph, strlen(r->graph), &s->graph, &err))
            fail_msg("%s: %s", r->name, err.message);
        int row = r->hook >= SCALE && r->hook <= FAIL_AT;
        struct llm_policy table = {.name = r->name,
                                   .self = s,
                                   .ignore_errors = r->ignores,
                                   .max_candidates = i % 2 ? 7 : 0,
                                   .graph = s->graph,
                                   .prepare = rule_prepare,
                                   .forget = rule_forget,
                                   .begin = rule_begin,
                                   .done = rule_done,
                                   .logits = row ? rule_logits : NULL,
                                   .candidates = r->hook > FAIL_AT ? rule_candidates : NULL,
                                   .close = rule_close};
        int32_t generation;
        if (llm_policy_add(e, &table, &generation, &err)) fail_msg("%s: %s", r->name, err.message);
    }
}

/* ---- the same from all --------------------------------------------------------------------------------- */

static void choose_policies(struct ask *a)
{
    static const char *const args[] = {"0.25", "3", "1.5"};
    int32_t n = 1 + below(4);
    for (int32_t i = 0; i < n; i++) {
        int32_t k = below(chance(15) ? N_RULES : N_GENTLE);
        a->chain[i] = (struct llm_policy_use){rules[k].name, NULL, 0};
        if (rules[k].graph && chance(50)) a->chain[i].args = args[below(3)];
        if (rules[k].fatal) {
            a->may_fail = 1;
            a->spec.sampling.n = 1; /* how far the others have come when one fails is a matter of time */
        }
    }
    if (a->spec.sampling.n_allowed_token_ids == 1) a->spec.sampling.n_allowed_token_ids = 40; /* to choose */
    a->spec.policies = a->chain;
    a->spec.n_policies = (size_t)n;
}

enum { N_ASKS = 400 };

/* Several kinds of requests come in turns, so that all that changes from step to step does. */
static void think_of_all(struct ask *asks)
{
    luck = 17;
    for (int32_t i = 0; i < N_ASKS; i++) {
        struct ask *a = &asks[i];
        think_of(a, i);
        int32_t kind = i / 40 % 5; /* plain, all of them, for the host too, policies, and so on */
        if (kind == 0) continue;
        for (int32_t k = below(3); k > 0 && kind != 3; k--) ask_for_more(a, below(kind == 2 ? 7 : 6));
        if (kind >= 3 && chance(60)) choose_policies(a);
    }
}

static const struct regime regimes[] = {
    {"late", 2000, 512, 64, 1, 1, 0, 0, 0, 0},
    {"early", 2000, 512, 64, 1, 1, 0, 100, 0, 0},
    {"small chunks", 600, 9, 7, 1, 1, 0, 50, 0, 0},
    {"few seats", 600, 64, 32, 1, 1, 0, 50, 9, 0},
    {"one seat", 600, 64, 32, 1, 1, 0, 50, 1, 0},
    {"little memory", 24, 64, 24, 1, 1, 0, 30, 0, 0},
    {"little memory, no cache", 24, 512, 24, 0, 0, 0, 30, 0, 0},
    {"little memory, few seats", 24, 64, 16, 1, 1, 1, 50, 16, 0},
    {"no compiler", 400, 300, 24, 1, 1, 0, 70, 0, 1},
    {"one at a time", 40, 256, 1, 1, 1, 0, 50, 0, 0},
};

static uint64_t calls_of(struct llm_engine *e, uint64_t *n_failures)
{
    struct llm_policy_info info[N_RULES];
    uint64_t n = 0;
    assert_int_equal(llm_policy_list(e, info, N_RULES), N_RULES);
    *n_failures = 0;
    for (int i = 0; i < N_RULES; i++) {
        n += info[i].n_calls * (uint64_t)(i + 1);
        *n_failures += info[i].n_failures * (uint64_t)(i + 1);
        assert_int_equal(info[i].n_users, 0);
    }
    return n;
}

struct tally {
    uint64_t n_calls, n_failures;
};

static void repeat_under(const struct regime *g, const struct ask *want, struct tally calls, int cancels)
{
    static struct ask got[N_ASKS];
    memcpy(got, want, sizeof got);
    ask_again(got, N_ASKS);
    struct fake_device *d;
    struct llm_engine *e = open_device(g, &d);
    add_policies(e);
    open_gate(d);
    run_all(e, got, N_ASKS, 20 + below(60), cancels);
    for (int32_t i = 0; i < N_ASKS; i++) compare(&want[i], &got[i], cancels, g->name, i);
    struct llm_stats s = stats_at_rest(e);
    expect_rest(e);
    assert_int_equal(s.n_finished, N_ASKS);
    struct tally now;
    now.n_calls = calls_of(e, &now.n_failures);
    if (!cancels) {
        assert_int_equal(now.n_calls, calls.n_calls);
        assert_int_equal(now.n_failures, calls.n_failures);
    }
    assert_true(d->n_launched > 0 && d->n_fills > 0);
    print_message("%s: %llu steps, %d launched, %d fills, %d times recovered, %d rows fetched\n", g->name,
                  (unsigned long long)s.n_steps, d->n_launched, d->n_fills, d->n_recovered, d->n_fetches);
    llm_engine_close(e);
}

static void all_that_can_be_asked(void **state)
{
    (void)state;
    static struct ask want[N_ASKS];
    think_of_all(want);
    struct llm_engine *host = open_host();
    add_policies(host);
    run_all(host, want, N_ASKS, 32, 0);
    expect_rest(host);
    struct tally calls;
    calls.n_calls = calls_of(host, &calls.n_failures);
    assert_true(calls.n_failures > 0);
    llm_engine_close(host);
    for (size_t g = 0; g < sizeof regimes / sizeof *regimes; g++)
        for (int cancels = 0; cancels < 2; cancels++) repeat_under(&regimes[g], want, calls, cancels);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* From everybody's second token on: all have their seats. */
static void steps_allocate_nothing(void **state)
{
    (void)state;
    enum { N = 40 };
    static struct ask asks[N];
    const struct regime steady = {"steady", 1000, 512, 64, 1, 1, 0, 50, 0, 0};
    struct fake_device *d;
    struct llm_engine *e = open_device(&steady, &d);
    struct llm_client *c = connect_to(e);
    add_policies(e);
    luck = 3;
    for (int32_t i = 0; i < N; i++) {
        struct ask *a = &asks[i];
        think_of(a, i);
        for (int32_t k = below(3); k > 0; k--) ask_for_more(a, i % 2 + below(3)); /* none for the host */
        while (i % 2 && (a->may_fail || !a->spec.n_policies)) {
            a->may_fail = 0;
            choose_policies(a);
        }
        a->spec.user = a;
        a->spec.stream = 1;
        a->spec.sampling.detokenize = 0;
        a->spec.sampling.ignore_eos = 1;
        a->spec.sampling.n_stop_token_ids = 0;
        a->spec.sampling.n = 1;
        a->spec.sampling.min_tokens = 0;
        a->spec.sampling.max_tokens = MAX_OUTPUT;
        assert_int_equal(llm_submit(c, &a->spec, &a->request, NULL), LLM_OK);
    }
    open_gate(d);
    uint64_t before = 0;
    for (int32_t left = N, young = N; left;) {
        struct llm_event ev;
        next_event(c, &ev);
        struct ask *a = ev.user;
        int was_young = a->n_got[0] < 2;
        take(a, &ev);
        young -= was_young && a->n_got[0] >= 2;
        if (!young && !before) before = mem_count();
        left -= ev.request_done;
    }
    for (int32_t i = 0; i < N; i++) assert_int_equal(asks[i].n_got[0], MAX_OUTPUT);
    assert_int_equal(mem_count() - before, 0);
    llm_client_close(c);
    llm_engine_close(e);
}

int main(void)
{
    tokenizer = fake_tokenizer();
    const struct CMUnitTest tests[] = {cmocka_unit_test(all_that_can_be_asked),
                                       cmocka_unit_test(steps_allocate_nothing)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_close(tokenizer);
    return failed;
}
