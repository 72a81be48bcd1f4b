#ifndef LLM_TESTS_VOCABS_H
#define LLM_TESTS_VOCABS_H

/* The vocabularies in models/vocabs (scripts/dev/fetch-vocabs.sh) and the corpus beside them, for tests. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define VOCABS_DIR MODELS_DIR "/vocabs"

/* name of the file; `lossless`: without special tokens, decoding gives every valid text back (the others
 * normalize, lack tokens for some bytes, or put a space in front that decoding cannot tell) */
struct vocab_case {
    const char *name;
    int lossless;
};

static const struct vocab_case vocab_cases[] = {
    {"smollm2.gguf", 1},
    {"gemma-3.gguf", 1},
    {"ggml-vocab-aquila.gguf", 1},
    {"ggml-vocab-baichuan.gguf", 1},
    {"ggml-vocab-command-r.gguf", 1},
    {"ggml-vocab-deepseek-coder.gguf", 1},
    {"ggml-vocab-deepseek-llm.gguf", 1},
    {"ggml-vocab-falcon.gguf", 0},
    {"ggml-vocab-gemma-4.gguf", 1},
    {"ggml-vocab-gpt-2.gguf", 1},
    {"ggml-vocab-gpt-neox.gguf", 1},
    {"ggml-vocab-llama-bpe.gguf", 1},
    {"ggml-vocab-llama-spm.gguf", 1},
    {"ggml-vocab-mpt.gguf", 1},
    {"ggml-vocab-phi-3.gguf", 1},
    {"ggml-vocab-qwen2.gguf", 1},
    {"ggml-vocab-qwen35.gguf", 1},
    {"ggml-vocab-refact.gguf", 1},
    {"ggml-vocab-starcoder.gguf", 1},
    {"mistral-v1.model", 1},
    {"mistral-v2.model", 1},
    {"mistral-v3.model", 1},
    {"mistral-v7.model", 1},
    {"mistral-v7m1.model", 1},
    {"json-claude.json", 0},
    {"json-deepseek.json", 1},
    {"json-falcon.json", 0},
    {"json-gemma.json", 1},
    {"json-gpt-2.json", 1},
    {"json-gpt-4o.json", 1},
    {"json-gpt-neox.json", 0},
    {"json-llama-2.json", 1},
    {"json-llama-2-metaspace.json", 0},
    {"json-llama-3.json", 1},
    {"json-opt.json", 0},
    {"json-qwen2.json", 0},
    {"json-starcoder.json", 1},
};
enum { N_VOCAB_CASES = sizeof vocab_cases / sizeof *vocab_cases };

/* Skips the test by hand; fails it where the suite promises the vocabularies (scripts/test.sh). */
static inline void need_vocabs(void)
{
    if (!access(VOCABS_DIR "/corpus.bin", R_OK)) return;
    if (getenv("LLMLUA_VOCABS_REQUIRED"))
        fail_msg("%s is not there: run scripts/dev/fetch-vocabs.sh", VOCABS_DIR);
    print_message("SKIPPED: no models/vocabs; scripts/dev/fetch-vocabs.sh fetches them\n");
    skip();
}

static inline char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("%s is not there: run scripts/dev/fetch-vocabs.sh", path);
    fseek(f, 0, SEEK_END);
    *size = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*size + 1);
    assert_int_equal(fread(data, 1, *size, f), *size);
    data[*size] = '\0';
    fclose(f);
    return data;
}

struct corpus {
    char *data;
    size_t size, at;
};

static inline struct corpus corpus_open(void)
{
    struct corpus c = {0};
    c.data = read_file(VOCABS_DIR "/corpus.bin", &c.size);
    return c;
}

/* The next text; 0 at the end. */
static inline int corpus_next(struct corpus *c, const char **text, size_t *size)
{
    uint32_t n;
    if (c->at + 4 > c->size) return 0;
    memcpy(&n, c->data + c->at, 4);
    *text = c->data + c->at + 4;
    *size = n;
    c->at += 4 + (size_t)n;
    return 1;
}

static inline void corpus_close(struct corpus *c)
{
    free(c->data);
}

#endif
