#include "model/gguf.h"
#include "base/mem.h"
#include "model/gguf_file.h"

#include <stdio.h>
#include <string.h>

/* ---- opening ------------------------------------------------------------------------------------------- */

void gguf_close(struct gguf *g)
{
    if (!g) return;
    for (size_t i = 0; i < g->n_kvs; i++) mem_free(g->kvs[i].text_index);
    for (size_t i = 0; i < g->n_tensors; i++) mem_free(g->tensors[i].name);
    for (size_t i = 0; i < g->n_maps; i++) file_map_close(&g->maps[i]);
    name_table_free(&g->keys);
    name_table_free(&g->names);
    mem_free(g->kvs);
    mem_free(g->tensors);
    mem_free(g->maps);
    mem_free(g);
}

/* One file, whether or not it is part of a split model. Errors name the path. */
static llm_status open_part(const char *path, struct gguf **out, struct llm_error *err)
{
    struct gguf *g = mem_zalloc(sizeof *g);
    if (g) g->maps = mem_array(1, sizeof *g->maps);
    if (!g || !g->maps) {
        mem_free(g);
        return llm_fail(err, LLM_ENOMEM, "no memory to open %s", path);
    }
    llm_status status = file_map_open(path, &g->maps[0], err);
    if (status == LLM_OK) {
        g->n_maps = 1;
        status = gguf_parse(g->maps[0].data, g->maps[0].size, g, err);
        if (status != LLM_OK) llm_fail_in(err, "%s", path);
    }
    if (status != LLM_OK) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return LLM_OK;
}

/* Moves the tensors and the mapping of `part` to the end of g's. */
static llm_status take_part(struct gguf *g, struct gguf *part, struct llm_error *err)
{
    size_t first = g->n_tensors;
    struct gguf_entry *tensors = mem_grow(g->tensors, first + part->n_tensors, sizeof *tensors);
    if (tensors) g->tensors = tensors;
    struct file_map *maps = mem_grow(g->maps, g->n_maps + 1, sizeof *maps);
    if (maps) g->maps = maps;
    if (!tensors || !maps) return llm_fail(err, LLM_ENOMEM, "no memory for the parts of a split model");
    if (part->n_tensors > 0) memcpy(tensors + first, part->tensors, part->n_tensors * sizeof *tensors);
    g->n_tensors += part->n_tensors;
    part->n_tensors = 0;
    maps[g->n_maps++] = part->maps[0];
    part->n_maps = 0;
    return gguf_index_tensors(g, first, err);
}

static int64_t split_key(const struct gguf *g, const char *key)
{
    int64_t v;
    return gguf_get_int(g, key, &v) ? v : -1;
}

static llm_status open_split(const char *path, struct gguf *g, int64_t n_parts, struct llm_error *err)
{
    char suffix[32];
    int suffix_len = snprintf(suffix, sizeof suffix, "-00001-of-%05d.gguf", (int)n_parts);
    size_t len = strlen(path);
    if (split_key(g, "split.no") != 0 || len < (size_t)suffix_len ||
        strcmp(path + len - suffix_len, suffix) != 0)
        return llm_fail(err, LLM_EINVAL,
                        "%s is a part of a model split in %d files; open the first, whose name ends in %s",
                        path, (int)n_parts, suffix);
    char *part_path = mem_strdup(path);
    if (!part_path) return llm_fail(err, LLM_ENOMEM, "no memory to open %s", path);
    llm_status status = LLM_OK;
    for (int64_t i = 1; i < n_parts && status == LLM_OK; i++) {
        struct gguf *part = NULL;
        char number[16];
        snprintf(number, sizeof number, "%05d", (int)i + 1);
        memcpy(part_path + len - (size_t)suffix_len + 1, number, 5);
        status = open_part(part_path, &part, err);
        if (status != LLM_OK) break;
        if (split_key(part, "split.no") != i || split_key(part, "split.count") != n_parts)
            status =
                llm_fail(err, LLM_EFORMAT, "%s: it is not part %d of %d (split.no is %lld, split.count %lld)",
                         part_path, (int)i + 1, (int)n_parts, (long long)split_key(part, "split.no"),
                         (long long)split_key(part, "split.count"));
        else
            status = take_part(g, part, err);
        gguf_close(part);
    }
    mem_free(part_path);
    int64_t total;
    if (status == LLM_OK && gguf_get_int(g, "split.tensors.count", &total) && total != (int64_t)g->n_tensors)
        status = llm_fail(err, LLM_EFORMAT, "%s: its parts hold %zu tensors; split.tensors.count says %lld",
                          path, g->n_tensors, (long long)total);
    return status;
}

llm_status gguf_open(const char *path, struct gguf **out, struct llm_error *err)
{
    struct gguf *g = NULL;
    llm_status status = open_part(path, &g, err);
    if (status != LLM_OK) return status;
    int64_t n_parts = 1;
    if (gguf_has(g, "split.count") &&
        (!gguf_get_int(g, "split.count", &n_parts) || n_parts < 0 || n_parts > 99999))
        status = llm_fail(err, LLM_EFORMAT, "%s: split.count must be an integer from 0 to 99999", path);
    else if (n_parts > 1)
        status = open_split(path, g, n_parts, err);
    if (status != LLM_OK) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return LLM_OK;
}

