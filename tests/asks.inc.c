/* Requests at random, and what came of them, so that engines can be compared. Included by the tests that use
 * it, after cmocka.h. */

#include "base/mem.h"
#include "engine/engine.h"

#include "engine_events.h"
#include "fake_model.inc.c"

enum { VOCAB = 97, PAGE = 16, MAX_OUTPUT = 90, MAX_PROMPT = 150, MAX_N = 4 };

static struct tokenizer *tokenizer; /* of all engines; null: none */

/* ---- engines at work ----------------------------------------------------------------------------------- */

/* All of `left` requests end with this failure of the engine. */
static inline void expect_failures(struct llm_client *c, int32_t left, const char *want)
{
    while (left) {
        struct llm_event ev;
        next_event(c, &ev);
        for (size_t i = 0; i < ev.n_tokens; i++) assert_in_range(ev.tokens[i], 0, VOCAB - 1);
        if (ev.finish != LLM_FINISH_NONE) {
            assert_int_equal(ev.finish, LLM_FINISH_ERROR);
            assert_string_equal(ev.error->message, want);
        }
        if (!ev.request_done) continue;
        left--;
        llm_release(ev.request);
    }
}

static void expect_rest(struct llm_engine *e)
{
    struct llm_stats s = stats_at_rest(e);
    assert_int_equal(s.n_running, 0);
    assert_int_equal(s.n_waiting, 0);
    assert_int_equal(s.n_blocks_used, 0);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static uint64_t luck;

static int32_t below(int32_t n)
{
    luck = fake_mix(luck + 0x9E3779B97F4A7C15u);
    return (int32_t)(luck % (uint64_t)n);
}

static int chance(int32_t percent)
{
    return below(100) < percent;
}

/* What one request asks for, and what came of it. */
struct ask {
    int32_t prompt[MAX_PROMPT], n_prompt, stop_ids[2], allowed[40];
    struct llm_token_bias bias[30];
    const char *bad_words[4];
    struct llm_policy_use chain[4];
    struct llm_request_spec spec;
    int32_t cancel_at; /* tokens of its first output; -1: it is left alone */
    int releases;      /* 1: it is released instead of cancelled */
    int may_fail;

    struct llm_request *request;
    int32_t got[MAX_N][MAX_OUTPUT], n_got[MAX_N];
    uint64_t logprobs[MAX_N]; /* hash of all that came */
    uint64_t scores;          /* of those of the prompt */
    enum llm_finish_reason finish[MAX_N];
    char error[160];
    int done;
};

/* Something beyond plain sampling. */
static void ask_for_more(struct ask *a, int32_t kind)
{
    struct llm_sampling *p = &a->spec.sampling;
    static const char *const words[] = {"a", "bc", "Q7", "~", "0", "x y"};
    switch (kind) {
    case 0:
        p->logprobs = below(8) - 1;
        if (p->logprobs < 0) p->logprobs = 0;
        break;
    case 1:
        p->repetition_penalty = chance(50) ? 1.3f : 1;
        p->frequency_penalty = chance(50) ? 0.4f : 0;
        p->presence_penalty = chance(50) ? -0.3f : 0.2f;
        break;
    case 2:
        p->min_tokens = p->max_tokens / 2;
        break;
    case 3:
        for (int32_t i = 0; i < 40; i++) a->allowed[i] = 2 * i;
        p->allowed_token_ids = a->allowed;
        p->n_allowed_token_ids = chance(10) ? 1 : 40;
        break;
    case 4:
        for (int32_t i = 0; i < 30; i++)
            a->bias[i] = (struct llm_token_bias){(3 * i + 1) % VOCAB, (float)below(9) - 4};
        if (chance(10)) a->bias[1].token = a->bias[0].token;
        p->logit_bias = a->bias;
        p->n_logit_bias = (size_t)(1 + below(30));
        break;
    case 5:
        if (!tokenizer) break;
        for (int32_t i = 0; i < 4; i++) a->bad_words[i] = words[below(6)];
        p->bad_words = a->bad_words;
        p->n_bad_words = (size_t)(1 + below(4));
        break;
    case 6:
        p->prompt_logprobs = chance(90) ? below(21) : LLM_LOGPROBS_ALL;
        a->spec.prompt_logprobs_start = chance(30) ? below(a->n_prompt + 1) : 0;
        break;
    default: /* too many for a device */
        p->logprobs = chance(50) ? SAMPLE_MAX_LOGPROBS + 1 : LLM_LOGPROBS_ALL;
        break;
    }
}

enum { ALL_MORE = 8, DEVICE_MORE = 6 /* kinds; those that a device does by itself */ };

static void think_of(struct ask *a, int32_t number)
{
    struct llm_sampling *p = &a->spec.sampling;
    *a = (struct ask){.n_prompt = 1 + below(MAX_PROMPT), .cancel_at = chance(20) ? below(20) : -1};
    llm_request_spec_init(&a->spec);
    /* One of a few beginnings, then something of its own, which may be nothing. */
    uint64_t beginning = (uint64_t)below(5);
    int32_t shared = chance(70) ? below(a->n_prompt + 1) : 0;
    for (int32_t i = 0; i < a->n_prompt; i++)
        a->prompt[i] =
            i < shared ? (int32_t)(fake_mix(beginning * 7919 + (uint64_t)i) % VOCAB) : below(VOCAB);
    a->releases = chance(30);
    a->spec.prompt_ids = a->prompt;
    a->spec.n_prompt_ids = (size_t)a->n_prompt;
    a->spec.stream = chance(60);
    a->spec.priority = below(3);
    a->spec.cache_salt = chance(20) ? "salt" : NULL;
    p->max_tokens = chance(15) ? 1 : 1 + below(MAX_OUTPUT);
    p->n = chance(20) ? 2 + below(MAX_N - 1) : 1;
    p->temperature = p->n == 1 && chance(40) ? 0 : 0.5f + (float)below(10) / 10;
    p->top_k = chance(50) ? 1 + below(30) : 0;
    p->top_p = chance(50) ? 0.7f : 1;
    p->min_p = chance(20) ? 0.05f : 0;
    p->has_seed = 1;
    p->seed = (uint64_t)number;
    p->ignore_eos = chance(80);
    for (int32_t i = 0; i < 2; i++) a->stop_ids[i] = below(VOCAB);
    p->stop_token_ids = a->stop_ids;
    p->n_stop_token_ids = chance(30) ? 2 : 0;
}

static void hash_logprobs(uint64_t *hash, const struct llm_logprob *list, size_t n)
{
    for (size_t i = 0; list && i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &list[i].logprob, sizeof bits);
        *hash = fake_mix(*hash * 31 + (uint32_t)list[i].token + ((uint64_t)(uint32_t)list[i].rank << 20) +
                         ((uint64_t)bits << 32));
    }
}

