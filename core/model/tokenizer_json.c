#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include "model/hf_pipeline.h"
#include "model/json_pull.h"
#include "model/json_text.h"
#include "model/utf8.h"

#include <string.h>

/* tokenizer.json of Hugging Face's tokenizers library, for byte-pair encoding models. Where the library takes
 * text, it cannot see invalid UTF-8; we put U+FFFD for each maximal subpart, as Python's "replace" would. */

/* Where the members of interest are in the text. */
struct part {
    const char *at;
    size_t size;
};

struct parts {
    struct part added, normalizer, pre_tokenizer, post_processor, decoder, model;
    /* of the model */
    struct part vocab, merges, type, unk_token, prefix, suffix, byte_fallback, fuse_unk, ignore_merges;
};

struct word {
    size_t begin, size; /* in words.text */
    int32_t id;
};

/* The vocabulary in file order. */
struct words {
    struct word *at;
    size_t n, capacity;
    struct buffer text;
    int32_t max_id;
};

/* ---- cutting the file into its parts ------------------------------------------------------------------- */

static int key_is(const struct json_pull *p, const char *key)
{
    return p->text_size == strlen(key) && !memcmp(p->text, key, p->text_size);
}

static llm_status find_members(struct part object, const char *const *keys, struct part *const *slots,
                               size_t n, struct llm_error *err)
{
    struct json_pull p;
    json_pull_open(&p, object.at, object.size);
    json_pull_enter(&p, '{');
    for (int first = 1; json_pull_next(&p, '{', &first);) {
        struct part unused, *slot = &unused;
        for (size_t i = 0; i < n; i++)
            if (key_is(&p, keys[i])) slot = slots[i];
        slot->at = json_pull_skip(&p, &slot->size);
    }
    llm_status status = json_pull_status(&p, err);
    json_pull_close(&p);
    return status;
}

static llm_status find_parts(const char *json, size_t bytes, struct parts *parts, struct llm_error *err)
{
    static const char *const top[] = {"added_tokens",   "normalizer", "pre_tokenizer",
                                      "post_processor", "decoder",    "model"};
    static const char *const inner[] = {"vocab",
                                        "merges",
                                        "type",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "byte_fallback",
                                        "fuse_unk",
                                        "ignore_merges"};
    struct part *const top_slots[] = {&parts->added,          &parts->normalizer, &parts->pre_tokenizer,
                                      &parts->post_processor, &parts->decoder,    &parts->model};
    struct part *const inner_slots[] = {&parts->vocab,         &parts->merges,   &parts->type,
                                        &parts->unk_token,     &parts->prefix,   &parts->suffix,
                                        &parts->byte_fallback, &parts->fuse_unk, &parts->ignore_merges};
    memset(parts, 0, sizeof *parts);
    llm_status status = find_members((struct part){json, bytes}, top, top_slots, 6, err);
    if (status) return status;
    if (!parts->model.at || parts->model.at[0] != '{')
        return llm_fail(err, LLM_EFORMAT, "no object \"model\": this is no tokenizer.json");
    status = find_members(parts->model, inner, inner_slots, 9, err);
    if (!status && (!parts->vocab.at || parts->vocab.at[0] != '{'))
        return llm_fail(err, LLM_EUNSUP, "model.vocab is no object; supported: models of type BPE");
    return status;
}

static llm_status parse_part(struct part part, json_t **out, struct llm_error *err)
{
    *out = NULL;
    if (!part.at || (part.size == 4 && !memcmp(part.at, "null", 4))) return LLM_OK;
    return json_text_parse(part.at, part.size, out, err);
}

/* ---- vocabulary ---------------------------------------------------------------------------------------- */

