#include "model/tokenizer_impl.h"

#include "base/mem.h"
#include "model/spm.h"
#include "model/spm_proto.h"

#include <string.h>

/* tokenizer.model files: the library does all, but for control tokens spelt out in the text, which it never
 * looks for. Each stretch of text between such is encoded as a text of its own. */

struct encoding {
    const struct tokenizer *tok;
    struct token_list *out;
};

static llm_status encode_part(void *ud, const char *text, size_t size, int32_t id, struct llm_error *err)
{
    struct encoding *e = ud;
    return id >= 0 ? token_list_push(e->out, id, err) : spm_encode(e->tok->spm, text, size, e->out, err);
}

static llm_status encode_model(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                               struct token_list *out, struct llm_error *err)
{
    struct encoding e = {tok, out};
    llm_status status = LLM_OK;
    if ((flags & TOKENIZE_ADD_SPECIAL) && tokenizer_adds_bos(tok))
        status = token_list_push(out, tok->bos, err);
    if (!status)
        status = special_split(tok->special, text, size, (flags & TOKENIZE_PARSE_SPECIAL) != 0, encode_part,
                               &e, err);
    if (!status && (flags & TOKENIZE_ADD_SPECIAL) && tok->add_eos && tok->eos >= 0)
        status = token_list_push(out, tok->eos, err);
    return status;
}

static llm_status bytes_of(const struct tokenizer *tok, int32_t id, struct buffer *out, struct llm_error *err)
{
    size_t size;
    const char *text = strings_at(&tok->texts, id, &size);
    char byte = (char)tokenizer_hex_byte(text, size);
    switch (tok->kinds[id]) {
    case TOKEN_BYTE:
        return buffer_put(out, &byte, 1, err);
    case TOKEN_CONTROL:
    case TOKEN_UNKNOWN:
        return buffer_put(out, text, size, err);
    default:
        return tokenizer_put_unescaped(out, text, size, err);
    }
}

static llm_status read_pieces(struct tokenizer *tok, struct llm_error *err)
{
    static const uint8_t kind_of[] = {0,          TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL,
                                      TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE};
    llm_status status = special_open(SPECIAL_LEFTMOST, &tok->special, err);
    if (!status) status = strings_open(&tok->texts, tok->n_vocab, err);
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        size_t size;
        const char *text = spm_piece(tok->spm, id, &size);
        tok->kinds[id] = kind_of[spm_piece_type(tok->spm, id)];
        status = strings_add(&tok->texts, text, size, 1, err);
        if (!status && (tok->kinds[id] & (TOKEN_CONTROL | TOKEN_UNKNOWN)))
            status = special_add(tok->special, text, size, id, SPECIAL_CONTROL, err);
        if (!status && tok->kinds[id] == TOKEN_CONTROL && tokenizer_text_ends_turn(text, size))
            status = tokenizer_add_end(tok, id, err);
    }
    return status ? status : special_seal(tok->special, err);
}

llm_status tokenizer_read_spm(struct tokenizer *tok, const void *proto, size_t bytes, struct llm_error *err)
{
    tok->encode = encode_model;
    llm_status status = spm_open(proto, bytes, &tok->spm, err);
    if (status) return status;
    tok->n_vocab = spm_n_pieces(tok->spm);
    tok->kinds = mem_zalloc((size_t)tok->n_vocab);
    if (!tok->kinds) return llm_fail(err, LLM_ENOMEM, "no memory for %d tokens", tok->n_vocab);
    tok->bos = spm_bos(tok->spm);
    tok->eos = spm_eos(tok->spm);
    tok->unknown = spm_unk(tok->spm);
    tok->add_bos = tok->bos >= 0;
    tok->strip_space = spm_proto_adds_dummy_prefix(proto, bytes);
    status = read_pieces(tok, err);
    if (!status) status = tokenizer_add_end(tok, tok->eos, err);
    return status ? status : tokenizer_fill_bytes(tok, bytes_of, err);
}
