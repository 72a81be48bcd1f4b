/* What a request may ask for. A message names the parameter, its value and the range. */

#include "engine/request.h"

#include <math.h>

enum { MAX_SEQUENCES = 16384, MAX_STOP_STRINGS = 1024 };

/* lo and hi are text, so that a message reads as the documentation does. */
static llm_status range_error(struct llm_error *err, const char *name, double value, const char *range)
{
    return llm_fail(err, LLM_EINVAL, "%s is %g; it must be %s", name, value, range);
}

static llm_status check_length(const struct llm_sampling *p, const struct request_limits *limits,
                               struct llm_error *err)
{
    if (limits->on_sequence && p->n != 1)
        return llm_fail(err, LLM_EINVAL, "n is %d; on a sequence it must be 1: fork the sequence", p->n);
    const int32_t least = limits->on_sequence ? 0 : 1;
    if (p->max_tokens < least && p->max_tokens != -1)
        return range_error(err, "max_tokens", p->max_tokens,
                           limits->on_sequence ? "0 or more, or -1 for as many as fit"
                                               : "1 or more, or -1 for as many as fit");
    if (p->min_tokens < 0) return range_error(err, "min_tokens", p->min_tokens, "0 or more");
    if (p->max_tokens != -1 && p->min_tokens > p->max_tokens)
        return llm_fail(err, LLM_EINVAL, "min_tokens is %d; it must be at most max_tokens, which is %d",
                        p->min_tokens, p->max_tokens);
    return LLM_OK;
}

static llm_status check_numbers(const struct llm_sampling *p, struct llm_error *err)
{
    if (p->n < 1 || p->n > MAX_SEQUENCES) return range_error(err, "n", p->n, "from 1 to 16384");
    if (!(p->temperature >= 0) || isinf(p->temperature))
        return range_error(err, "temperature", p->temperature, "0 or more");
    if (!(p->top_p > 0 && p->top_p <= 1)) return range_error(err, "top_p", p->top_p, "above 0 and at most 1");
    if (p->top_k < -1) return range_error(err, "top_k", p->top_k, "1 or more, or 0 or -1 for no limit");
    if (!(p->min_p >= 0 && p->min_p <= 1)) return range_error(err, "min_p", p->min_p, "from 0 to 1");
    if (!(p->presence_penalty >= -2 && p->presence_penalty <= 2))
        return range_error(err, "presence_penalty", p->presence_penalty, "from -2 to 2");
    if (!(p->frequency_penalty >= -2 && p->frequency_penalty <= 2))
        return range_error(err, "frequency_penalty", p->frequency_penalty, "from -2 to 2");
    if (!(p->repetition_penalty > 0) || isinf(p->repetition_penalty))
        return range_error(err, "repetition_penalty", p->repetition_penalty, "above 0");
    if (p->temperature < 1e-5f && p->n > 1)
        return llm_fail(err, LLM_EINVAL,
                        "n is %d; it must be 1 with temperature 0, as all sequences would be the same", p->n);
    return LLM_OK;
}

static llm_status check_logprobs(const char *name, int32_t k, const struct request_limits *limits,
                                 struct llm_error *err)
{
    int32_t max = limits->on_sequence || limits->max_logprobs < 0 || limits->max_logprobs > limits->vocab_size
                      ? limits->vocab_size
                      : limits->max_logprobs;
    if (k == LLM_LOGPROBS_NONE) return LLM_OK;
    if (k < LLM_LOGPROBS_NONE) return range_error(err, name, k, "0 or more, or -1 for the whole vocabulary");
    int32_t wanted = k == LLM_LOGPROBS_ALL ? limits->vocab_size : k;
    if (wanted > max)
        return llm_fail(err, LLM_EINVAL, "%s is %d; it must be at most %d (the engine's max_logprobs)", name,
                        k, max);
    return LLM_OK;
}

static llm_status check_token(const char *name, int32_t id, const struct request_limits *limits,
                              struct llm_error *err)
{
    if (id >= 0 && id < limits->vocab_size) return LLM_OK;
    return llm_fail(err, LLM_EINVAL, "%s holds token %d; the model's tokens are 0 to %d", name, id,
                    limits->vocab_size - 1);
}

static llm_status check_tokens(const char *name, const int32_t *ids, size_t n,
                               const struct request_limits *limits, struct llm_error *err)
{
    if (n && !ids) return llm_fail(err, LLM_EINVAL, "%s is null but has %zu entries", name, n);
    for (size_t i = 0; i < n; i++)
        if (check_token(name, ids[i], limits, err)) return LLM_EINVAL;
    return LLM_OK;
}

static llm_status check_strings(const char *name, const char *const *strings, size_t n,
                                const struct request_limits *limits, struct llm_error *err)
{
    if (n == 0) return LLM_OK;
    if (!limits->tokenizer)
        return llm_fail(err, LLM_EINVAL, "%s needs a tokenizer, and this engine has none", name);
    if (n > MAX_STOP_STRINGS)
        return llm_fail(err, LLM_EINVAL, "%s has %zu strings; it may have %d", name, n, MAX_STOP_STRINGS);
    if (!strings) return llm_fail(err, LLM_EINVAL, "%s is null but has %zu entries", name, n);
    for (size_t i = 0; i < n; i++)
        if (!strings[i] || !strings[i][0])
            return llm_fail(err, LLM_EINVAL, "%s: string %zu is empty; it must have at least one character",
                            name, i + 1);
    return LLM_OK;
}

static llm_status check_bias(const struct llm_sampling *p, const struct request_limits *limits,
                             struct llm_error *err)
{
    if (p->n_logit_bias && !p->logit_bias)
        return llm_fail(err, LLM_EINVAL, "logit_bias is null but has %zu entries", p->n_logit_bias);
    for (size_t i = 0; i < p->n_logit_bias; i++) {
        if (check_token("logit_bias", p->logit_bias[i].token, limits, err)) return LLM_EINVAL;
        float b = p->logit_bias[i].bias;
        if (!(b >= -100 && b <= 100))
            return llm_fail(err, LLM_EINVAL, "logit_bias of token %d is %g; it must be from -100 to 100",
                            p->logit_bias[i].token, (double)b);
    }
    return LLM_OK;
}

llm_status sampling_check(const struct llm_sampling *p, const struct request_limits *limits,
                          struct llm_error *err)
{
    llm_status status = check_numbers(p, err);
    if (!status) status = check_length(p, limits, err);
    if (!status) status = check_logprobs("logprobs", p->logprobs, limits, err);
    if (!status) status = check_logprobs("prompt_logprobs", p->prompt_logprobs, limits, err);
    if (!status) status = check_tokens("stop_token_ids", p->stop_token_ids, p->n_stop_token_ids, limits, err);
    if (!status)
        status = check_tokens("allowed_token_ids", p->allowed_token_ids, p->n_allowed_token_ids, limits, err);
    if (!status) status = check_bias(p, limits, err);
    if (!status) status = check_strings("stop", p->stop, p->n_stop, limits, err);
    if (!status && p->n_stop && !p->detokenize)
        status = llm_fail(err, LLM_EINVAL, "stop needs text: it cannot be used with detokenize = 0");
    if (!status) status = check_strings("bad_words", p->bad_words, p->n_bad_words, limits, err);
    return status;
}
