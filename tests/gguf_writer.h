#ifndef TESTS_GGUF_WRITER_H
#define TESTS_GGUF_WRITER_H

/* Writes GGUF bytes piece by piece, so that a test can make any of them wrong. A test that runs out of memory
 * may abort. */

#include "model/gguf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct writer {
    uint8_t *data;
    size_t n, capacity;
};

static inline void put_bytes(struct writer *w, const void *p, size_t n)
{
    if (w->n + n > w->capacity) {
        w->capacity = 2 * (w->n + n);
        w->data = realloc(w->data, w->capacity);
        if (!w->data) abort();
    }
    if (n > 0) memcpy(w->data + w->n, p, n);
    w->n += n;
}

static inline void put_u32(struct writer *w, uint32_t v)
{
    put_bytes(w, &v, sizeof v);
}

static inline void put_u64(struct writer *w, uint64_t v)
{
    put_bytes(w, &v, sizeof v);
}

static inline void put_string(struct writer *w, const char *s)
{
    put_u64(w, strlen(s));
    put_bytes(w, s, strlen(s));
}

static inline void put_header(struct writer *w, uint32_t version, uint64_t n_tensors, uint64_t n_kvs)
{
    put_bytes(w, "GGUF", 4);
    put_u32(w, version);
    put_u64(w, n_tensors);
    put_u64(w, n_kvs);
}

static inline void put_key(struct writer *w, const char *key, uint32_t type)
{
    put_string(w, key);
    put_u32(w, type);
}

static inline void put_kv_u32(struct writer *w, const char *key, uint32_t v)
{
    put_key(w, key, GGUF_U32);
    put_u32(w, v);
}

static inline void put_kv_u16(struct writer *w, const char *key, uint16_t v)
{
    put_key(w, key, GGUF_U16);
    put_bytes(w, &v, sizeof v);
}

static inline void put_kv_f32(struct writer *w, const char *key, float v)
{
    put_key(w, key, GGUF_F32);
    put_bytes(w, &v, sizeof v);
}

static inline void put_kv_string(struct writer *w, const char *key, const char *v)
{
    put_key(w, key, GGUF_STRING);
    put_string(w, v);
}

static inline void put_array(struct writer *w, const char *key, uint32_t type, uint64_t n)
{
    put_key(w, key, GGUF_ARRAY);
    put_u32(w, type);
    put_u64(w, n);
}

/* dims as in the file: fastest first. */
static inline void put_tensor(struct writer *w, const char *name, uint32_t n_dims, const uint64_t *dims,
                              uint32_t type, uint64_t offset)
{
    put_string(w, name);
    put_u32(w, n_dims);
    put_bytes(w, dims, n_dims * sizeof *dims);
    put_u32(w, type);
    put_u64(w, offset);
}

static inline void put_padding(struct writer *w, size_t alignment)
{
    while (w->n % alignment != 0) put_bytes(w, "", 1);
}

/* Opens the bytes written so far from a block of exactly their size, so that a sanitizer sees a read beyond
 * them. *copy: the block, to be freed after the file was closed. */
static inline llm_status open_written(const struct writer *w, void **copy, struct gguf **g,
                                      struct llm_error *err)
{
    *copy = malloc(w->n ? w->n : 1);
    if (!*copy) abort();
    if (w->n > 0) memcpy(*copy, w->data, w->n);
    return gguf_open_memory(*copy, w->n, g, err);
}

static inline void save_written(const struct writer *w, const char *path)
{
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(w->data, 1, w->n, f) != w->n || fclose(f) != 0) abort();
}

static inline void drop_written(struct writer *w)
{
    free(w->data);
    *w = (struct writer){0};
}

#endif