llm_status gguf_open_memory(const void *data, size_t bytes, struct gguf **out, struct llm_error *err)
{
    struct gguf *g = mem_zalloc(sizeof *g);
    if (!g) return llm_fail(err, LLM_ENOMEM, "no memory to open a GGUF file");
    llm_status status = gguf_parse(data, bytes, g, err);
    if (status == LLM_OK && split_key(g, "split.count") > 1)
        status = llm_fail(err, LLM_EUNSUP, "a split GGUF model cannot be opened from memory");
    if (status != LLM_OK) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return LLM_OK;
}

/* ---- tensors ------------------------------------------------------------------------------------------- */

int64_t gguf_n_tensors(const struct gguf *g)
{
    return (int64_t)g->n_tensors;
}

const struct tensor *gguf_tensor(const struct gguf *g, int64_t i, const char **name)
{
    if (name) *name = g->tensors[i].name;
    return &g->tensors[i].tensor;
}

const struct tensor *gguf_find(const struct gguf *g, const char *name)
{
    int64_t i = name_table_find(&g->names, name, strlen(name));
    return i < 0 ? NULL : &g->tensors[i].tensor;
}

/* ---- metadata ------------------------------------------------------------------------------------------ */

static const struct gguf_kv *find_key(const struct gguf *g, const char *key)
{
    int64_t i = name_table_find(&g->keys, key, strlen(key));
    return i < 0 ? NULL : &g->kvs[i];
}

#define LOAD(type, p)                                                                                        \
    __extension__({                                                                                          \
        type value_;                                                                                         \
        memcpy(&value_, p, sizeof value_);                                                                   \
        value_;                                                                                              \
    })

/* An integer or boolean as int64_t; 0 if it is none or does not fit. */
static int load_int(enum gguf_type type, const uint8_t *p, int64_t *out)
{
    switch (type) {
    case GGUF_U8:
    case GGUF_BOOL:
        *out = *p;
        return 1;
    case GGUF_I8:
        *out = LOAD(int8_t, p);
        return 1;
    case GGUF_U16:
        *out = LOAD(uint16_t, p);
        return 1;
    case GGUF_I16:
        *out = LOAD(int16_t, p);
        return 1;
    case GGUF_U32:
        *out = LOAD(uint32_t, p);
        return 1;
    case GGUF_I32:
        *out = LOAD(int32_t, p);
        return 1;
    case GGUF_U64:
        if (LOAD(uint64_t, p) > INT64_MAX) return 0;
        *out = LOAD(int64_t, p);
        return 1;
    case GGUF_I64:
        *out = LOAD(int64_t, p);
        return 1;
    default:
        return 0;
    }
}

int gguf_has(const struct gguf *g, const char *key)
{
    return find_key(g, key) != NULL;
}

int gguf_get_int(const struct gguf *g, const char *key, int64_t *out)
{
    const struct gguf_kv *kv = find_key(g, key);
    return kv && kv->type != GGUF_BOOL && load_int(kv->type, kv->scalar, out);
}

int gguf_get_float(const struct gguf *g, const char *key, double *out)
{
    const struct gguf_kv *kv = find_key(g, key);
    if (!kv || (kv->type != GGUF_F32 && kv->type != GGUF_F64)) return 0;
    *out = kv->type == GGUF_F32 ? (double)LOAD(float, kv->scalar) : LOAD(double, kv->scalar);
    return 1;
}

int gguf_get_bool(const struct gguf *g, const char *key, int *out)
{
    const struct gguf_kv *kv = find_key(g, key);
    if (!kv || kv->type != GGUF_BOOL) return 0;
    *out = *kv->scalar != 0;
    return 1;
}

int gguf_get_string(const struct gguf *g, const char *key, struct gguf_string *out)
{
    const struct gguf_kv *kv = find_key(g, key);
    if (!kv || kv->type != GGUF_STRING) return 0;
    *out = kv->text;
    return 1;
}

int gguf_get_array(const struct gguf *g, const char *key, struct gguf_array *out)
{
    const struct gguf_kv *kv = find_key(g, key);
    if (!kv || kv->type != GGUF_ARRAY) return 0;
    *out = kv->array;
    return 1;
}

int64_t gguf_array_int(const struct gguf_array *a, uint64_t i)
{
    int64_t v;
    if (!a->data || i >= a->n) return 0;
    return load_int(a->type, a->data + i * gguf_scalar_bytes(a->type), &v) ? v : 0;
}

double gguf_array_float(const struct gguf_array *a, uint64_t i)
{
    if (!a->data || i >= a->n) return 0;
    const uint8_t *p = a->data + i * gguf_scalar_bytes(a->type);
    if (a->type == GGUF_F32) return (double)LOAD(float, p);
    if (a->type == GGUF_F64) return LOAD(double, p);
    return (double)gguf_array_int(a, i);
}
