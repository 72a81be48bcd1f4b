#include "model/safetensors.h"
#include "base/file_map.h"
#include "base/mem.h"
#include "base/name_table.h"
#include "base/quote.h"
#include "model/json_text.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* The reference implementation's own limit on a header; an index of shards is smaller. */
enum { MAX_HEADER = 100 * 1000 * 1000, MAX_INDEX = 100 * 1000 * 1000 };

/* A tensor that is in the files but not in the list, as struct tensor cannot show it. */
struct skipped {
    char *name;
    char dtype[16];
    size_t n_dims;
};

struct entry {
    char *name;
    struct tensor tensor;
    void *copy; /* owned; the bytes, where the file has them unaligned. null: tensor.data is in the file */
};

struct safetensors {
    struct entry *tensors;
    size_t n_tensors;
    struct name_table names;
    struct skipped *skipped;
    size_t n_skipped;
    struct name_table skipped_names;
    struct file_map *maps;
    char **map_names; /* [n_maps] base names of shards */
    size_t n_maps;
};

void safetensors_close(struct safetensors *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n_tensors; i++) {
        mem_free(s->tensors[i].name);
        mem_free(s->tensors[i].copy);
    }
    for (size_t i = 0; i < s->n_skipped; i++) mem_free(s->skipped[i].name);
    for (size_t i = 0; i < s->n_maps; i++) {
        file_map_close(&s->maps[i]);
        mem_free(s->map_names[i]);
    }
    name_table_free(&s->names);
    name_table_free(&s->skipped_names);
    mem_free(s->tensors);
    mem_free(s->skipped);
    mem_free(s->maps);
    mem_free(s->map_names);
    mem_free(s);
}

/* ---- one file's header --------------------------------------------------------------------------------- */

/* -1: a dtype that struct tensor has no name for. */
static int dtype_of(const char *name)
{
    static const enum llm_dtype readable[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_I32};
    for (size_t i = 0; i < sizeof readable / sizeof readable[0]; i++)
        if (strcmp(name, dtype_table[readable[i]].name) == 0) return (int)readable[i];
    return -1;
}

struct extent {
    uint64_t begin, end; /* bytes from the start of the data section */
};

static llm_status fail_at(struct llm_error *err, const char *name, const char *what)
{
    struct quoted q;
    return llm_fail(err, LLM_EFORMAT, "tensor %s: %s", quote_text(&q, name), what);
}

static llm_status parse_extent(const char *name, const json_t *offsets, uint64_t room, struct extent *out,
                               struct llm_error *err)
{
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return fail_at(err, name, "data_offsets must be two integers");
    json_int_t b = json_integer_value(begin), e = json_integer_value(end);
    if (b < 0 || e < b) return fail_at(err, name, "data_offsets must be 0 <= begin <= end");
    if ((uint64_t)e > room)
        return fail_at(err, name, "its bytes lie beyond the end of the file, which is cut short or damaged");
    *out = (struct extent){(uint64_t)b, (uint64_t)e};
    return LLM_OK;
}

/* Sets t's dims and checks that the tensor takes the `bytes` that its offsets give it. */
static llm_status parse_shape(const char *name, const json_t *shape, uint64_t bytes, struct tensor *t,
                              struct llm_error *err)
{
    uint64_t n = (uint64_t)dtype_table[t->dtype].bytes;
    t->n_dims = (int32_t)json_array_size(shape);
    for (int32_t i = 0; i < t->n_dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        t->dims[i] = json_integer_value(dim);
        if (!json_is_integer(dim) || t->dims[i] < 0) return fail_at(err, name, "shape must be integers >= 0");
        if (__builtin_mul_overflow(n, (uint64_t)t->dims[i], &n) || n > INT64_MAX)
            return fail_at(err, name, "its shape is larger than any file");
    }
    if (t->n_dims == 0) { /* a scalar: shown as a vector of one */
        t->n_dims = 1;
        t->dims[0] = 1;
    }
    if (n != bytes) return fail_at(err, name, "its shape, dtype and data_offsets do not agree");
    return LLM_OK;
}