static llm_status add_word(struct words *w, const char *text, size_t size, int64_t id, struct llm_error *err)
{
    if (id < 0 || id > INT32_MAX / 16)
        return llm_fail(err, LLM_EFORMAT, "token \"%.*s\" has the id %lld", (int)(size < 60 ? size : 60),
                        text, (long long)id);
    if (w->n == w->capacity) {
        size_t capacity = w->capacity ? w->capacity * 2 : 4096;
        struct word *at = mem_grow(w->at, capacity, sizeof *at);
        if (!at) return llm_fail(err, LLM_ENOMEM, "no memory for %zu tokens", capacity);
        w->at = at;
        w->capacity = capacity;
    }
    w->at[w->n++] = (struct word){w->text.size, size, (int32_t)id};
    if (id > w->max_id) w->max_id = (int32_t)id;
    return buffer_put(&w->text, text, size, err);
}

static llm_status read_vocab(struct part vocab, struct words *w, struct llm_error *err)
{
    struct json_pull p;
    llm_status status = LLM_OK;
    json_pull_open(&p, vocab.at, vocab.size);
    json_pull_enter(&p, '{');
    for (int first = 1; !status && json_pull_next(&p, '{', &first);) {
        int64_t id = json_pull_int(&p);
        if (!p.error) status = add_word(w, p.text, p.text_size, id, err);
    }
    if (!status) status = json_pull_status(&p, err);
    json_pull_close(&p);
    return status;
}

static llm_status read_added(const json_t *added, struct words *w, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (size_t i = 0; !status && i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i);
        const json_t *content = json_object_get(token, "content"), *id = json_object_get(token, "id");
        if (!json_is_string(content) || !json_is_integer(id))
            return llm_fail(err, LLM_EFORMAT, "added_tokens[%zu] has no content or no id", i);
        status =
            add_word(w, json_string_value(content), json_string_length(content), json_integer_value(id), err);
    }
    return status;
}

/* Numbers the texts by id; ids that no token has get an empty text that is never found. An added token's text
 * replaces that of the model's vocabulary. */
static llm_status place_words(struct tokenizer *tok, const struct words *w, struct llm_error *err)
{
    if (w->n > 0 && (size_t)w->max_id > w->n * 8 + 65536)
        return llm_fail(err, LLM_EFORMAT, "%zu tokens with ids up to %d", w->n, w->max_id);
    tok->n_vocab = w->max_id + 1;
    tok->kinds = mem_zalloc((size_t)tok->n_vocab);
    int32_t *word_of = mem_alloc((size_t)tok->n_vocab * sizeof *word_of);
    llm_status status =
        tok->kinds && word_of ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for %d tokens", tok->n_vocab);
    if (!status) status = strings_open(&tok->texts, tok->n_vocab, err);
    if (!status) {
        memset(word_of, 0xff, (size_t)tok->n_vocab * sizeof *word_of);
        for (size_t i = 0; i < w->n; i++) word_of[w->at[i].id] = (int32_t)i;
    }
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        const struct word *word = word_of[id] < 0 ? NULL : &w->at[word_of[id]];
        tok->kinds[id] = word ? TOKEN_NORMAL : TOKEN_UNUSED;
        status = strings_add(&tok->texts, word ? w->text.data + word->begin : "", word ? word->size : 0,
                             word != NULL, err);
    }
    mem_free(word_of);
    return status;
}

