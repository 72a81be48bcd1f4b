/* Sequences as clients see them: tokens. What they are to the engine is in handle.c. */

#include "engine/client.h"

#include "base/mem.h"

#include <string.h>

/* ---- opening, forking, closing ------------------------------------------------------------------------- */

/* A sequence without tokens, with room for so many. */
static llm_status make(struct llm_client *c, int32_t capacity, struct llm_sequence **out,
                       struct llm_error *err)
{
    const struct engine_config *config = &c->engine->config;
    size_t n_pages = (size_t)(config->max_model_len + config->block_size - 1) / (size_t)config->block_size;
    struct llm_sequence *s = mem_zalloc(sizeof *s);
    struct handle *h = mem_alloc(sizeof *h + sizeof(int32_t) * n_pages); /* pages: touched as they are used */
    int32_t *tokens = mem_array((size_t)capacity, sizeof *tokens);
    if (!s || !h || !tokens) {
        mem_free(s);
        mem_free(h);
        mem_free(tokens);
        return llm_fail(err, LLM_ENOMEM, "no memory for a sequence");
    }
    *h = (struct handle){
        .holding.pages = (int32_t *)(h + 1), .arrival.kind = LETTER_FORK, .departure.kind = LETTER_DEPARTURE};
    *s = (struct llm_sequence){
        .client = c, .handle = h, .tokens = tokens, .capacity = capacity, .next = c->sequences};
    if (s->next) s->next->previous = s;
    c->sequences = s;
    *out = s;
    return LLM_OK;
}

llm_status llm_sequence_open(struct llm_client *c, struct llm_sequence **out, struct llm_error *err)
{
    return make(c, 64, out, err);
}

static llm_status check_idle(const struct llm_sequence *s, struct llm_error *err)
{
    if (!s->request) return LLM_OK;
    return llm_fail(err, LLM_EINVAL,
                    "a request runs on this sequence: take its last event, or release it, first");
}

llm_status llm_sequence_fork(struct llm_sequence *s, struct llm_sequence **out, struct llm_error *err)
{
    struct llm_sequence *child = NULL;
    llm_status status = check_idle(s, err);
    if (!status) status = make(s->client, s->n_tokens > 64 ? s->n_tokens : 64, &child, err);
    if (status) return status;
    memcpy(child->tokens, s->tokens, sizeof *s->tokens * (size_t)s->n_tokens);
    child->n_tokens = child->n_agreed = s->n_tokens;
    child->handle->parent = s->handle;
    child->handle->n_agreed = s->n_agreed;
    s->n_agreed = s->n_tokens;
    mailbox_post(&s->client->engine->inbox, &child->handle->arrival.mail);
    *out = child;
    return LLM_OK;
}

void llm_sequence_close(struct llm_sequence *s)
{
    if (!s) return;
    if (s->request) {
        llm_cancel(s->request);
        s->request->sequence = NULL;
    }
    if (s->previous)
        s->previous->next = s->next;
    else
        s->client->sequences = s->next;
    if (s->next) s->next->previous = s->previous;
    mailbox_post(&s->client->engine->inbox, &s->handle->departure.mail);
    mem_free(s->tokens);
    mem_free(s);
}

/* ---- tokens -------------------------------------------------------------------------------------------- */

static int reserve(struct llm_sequence *s, int32_t n)
{
    if (n <= s->capacity) return 1;
    int32_t capacity = s->capacity < INT32_MAX / 2 && s->capacity * 2 > n ? s->capacity * 2 : n;
    int32_t *tokens = mem_grow(s->tokens, (size_t)capacity, sizeof *tokens);
    if (!tokens) return 0;
    s->tokens = tokens;
    s->capacity = capacity;
    return 1;
}

static void cut(struct llm_sequence *s, int32_t n_tokens)
{
    s->n_tokens = n_tokens;
    if (s->n_agreed > n_tokens) s->n_agreed = n_tokens;
}

const int32_t *llm_sequence_tokens(const struct llm_sequence *s, size_t *n)
{
    *n = (size_t)s->n_tokens;
    return s->tokens;
}

