#ifndef LLM_MODEL_GGUF_H
#define LLM_MODEL_GGUF_H

/* GGUF version 3 (and 2) model files, memory-mapped; a split file is opened by its first part's name and
 * shows all parts' tensors. Every count, offset, size and product is checked at open: a successful open means
 * that every tensor's bytes are inside the file. Format: ggml/docs/gguf.md of llama.cpp. Immutable after
 * open. */

#include "base/dtype.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct gguf;

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64
};

struct gguf_string {
    const char *data; /* not NUL-terminated, any bytes */
    size_t size;
};

/* Errors: LLM_ENOENT, LLM_EIO, LLM_ENOMEM, LLM_EFORMAT (what is wrong, at which key or tensor), LLM_EUNSUP
 * (version, type of a tensor), LLM_EINVAL (a part of a split file that is not the first). A file without
 * tensors (a vocabulary) opens. */
llm_status gguf_open(const char *path, struct gguf **out, struct llm_error *err);
/* The same over bytes in memory, borrowed until close, aligned to 8; no split files. For tests, the fuzzer.
 */
llm_status gguf_open_memory(const void *data, size_t bytes, struct gguf **out, struct llm_error *err);
void gguf_close(struct gguf *g);

/* Tensors, in file order, 0 <= i < n. Names are NUL-terminated. dims in C order (reversed from the file's).
 * data is aligned to at least 8 bytes. All pointers live until close. */
int64_t gguf_n_tensors(const struct gguf *g);
const struct tensor *gguf_tensor(const struct gguf *g, int64_t i, const char **name);
const struct tensor *gguf_find(const struct gguf *g, const char *name); /* null: none */

/* Metadata (of a split file: its first part's). Each returns 1 and fills *out if the key is there with a
 * fitting type, else 0. Integers of any width convert if the value fits; a float takes F32 or F64. */
int gguf_has(const struct gguf *g, const char *key); /* with whatever type */
int gguf_get_int(const struct gguf *g, const char *key, int64_t *out);
int gguf_get_float(const struct gguf *g, const char *key, double *out);
int gguf_get_bool(const struct gguf *g, const char *key, int *out);
int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out);

/* Arrays of scalars or strings: element access after one look-up. */
struct gguf_array {
    enum gguf_type type;
    uint64_t n;
    const uint8_t *data;               /* scalars, unaligned, little-endian */
    const struct gguf_string *strings; /* if type is GGUF_STRING: an index built at open */
};
int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *out);
/* Element i converted: 0 if i >= n, for strings, and (int) for floats and numbers above INT64_MAX. */
double gguf_array_float(const struct gguf_array *a, uint64_t i);
int64_t gguf_array_int(const struct gguf_array *a, uint64_t i);

#endif