static llm_status add_name(struct name_table *table, const char *name, size_t index, struct llm_error *err)
{
    int added = name_table_put(table, name, strlen(name), (int64_t)index);
    if (added < 0) return llm_fail(err, LLM_ENOMEM, "no memory for an index of tensors");
    return added ? LLM_OK : fail_at(err, name, "it occurs twice");
}

static llm_status skip_tensor(struct safetensors *s, const char *name, const char *dtype, size_t n_dims,
                              struct llm_error *err)
{
    struct skipped *skipped = &s->skipped[s->n_skipped];
    skipped->name = mem_strdup(name);
    if (!skipped->name) return llm_fail(err, LLM_ENOMEM, "no memory for a tensor's name");
    s->n_skipped++;
    snprintf(skipped->dtype, sizeof skipped->dtype, "%s", dtype);
    skipped->n_dims = n_dims;
    return add_name(&s->skipped_names, skipped->name, s->n_skipped - 1, err);
}

/* data: the data section, `room` bytes. s->tensors and s->skipped have space for one more. */
static llm_status parse_tensor(struct safetensors *s, const char *name, const json_t *info,
                               const uint8_t *data, uint64_t room, struct llm_error *err)
{
    const char *dtype_name = json_string_value(json_object_get(info, "dtype"));
    const json_t *shape = json_object_get(info, "shape");
    struct extent extent = {0, 0};
    if (name[0] == '\0') return llm_fail(err, LLM_EFORMAT, "a tensor has an empty name");
    if (!dtype_name || !json_is_array(shape))
        return fail_at(err, name, "it must be an object with dtype, shape and data_offsets");
    llm_status status = parse_extent(name, json_object_get(info, "data_offsets"), room, &extent, err);
    if (status != LLM_OK) return status;
    int dtype = dtype_of(dtype_name);
    if (dtype < 0 || json_array_size(shape) > 4)
        return skip_tensor(s, name, dtype_name, json_array_size(shape), err);

    struct entry *entry = &s->tensors[s->n_tensors];
    uint64_t bytes = extent.end - extent.begin;
    *entry = (struct entry){.tensor = {.dtype = (enum llm_dtype)dtype, .data = data + extent.begin}};
    status = parse_shape(name, shape, bytes, &entry->tensor, err);
    if (status != LLM_OK) return status;
    entry->name = mem_strdup(name);
    if (!entry->name) return llm_fail(err, LLM_ENOMEM, "no memory for a tensor's name");
    s->n_tensors++;
    if ((uintptr_t)entry->tensor.data % (uintptr_t)dtype_table[dtype].bytes != 0) {
        /* Early writers did not pad the header. Everybody above reads elements through typed pointers. */
        entry->copy = mem_alloc((size_t)bytes);
        if (!entry->copy) return llm_fail(err, LLM_ENOMEM, "no memory to align tensor %s", entry->name);
        memcpy(entry->copy, entry->tensor.data, (size_t)bytes);
        entry->tensor.data = entry->copy;
    }
    return add_name(&s->names, entry->name, s->n_tensors - 1, err);
}

static llm_status parse_tensors(struct safetensors *s, json_t *header, const uint8_t *data, uint64_t room,
                                struct llm_error *err)
{
    size_t n = json_object_size(header);
    struct entry *tensors = mem_grow(s->tensors, s->n_tensors + n, sizeof *tensors);
    if (tensors) s->tensors = tensors;
    struct skipped *skipped = mem_grow(s->skipped, s->n_skipped + n, sizeof *skipped);
    if (skipped) s->skipped = skipped;
    if (!tensors || !skipped) return llm_fail(err, LLM_ENOMEM, "no memory for %zu tensors", n);
    const char *name;
    json_t *info;
    json_object_foreach(header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0) continue;
        llm_status status = parse_tensor(s, name, info, data, room, err);
        if (status != LLM_OK) return status;
    }
    return LLM_OK;
}