static int is_true(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

static llm_status read_added_flags(struct tokenizer *tok, const json_t *added, struct llm_error *err)
{
    llm_status status = special_open(SPECIAL_LEFTMOST, &tok->hf->raw, err);
    if (!status) status = special_open(SPECIAL_LEFTMOST, &tok->hf->normalized, err);
    struct buffer normal[2] = {0};
    for (size_t i = 0; !status && i < json_array_size(added); i++) {
        const json_t *token = json_array_get(added, i), *content = json_object_get(token, "content");
        int32_t id = (int32_t)json_integer_value(json_object_get(token, "id"));
        int special = is_true(token, "special");
        tok->kinds[id] = special ? TOKEN_CONTROL : TOKEN_USER;
        unsigned flags = special ? SPECIAL_CONTROL : 0;
        if (is_true(token, "lstrip")) flags |= SPECIAL_STRIP_LEFT;
        if (is_true(token, "rstrip")) flags |= SPECIAL_STRIP_RIGHT;
        if (is_true(token, "single_word")) flags |= SPECIAL_SINGLE_WORD;
        const char *text = json_string_value(content);
        size_t size = json_string_length(content);
        int normalized = is_true(token, "normalized");
        if (normalized) status = hf_normalize(tok->hf, normal, text, size, &text, &size, err);
        if (!status)
            status = special_add(normalized ? tok->hf->normalized : tok->hf->raw, text, size, id, flags, err);
    }
    mem_free(normal[0].data);
    mem_free(normal[1].data);
    if (!status) status = special_seal(tok->hf->raw, err);
    return status ? status : special_seal(tok->hf->normalized, err);
}

/* ---- merges -------------------------------------------------------------------------------------------- */

static int64_t count_elements(struct part array)
{
    struct json_pull p;
    int64_t n = 0;
    size_t size;
    json_pull_open(&p, array.at, array.size);
    json_pull_enter(&p, '[');
    for (int first = 1; json_pull_next(&p, '[', &first); n++) json_pull_skip(&p, &size);
    json_pull_close(&p);
    return n;
}

/* "left right", or ["left", "right"], which allows spaces within either. */
static llm_status read_merge(struct tokenizer *tok, struct json_pull *p, struct buffer *left,
                             struct llm_error *err)
{
    if (json_pull_peek(p) == '"') {
        json_pull_string(p);
        if (p->error) return LLM_OK; /* reported by the caller */
        const char *space = memchr(p->text, ' ', p->text_size);
        if (!space) return llm_fail(err, LLM_EFORMAT, "the merge \"%.60s\" is no pair", p->text);
        size_t n = (size_t)(space - p->text);
        return bpe_add_merge(tok->bpe, p->text, n, space + 1, p->text_size - n - 1, err);
    }
    int first = 1, n = 0;
    llm_status status = LLM_OK;
    json_pull_enter(p, '[');
    while (!status && json_pull_next(p, '[', &first)) {
        if (!json_pull_string(p)) break;
        if (++n == 1) {
            left->size = 0;
            status = buffer_put(left, p->text, p->text_size, err);
        } else if (n == 2) {
            status = bpe_add_merge(tok->bpe, left->data, left->size, p->text, p->text_size, err);
        }
    }
    if (!status && !p->error && n != 2) return llm_fail(err, LLM_EFORMAT, "a merge of %d strings", n);
    return status;
}

static llm_status read_merges(struct tokenizer *tok, struct part merges, struct llm_error *err)
{
    struct json_pull p;
    struct buffer left = {0};
    llm_status status = LLM_OK;
    json_pull_open(&p, merges.at, merges.size);
    json_pull_enter(&p, '[');
    for (int first = 1; !status && json_pull_next(&p, '[', &first);) status = read_merge(tok, &p, &left, err);
    if (!status) status = json_pull_status(&p, err);
    json_pull_close(&p);
    mem_free(left.data);
    return status;
}

static int is_set(struct part part)
{
    return part.size == 4 && !memcmp(part.at, "true", 4);
}

static int is_text(struct part part)
{
    return part.size > 2 && part.at[0] == '"';
}

static llm_status read_model(struct tokenizer *tok, const struct parts *parts, struct llm_error *err)
{
    const struct part type = parts->type;
    if (type.at && (type.size != 5 || memcmp(type.at, "\"BPE\"", 5)))
        return llm_fail(err, LLM_EUNSUP, "model of type %.*s; supported: \"BPE\"",
                        (int)(type.size < 40 ? type.size : 40), type.at);
    if (is_text(parts->prefix) || is_text(parts->suffix))
        return llm_fail(err, LLM_EUNSUP, "model.%s is set",
                        is_text(parts->prefix) ? "continuing_subword_prefix" : "end_of_word_suffix");
    struct bpe_options options = {.unit = tok->hf->bytes_last ? BPE_BYTES : BPE_CHARS,
                                  .fallback = BPE_UNKNOWN_TOKEN,
                                  .byte_fallback = is_set(parts->byte_fallback),
                                  .fuse_unknown = is_set(parts->fuse_unk),
                                  .ignore_merges = is_set(parts->ignore_merges),
                                  .unknown = -1,
                                  .last_merge_wins = 1};
    if (is_text(parts->unk_token)) {
        struct json_pull p;
        json_pull_open(&p, parts->unk_token.at, parts->unk_token.size);
        if (json_pull_string(&p)) options.unknown = tokenizer_find(tok, p.text, p.text_size);
        json_pull_close(&p);
    }
    tok->unknown = options.unknown;
    int64_t n_merges = parts->merges.at ? count_elements(parts->merges) : 0;
    llm_status status = bpe_open(&tok->texts, tok->n_vocab, &options, n_merges, &tok->bpe, err);
    if (!status && parts->merges.at) status = read_merges(tok, parts->merges, err);
    if (!status) bpe_seal(tok->bpe);
    return status;
}

/* ---- decoder ------------------------------------------------------------------------------------------- */

/* What a decoder does to each token; its order does not matter for those that occur. */
struct decoding {
    int gpt2_bytes, hex_bytes, spaces;
};

static llm_status read_decoder(struct tokenizer *tok, const json_t *json, struct decoding *d,
                               struct llm_error *err)
{
    if (!json || json_is_null(json)) return LLM_OK;
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return llm_fail(err, LLM_EFORMAT, "a decoder without a type");
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "decoders");
        llm_status status = LLM_OK;
        for (size_t i = 0; !status && i < json_array_size(list); i++)
            status = read_decoder(tok, json_array_get(list, i), d, err);
        return status;
    }
    if (!strcmp(type, "ByteLevel")) {
        d->gpt2_bytes = 1;
    } else if (!strcmp(type, "ByteFallback")) {
        d->hex_bytes = 1;
    } else if (!strcmp(type, "Metaspace")) {
        const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
        d->spaces = 1;
        tok->strip_space = !(scheme && !strcmp(scheme, "never")) &&
                           !json_is_false(json_object_get(json, "add_prefix_space"));
    } else if (!strcmp(type, "Replace")) {
        const char *from = json_string_value(json_object_get(json_object_get(json, "pattern"), "String"));
        const char *to = json_string_value(json_object_get(json, "content"));
        if (!from || !to || strcmp(from, "\u2581") || strcmp(to, " "))
            return llm_fail(err, LLM_EUNSUP, "a Replace decoder for anything but U+2581 by a space");
        d->spaces = 1;
    } else if (!strcmp(type, "Strip")) {
        const char *content = json_string_value(json_object_get(json, "content"));
        json_int_t start = json_integer_value(json_object_get(json, "start"));
        if (!content || strcmp(content, " ") || start > 1 ||
            json_integer_value(json_object_get(json, "stop")))
            return llm_fail(err, LLM_EUNSUP, "a Strip decoder for anything but one space at the start");
        tok->strip_space = start == 1;
    } else if (strcmp(type, "Fuse")) {
        return llm_fail(
            err, LLM_EUNSUP,
            "decoder \"%.60s\"; supported: Sequence, ByteLevel, ByteFallback, Metaspace, Replace, "
            "Strip, Fuse",
            type);
    }
    return LLM_OK;
}