static void take(struct ask *a, const struct llm_event *ev)
{
    assert_true(a->n_got[ev->index] + (int32_t)ev->n_tokens <= MAX_OUTPUT);
    memcpy(a->got[ev->index] + a->n_got[ev->index], ev->tokens, sizeof(int32_t) * ev->n_tokens);
    a->n_got[ev->index] += (int32_t)ev->n_tokens;
    hash_logprobs(&a->logprobs[ev->index], ev->logprobs, ev->n_tokens * (size_t)ev->n_logprobs);
    if (ev->finish != LLM_FINISH_NONE) a->finish[ev->index] = ev->finish;
    if (ev->finish != LLM_FINISH_ERROR) return;
    if (!a->may_fail) fail_msg("%s", ev->error->message);
    snprintf(a->error, sizeof a->error, "%.159s", ev->error->message);
}

/* Of a prompt that has been read. */
static void take_scores(struct ask *a)
{
    struct llm_request_info info;
    if (a->n_got[0] == 0) return;
    llm_request_info(a->request, &info);
    hash_logprobs(&a->scores, info.prompt_logprobs,
                  info.n_prompt_logprob_rows * (size_t)info.n_prompt_logprobs);
}

/* Submits them, some at a time; with `cancels`, those that are to be cancelled are. */
static void run_all(struct llm_engine *e, struct ask *asks, int32_t n, int32_t at_once, int cancels)
{
    struct llm_client *c = connect_to(e);
    int32_t submitted = 0, live = 0;
    while (submitted < n || live) {
        for (; submitted < n && live < at_once; submitted++, live++) {
            asks[submitted].spec.user = &asks[submitted];
            struct ask *a = &asks[submitted];
            struct llm_error err;
            if (llm_submit(c, &a->spec, &a->request, &err)) fail_msg("%s", err.message);
            if (cancels && a->cancel_at == 0) llm_cancel(a->request);
        }
        struct llm_event ev;
        next_event(c, &ev);
        struct ask *a = ev.user;
        take(a, &ev);
        if (cancels && !a->spec.stream) { /* says nothing before its end: somebody else's news will do */
            struct ask *other = &asks[below(submitted)];
            if (other->cancel_at > 0 && !other->done) llm_cancel(other->request);
        }
        int stop = cancels && a->cancel_at >= 0 && a->n_got[0] >= a->cancel_at;
        if (ev.request_done || (stop && a->releases)) {
            take_scores(a);
            a->done = 1;
            live--;
            llm_release(a->request);
        } else if (stop) {
            llm_cancel(a->request);
        }
    }
    llm_client_close(c);
}

