#include "base/mem.h"
#include "base/quote.h"
#include "model/gguf_file.h"

#include <stdio.h>
#include <string.h>

/* Bounds that no real file comes near. What matters for safety is that every count is first checked against
 * the bytes left, so that a small file cannot ask for a large allocation. */
enum { MAX_NAME = 1024, MAX_KEY = 65535, MIN_ALIGNMENT = 8, MAX_ALIGNMENT = 1 << 20, DEFAULT_ALIGNMENT = 32 };

/* Fewest bytes that a key-value pair (length, key of one byte, type, value of one byte) and a tensor's
 * entry (length, name of one byte, no dims, type, offset) take. */
enum { MIN_KV_BYTES = 14, MIN_TENSOR_BYTES = 25 };

struct reader {
    const uint8_t *p, *end;
};

static size_t left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}

static int read_bytes(struct reader *r, void *out, size_t n)
{
    if (left(r) < n) return 0;
    memcpy(out, r->p, n);
    r->p += n;
    return 1;
}

static int read_u32(struct reader *r, uint32_t *out)
{
    return read_bytes(r, out, 4);
}

static int read_u64(struct reader *r, uint64_t *out)
{
    return read_bytes(r, out, 8);
}

static int read_string(struct reader *r, struct gguf_string *out)
{
    uint64_t n;
    if (!read_u64(r, &n) || n > left(r)) return 0;
    *out = (struct gguf_string){(const char *)r->p, (size_t)n};
    r->p += n;
    return 1;
}