static llm_status gpt2_bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out,
                                struct llm_error *err)
{
    size_t size;
    const char *text = strings_at(&tok->texts, id, &size);
    int mapped;
    llm_status status = tokenizer_put_gpt2_bytes(out, text, size, &mapped, err);
    return status || mapped ? status : buffer_put(out, text, size, err);
}

static llm_status spaced_bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out,
                                  struct llm_error *err)
{
    size_t size;
    const char *text = strings_at(&tok->texts, id, &size);
    return tokenizer_put_unescaped(out, text, size, err);
}

static llm_status spaced_or_hex_bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out,
                                         struct llm_error *err)
{
    size_t size;
    const char *text = strings_at(&tok->texts, id, &size);
    int byte = tokenizer_hex_byte(text, size);
    char c = (char)byte;
    return byte >= 0 ? buffer_put(out, &c, 1, err) : tokenizer_put_unescaped(out, text, size, err);
}

static llm_status plain_bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out,
                                 struct llm_error *err)
{
    size_t size;
    const char *text = strings_at(&tok->texts, id, &size);
    return buffer_put(out, text, size, err);
}

static llm_status fill_bytes(struct tokenizer *tok, const json_t *decoder, struct llm_error *err)
{
    struct decoding d = {0};
    llm_status status = read_decoder(tok, decoder, &d, err);
    if (status) return status;
    token_bytes_fn *fn = d.gpt2_bytes  ? gpt2_bytes_of
                         : d.hex_bytes ? spaced_or_hex_bytes_of
                         : d.spaces    ? spaced_bytes_of
                                       : plain_bytes_of;
    return tokenizer_fill_bytes(tok, fn, err);
}

