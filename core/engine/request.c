/* Step 3 of 10. In: a specification. Out: a request, to the engine's mailbox. Next: scheduler.c. */

#include "engine/request.h"

#include "base/mem.h"
#include "engine/handle.h"

#include <stdlib.h>
#include <string.h>

/* ---- the block ----------------------------------------------------------------------------------------- */

/* A block is laid out twice by the same code: first with base null, which only measures it. */
struct carve {
    uint8_t *base;
    size_t used;
    int overflow;
};

/* count elements, or null while measuring. */
static void *carve(struct carve *c, size_t count, size_t size)
{
    size_t bytes, end;
    if (__builtin_mul_overflow(count, size, &bytes) || __builtin_add_overflow(c->used, bytes, &end) ||
        end > SIZE_MAX - 16) {
        c->overflow = 1;
        return NULL;
    }
    void *p = c->base ? c->base + c->used : NULL;
    c->used = (end + 15) & ~(size_t)15;
    return p;
}

/* Borrowed arrays and strings become the block's own. */
static const void *carve_copy(struct carve *c, const void *from, size_t count, size_t size)
{
    void *to = carve(c, count, size);
    if (to && count) memcpy(to, from, count * size);
    return to;
}

/* What request_create has found out before it can make the block. */
struct draft {
    const struct llm_request_spec *spec;
    const struct request_limits *limits;
    const int32_t *head; /* the sequence's tokens, which the prompt follows */
    size_t n_head;
    struct token_list prompt;
    const int32_t *prompt_ids; /* in `prompt`, or the caller's */
    size_t n_ids, n_prompt;    /* without and with the head */
    struct token_list bad_ids; /* of all bad words */
    struct token_span *bad_words;
    int32_t n_bad_words;
    int32_t max_output;
};

/* A token that comes twice gets the sum, once. Returns how many there are then. */
static size_t merge_biases(struct llm_token_bias *list, size_t n)
{
    size_t kept = 0;
    for (size_t i = 0; list && i < n; i++) {
        size_t k = 0;
        while (k < kept && list[k].token != list[i].token) k++;
        if (k == kept)
            list[kept++] = list[i];
        else
            list[k].bias += list[i].bias;
    }
    return kept;
}

static void layout_sampling(struct carve *c, const struct draft *d, struct llm_request *r)
{
    const struct llm_sampling *from = &d->spec->sampling;
    struct llm_sampling *to = &r->sampling;
    *to = *from;
    const char **stop = carve(c, from->n_stop, sizeof *stop);
    r->stop_bytes = carve(c, from->n_stop, sizeof *r->stop_bytes);
    for (size_t i = 0; i < from->n_stop; i++) {
        size_t n = strlen(from->stop[i]);
        const char *copy = carve_copy(c, from->stop[i], n + 1, 1);
        if (!copy) continue;
        stop[i] = copy;
        r->stop_bytes[i] = n;
    }
    to->stop = stop;
    to->stop_token_ids = carve_copy(c, from->stop_token_ids, from->n_stop_token_ids, sizeof(int32_t));
    to->allowed_token_ids =
        carve_copy(c, from->allowed_token_ids, from->n_allowed_token_ids, sizeof(int32_t));
    struct llm_token_bias *biases = carve(c, from->n_logit_bias, sizeof *biases);
    if (biases && from->n_logit_bias) memcpy(biases, from->logit_bias, sizeof *biases * from->n_logit_bias);
    to->n_logit_bias = merge_biases(biases, from->n_logit_bias);
    to->logit_bias = biases;
    to->bad_words = NULL;
    int32_t *ids = carve(c, d->bad_ids.n, sizeof *ids);
    r->bad_words = carve(c, (size_t)d->n_bad_words, sizeof *r->bad_words);
    if (!c->base) return;
    r->n_bad_words = d->n_bad_words;
    for (int32_t i = 0; i < d->n_bad_words; i++) {
        int32_t n = d->bad_words[i].n;
        memcpy(ids, d->bad_words[i].ids, sizeof *ids * (size_t)n);
        r->bad_words[i] = (struct token_span){ids, n};
        ids += n;
    }
}

static int32_t logprob_width(int32_t k, int32_t vocab_size)
{
    return k == LLM_LOGPROBS_NONE ? 0 : 1 + (k == LLM_LOGPROBS_ALL || k > vocab_size ? vocab_size : k);
}

