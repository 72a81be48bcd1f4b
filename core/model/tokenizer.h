#ifndef LLM_MODEL_TOKENIZER_H
#define LLM_MODEL_TOKENIZER_H

/* Text to token ids and back, exactly as the model's own implementation does it: SentencePiece through its
 * library, byte-level BPE (GPT-2 and its descendants) here. Immutable after open; encode may run on any
 * thread. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tokenizer;
struct gguf;

/* path: a GGUF file (vocabulary-only ones too), a tokenizer.json, a tokenizer.model, or a directory holding
 * one of the latter two, the first if both (tokenizer_config.json, special_tokens_map.json and
 * chat_template.jinja are read beside it). Errors: LLM_ENOENT, LLM_EFORMAT, LLM_EUNSUP (the tokenizer model
 * or pre-tokenizer, and those supported). */
llm_status tokenizer_open(const char *path, struct tokenizer **out, struct llm_error *err);
llm_status tokenizer_open_gguf(const struct gguf *g, struct tokenizer **out, struct llm_error *err);
/* The text of a tokenizer.json; for the fuzzer and tests. */
llm_status tokenizer_open_json(const char *json, size_t bytes, struct tokenizer **out, struct llm_error *err);
void tokenizer_close(struct tokenizer *tok);

/* A growing list of ids; zero-initialize, free with token_list_free. */
struct token_list {
    int32_t *ids;
    size_t n, capacity;
};
void token_list_free(struct token_list *list);

enum tokenize_flags {
    TOKENIZE_ADD_SPECIAL = 1,   /* add what the model's tokenizer adds by itself: BOS, sometimes EOS */
    TOKENIZE_PARSE_SPECIAL = 2, /* text that spells a control token becomes that token */
};

/* Appends the ids of text (any bytes; invalid UTF-8 is treated as the original does). Errors: LLM_ENOMEM,
 * LLM_EFAILED. */
llm_status tokenizer_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                            struct token_list *out, struct llm_error *err);

int32_t tokenizer_vocab_size(const struct tokenizer *tok);

/* The bytes a token stands for, before any rule about leading spaces; borrowed, valid until close; may be
 * part of a UTF-8 character; empty for an id out of range. */
const char *tokenizer_bytes(const struct tokenizer *tok, int32_t id, size_t *bytes);
/* Control tokens (BOS, EOS, <|im_start|> …): left out of decoded text when special tokens are skipped. */
int tokenizer_is_special(const struct tokenizer *tok, int32_t id);
/* The id of a token by its exact text, -1: none. */
int32_t tokenizer_find(const struct tokenizer *tok, const char *text, size_t bytes);

/* -1: the vocabulary has none. */
int32_t tokenizer_bos(const struct tokenizer *tok);
int32_t tokenizer_eos(const struct tokenizer *tok);
/* All ids that end a turn (EOS, EOT, EOM …) as llama.cpp finds them; borrowed. */
const int32_t *tokenizer_end_tokens(const struct tokenizer *tok, int32_t *n);
/* The Jinja chat template in the files, null: none. Borrowed, NUL-terminated. */
const char *tokenizer_chat_template(const struct tokenizer *tok);
/* As TOKENIZE_ADD_SPECIAL would: does it put a BOS first? */
int tokenizer_adds_bos(const struct tokenizer *tok);

/* ---- decoding ------------------------------------------------------------------------------------------ */

/* Incremental: feed ids one by one, get text whose UTF-8 characters are whole. Bytes that can never become a
 * valid character come out as U+FFFD, as the originals do. The state is plain data: copy it to fork a
 * sequence. */
struct detokenizer {
    const struct tokenizer *tok;
    int skip_special;
    int at_start;    /* nothing put out yet: the leading space that encoding added is dropped */
    uint8_t held[8]; /* bytes of a character not complete yet */
    uint8_t n_held;
};

void detokenizer_init(struct detokenizer *d, const struct tokenizer *tok, int skip_special);

/* Appends the text that became certain with this id to out (capacity bytes), returns its length, or the
 * length needed (> capacity) having changed nothing. It is at most tokenizer_max_token_bytes(tok) + 12 bytes.
 * Joined, the increments are what all tokens' bytes decode to at once, as Python's errors="replace" does it;
 * spaces before punctuation stay (transformers' clean_up_tokenization_spaces, off by default today). */
size_t detokenizer_put(struct detokenizer *d, int32_t id, char *out, size_t capacity);
/* What is still held, as U+FFFD; at most 12 bytes. Same return value. */
size_t detokenizer_finish(struct detokenizer *d, char *out, size_t capacity);
/* The longest text of a token, U+FFFD for bytes that are no UTF-8 included. */
size_t tokenizer_max_token_bytes(const struct tokenizer *tok);

#ifdef __cplusplus
}
#endif
#endif