/* ---- encoding ------------------------------------------------------------------------------------------ */

struct encoding {
    const struct tokenizer *tok;
    struct token_list *out;
    struct hf_run run;
    const char *start; /* of the whole input */
    int parse_special, at_start;
};

static llm_status encode_piece(void *ud, const char *piece, size_t size, struct llm_error *err)
{
    struct encoding *e = ud;
    return bpe_encode(e->tok->bpe, piece, size, e->out, err);
}

static llm_status encode_normalized(void *ud, const char *text, size_t size, int32_t id,
                                    struct llm_error *err)
{
    struct encoding *e = ud;
    int at_start = e->at_start;
    e->at_start = 0;
    if (id >= 0) return token_list_push(e->out, id, err);
    return hf_pre_tokenize(&e->run, text, size, at_start, err);
}

static llm_status encode_raw(void *ud, const char *text, size_t size, int32_t id, struct llm_error *err)
{
    struct encoding *e = ud;
    if (id >= 0) return token_list_push(e->out, id, err);
    e->at_start = text == e->start;
    const struct hf_pipeline *hf = e->tok->hf;
    llm_status status = hf_normalize(hf, e->run.normal, text, size, &text, &size, err);
    if (status) return status;
    return special_split(hf->normalized, text, size, e->parse_special, encode_normalized, e, err);
}

static llm_status put_valid(const char *text, size_t size, struct buffer *out, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (size_t i = 0, n; !status && i < size; i += n) {
        uint32_t cp;
        n = utf8_scan((const uint8_t *)text + i, size - i, &cp);
        if (n) {
            status = buffer_put(out, text + i, n, err);
        } else {
            n = cp ? cp : size - i; /* cut off by the end: one subpart */
            status = buffer_put(out, "\ufffd", 3, err);
        }
    }
    return status;
}

static llm_status put_ids(struct token_list *out, const int32_t *ids, int32_t n, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t i = 0; !status && i < n; i++) status = token_list_push(out, ids[i], err);
    return status;
}

static llm_status encode_hf(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                            struct token_list *out, struct llm_error *err)
{
    struct encoding e = {.tok = tok, .out = out, .parse_special = (flags & TOKENIZE_PARSE_SPECIAL) != 0};
    const struct hf_pipeline *hf = tok->hf;
    struct buffer valid = {0};
    llm_status status = hf_run_open(&e.run, hf, encode_piece, &e, err);
    if (!status && !utf8_valid(text, size)) {
        status = put_valid(text, size, &valid, err);
        text = valid.data;
        size = valid.size;
    }
    e.start = text;
    if (!status && (flags & TOKENIZE_ADD_SPECIAL)) status = put_ids(out, hf->before, hf->n_before, err);
    if (!status) status = special_split(hf->raw, text, size, e.parse_special, encode_raw, &e, err);
    if (!status && (flags & TOKENIZE_ADD_SPECIAL)) status = put_ids(out, hf->after, hf->n_after, err);
    hf_run_close(&e.run);
    mem_free(valid.data);
    return status;
}