static void compare(const struct ask *want, const struct ask *got, int cancels, const char *where,
                    int32_t number)
{
    for (int32_t k = 0; k < want->spec.sampling.n; k++) {
        int cut = cancels && want->cancel_at >= 0 && got->finish[k] != want->finish[k];
        if (cut && got->finish[k] != LLM_FINISH_ABORT && got->finish[k] != LLM_FINISH_NONE)
            fail_msg("%s: request %d ends by %d, not %d", where, number, got->finish[k], want->finish[k]);
        if (!cut && (got->finish[k] != want->finish[k] || got->n_got[k] != want->n_got[k]))
            fail_msg("%s: request %d, output %d: %d tokens, end %d; on the host %d, end %d", where, number, k,
                     got->n_got[k], got->finish[k], want->n_got[k], want->finish[k]);
        for (int32_t i = 0; i < got->n_got[k]; i++)
            if (i >= want->n_got[k] || got->got[k][i] != want->got[k][i])
                fail_msg("%s: request %d, output %d, token %d is %d; on the host %d", where, number, k, i,
                         got->got[k][i], i < want->n_got[k] ? want->got[k][i] : -1);
        if (!cut && got->logprobs[k] != want->logprobs[k])
            fail_msg("%s: request %d, output %d: other log-probabilities", where, number, k);
        if (k == 0 && want->n_got[0] && got->n_got[0] && got->scores != want->scores)
            fail_msg("%s: request %d: other log-probabilities of the prompt", where, number);
        if (!cut && strcmp(got->error, want->error) != 0)
            fail_msg("%s: request %d ends by \"%s\"; on the host \"%s\"", where, number, got->error,
                     want->error);
    }
}

static void forget_results(struct ask *a)
{
    memset(a->got, 0, sizeof a->got);
    memset(a->n_got, 0, sizeof a->n_got);
    memset(a->logprobs, 0, sizeof a->logprobs);
    a->scores = 0;
    memset(a->finish, 0, sizeof a->finish);
    a->error[0] = 0;
    a->done = 0;
}

/* After a copy of what one engine was asked for. */
static void ask_again(struct ask *a, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        struct llm_sampling *p = &a[i].spec.sampling;
        forget_results(&a[i]);
        a[i].spec.prompt_ids = a[i].prompt;
        if (p->n_stop_token_ids) p->stop_token_ids = a[i].stop_ids;
        if (p->n_allowed_token_ids) p->allowed_token_ids = a[i].allowed;
        if (p->n_logit_bias) p->logit_bias = a[i].bias;
        if (p->n_bad_words) p->bad_words = a[i].bad_words;
        if (a[i].spec.n_policies) a[i].spec.policies = a[i].chain;
    }
}
