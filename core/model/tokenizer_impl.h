#ifndef LLM_MODEL_TOKENIZER_IMPL_H
#define LLM_MODEL_TOKENIZER_IMPL_H

/* What the files tokenizer*.c and detokenizer.c share. */

#include "model/bpe.h"
#include "model/pretokenize.h"
#include "model/special.h"
#include "model/string_table.h"
#include "model/tokenizer.h"

enum token_kind { /* bits */
                  TOKEN_NORMAL = 1,
                  TOKEN_UNKNOWN = 2,
                  TOKEN_CONTROL = 4,
                  TOKEN_USER = 8,
                  TOKEN_BYTE = 16,
                  TOKEN_UNUSED = 32
};

struct hf_pipeline;
struct spm;

struct tokenizer {
    int32_t n_vocab;
    struct strings texts;   /* token texts as the files spell them, then the strings of merges */
    uint8_t *kinds;         /* [n_vocab] of enum token_kind */
    char *bytes;            /* what tokens stand for, one after the other */
    size_t *bytes_begin;    /* [n_vocab + 1] */
    size_t max_token_bytes; /* of text that one token can put out */

    /* Encodes; one per kind of file. */
    llm_status (*encode)(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                         struct token_list *out, struct llm_error *err);
    struct special_set *special;
    struct splitter *splitter;
    struct bpe *bpe;
    struct spm *spm;
    struct hf_pipeline *hf;
    int escape_spaces;  /* GGUF: spaces are U+2581 in token texts */
    int whole_newlines; /* GGUF: GGUF_PRE_WHOLE_NEWLINES */
    int space_prefix;   /* a space is put before the text (after special tokens too, as llama.cpp does) */

    int strip_space; /* decoding drops one space at the start of a text */
    int32_t bos, eos, unknown;
    int add_bos, add_eos;
    int32_t *end_tokens;
    int32_t n_end_tokens;
    char *chat_template;
};

/* A growing byte buffer; zero-initialize, free data with mem_free. */
struct buffer {
    char *data;
    size_t size, capacity;
};
llm_status buffer_put(struct buffer *b, const char *s, size_t n, struct llm_error *err);

/* Fills tok->bytes: `bytes_of` appends what token id stands for. */
typedef llm_status token_bytes_fn(const struct tokenizer *tok, int32_t id, struct buffer *out,
                                  struct llm_error *err);
llm_status tokenizer_fill_bytes(struct tokenizer *tok, token_bytes_fn *bytes_of, struct llm_error *err);

/* Marks a token as ending a turn, once. */
llm_status tokenizer_add_end(struct tokenizer *tok, int32_t id, struct llm_error *err);
/* Whether token texts like this end a turn in some family (<|im_end|>, <end_of_turn> …). */
int tokenizer_text_ends_turn(const char *text, size_t size);

/* The value of a token text <0xAB>, -1 if it is none. */
int tokenizer_hex_byte(const char *text, size_t size);
/* Appends s with every U+2581 as a space. */
llm_status tokenizer_put_unescaped(struct buffer *out, const char *s, size_t size, struct llm_error *err);
/* Appends what a text in GPT-2's spelling of bytes stands for. Returns 0 through *mapped, having appended
 * nothing, if it holds a character that stands for no byte. */
llm_status tokenizer_put_gpt2_bytes(struct buffer *out, const char *s, size_t size, int *mapped,
                                    struct llm_error *err);

/* Readers of the single formats; tok is allocated, zeroed and closed on failure by the caller. */
llm_status tokenizer_read_gguf(struct tokenizer *tok, const struct gguf *g, struct llm_error *err);
llm_status tokenizer_read_json(struct tokenizer *tok, const char *json, size_t bytes, struct llm_error *err);
llm_status tokenizer_read_spm(struct tokenizer *tok, const void *proto, size_t bytes, struct llm_error *err);
/* What tokenizer_read_gguf puts into tok->encode. */
llm_status gguf_encode_bpe(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                           struct token_list *out, struct llm_error *err);
llm_status gguf_encode_spm(const struct tokenizer *tok, const char *text, size_t size, unsigned flags,
                           struct token_list *out, struct llm_error *err);
/* tokenizer_config.json, special_tokens_map.json and chat_template.jinja in a directory, if they are there:
 * BOS, EOS, whether they are added, the chat template. Errors: those of reading a malformed file. */
llm_status tokenizer_read_config(struct tokenizer *tok, const char *dir, struct llm_error *err);

#endif