static void layout_output(struct carve *c, const struct draft *d, struct llm_request *r, int32_t index)
{
    const struct llm_sampling *p = &d->spec->sampling;
    size_t n_out = (size_t)d->max_output, n_all = d->n_prompt + n_out;
    size_t n_pages = (n_all + (size_t)d->limits->block_size - 1) / (size_t)d->limits->block_size;
    int32_t distinct = n_all < (size_t)d->limits->vocab_size ? (int32_t)n_all : d->limits->vocab_size;
    int counted = sampler_counts_needed(p);

    int32_t *tokens = carve(c, n_out, sizeof *tokens);
    int32_t *pages = carve(c, n_pages, sizeof *pages);
    struct block_hash *hashes = carve(c, n_pages, sizeof *hashes);
    struct token_count *counts = carve(c, counted ? (size_t)distinct : 0, sizeof *counts);
    int32_t *slots = carve(c, counted ? counts_slots_for(distinct) : 0, sizeof *slots);
    size_t longest = 0;
    for (size_t i = 0; i < p->n_stop; i++)
        if (strlen(p->stop[i]) > longest) longest = strlen(p->stop[i]);
    size_t token_text = d->limits->tokenizer ? tokenizer_max_token_bytes(d->limits->tokenizer) + 12 : 0;
    char *window = carve(c, p->n_stop ? stop_window_bytes(longest, token_text) : 0, 1);
    struct llm_logprob *logprobs =
        carve(c, n_out, sizeof *logprobs * (size_t)logprob_width(p->logprobs, d->limits->vocab_size));
    if (!c->base) return;

    /* What wants no token needs no logits of the last one: it is left to whatever comes next. */
    int32_t n_computed = d->max_output > 0 || r->n_prompt == 1 ? r->n_prompt : r->n_prompt - 1;
    struct output *o = &r->outputs[index];
    o->request = r;
    o->seat = -1;
    o->sequence = (struct sequence){.prompt = r->prompt,
                                    .output = tokens,
                                    .n_prompt = n_computed,
                                    .index = index,
                                    .priority = d->spec->priority,
                                    .group = index == 0 ? r->n : 1,
                                    .compute_from = r->n_prompt_logprobs && index == 0
                                                        ? r->score_start - (r->score_start > 0)
                                                        : INT32_MAX,
                                    .most_output = d->max_output,
                                    .pages = pages,
                                    .hashes = hashes,
                                    .n_cached = -1};
    if (r->n_logprobs) o->logprobs = logprobs;
    if (counted) {
        counts_init(&o->counts, counts, slots, distinct);
        for (int32_t i = 0; i < r->n_prompt; i++) counts_add_prompt(&o->counts, r->prompt[i]);
    }
    if (p->n_stop) {
        o->stop = (struct stop_matcher){.strings = r->sampling.stop,
                                        .bytes = r->stop_bytes,
                                        .n = p->n_stop,
                                        .longest = longest,
                                        .include = p->include_stop_str_in_output,
                                        .window = window};
        detokenizer_init(&o->stop_text, d->limits->tokenizer, p->skip_special_tokens);
    }
    o->text_end = NEWS_ALL_TEXT;
    if (r->renders) detokenizer_init(&o->text_state, d->limits->tokenizer, p->skip_special_tokens);
    atomic_init(&o->news, news_pack(0, 0));
}

/* While measuring, r is scratch without outputs. */
static void layout(struct carve *c, const struct draft *d, struct llm_request *r)
{
    const struct llm_request_spec *spec = d->spec;
    const struct llm_sampling *p = &spec->sampling;
    carve(c, 1, sizeof *r);
    carve(c, (size_t)p->n, sizeof(struct output));
    r->user = spec->user;
    r->stream = spec->stream;
    r->renders = d->limits->tokenizer && p->detokenize;
    r->n = r->n_live = p->n;
    r->n_prompt = (int32_t)d->n_prompt;
    r->max_output = d->max_output;
    r->n_logprobs = logprob_width(p->logprobs, d->limits->vocab_size);
    r->n_prompt_logprobs = logprob_width(p->prompt_logprobs, d->limits->vocab_size);
    r->prompt = carve(c, d->n_prompt, sizeof *r->prompt);
    if (c->base && d->n_head) memcpy(r->prompt, d->head, sizeof *r->prompt * d->n_head);
    if (c->base && d->n_ids) memcpy(r->prompt + d->n_head, d->prompt_ids, sizeof *r->prompt * d->n_ids);
    r->salt_bytes = spec->cache_salt ? strlen(spec->cache_salt) : 0;
    r->cache_salt = carve_copy(c, spec->cache_salt, r->salt_bytes, 1);
    layout_sampling(c, d, r);
    r->discard = spec->discard;
    r->score_start = spec->prompt_logprobs_start;
    r->prompt_logprobs = carve(c, d->n_prompt - (size_t)r->score_start,
                               sizeof *r->prompt_logprobs * (size_t)r->n_prompt_logprobs);
    if (!r->n_prompt_logprobs) r->prompt_logprobs = NULL;
    if (r->prompt_logprobs && r->score_start == 0) r->prompt_logprobs[0].token = -1;
    for (int32_t i = 0; i < p->n; i++) layout_output(c, d, r, i);
}

