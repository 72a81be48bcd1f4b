#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include "model/gguf.h"
#include "model/pretokenize_gguf.h"
#include "model/spm.h"
#include "model/spm_proto.h"

#include <stdio.h>
#include <string.h>

/* Vocabularies in GGUF files, tokenized as llama.cpp does it, token for token. */

static const char *text_of(const struct tokenizer *tok, int32_t id, size_t *size)
{
    return strings_at(&tok->texts, id, size);
}

static int text_is(const struct tokenizer *tok, int32_t id, const char *s)
{
    size_t size;
    const char *text = text_of(tok, id, &size);
    return size == strlen(s) && !memcmp(text, s, size);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

static llm_status read_texts(struct tokenizer *tok, const struct gguf *g, int64_t n_merges,
                             struct llm_error *err)
{
    struct gguf_array tokens, types;
    if (!gguf_get_array(g, "tokenizer.ggml.tokens", &tokens) || tokens.type != GGUF_STRING)
        return llm_fail(err, LLM_EFORMAT, "no array of strings tokenizer.ggml.tokens");
    if (tokens.n < 1 || tokens.n > INT32_MAX / 8)
        return llm_fail(err, LLM_EFORMAT, "tokenizer.ggml.tokens has %llu elements",
                        (unsigned long long)tokens.n);
    int has_types = gguf_get_array(g, "tokenizer.ggml.token_type", &types);
    if (has_types && (types.n < tokens.n || types.type == GGUF_STRING))
        return llm_fail(err, LLM_EFORMAT, "tokenizer.ggml.token_type has %llu elements for %llu tokens",
                        (unsigned long long)types.n, (unsigned long long)tokens.n);
    tok->n_vocab = (int32_t)tokens.n;
    tok->kinds = mem_alloc(tokens.n);
    if (!tok->kinds) return llm_fail(err, LLM_ENOMEM, "no memory for %d tokens", tok->n_vocab);
    llm_status status = strings_open(&tok->texts, tok->n_vocab + (int32_t)(n_merges / 16), err);
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        static const uint8_t kind_of_type[] = {0,          TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL,
                                               TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE};
        int64_t type = has_types ? gguf_array_int(&types, (uint64_t)id) : 1;
        tok->kinds[id] = type >= 0 && type <= 6 ? kind_of_type[type] : 0;
        struct gguf_string s = tokens.strings[id];
        char empty[32];
        if (!s.size) s = (struct gguf_string){empty, (size_t)snprintf(empty, sizeof empty, "[EMPTY_%d]", id)};
        status = strings_add(&tok->texts, s.data, s.size, 1, err);
    }
    return status;
}

static int32_t read_id(const struct tokenizer *tok, const struct gguf *g, const char *key, int32_t otherwise)
{
    int64_t id;
    if (otherwise >= tok->n_vocab) otherwise = -1;
    return gguf_get_int(g, key, &id) && id >= 0 && id < tok->n_vocab ? (int32_t)id : otherwise;
}

/* The first of some texts that is a token; it counts as a control token from then on. */
static int32_t find_control(struct tokenizer *tok, const char *const *texts)
{
    for (; *texts; texts++) {
        int32_t id = tokenizer_find(tok, *texts, strlen(*texts));
        if (id < 0) continue;
        tok->kinds[id] |= TOKEN_CONTROL;
        return id;
    }
    return -1;
}

/* Tokens for filling in the middle. llama.cpp ends a turn at some of them; the others become control tokens
 * whatever the file calls them. */