size_t gguf_scalar_bytes(uint32_t type)
{
    static const uint8_t bytes[] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
        [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

static llm_status fail_at_key(struct llm_error *err, llm_status status, struct gguf_string key,
                              const char *what)
{
    struct quoted q;
    return llm_fail(err, status, "metadata key %s: %s", quote_bytes(&q, key.data, key.size), what);
}

static llm_status parse_array(struct reader *r, struct gguf_kv *kv, struct llm_error *err)
{
    uint32_t type;
    uint64_t n;
    if (!read_u32(r, &type) || !read_u64(r, &n))
        return fail_at_key(err, LLM_EFORMAT, kv->key, "the file ends inside its array");
    size_t size = gguf_scalar_bytes(type);
    if (type == GGUF_ARRAY)
        return fail_at_key(err, LLM_EUNSUP, kv->key, "arrays of arrays are not supported");
    if (size == 0 && type != GGUF_STRING)
        return fail_at_key(err, LLM_EFORMAT, kv->key, "its array elements have an unknown type");
    if (n > left(r) / (size ? size : 8))
        return fail_at_key(err, LLM_EFORMAT, kv->key, "its array is longer than the file");
    kv->array = (struct gguf_array){.type = (enum gguf_type)type, .n = n};
    if (type != GGUF_STRING) {
        kv->array.data = r->p;
        r->p += size * (size_t)n;
        return LLM_OK;
    }
    kv->text_index = mem_array((size_t)n, sizeof *kv->text_index);
    if (!kv->text_index) return fail_at_key(err, LLM_ENOMEM, kv->key, "no memory for its strings");
    for (uint64_t i = 0; i < n; i++)
        if (!read_string(r, &kv->text_index[i]))
            return fail_at_key(err, LLM_EFORMAT, kv->key, "the file ends inside its strings");
    kv->array.strings = kv->text_index;
    return LLM_OK;
}

static llm_status parse_kv(struct reader *r, struct gguf_kv *kv, struct llm_error *err)
{
    uint32_t type;
    if (!read_string(r, &kv->key)) return llm_fail(err, LLM_EFORMAT, "the file ends inside a metadata key");
    if (kv->key.size == 0 || kv->key.size > MAX_KEY)
        return llm_fail(err, LLM_EFORMAT, "a metadata key is %zu bytes long; it must be 1 to %d",
                        kv->key.size, MAX_KEY);
    if (!read_u32(r, &type)) return fail_at_key(err, LLM_EFORMAT, kv->key, "the file ends before its type");
    kv->type = (enum gguf_type)type;
    if (type == GGUF_ARRAY) return parse_array(r, kv, err);
    if (type == GGUF_STRING) {
        if (!read_string(r, &kv->text))
            return fail_at_key(err, LLM_EFORMAT, kv->key, "the file ends inside its string");
        return LLM_OK;
    }
    size_t size = gguf_scalar_bytes(type);
    if (size == 0) return fail_at_key(err, LLM_EFORMAT, kv->key, "its value has an unknown type");
    if (left(r) < size) return fail_at_key(err, LLM_EFORMAT, kv->key, "the file ends inside its value");
    kv->scalar = r->p;
    r->p += size;
    return LLM_OK;
}

static llm_status parse_kvs(struct reader *r, uint64_t n, struct gguf *g, struct llm_error *err)
{
    if (n > left(r) / MIN_KV_BYTES)
        return llm_fail(err, LLM_EFORMAT, "the header announces %llu metadata keys; the file is too short",
                        (unsigned long long)n);
    g->kvs = mem_array((size_t)n, sizeof *g->kvs);
    if (!g->kvs) return llm_fail(err, LLM_ENOMEM, "no memory for %zu metadata keys", (size_t)n);
    for (size_t i = 0; i < n; i++) {
        struct gguf_kv *kv = &g->kvs[i];
        g->n_kvs = i + 1;
        llm_status status = parse_kv(r, kv, err);
        if (status != LLM_OK) return status;
        int added = name_table_put(&g->keys, kv->key.data, kv->key.size, (int64_t)i);
        if (added < 0) return llm_fail(err, LLM_ENOMEM, "no memory for an index of metadata keys");
        if (added == 0) return fail_at_key(err, LLM_EFORMAT, kv->key, "it occurs twice");
    }
    return LLM_OK;
}

static llm_status fail_type(struct llm_error *err, const char *name, uint32_t id)
{
    /* Types of ggml that this library does not read, so that the message can name them. */
    static const struct {
        uint32_t id;
        const char *name;
    } others[] = {{9, "Q8_1"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
                  {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {24, "I8"},     {25, "I16"},
                  {27, "I64"},   {28, "F64"},   {29, "IQ1_M"},   {34, "TQ1_0"},  {35, "TQ2_0"},
                  {39, "MXFP4"}, {40, "NVFP4"}, {41, "Q1_0"},    {42, "Q2_0"}};
    const char *type = "unknown";
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].id == id) type = others[i].name;
    char supported[160] = "";
    for (int t = 0, n = 0; t < DTYPE_COUNT; t++)
        n +=
            snprintf(supported + n, sizeof supported - (size_t)n, "%s%s", t ? ", " : "", dtype_table[t].name);
    struct quoted q;
    return llm_fail(err, LLM_EUNSUP, "tensor %s has type %u (%s), which is not supported; supported are %s",
                    quote_text(&q, name), id, type, supported);
}

/* Reads dims (fastest first in the file) into t in C order and sets *bytes to the tensor's size. */
static llm_status parse_shape(const char *name, const uint64_t *dims, uint32_t n_dims, struct tensor *t,
                              uint64_t *bytes, struct llm_error *err)
{
    const struct dtype_info *type = &dtype_table[t->dtype];
    struct quoted q;
    t->n_dims = (int32_t)n_dims;
    uint64_t n = 1;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (dims[i] == 0 || __builtin_mul_overflow(n, dims[i], &n) || n > INT64_MAX)
            return llm_fail(err, LLM_EFORMAT, "tensor %s: dimension %u is %llu, which cannot be",
                            quote_text(&q, name), i, (unsigned long long)dims[i]);
        t->dims[n_dims - 1 - i] = (int64_t)dims[i];
    }
    if (n_dims == 0) { /* a scalar: shown as a vector of one */
        t->n_dims = 1;
        t->dims[0] = 1;
    }
    if (t->dims[t->n_dims - 1] % type->block != 0)
        return llm_fail(err, LLM_EFORMAT, "tensor %s: its rows have %lld elements, not a multiple of %d (%s)",
                        quote_text(&q, name), (long long)t->dims[t->n_dims - 1], type->block, type->name);
    if (__builtin_mul_overflow(n / (uint64_t)type->block, (uint64_t)type->bytes, bytes))
        return llm_fail(err, LLM_EFORMAT, "tensor %s is larger than any file", quote_text(&q, name));
    return LLM_OK;
}

static llm_status parse_tensor_name(struct reader *r, struct gguf_entry *entry, struct llm_error *err)
{
    struct gguf_string name;
    struct quoted q;
    if (!read_string(r, &name)) return llm_fail(err, LLM_EFORMAT, "the file ends inside a tensor's name");
    if (name.size == 0 || name.size > MAX_NAME || memchr(name.data, 0, name.size))
        return llm_fail(err, LLM_EFORMAT, "tensor name %s: it must be 1 to %d bytes, none of them 0",
                        quote_bytes(&q, name.data, name.size), MAX_NAME);
    entry->name = mem_strndup(name.data, name.size);
    return entry->name ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for a tensor's name");
}

/* Where a tensor's bytes are; checked once the start of the data section is known. */
struct extent {
    uint64_t offset, bytes;
};

static llm_status parse_tensor(struct reader *r, struct gguf_entry *entry, struct extent *extent,
                               struct llm_error *err)
{
    llm_status status = parse_tensor_name(r, entry, err);
    if (status != LLM_OK) return status;
    uint32_t n_dims, type_id;
    uint64_t dims[4];
    struct quoted q;
    if (!read_u32(r, &n_dims)) goto truncated;
    if (n_dims > 4)
        return llm_fail(err, LLM_EFORMAT, "tensor %s has %u dimensions; at most 4 are possible",
                        quote_text(&q, entry->name), n_dims);
    if (!read_bytes(r, dims, n_dims * sizeof dims[0]) || !read_u32(r, &type_id) ||
        !read_u64(r, &extent->offset))
        goto truncated;
    int type = dtype_from_gguf(type_id);
    if (type < 0) return fail_type(err, entry->name, type_id);
    entry->tensor.dtype = (enum llm_dtype)type;
    return parse_shape(entry->name, dims, n_dims, &entry->tensor, &extent->bytes, err);
truncated:
    return llm_fail(err, LLM_EFORMAT, "the file ends inside the description of tensor %s",
                    quote_text(&q, entry->name));
}

/* 0 if the file's own alignment cannot be. */
static uint64_t read_alignment(const struct gguf *g)
{
    int64_t a = DEFAULT_ALIGNMENT;
    if (gguf_has(g, "general.alignment") && !gguf_get_int(g, "general.alignment", &a)) return 0;
    return a < MIN_ALIGNMENT || a > MAX_ALIGNMENT || (a & (a - 1)) != 0 ? 0 : (uint64_t)a;
}

/* Points every tensor at its bytes, having checked that they are inside data[0, bytes). header_end: where
 * the tensor descriptions end; the data section begins at the next multiple of the alignment. */
static llm_status place_tensors(const uint8_t *data, size_t bytes, size_t header_end,
                                const struct extent *extents, struct gguf *g, struct llm_error *err)
{
    uint64_t alignment = read_alignment(g);
    if (alignment == 0)
        return llm_fail(err, LLM_EFORMAT, "general.alignment must be a power of two from %d to %d",
                        MIN_ALIGNMENT, MAX_ALIGNMENT);
    uint64_t begin = ((uint64_t)header_end + alignment - 1) & ~(alignment - 1);
    uint64_t room = begin < bytes ? bytes - begin : 0;
    struct quoted q;
    for (size_t i = 0; i < g->n_tensors; i++) {
        const struct extent *e = &extents[i];
        const char *name = g->tensors[i].name;
        if (e->offset % alignment != 0)
            return llm_fail(err, LLM_EFORMAT, "tensor %s: its offset %llu is not a multiple of %llu",
                            quote_text(&q, name), (unsigned long long)e->offset,
                            (unsigned long long)alignment);
        if (e->offset > room || e->bytes > room - e->offset)
            return llm_fail(err, LLM_EFORMAT,
                            "tensor %s: its %llu bytes at offset %llu of the data lie beyond the end of the "
                            "file (%llu bytes of data); the file is cut short or damaged",
                            quote_text(&q, name), (unsigned long long)e->bytes, (unsigned long long)e->offset,
                            (unsigned long long)room);
        g->tensors[i].tensor.data = data + begin + e->offset;
    }
    return LLM_OK;
}

llm_status gguf_index_tensors(struct gguf *g, size_t first, struct llm_error *err)
{
    struct quoted q;
    for (size_t i = first; i < g->n_tensors; i++) {
        const char *name = g->tensors[i].name;
        int added = name_table_put(&g->names, name, strlen(name), (int64_t)i);
        if (added < 0) return llm_fail(err, LLM_ENOMEM, "no memory for an index of tensors");
        if (added == 0) return llm_fail(err, LLM_EFORMAT, "tensor %s occurs twice", quote_text(&q, name));
    }
    return LLM_OK;
}

static llm_status parse_tensors(struct reader *r, uint64_t n, const uint8_t *data, size_t bytes,
                                struct gguf *g, struct llm_error *err)
{
    if (n > left(r) / MIN_TENSOR_BYTES)
        return llm_fail(err, LLM_EFORMAT, "the header announces %llu tensors; the file is too short",
                        (unsigned long long)n);
    llm_status status = LLM_OK;
    struct extent *extents = mem_array((size_t)n, sizeof *extents);
    g->tensors = mem_array((size_t)n, sizeof *g->tensors);
    if (!extents || !g->tensors) {
        status = llm_fail(err, LLM_ENOMEM, "no memory for the descriptions of %zu tensors", (size_t)n);
        goto done;
    }
    for (size_t i = 0; i < n && status == LLM_OK; i++) {
        g->n_tensors = i + 1;
        status = parse_tensor(r, &g->tensors[i], &extents[i], err);
    }
    if (status == LLM_OK) status = place_tensors(data, bytes, (size_t)(r->p - data), extents, g, err);
    if (status == LLM_OK) status = gguf_index_tensors(g, 0, err);
done:
    mem_free(extents);
    return status;
}

llm_status gguf_parse(const uint8_t *data, size_t bytes, struct gguf *g, struct llm_error *err)
{
    if (bytes == 0) data = (const uint8_t *)""; /* an empty file has no mapping */
    struct reader r = {data, data + bytes};
    char magic[4];
    uint32_t version;
    uint64_t n_tensors, n_kvs;
    if (!read_bytes(&r, magic, 4) || memcmp(magic, "GGUF", 4) != 0)
        return llm_fail(err, LLM_EFORMAT, "it is not a GGUF file: it does not begin with \"GGUF\"");
    if (!read_u32(&r, &version)) goto truncated;
    if (version != 0 && (version & 0xffff) == 0)
        return llm_fail(err, LLM_EUNSUP, "it is a big-endian GGUF file; only little-endian is supported");
    if (version != 2 && version != 3)
        return llm_fail(err, LLM_EUNSUP, "GGUF version %u is not supported; 2 and 3 are", version);
    if (!read_u64(&r, &n_tensors) || !read_u64(&r, &n_kvs)) goto truncated;
    llm_status status = parse_kvs(&r, n_kvs, g, err);
    if (status != LLM_OK) return status;
    return parse_tensors(&r, n_tensors, data, bytes, g, err);
truncated:
    return llm_fail(err, LLM_EFORMAT, "the file ends inside the GGUF header");
}
