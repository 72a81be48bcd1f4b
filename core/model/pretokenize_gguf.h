#ifndef LLM_MODEL_PRETOKENIZE_GGUF_H
#define LLM_MODEL_PRETOKENIZE_GGUF_H

#include "model/pretokenize.h"

/* What a pre-tokenizer's name says beside its rules. */
enum gguf_pre_traits {
    GGUF_PRE_IGNORE_MERGES = 1,
    GGUF_PRE_ADD_BOS = 2,        /* unless the file says otherwise */
    GGUF_PRE_ADD_BOS_ALWAYS = 4, /* even if the file says otherwise */
    GGUF_PRE_ESCAPE_SPACES = 8,  /* spaces become U+2581, and tokens are characters, not GPT-2's bytes */
    GGUF_PRE_WHOLE_NEWLINES = 16 /* a run of newlines that is a token is that token */
};

/* Adds the rules that tokenizer.ggml.pre names ("" if the file has none). Errors: LLM_EUNSUP, naming it. */
llm_status splitter_add_gguf(struct splitter *s, const char *pre, size_t size, unsigned *traits,
                             struct llm_error *err);

#endif