static llm_status read_fim(struct tokenizer *tok, const struct gguf *g, struct llm_error *err)
{
    static const struct {
        const char *key;
        int ends_turn;
        const char *texts[9];
    } kinds[] = {
        {"tokenizer.ggml.fim_pre_token_id",
         0,
         {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<\uff5cfim\u2581begin\uff5c>", "<PRE>",
          "\u2581<PRE>", "<|code_prefix|>", "<|prefix|>"}},
        {"tokenizer.ggml.fim_suf_token_id",
         0,
         {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<\uff5cfim\u2581hole\uff5c>", "<SUF>",
          "\u2581<SUF>", "<|code_suffix|>", "<|suffix|>"}},
        {"tokenizer.ggml.fim_mid_token_id",
         0,
         {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<\uff5cfim\u2581end\uff5c>", "<MID>",
          "\u2581<MID>", "<|code_middle|>", "<|middle|>"}},
        {"tokenizer.ggml.fim_pad_token_id", 1, {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"}},
        {"tokenizer.ggml.fim_rep_token_id",
         1,
         {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"}},
        {"tokenizer.ggml.fim_sep_token_id", 1, {"<|file_sep|>"}},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        int32_t id = read_id(tok, g, kinds[i].key, -1);
        if (id < 0) id = find_control(tok, kinds[i].texts);
        llm_status status = kinds[i].ends_turn ? tokenizer_add_end(tok, id, err) : LLM_OK;
        if (status) return status;
    }
    return LLM_OK;
}

static void remove_end(struct tokenizer *tok, int32_t id, uint8_t kind)
{
    int32_t n = 0;
    for (int32_t i = 0; i < tok->n_end_tokens; i++)
        if (tok->end_tokens[i] != id) tok->end_tokens[n++] = tok->end_tokens[i];
    tok->n_end_tokens = n;
    tok->kinds[id] = kind;
}

static int ends_with_text(const struct tokenizer *tok, const char *s)
{
    for (int32_t i = 0; i < tok->n_end_tokens; i++)
        if (text_is(tok, tok->end_tokens[i], s)) return 1;
    return 0;
}

/* Which tokens end a turn goes by their texts, as in llama.cpp, since files say it incompletely. */
static llm_status read_ends(struct tokenizer *tok, const struct gguf *g, struct llm_error *err)
{
    llm_status status = read_fim(tok, g, err);
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        size_t size;
        const char *text = text_of(tok, id, &size);
        if (!tokenizer_text_ends_turn(text, size)) continue;
        tok->kinds[id] |= TOKEN_CONTROL;
        status = tokenizer_add_end(tok, id, err);
    }
    /* gpt-oss: these are to be shown */
    static const char *const shown[] = {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        int32_t id = tokenizer_find(tok, shown[i], strlen(shown[i]));
        if (id >= 0) tok->kinds[id] = TOKEN_USER;
    }
    if (!status) status = tokenizer_add_end(tok, tok->eos, err);
    if (!status) status = tokenizer_add_end(tok, read_id(tok, g, "tokenizer.ggml.eot_token_id", -1), err);
    if (!status) status = tokenizer_add_end(tok, read_id(tok, g, "tokenizer.ggml.eom_token_id", -1), err);
    if (status) return status;

    /* where calls and returns have tokens of their own, <|end|> ends a message, not the turn */
    int calls = ends_with_text(tok, "<|call|>") || ends_with_text(tok, "<|calls|>");
    if (calls && ends_with_text(tok, "<|end|>") &&
        (ends_with_text(tok, "<|return|>") || ends_with_text(tok, "<|flush|>")))
        remove_end(tok, tokenizer_find(tok, "<|end|>", 7), TOKEN_USER);
    if ((ends_with_text(tok, "<|tool_response>") || ends_with_text(tok, "<|plamo:eos|>")) &&
        ends_with_text(tok, "</s>"))
        remove_end(tok, tokenizer_find(tok, "</s>", 4), TOKEN_NORMAL);
    return LLM_OK;
}

/* Phi-3's files lack the flags of its added tokens; llama.cpp knows the model by its name. */
static unsigned strip_flags(const struct tokenizer *tok, int32_t id, int is_phi3)
{
    if (!is_phi3) return 0;
    if (text_is(tok, id, "<unk>") || text_is(tok, id, "<s>") || text_is(tok, id, "<|endoftext|>")) return 0;
    return SPECIAL_STRIP_RIGHT;
}

static int name_is_phi3(const struct gguf *g)
{
    struct gguf_string name;
    if (!gguf_get_string(g, "general.name", &name)) return 0;
    for (size_t i = 0; i + 4 <= name.size; i++) {
        if ((name.data[i] | 32) != 'p' || (name.data[i + 1] | 32) != 'h' || (name.data[i + 2] | 32) != 'i')
            continue;
        if (name.data[i + 3] == '3' ||
            (i + 5 <= name.size && name.data[i + 3] == '-' && name.data[i + 4] == '3'))
            return 1;
    }
    return 0;
}

static llm_status read_special(struct tokenizer *tok, const struct gguf *g, struct llm_error *err)
{
    int is_phi3 = name_is_phi3(g);
    llm_status status = special_open(SPECIAL_LONGEST_FIRST, &tok->special, err);
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        uint8_t kind = tok->kinds[id];
        if (!(kind & (TOKEN_CONTROL | TOKEN_USER | TOKEN_UNKNOWN))) continue;
        unsigned flags = strip_flags(tok, id, is_phi3);
        if (kind & (TOKEN_CONTROL | TOKEN_UNKNOWN)) flags |= SPECIAL_CONTROL;
        size_t size;
        const char *text = text_of(tok, id, &size);
        status = special_add(tok->special, text, size, id, flags, err);
    }
    return status ? status : special_seal(tok->special, err);
}

static llm_status bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out, struct llm_error *err)
{
    size_t size;
    const char *text = text_of(tok, id, &size);
    uint8_t kind = tok->kinds[id];
    if (kind & (TOKEN_CONTROL | TOKEN_UNKNOWN | TOKEN_USER)) return buffer_put(out, text, size, err);
    if (kind & TOKEN_BYTE) {
        int byte = tokenizer_hex_byte(text, size);
        char c = (char)byte;
        return byte < 0 ? buffer_put(out, text, size, err) : buffer_put(out, &c, 1, err);
    }
    if (!(kind & TOKEN_NORMAL)) return LLM_OK;
    if (tok->escape_spaces) return tokenizer_put_unescaped(out, text, size, err);
    int mapped;
    llm_status status = tokenizer_put_gpt2_bytes(out, text, size, &mapped, err);
    return status || mapped ? status : buffer_put(out, text, size, err);
}

static llm_status read_merges(struct tokenizer *tok, const struct gguf_array *merges, unsigned traits,
                              struct llm_error *err)
{
    struct bpe_options options = {.unit = BPE_BYTES, .fallback = BPE_DROP_UNKNOWN, .unknown = -1};
    if (traits & GGUF_PRE_ESCAPE_SPACES) {
        options.unit = BPE_CHARS;
        options.fallback = BPE_HEX_BYTES;
    }
    options.ignore_merges = (traits & GGUF_PRE_IGNORE_MERGES) != 0;
    llm_status status = bpe_open(&tok->texts, tok->n_vocab, &options, (int64_t)merges->n, &tok->bpe, err);
    for (uint64_t i = 0; !status && i < merges->n; i++) {
        struct gguf_string s = merges->strings[i];
        const char *space = s.size > 1 ? memchr(s.data + 1, ' ', s.size - 1) : NULL;
        if (!space)
            return llm_fail(err, LLM_EFORMAT, "tokenizer.ggml.merges[%llu] is no pair",
                            (unsigned long long)i);
        size_t left = (size_t)(space - s.data);
        status = bpe_add_merge(tok->bpe, s.data, left, space + 1, s.size - left - 1, err);
    }
    if (!status) bpe_seal(tok->bpe);
    return status;
}

/* ---- SentencePiece vocabularies ------------------------------------------------------------------------ */

/* llama.cpp matches every token's text, whatever its kind, so all pieces are normal ones. The unknown piece
 * that the library insists on comes last, under a name that no text holds. */
static llm_status write_proto(const struct tokenizer *tok, const struct gguf_array *scores, int byte_fallback,
                              struct spm_proto_writer *w, struct llm_error *err)
{
    static const char unknown[] = "\x01unknown\x01";
    llm_status status = LLM_OK;
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        size_t size;
        const char *text = text_of(tok, id, &size);
        int type = byte_fallback && tokenizer_hex_byte(text, size) >= 0 ? SPM_BYTE : SPM_NORMAL;
        float score = scores ? (float)gguf_array_float(scores, (uint64_t)id) : 0.0f;
        status = spm_proto_add_piece(w, text, size, score, type, err);
    }
    if (!status) status = spm_proto_add_piece(w, unknown, sizeof unknown - 1, 0, SPM_UNKNOWN, err);
    return status ? status : spm_proto_finish_bpe(w, byte_fallback, tok->n_vocab, err);
}