/* ---- the draft ----------------------------------------------------------------------------------------- */

/* What follows the head. */
static llm_status draft_ids(struct draft *d, struct llm_error *err)
{
    const struct llm_request_spec *spec = d->spec;
    if (!spec->prompt) {
        d->prompt_ids = spec->prompt_ids;
        d->n_ids = spec->prompt_ids ? spec->n_prompt_ids : 0;
        return LLM_OK;
    }
    if (!d->limits->tokenizer)
        return llm_fail(err, LLM_EINVAL,
                        "a prompt of text needs a tokenizer, and this engine has none: give prompt_ids");
    unsigned flags = (spec->add_special_tokens && d->n_head == 0 ? TOKENIZE_ADD_SPECIAL : 0) |
                     (spec->parse_special_tokens ? TOKENIZE_PARSE_SPECIAL : 0);
    llm_status status =
        tokenizer_encode(d->limits->tokenizer, spec->prompt, spec->prompt_bytes, flags, &d->prompt, err);
    d->prompt_ids = d->prompt.ids;
    d->n_ids = d->prompt.n;
    return status;
}

static llm_status truncate_prompt(struct draft *d, struct llm_error *err)
{
    if (d->spec->truncate_prompt_tokens < 0)
        return llm_fail(err, LLM_EINVAL, "truncate_prompt_tokens is %d; it must be 0 (off) or more",
                        d->spec->truncate_prompt_tokens);
    if (d->spec->truncate_prompt_tokens && d->spec->sequence)
        return llm_fail(err, LLM_EINVAL, "truncate_prompt_tokens cannot shorten a sequence: rewind it");
    size_t keep = (size_t)d->spec->truncate_prompt_tokens;
    if (keep > 0 && d->n_ids > keep) {
        d->prompt_ids += d->n_ids - keep;
        d->n_ids = keep;
    }
    return LLM_OK;
}

static llm_status draft_prompt(struct draft *d, struct llm_error *err)
{
    const struct request_limits *limits = d->limits;
    if (d->spec->sequence) d->head = llm_sequence_tokens(d->spec->sequence, &d->n_head);
    llm_status status = draft_ids(d, err);
    if (status) return status;
    if (d->n_head + d->n_ids == 0)
        return llm_fail(err, LLM_EINVAL, "the prompt is empty; it must have a token");
    status = truncate_prompt(d, err);
    if (status) return status;
    d->n_prompt = d->n_head + d->n_ids;
    if (d->n_prompt >= (size_t)limits->max_model_len)
        return llm_fail(
            err, LLM_EINVAL,
            "the prompt has %zu tokens; max_model_len is %d, which must hold the prompt and at least "
            "one token of output: shorten the prompt, set truncate_prompt_tokens, or raise "
            "max_model_len",
            d->n_prompt, limits->max_model_len);
    for (size_t i = 0; i < d->n_ids; i++)
        if (d->prompt_ids[i] < 0 || d->prompt_ids[i] >= limits->vocab_size)
            return llm_fail(err, LLM_EINVAL, "token %zu of the prompt is %d; the model's tokens are 0 to %d",
                            i, d->prompt_ids[i], limits->vocab_size - 1);
    int32_t start = d->spec->prompt_logprobs_start;
    if (start < 0 || (size_t)start > d->n_prompt)
        return llm_fail(err, LLM_EINVAL,
                        "prompt_logprobs_start is %d; it must be 0 to %zu, the prompt's tokens", start,
                        d->n_prompt);
    int32_t room = limits->max_model_len - (int32_t)d->n_prompt, max = d->spec->sampling.max_tokens;
    d->max_output = max == -1 || max > room ? room : max;
    return LLM_OK;
}

