/* Policies of all kinds for random requests: graphs and hooks that change what is chosen, fail and are
 * forgiven. Included after asks.inc.c. */

#include <math.h>

/* ---- policies ------------------------------------------------------------------------------------------ */

enum hook {
    NO_HOOK,
    SCALE,   /* logits: halves the row */
    SOME,    /* logits: bans every fourth */
    FEW,     /* logits: changes two, says so, or none */
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
    {"few", FEW, 0, 0, 0, NULL},
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
    int32_t vocab_size;
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
        if (r->hook == FEW && run->n_output % 3 && (i == 7 || i == 30)) row[i] -= 4;
        if (r->hook == SCALE) row[i] *= 0.5f;
        if (r->hook == SOME && i % 4 == 3) row[i] = -INFINITY;
    }
    if (r->hook == FEW) {
        run->changed_from = run->n_output % 3 ? 7 : n;
        run->changed_end = run->n_output % 3 ? 31 : 0;
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
    llm_status status = graph_args_new(s->graph, s->vocab_size, &a, err);
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

static void add_policies(struct llm_engine *e, int32_t vocab_size)
{
    for (int i = 0; i < N_RULES; i++) {
        const struct rule *r = &rules[i];
        struct policy_self *s = calloc(1, sizeof *s);
        struct llm_error err;
        s->rule = r;
        s->vocab_size = vocab_size;
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