static int has_byte_tokens(const struct tokenizer *tok)
{
    char text[8];
    for (int b = 0; b < 256; b++) {
        snprintf(text, sizeof text, "<0x%02X>", b);
        if (tokenizer_find(tok, text, 6) < 0) return 0;
    }
    return 1;
}

/* ---- the reader ---------------------------------------------------------------------------------------- */

static llm_status read_spm(struct tokenizer *tok, const struct gguf *g, struct llm_error *err)
{
    llm_status status = read_texts(tok, g, 0, err);
    if (status) return status;
    struct gguf_array scores;
    int has_scores = gguf_get_array(g, "tokenizer.ggml.scores", &scores);
    if (has_scores && (scores.n < (uint64_t)tok->n_vocab || scores.type == GGUF_STRING))
        return llm_fail(err, LLM_EFORMAT, "tokenizer.ggml.scores has %llu elements for %d tokens",
                        (unsigned long long)scores.n, tok->n_vocab);
    struct spm_proto_writer w = {0};
    status = write_proto(tok, has_scores ? &scores : NULL, has_byte_tokens(tok), &w, err);
    if (!status) status = spm_open(w.data, w.size, &tok->spm, err);
    mem_free(w.data);
    if (status) return status;

    tok->bos = read_id(tok, g, "tokenizer.ggml.bos_token_id", 1);
    tok->eos = read_id(tok, g, "tokenizer.ggml.eos_token_id", 2);
    tok->unknown = read_id(tok, g, "tokenizer.ggml.unknown_token_id", 0);
    tok->add_bos = tok->space_prefix = tok->escape_spaces = 1;
    gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &tok->add_bos);
    gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &tok->add_eos);
    gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &tok->space_prefix);
    tok->strip_space = tok->space_prefix;
    tok->encode = gguf_encode_spm;
    return LLM_OK;
}