static llm_status add_bad_word(struct draft *d, const char *word, int space, struct llm_error *err)
{
    while (*word == ' ') word++;
    size_t n = strlen(word), begin = d->bad_ids.n;
    char *text = mem_alloc(n + 2);
    if (!text) return llm_fail(err, LLM_ENOMEM, "no memory for bad_words");
    text[0] = ' ';
    memcpy(text + 1, word, n + 1);
    llm_status status =
        tokenizer_encode(d->limits->tokenizer, text + !space, n + (size_t)space, 0, &d->bad_ids, err);
    mem_free(text);
    if (status) return status;
    int32_t count = (int32_t)(d->bad_ids.n - begin);
    /* The form with a space counts only if it differs as vLLM has it: another first token, equally many. */
    const struct token_span *plain = space ? &d->bad_words[d->n_bad_words - 1] : NULL;
    int keep = count > 0;
    if (keep && plain) {
        const int32_t *other = d->bad_ids.ids + begin - plain->n;
        keep = count == plain->n && d->bad_ids.ids[begin] != other[0];
    }
    if (keep)
        d->bad_words[d->n_bad_words++].n = count;
    else
        d->bad_ids.n = begin;
    return LLM_OK;
}

/* Each bad word as the tokens it may be made of, with and without a space before it. */
static llm_status draft_bad_words(struct draft *d, struct llm_error *err)
{
    const struct llm_sampling *p = &d->spec->sampling;
    if (p->n_bad_words == 0) return LLM_OK;
    d->bad_words = mem_array(p->n_bad_words, 2 * sizeof *d->bad_words);
    if (!d->bad_words) return llm_fail(err, LLM_ENOMEM, "no memory for bad_words");
    for (size_t i = 0; i < p->n_bad_words; i++) {
        int32_t before = d->n_bad_words;
        llm_status status = add_bad_word(d, p->bad_words[i], 0, err);
        if (!status && d->n_bad_words > before) status = add_bad_word(d, p->bad_words[i], 1, err);
        if (status) return status;
    }
    const int32_t *ids = d->bad_ids.ids;
    for (int32_t i = 0; i < d->n_bad_words; i++) {
        for (int32_t j = 0; j < d->bad_words[i].n; j++)
            if (ids[j] < 0 || ids[j] >= d->limits->vocab_size)
                return llm_fail(err, LLM_EINVAL, "bad_words: token %d is not one of the model's", ids[j]);
        d->bad_words[i].ids = ids;
        ids += d->bad_words[i].n;
    }
    return LLM_OK;
}

/* No request gets more, though it would be backed only as it is used. */
static const size_t most_bytes = (size_t)64 << 30;

static llm_status make(const struct draft *d, struct llm_request **out, struct llm_error *err)
{
    struct llm_request scratch = {0};
    struct carve c = {0};
    layout(&c, d, &scratch);
    struct llm_request *r = c.overflow || c.used > most_bytes ? NULL : mem_zalloc(c.used);
    if (!r)
        return llm_fail(err, LLM_ENOMEM,
                        "no memory for a request of %zu prompt tokens and %d sequences of up to %d tokens "
                        "(%zu bytes)",
                        d->n_prompt, d->spec->sampling.n, d->max_output, c.used);
    c = (struct carve){.base = (uint8_t *)r};
    layout(&c, d, r);
    *out = r;
    return LLM_OK;
}

llm_status request_create(const struct llm_request_spec *spec, const struct request_limits *limits,
                          struct llm_request **out, struct llm_error *err)
{
    struct request_limits own = *limits;
    if (spec->sequence) own.on_sequence = 1;
    struct draft d = {.spec = spec, .limits = &own};
    llm_status status = sampling_check(&spec->sampling, &own, err);
    if (!status) status = draft_prompt(&d, err);
    if (!status) status = draft_bad_words(&d, err);
    if (!status) status = make(&d, out, err);
    token_list_free(&d.prompt);
    token_list_free(&d.bad_ids);
    mem_free(d.bad_words);
    return status;
}

void request_destroy(struct llm_request *r)
{
    for (int32_t i = 0; i < r->n; i++) {
        mem_free(r->outputs[i].text);
        mem_free(r->outputs[i].ends);
    }
    policy_chain_close(r->chain);
    mem_free(r);
}
