/* Input: a vocabulary (GGUF, tokenizer.json, or a SentencePiece model, by its first byte). Its last bytes are
 * the text to tokenize with it, too, and the ids are decoded again. */

#include "fuzz.h"
#include "model/gguf.h"
#include "model/spm.h"
#include "model/tokenizer.h"

#include <string.h>

enum { TEXT_BYTES = 200 };

static void decode(const struct tokenizer *tok, const struct token_list *ids)
{
    size_t capacity = tokenizer_max_token_bytes(tok) + 12;
    char *out = malloc(capacity);
    if (!out) return;
    struct detokenizer d;
    detokenizer_init(&d, tok, ids->n & 1);
    for (size_t i = 0; i < ids->n; i++) must(detokenizer_put(&d, ids->ids[i], out, capacity) <= capacity);
    must(detokenizer_finish(&d, out, capacity) <= 12);
    free(out);
}

static void use(const struct tokenizer *tok, const uint8_t *data, size_t size)
{
    const char *text = (const char *)data + (size > TEXT_BYTES ? size - TEXT_BYTES : 0);
    size_t n = size > TEXT_BYTES ? TEXT_BYTES : size;
    must(tokenizer_vocab_size(tok) > 0);
    must(tokenizer_bos(tok) >= -1 && tokenizer_bos(tok) < tokenizer_vocab_size(tok));
    must(tokenizer_eos(tok) >= -1 && tokenizer_eos(tok) < tokenizer_vocab_size(tok));
    for (unsigned flags = 0; flags < 4; flags++) {
        struct token_list ids = {0};
        struct llm_error err;
        if (!tokenizer_encode(tok, text, n, flags, &ids, &err)) {
            for (size_t i = 0; i < ids.n; i++)
                must(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocab_size(tok));
            decode(tok, &ids);
        }
        token_list_free(&ids);
    }
    for (int32_t id = -1; id <= tokenizer_vocab_size(tok); id++) {
        size_t bytes;
        const char *s = tokenizer_bytes(tok, id, &bytes);
        touch(s, bytes);
    }
}

static llm_status open_any(const uint8_t *data, size_t size, struct tokenizer **out)
{
    struct llm_error err;
    struct gguf *g;
    if (data[0] == '{') return tokenizer_open_json((const char *)data, size, out, &err);
    llm_status status = gguf_open_memory(data, size, &g, &err);
    if (status) return status;
    status = tokenizer_open_gguf(g, out, &err);
    gguf_close(g);
    return status;
}

static void try_sentencepiece(const uint8_t *data, size_t size)
{
    struct spm *spm;
    struct llm_error err;
    if (spm_open(data, size, &spm, &err)) return;
    struct token_list ids = {0};
    if (!spm_encode(spm, (const char *)data, size, &ids, &err))
        for (size_t i = 0; i < ids.n; i++) must(ids.ids[i] >= 0 && ids.ids[i] < spm_n_pieces(spm));
    token_list_free(&ids);
    spm_close(spm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tokenizer *tok;
    if (!size) return 0;
    if (data[0] != '{' && data[0] != 'G') {
        try_sentencepiece(data, size);
        return 0;
    }
    if (!open_any(data, size, &tok)) {
        use(tok, data, size);
        tokenizer_close(tok);
    }
    mem_fail_at(failing_allocation(data, size));
    if (!open_any(data, size, &tok)) tokenizer_close(tok);
    mem_fail_at(0);
    return 0;
}
