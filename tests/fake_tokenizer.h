#ifndef FAKE_TOKENIZER_H
#define FAKE_TOKENIZER_H

/* A byte-level vocabulary of 97 tokens for tests of the engine: the printable characters one by one, then two
 * control tokens. Included by the tests that use it. */

#include "model/tokenizer.h"

#include <stdio.h>
#include <string.h>

enum { TOKEN_SPACE = 0, TOKEN_BOS = 95, TOKEN_END = 96, FAKE_VOCAB = 97 };

static inline struct tokenizer *fake_tokenizer(void)
{
    static char json[8192];
    size_t n = (size_t)snprintf(json, sizeof json,
                                "{\"added_tokens\":[{\"id\":95,\"content\":\"<s>\",\"special\":true},"
                                "{\"id\":96,\"content\":\"</s>\",\"special\":true}],"
                                "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
                                "\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
                                "\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{\"\\u0120\":0");
    for (int c = '!'; c <= '~'; c++)
        n += (size_t)snprintf(json + n, sizeof json - n, ",\"%s%c\":%d", c == '"' || c == '\\' ? "\\" : "", c,
                              c - ' ');
    n += (size_t)snprintf(json + n, sizeof json - n, "}}}");
    struct tokenizer *tok = NULL;
    struct llm_error err;
    if (tokenizer_open_json(json, n, &tok, &err)) fprintf(stderr, "%s\n", err.message);
    return tok;
}

/* The id of a printable character. */
static inline int32_t fake_token(char c)
{
    return c - ' ';
}

#endif