/* ---- the reader ---------------------------------------------------------------------------------------- */

static llm_status check_affixes(const struct tokenizer *tok, struct llm_error *err)
{
    const struct hf_pipeline *hf = tok->hf;
    for (int32_t i = 0; i < hf->n_before; i++)
        if (hf->before[i] >= tok->n_vocab)
            return llm_fail(err, LLM_EFORMAT, "the post-processor adds token %d of %d", hf->before[i],
                            tok->n_vocab);
    for (int32_t i = 0; i < hf->n_after; i++)
        if (hf->after[i] >= tok->n_vocab)
            return llm_fail(err, LLM_EFORMAT, "the post-processor adds token %d of %d", hf->after[i],
                            tok->n_vocab);
    return LLM_OK;
}

static llm_status find_ends(struct tokenizer *tok, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        size_t size;
        const char *text = strings_at(&tok->texts, id, &size);
        if (tok->kinds[id] != TOKEN_NORMAL && tokenizer_text_ends_turn(text, size))
            status = tokenizer_add_end(tok, id, err);
    }
    return status;
}

static llm_status read_json(struct tokenizer *tok, const char *json, size_t bytes, struct llm_error *err)
{
    struct parts parts;
    struct words words = {.max_id = -1};
    json_t *added = NULL, *normalizer = NULL, *pre_tokenizer = NULL, *post_processor = NULL, *decoder = NULL;
    llm_status status = find_parts(json, bytes, &parts, err);
    if (!status) status = parse_part(parts.added, &added, err);
    if (!status) status = parse_part(parts.normalizer, &normalizer, err);
    if (!status) status = parse_part(parts.pre_tokenizer, &pre_tokenizer, err);
    if (!status) status = parse_part(parts.post_processor, &post_processor, err);
    if (!status) status = parse_part(parts.decoder, &decoder, err);
    if (!status) status = hf_read_normalizer(tok->hf, normalizer, err);
    if (!status) status = hf_read_pre_tokenizer(tok->hf, pre_tokenizer, err);
    if (!status) status = hf_read_post_processor(tok->hf, post_processor, err);
    if (!status) hf_seal(tok->hf);
    if (!status) status = read_vocab(parts.vocab, &words, err);
    if (!status) status = read_added(added, &words, err);
    if (!status && words.max_id < 0) status = llm_fail(err, LLM_EFORMAT, "the vocabulary is empty");
    if (!status) status = place_words(tok, &words, err);
    if (!status) status = check_affixes(tok, err);
    if (!status) status = read_model(tok, &parts, err);
    if (!status) status = read_added_flags(tok, added, err);
    if (!status) status = fill_bytes(tok, decoder, err);
    if (!status) status = find_ends(tok, err);
    json_decref(added);
    json_decref(normalizer);
    json_decref(pre_tokenizer);
    json_decref(post_processor);
    json_decref(decoder);
    mem_free(words.at);
    mem_free(words.text.data);
    return status;
}

llm_status tokenizer_read_json(struct tokenizer *tok, const char *json, size_t bytes, struct llm_error *err)
{
    tok->bos = tok->eos = tok->unknown = -1;
    tok->encode = encode_hf;
    tok->hf = mem_zalloc(sizeof *tok->hf);
    if (!tok->hf) return llm_fail(err, LLM_ENOMEM, "no memory for a tokenizer");
    llm_status status = read_json(tok, json, bytes, err);
    if (status) return status;
    if (tok->hf->n_before) tok->bos = tok->hf->before[0];
    if (tok->n_end_tokens) tok->eos = tok->end_tokens[0];
    tok->add_bos = tok->hf->n_before > 0;
    return LLM_OK;
}