static llm_status read_bpe(struct tokenizer *tok, const struct gguf *g, int is_gemma4, struct llm_error *err)
{
    struct gguf_array merges;
    if (!gguf_get_array(g, "tokenizer.ggml.merges", &merges) || merges.type != GGUF_STRING)
        return llm_fail(err, LLM_EFORMAT, "no array of strings tokenizer.ggml.merges");
    struct gguf_string pre = {"", 0};
    gguf_get_string(g, "tokenizer.ggml.pre", &pre);
    if (is_gemma4) pre = (struct gguf_string){"gemma4", 6};

    unsigned traits = 0;
    llm_status status = splitter_open(&tok->splitter, err);
    if (!status) status = splitter_add_gguf(tok->splitter, pre.data, pre.size, &traits, err);
    if (!status) status = read_texts(tok, g, (int64_t)merges.n, err);
    if (!status) status = read_merges(tok, &merges, traits, err);
    if (status) return status;

    int is_glm = pre.size == 11 && !memcmp(pre.data, "chatglm-bpe", 11);
    is_glm |= pre.size == 4 && (!memcmp(pre.data, "glm4", 4) || !memcmp(pre.data, "glm5", 4));
    tok->bos = read_id(tok, g, "tokenizer.ggml.bos_token_id", is_gemma4 || is_glm ? -1 : 11);
    tok->eos = read_id(tok, g, "tokenizer.ggml.eos_token_id", is_gemma4 ? -1 : 11);
    tok->unknown = read_id(tok, g, "tokenizer.ggml.unknown_token_id", -1);
    tok->add_bos = (traits & GGUF_PRE_ADD_BOS) != 0;
    gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &tok->add_bos);
    gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &tok->add_eos);
    if (traits & GGUF_PRE_ADD_BOS_ALWAYS) tok->add_bos = 1;
    tok->escape_spaces = (traits & GGUF_PRE_ESCAPE_SPACES) != 0;
    tok->whole_newlines = (traits & GGUF_PRE_WHOLE_NEWLINES) != 0;
    tok->encode = gguf_encode_bpe;
    return LLM_OK;
}

llm_status tokenizer_read_gguf(struct tokenizer *tok, const struct gguf *g, struct llm_error *err)
{
    struct gguf_string model;
    if (!gguf_get_string(g, "tokenizer.ggml.model", &model))
        return llm_fail(err, LLM_EFORMAT, "no string tokenizer.ggml.model: the file holds no vocabulary");
    int is_gemma4 = model.size == 6 && !memcmp(model.data, "gemma4", 6);
    llm_status status;
    if (is_gemma4 || (model.size == 4 && !memcmp(model.data, "gpt2", 4)))
        status = read_bpe(tok, g, is_gemma4, err);
    else if (model.size == 5 && !memcmp(model.data, "llama", 5))
        status = read_spm(tok, g, err);
    else
        return llm_fail(err, LLM_EUNSUP, "tokenizer.ggml.model \"%.*s\"; supported: llama, gpt2, gemma4",
                        (int)model.size, model.data);
    if (!status) status = read_ends(tok, g, err);
    if (!status) status = read_special(tok, g, err);
    if (!status) status = tokenizer_fill_bytes(tok, bytes_of, err);
    struct gguf_string template;
    if (!status && gguf_get_string(g, "tokenizer.chat_template", &template)) {
        tok->chat_template = mem_strndup(template.data, template.size);
        if (!tok->chat_template) status = llm_fail(err, LLM_ENOMEM, "no memory for the chat template");
    }
    return status;
}