llm_status llm_sequence_append(struct llm_sequence *s, const int32_t *ids, size_t n, struct llm_error *err)
{
    const struct request_limits *limits = &s->client->engine->limits;
    llm_status status = check_idle(s, err);
    if (status) return status;
    if (n >= (size_t)(limits->max_model_len - s->n_tokens))
        return llm_fail(err, LLM_EINVAL,
                        "the sequence has %d tokens, and %zu more are too many; max_model_len is %d, which "
                        "must hold one token of output too",
                        s->n_tokens, n, limits->max_model_len);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= limits->vocab_size)
            return llm_fail(err, LLM_EINVAL, "token %zu is %d; the model's tokens are 0 to %d", i, ids[i],
                            limits->vocab_size - 1);
    if (!reserve(s, s->n_tokens + (int32_t)n))
        return llm_fail(err, LLM_ENOMEM, "no memory for %zu tokens", n);
    if (n) memcpy(s->tokens + s->n_tokens, ids, sizeof *ids * n);
    s->n_tokens += (int32_t)n;
    return LLM_OK;
}

llm_status llm_sequence_rewind(struct llm_sequence *s, size_t n_tokens, struct llm_error *err)
{
    llm_status status = check_idle(s, err);
    if (status) return status;
    if (n_tokens > (size_t)s->n_tokens)
        return llm_fail(err, LLM_EINVAL, "a sequence of %d tokens cannot be rewound to %zu", s->n_tokens,
                        n_tokens);
    cut(s, (int32_t)n_tokens);
    return LLM_OK;
}

/* ---- requests on it ------------------------------------------------------------------------------------ */

llm_status sequence_check(const struct llm_sequence *s, const struct llm_client *c, struct llm_error *err)
{
    if (s->client != c)
        return llm_fail(err, LLM_EINVAL, "the sequence is another client's: a client works on its own");
    return check_idle(s, err);
}

llm_status sequence_begin(struct llm_sequence *s, struct llm_request *r, struct llm_error *err)
{
    int32_t more = r->n_prompt - s->n_tokens;
    if (!reserve(s, r->n_prompt)) return llm_fail(err, LLM_ENOMEM, "no memory for %d tokens", r->n_prompt);
    r->sequence = s;
    r->handle = s->handle;
    r->n_before = s->n_tokens;
    r->n_agreed = s->n_agreed;
    if (more) memcpy(s->tokens + s->n_tokens, r->prompt + s->n_tokens, sizeof *s->tokens * (size_t)more);
    s->n_tokens = s->n_agreed = r->n_prompt;
    s->request = r;
    return LLM_OK;
}

int sequence_make_room(const struct llm_request *r, int32_t n_output)
{
    return !r->sequence || r->discard || reserve(r->sequence, r->n_prompt + n_output);
}

/* Tokens at the output's beginning whose text lies wholly within its first text_end bytes. */
static int32_t tokens_within(const struct output *o, int32_t n_output, uint64_t text_end)
{
    size_t room = tokenizer_max_token_bytes(o->text_state.tok) + 12;
    char *scratch = o->stop.window; /* has that room, and the engine has left it */
    struct detokenizer d;
    detokenizer_init(&d, o->text_state.tok, o->request->sampling.skip_special_tokens);
    uint64_t bytes = 0;
    for (int32_t i = 0; i < n_output; i++) {
        bytes += detokenizer_put(&d, o->sequence.output[i], scratch, room);
        if (bytes > text_end) return i;
    }
    return n_output;
}

void sequence_take(struct llm_request *r, int32_t n_output, int final, uint64_t text_end)
{
    struct llm_sequence *s = r->sequence;
    if (!s) return;
    const struct output *o = &r->outputs[0];
    int32_t n = r->n_prompt + n_output;
    if (!r->discard) {
        memcpy(s->tokens + s->n_tokens, o->sequence.output + s->n_tokens - r->n_prompt,
               sizeof *s->tokens * (size_t)(n - s->n_tokens));
        s->n_tokens = s->n_agreed = n;
    }
    if (!final) return;
    if (r->discard)
        cut(s, r->n_before);
    else if (o->stopped_by_string)
        cut(s, r->n_prompt + tokens_within(o, n_output, text_end));
    else if (o->mute_last)
        cut(s, n - 1);
    s->request = NULL;
    r->sequence = NULL;
}

void sequence_abandon(struct llm_request *r)
{
    struct llm_sequence *s = r->sequence;
    if (!s) return;
    if (r->discard) cut(s, r->n_before);
    s->request = NULL;
    r->sequence = NULL;
}
