/* Opening an engine over a model, and the tokenizer by its public name. */

#include "engine/engine.h"

#include "base/mem.h"
#include "engine/null_model.h"

#include <string.h>

const char *llm_version(void)
{
    return LLMLUA_VERSION; /* CMakeLists.txt's */
}

llm_status llm_engine_open(const struct llm_engine_options *options, struct llm_engine **out,
                           struct llm_error *err)
{
    struct engine_config config;
    struct engine_model model;
    struct llm_model_info info;
    struct llm_engine *engine;
    int is_null = options->load_format && !strcmp(options->load_format, "null");
    llm_status status = is_null ? null_model_open(options, &config, &info, &model, err)
                                : decoder_model_open(options, &config, &info, &model, err);
    if (!status) status = engine_start(&config, &model, &engine, err);
    if (status) return status;
    engine->info = info;
    *out = engine;
    return LLM_OK;
}

/* ---- tokenizer ----------------------------------------------------------------------------------------- */

/* struct llm_tokenizer is struct tokenizer by its public name, and never defined. */

static const struct tokenizer *inner(const struct llm_tokenizer *t)
{
    return (const struct tokenizer *)(const void *)t;
}

const struct llm_tokenizer *llm_engine_tokenizer(const struct llm_engine *engine)
{
    return (const struct llm_tokenizer *)(const void *)engine->config.tokenizer;
}

llm_status llm_tokenizer_open(const char *path, struct llm_tokenizer **out, struct llm_error *err)
{
    struct tokenizer *t;
    llm_status status = tokenizer_open(path, &t, err);
    if (!status) *out = (struct llm_tokenizer *)(void *)t;
    return status;
}

void llm_tokenizer_close(struct llm_tokenizer *t)
{
    if (t) tokenizer_close((struct tokenizer *)(void *)t);
}

void llm_tokenizer_info(const struct llm_tokenizer *t, struct llm_tokenizer_info *out)
{
    *out = (struct llm_tokenizer_info){.vocab_size = tokenizer_vocab_size(inner(t)),
                                       .bos = tokenizer_bos(inner(t)),
                                       .eos = tokenizer_eos(inner(t)),
                                       .chat_template = tokenizer_chat_template(inner(t))};
}

llm_status llm_tokenize(const struct llm_tokenizer *t, const char *text, size_t bytes, int add_special,
                        int parse_special, int32_t *ids, size_t capacity, size_t *n, struct llm_error *err)
{
    struct token_list list = {0};
    unsigned flags = (add_special ? TOKENIZE_ADD_SPECIAL : 0) | (parse_special ? TOKENIZE_PARSE_SPECIAL : 0);
    llm_status status = tokenizer_encode(inner(t), text, bytes, flags, &list, err);
    if (!status) {
        size_t k = list.n < capacity ? list.n : capacity;
        if (k) memcpy(ids, list.ids, sizeof *ids * k);
        *n = list.n;
    }
    token_list_free(&list);
    return status;
}

const char *llm_token_bytes(const struct llm_tokenizer *t, int32_t id, size_t *bytes)
{
    return tokenizer_bytes(inner(t), id, bytes);
}

int llm_token_is_special(const struct llm_tokenizer *t, int32_t id)
{
    return tokenizer_is_special(inner(t), id);
}

const int32_t *llm_end_tokens(const struct llm_tokenizer *t, int32_t *n)
{
    return tokenizer_end_tokens(inner(t), n);
}

llm_status llm_detokenize(const struct llm_tokenizer *t, const int32_t *ids, size_t n, int skip_special,
                          char *text, size_t capacity, size_t *bytes, struct llm_error *err)
{
    const struct tokenizer *tok = inner(t);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= tokenizer_vocab_size(tok))
            return llm_fail(err, LLM_EINVAL, "token %zu is %d; the tokenizer's tokens are 0 to %d", i, ids[i],
                            tokenizer_vocab_size(tok) - 1);
    char small[1024], *piece = small;
    size_t room = tokenizer_max_token_bytes(tok) + 12, total = 0;
    if (room > sizeof small && !(piece = mem_alloc(room)))
        return llm_fail(err, LLM_ENOMEM, "no memory for a token of %zu bytes", room);
    struct detokenizer d;
    detokenizer_init(&d, tok, skip_special);
    for (size_t i = 0; i <= n; i++) {
        size_t k = i < n ? detokenizer_put(&d, ids[i], piece, room) : detokenizer_finish(&d, piece, room);
        if (total < capacity) memcpy(text + total, piece, k < capacity - total ? k : capacity - total);
        total += k;
    }
    if (piece != small) mem_free(piece);
    *bytes = total;
    return LLM_OK;
}

/* ---- policies ------------------------------------------------------------------------------------------ */

uint64_t llm_policy_ask(struct llm_engine *engine)
{
    return policy_book_ask(&engine->policies);
}

llm_status llm_policy_add(struct llm_engine *engine, const struct llm_policy *policy, int32_t *generation,
                          struct llm_error *err)
{
    return policy_book_add(&engine->policies, policy, generation, err);
}

llm_status llm_policy_rollback(struct llm_engine *engine, const char *name, int32_t *generation,
                               struct llm_error *err)
{
    return policy_book_rollback(&engine->policies, name, generation, err);
}

llm_status llm_policy_remove(struct llm_engine *engine, const char *name, struct llm_error *err)
{
    return policy_book_remove(&engine->policies, name, err);
}

int llm_policy_exists(struct llm_engine *engine, const char *name)
{
    return policy_book_has(&engine->policies, name);
}

size_t llm_policy_list(struct llm_engine *engine, struct llm_policy_info *out, size_t capacity)
{
    return policy_book_list(&engine->policies, out, capacity);
}