static llm_status parse_file(struct safetensors *s, const uint8_t *data, size_t bytes, struct llm_error *err)
{
    uint64_t header_bytes;
    if (bytes < sizeof header_bytes)
        return llm_fail(err, LLM_EFORMAT, "it is not a safetensors file: %zu bytes are too few", bytes);
    memcpy(&header_bytes, data, sizeof header_bytes);
    uint64_t after_length = bytes - sizeof header_bytes;
    if (header_bytes > MAX_HEADER || header_bytes > after_length)
        return llm_fail(err, LLM_EFORMAT,
                        "it is not a safetensors file, or cut short: a header of %llu bytes does not fit "
                        "(at most %d bytes, and the file has %llu more)",
                        (unsigned long long)header_bytes, MAX_HEADER, (unsigned long long)after_length);
    json_t *header;
    llm_status status = json_text_parse((const char *)data + 8, (size_t)header_bytes, &header, err);
    if (status != LLM_OK) return llm_fail_in(err, "safetensors header"), status;
    if (json_is_object(header))
        status = parse_tensors(s, header, data + 8 + header_bytes, after_length - header_bytes, err);
    else
        status = llm_fail(err, LLM_EFORMAT, "the safetensors header must be a JSON object");
    json_decref(header);
    return status;
}

/* ---- files and directories ----------------------------------------------------------------------------- */

/* Maps dir/name (or just name, if dir is null) and adds its tensors. Errors name the path. */
static llm_status add_file(struct safetensors *s, const char *dir, const char *name, struct llm_error *err)
{
    char path[4096];
    int n = snprintf(path, sizeof path, "%s%s%s", dir ? dir : "", dir ? "/" : "", name);
    if (n < 0 || (size_t)n >= sizeof path) return llm_fail(err, LLM_EINVAL, "the path %s is too long", name);
    struct file_map *maps = mem_grow(s->maps, s->n_maps + 1, sizeof *maps);
    if (maps) s->maps = maps;
    char **map_names = mem_grow(s->map_names, s->n_maps + 1, sizeof *map_names);
    if (map_names) s->map_names = map_names;
    char *copy = mem_strdup(name);
    if (!maps || !map_names || !copy) {
        mem_free(copy);
        return llm_fail(err, LLM_ENOMEM, "no memory to open %s", path);
    }
    llm_status status = file_map_open(path, &maps[s->n_maps], err);
    if (status != LLM_OK) {
        mem_free(copy);
        return status;
    }
    const struct file_map *map = &maps[s->n_maps];
    map_names[s->n_maps++] = copy;
    status = parse_file(s, map->data, map->size, err);
    if (status != LLM_OK) llm_fail_in(err, "%s", path);
    return status;
}

static int has_file(const struct safetensors *s, const char *name)
{
    for (size_t i = s->n_maps; i-- > 0;) /* an index lists a shard's tensors mostly in a row */
        if (strcmp(s->map_names[i], name) == 0) return 1;
    return 0;
}

/* A shard's name comes from a file: it must not lead out of the directory. */
static int is_plain_name(const char *name)
{
    return name && name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

static llm_status add_shards(struct safetensors *s, const char *dir, const char *index_path,
                             struct llm_error *err)
{
    json_t *index;
    llm_status status = json_text_read(index_path, MAX_INDEX, &index, err);
    if (status != LLM_OK) return status;
    json_t *weight_map = json_object_get(index, "weight_map"), *file;
    const char *name;
    struct quoted q, q2;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        status =
            llm_fail(err, LLM_EFORMAT, "%s: weight_map must be an object that names tensors", index_path);
    json_object_foreach(weight_map, name, file)
    {
        const char *file_name = json_string_value(file);
        if (status != LLM_OK) break;
        if (!is_plain_name(file_name))
            status = llm_fail(err, LLM_EFORMAT, "%s: tensor %s must be in a file of the same directory",
                              index_path, quote_text(&q, name));
        else if (!has_file(s, file_name))
            status = add_file(s, dir, file_name, err);
    }
    json_object_foreach(weight_map, name, file)
    {
        if (status != LLM_OK) break;
        if (name_table_find(&s->names, name, strlen(name)) < 0 &&
            name_table_find(&s->skipped_names, name, strlen(name)) < 0)
            status = llm_fail(err, LLM_EFORMAT, "%s lists tensor %s in %s, which does not have it",
                              index_path, quote_text(&q, name), quote_text(&q2, json_string_value(file)));
    }
    json_decref(index);
    return status;
}

static int exists(const char *dir, const char *name)
{
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &st) == 0;
}

