#ifndef LLM_MODEL_BPE_H
#define LLM_MODEL_BPE_H

/* Byte-pair encoding of one piece of text: start from its bytes (GPT-2's mapping of bytes to characters is
 * undone at open) or its characters, and while some adjacent pair has a merge, apply the merge of lowest
 * rank, the leftmost first. Cost is O(n log n) in the length of the piece whatever its content.
 *
 * Symbols are numbers of the string table: below n_vocab they are token ids; above, they are strings that
 * only merges know. Immutable once the last merge was added; encode may run on any thread. */

#include "model/string_table.h"
#include "model/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum bpe_unit {
    BPE_BYTES, /* a symbol a byte; token texts spell bytes as GPT-2's characters */
    BPE_CHARS, /* a symbol a UTF-8 character */
};

/* What becomes of a symbol that is no token. */
enum bpe_fallback {
    BPE_DROP_UNKNOWN,  /* the tokens of its single bytes' texts where there are such, else nothing (GGUF) */
    BPE_HEX_BYTES,     /* <0xAB> tokens of its bytes, where there are such */
    BPE_UNKNOWN_TOKEN, /* <0xAB> tokens if byte_fallback and all its bytes have one, else unk, else nothing */
};

struct bpe_options {
    enum bpe_unit unit;
    enum bpe_fallback fallback;
    int ignore_merges; /* a piece that is a token is that token, whatever the merges say */
    int byte_fallback, fuse_unknown;
    int32_t unknown;     /* token id, -1: none */
    int last_merge_wins; /* of equal pairs; else the first */
};

struct bpe;

/* `strings` is borrowed until close; it holds the n_vocab token texts, and bpe_add_merge may add to it. */
llm_status bpe_open(struct strings *strings, int32_t n_vocab, const struct bpe_options *options,
                    int64_t n_merges, struct bpe **out, struct llm_error *err);
void bpe_close(struct bpe *bpe);

/* The next merge in order of rank; at most n_merges of them. Errors: LLM_ENOMEM. */
llm_status bpe_add_merge(struct bpe *bpe, const char *left, size_t left_size, const char *right,
                         size_t right_size, struct llm_error *err);
/* After the last merge, before the first encode. */
void bpe_seal(struct bpe *bpe);

/* Appends the ids of a piece; in BPE_CHARS mode it is cut into characters by their first bytes. Errors:
 * LLM_ENOMEM. */
llm_status bpe_encode(const struct bpe *bpe, const char *piece, size_t size, struct token_list *out,
                      struct llm_error *err);

/* GPT-2's bijection between bytes and printable characters, all below U+0144. */
uint32_t bpe_char_of_byte(uint8_t byte);
int bpe_byte_of_char(uint32_t cp); /* -1: none */

/* Appends one id. Errors: LLM_ENOMEM. */
llm_status token_list_push(struct token_list *list, int32_t id, struct llm_error *err);

#ifdef __cplusplus
}
#endif

#endif
