#ifndef LLM_MODEL_GGUF_FILE_H
#define LLM_MODEL_GGUF_FILE_H

/* Inside of gguf.h: the parsed form of GGUF bytes, made by gguf_parse.c and read by gguf.c. */

#include "base/file_map.h"
#include "base/name_table.h"
#include "model/gguf.h"

struct gguf_kv {
    struct gguf_string key;
    enum gguf_type type;
    const uint8_t *scalar;          /* the value, unaligned; unless a string or an array */
    struct gguf_string text;        /* if type is GGUF_STRING */
    struct gguf_array array;        /* if type is GGUF_ARRAY */
    struct gguf_string *text_index; /* owned; what array.strings points to */
};

struct gguf_entry {
    char *name; /* owned */
    struct tensor tensor;
};

struct gguf {
    struct gguf_kv *kvs;
    size_t n_kvs;
    struct name_table keys;
    struct gguf_entry *tensors; /* all parts' */
    size_t n_tensors;
    struct name_table names;
    struct file_map *maps; /* one a part; none if the bytes are borrowed */
    size_t n_maps;
};

/* Bytes of a scalar of this type; 0 for strings, arrays and numbers that are no type. */
size_t gguf_scalar_bytes(uint32_t type);

/* Reads the header of one file into *g, which is zeroed but for its maps. On failure what was allocated stays
 * in *g, for gguf_close. Tensors point into data. */
llm_status gguf_parse(const uint8_t *data, size_t bytes, struct gguf *g, struct llm_error *err);

/* Adds the names of tensors [first, n_tensors) to the table; refuses a name that is there already. */
llm_status gguf_index_tensors(struct gguf *g, size_t first, struct llm_error *err);

#endif