static llm_status add_directory(struct safetensors *s, const char *dir, struct llm_error *err)
{
    char index_path[4096];
    int n = snprintf(index_path, sizeof index_path, "%s/model.safetensors.index.json", dir);
    if (n < 0 || (size_t)n >= sizeof index_path) return llm_fail(err, LLM_EINVAL, "the path is too long");
    if (exists(dir, "model.safetensors")) return add_file(s, dir, "model.safetensors", err);
    if (exists(dir, "model.safetensors.index.json")) return add_shards(s, dir, index_path, err);
    if (exists(dir, "pytorch_model.bin") || exists(dir, "pytorch_model.bin.index.json"))
        return llm_fail(err, LLM_EUNSUP,
                        "%s has its weights in pytorch_model.bin, which is not read; convert them to "
                        "safetensors",
                        dir);
    return llm_fail(err, LLM_ENOENT,
                    "%s has no weights: neither model.safetensors nor model.safetensors.index.json is there",
                    dir);
}

llm_status safetensors_open(const char *path, struct safetensors **out, struct llm_error *err)
{
    struct stat st;
    struct safetensors *s = mem_zalloc(sizeof *s);
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory to open %s", path);
    int is_dir = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    llm_status status = is_dir ? add_directory(s, path, err) : add_file(s, NULL, path, err);
    if (status != LLM_OK) {
        safetensors_close(s);
        return status;
    }
    *out = s;
    return LLM_OK;
}

llm_status safetensors_open_memory(const void *data, size_t bytes, struct safetensors **out,
                                   struct llm_error *err)
{
    struct safetensors *s = mem_zalloc(sizeof *s);
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory to open a safetensors file");
    llm_status status = parse_file(s, data, bytes, err);
    if (status != LLM_OK) {
        safetensors_close(s);
        return status;
    }
    *out = s;
    return LLM_OK;
}

/* ---- look-ups ------------------------------------------------------------------------------------------ */

int64_t safetensors_n_tensors(const struct safetensors *s)
{
    return (int64_t)s->n_tensors;
}

const struct tensor *safetensors_tensor(const struct safetensors *s, int64_t i, const char **name)
{
    if (name) *name = s->tensors[i].name;
    return &s->tensors[i].tensor;
}

const struct tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    int64_t i = name_table_find(&s->names, name, strlen(name));
    return i < 0 ? NULL : &s->tensors[i].tensor;
}

llm_status safetensors_explain_missing(const struct safetensors *s, const char *name, struct llm_error *err)
{
    struct quoted q, q2;
    int64_t i = name_table_find(&s->skipped_names, name, strlen(name));
    if (i < 0) return llm_fail(err, LLM_EFORMAT, "tensor %s is not in the files", quote_text(&q, name));
    const struct skipped *skipped = &s->skipped[i];
    if (skipped->n_dims > 4)
        return llm_fail(err, LLM_EUNSUP, "tensor %s has %zu dimensions; at most 4 are supported",
                        quote_text(&q, name), skipped->n_dims);
    return llm_fail(err, LLM_EUNSUP, "tensor %s has dtype %s; supported are F32, F16, BF16 and I32",
                    quote_text(&q, name), quote_text(&q2, skipped->dtype));
}
