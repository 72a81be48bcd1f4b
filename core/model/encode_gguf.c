#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include "model/spm.h"
#include "model/utf8.h"

#include <stdio.h>
#include <string.h>

/* Encoding with the vocabularies of GGUF files, token for token as llama.cpp does it. */

struct encoding {
    const struct tokenizer *tok;
    struct splitter_scratch *scratch;
    struct token_list *out;
    struct buffer subject, text; /* a stretch of text as the splitter and as the merges see it */
    const char *subject_base, *text_base;
    int after_special;
};

static llm_status encode_piece(void *ud, const char *piece, size_t size, struct llm_error *err)
{
    struct encoding *e = ud;
    piece = e->text_base + (piece - e->subject_base);
    if (e->tok->whole_newlines && piece[0] == '\n') {
        int32_t id = tokenizer_find(e->tok, piece, size);
        if (id >= 0) return token_list_push(e->out, id, err);
    }
    return bpe_encode(e->tok->bpe, piece, size, e->out, err);
}

/* Bytes that are no UTF-8 become U+FFFD one by one; overlong forms and surrogates pass for what they spell,
 * in their shortest form. The regular expressions must not meet a surrogate: they see U+E000 in its place, as
 * long and as little a letter. */
static llm_status make_valid(struct encoding *e, const char *text, size_t size, struct llm_error *err)
{
    e->text.size = e->subject.size = 0;
    llm_status status = LLM_OK;
    for (size_t i = 0; !status && i < size;) {
        uint32_t cp;
        char s[4];
        i += utf8_lenient((const uint8_t *)text + i, size - i, &cp);
        if (cp == ' ' && e->tok->escape_spaces) cp = 0x2581;
        status = buffer_put(&e->text, s, utf8_put(cp, s), err);
        if (cp >= 0xd800 && cp <= 0xdfff) cp = 0xe000;
        if (!status) status = buffer_put(&e->subject, s, utf8_put(cp, s), err);
    }
    e->text_base = e->text.data;
    e->subject_base = e->subject.data;
    return status;
}

static llm_status encode_bpe_part(void *ud, const char *text, size_t size, int32_t id, struct llm_error *err)
{
    struct encoding *e = ud;
    if (id >= 0) return token_list_push(e->out, id, err);
    e->text_base = e->subject_base = text;
    if (e->tok->escape_spaces || !utf8_valid(text, size)) {
        llm_status status = make_valid(e, text, size, err);
        if (status) return status;
        size = e->text.size;
    }
    return splitter_run(e->tok->splitter, e->scratch, e->subject_base, size, encode_piece, e, err);
}

llm_status gguf_encode_bpe(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                           struct token_list *out, struct llm_error *err)
{
    struct encoding e = {.tok = tok, .out = out};
    llm_status status = splitter_scratch_open(tok->splitter, &e.scratch, err);
    if (status) return status;
    if ((flags & TOKENIZE_ADD_SPECIAL) && tokenizer_adds_bos(tok))
        status = token_list_push(out, tok->bos, err);
    if (!status)
        status = special_split(tok->special, text, size, (flags & TOKENIZE_PARSE_SPECIAL) != 0,
                               encode_bpe_part, &e, err);
    if (!status && (flags & TOKENIZE_ADD_SPECIAL) && tok->add_eos && tok->eos >= 0)
        status = token_list_push(out, tok->eos, err);
    splitter_scratch_close(e.scratch);
    mem_free(e.text.data);
    mem_free(e.subject.data);
    return status;
}

/* ---- SentencePiece ------------------------------------------------------------------------------------ */

static int32_t byte_token(const struct tokenizer *tok, uint8_t byte)
{
    char text[8];
    snprintf(text, sizeof text, "<0x%02X>", byte);
    int32_t id = tokenizer_find(tok, text, 6);
    return id >= 0 ? id : tokenizer_find(tok, (const char *)&byte, 1);
}

static llm_status put_byte_tokens(const struct encoding *e, const char *s, size_t n, struct llm_error *err)
{
    for (size_t i = 0; i < n; i++) {
        int32_t id = byte_token(e->tok, (uint8_t)s[i]);
        llm_status status = id >= 0 ? token_list_push(e->out, id, err) : LLM_OK;
        if (status) return status;
    }
    return LLM_OK;
}

static llm_status encode_valid(const struct encoding *e, const char *text, size_t size, struct llm_error *err)
{
    size_t before = e->out->n;
    llm_status status = size ? spm_encode(e->tok->spm, text, size, e->out, err) : LLM_OK;
    for (size_t i = before; !status && i < e->out->n; i++)
        if (e->out->ids[i] >= e->tok->n_vocab) e->out->ids[i] = e->tok->unknown >= 0 ? e->tok->unknown : 0;
    return status;
}

static llm_status put_escaped(struct buffer *out, const char *s, size_t size, struct llm_error *err)
{
    llm_status status = LLM_OK;
    while (!status && size) {
        const char *space = memchr(s, ' ', size);
        size_t n = space ? (size_t)(space - s) : size;
        status = buffer_put(out, s, n, err);
        if (!status && space) status = buffer_put(out, "\u2581", 3, err);
        s += n + (space != NULL);
        size -= n + (space != NULL);
    }
    return status;
}

/* What llama.cpp takes for a character goes by its first byte alone. One that is no valid UTF-8 is in no
 * token, so the text falls apart there, and its bytes stand for themselves. */
static llm_status encode_spm_part(void *ud, const char *text, size_t size, int32_t id, struct llm_error *err)
{
    struct encoding *e = ud;
    int prefix = e->tok->space_prefix && e->after_special;
    e->after_special = id >= 0;
    if (id >= 0) return token_list_push(e->out, id, err);
    e->text.size = 0;
    llm_status status = prefix ? buffer_put(&e->text, "\u2581", 3, err) : LLM_OK;
    if (!status) status = put_escaped(&e->text, text, size, err);
    if (status) return status;
    text = e->text.data;
    size = e->text.size;
    size_t done = 0;
    for (size_t i = 0, n; !status && i < size; i += n) {
        uint32_t cp;
        n = utf8_lead_length((uint8_t)text[i]);
        if (n > size - i) n = size - i;
        if (utf8_scan((const uint8_t *)text + i, n, &cp)) continue;
        status = encode_valid(e, text + done, i - done, err);
        if (!status) status = put_byte_tokens(e, text + i, n, err);
        done = i + n;
    }
    return status ? status : encode_valid(e, text + done, size - done, err);
}

llm_status gguf_encode_spm(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                           struct token_list *out, struct llm_error *err)
{
    struct encoding e = {.tok = tok, .out = out, .after_special = 1};
    llm_status status = LLM_OK;
    if ((flags & TOKENIZE_ADD_SPECIAL) && tokenizer_adds_bos(tok))
        status = token_list_push(out, tok->bos, err);
    if (!status)
        status = special_split(tok->special, text, size, (flags & TOKENIZE_PARSE_SPECIAL) != 0,
                               encode_spm_part, &e, err);
    if (!status && (flags & TOKENIZE_ADD_SPECIAL) && tok->add_eos && tok->eos >= 0)
        status = token_list_push(out, tok->eos, err);
    mem_free(e.text.data);
    return status;
}
