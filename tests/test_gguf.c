/* GGUF files made by hand: one that uses everything, and one for each way of being wrong. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "gguf_writer.h"

#include <unistd.h>

/* ---- files that are right ------------------------------------------------------------------------------ */

enum { N_SCALARS = 11, N_OTHERS = 5 };

static void put_scalars(struct writer *w)
{
    const struct {
        const char *key;
        enum gguf_type type;
        uint64_t bits; /* little-endian */
        size_t bytes;
    } scalars[N_SCALARS] = {{"u8", GGUF_U8, 200, 1},
                            {"i8", GGUF_I8, 0x80, 1},
                            {"u16", GGUF_U16, 65535, 2},
                            {"i16", GGUF_I16, 0x8000, 2},
                            {"u32", GGUF_U32, UINT32_MAX, 4},
                            {"i32", GGUF_I32, 0x80000000u, 4},
                            {"f32", GGUF_F32, 0x3fc00000u, 4},
                            {"bool", GGUF_BOOL, 1, 1},
                            {"u64", GGUF_U64, UINT64_MAX, 8},
                            {"i64", GGUF_I64, UINT64_MAX, 8},
                            {"f64", GGUF_F64, 0xc000000000000000u, 8}};
    for (int i = 0; i < N_SCALARS; i++) {
        put_key(w, scalars[i].key, scalars[i].type);
        put_bytes(w, &scalars[i].bits, scalars[i].bytes);
    }
}

static void put_others(struct writer *w)
{
    const float floats[] = {0.5f, -2};
    const int16_t shorts[] = {-7, 7, 9};
    put_kv_string(w, "text", "hello");
    put_kv_string(w, "empty", "");
    put_array(w, "words", GGUF_STRING, 3);
    put_string(w, "a");
    put_string(w, "");
    put_string(w, "ccc");
    put_array(w, "floats", GGUF_F32, 2);
    put_bytes(w, floats, sizeof floats);
    put_array(w, "shorts", GGUF_I16, 3);
    put_bytes(w, shorts, sizeof shorts);
}

static const float first_data[6] = {1, 2, 3, 4, 5, 6};

static void put_whole_file(struct writer *w, uint32_t version)
{
    put_header(w, version, 3, N_SCALARS + N_OTHERS);
    put_scalars(w);
    put_others(w);
    put_tensor(w, "first", 2, (uint64_t[]){3, 2}, 0, 0);
    put_tensor(w, "scalar", 0, NULL, 0, 32);
    put_tensor(w, "quantized", 3, (uint64_t[]){64, 2, 5}, 3, 64);
    put_padding(w, 32);
    put_bytes(w, first_data, sizeof first_data);
    put_padding(w, 32);
    put_bytes(w, &(float){42}, 4);
    put_padding(w, 32);
    for (int i = 0; i < 64 * 2 * 5 / 32 * 20; i++) put_bytes(w, &(uint8_t){(uint8_t)i}, 1);
}

static struct gguf *open_or_fail(const struct writer *w, void **copy)
{
    struct llm_error err = {LLM_OK, ""};
    struct gguf *g = NULL;
    if (open_written(w, copy, &g, &err) != LLM_OK) fail_msg("%s", err.message);
    return g;
}

static void test_scalars(void **state)
{
    (void)state;
    struct writer w = {0};
    void *copy;
    put_whole_file(&w, 3);
    struct gguf *g = open_or_fail(&w, &copy);
    const struct {
        const char *key;
        int64_t value;
    } ints[] = {{"u8", 200},         {"i8", -128},       {"u16", 65535}, {"i16", -32768},
                {"u32", UINT32_MAX}, {"i32", INT32_MIN}, {"i64", -1}};
    int64_t n = 0;
    double x = 0;
    int flag = 0;
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        assert_true(gguf_get_int(g, ints[i].key, &n));
        assert_int_equal(n, ints[i].value);
    }
    assert_false(gguf_get_int(g, "u64", &n)); /* does not fit */
    assert_false(gguf_get_int(g, "f32", &n));
    assert_false(gguf_get_int(g, "bool", &n));
    assert_false(gguf_get_int(g, "absent", &n));
    assert_false(gguf_get_int(g, "words", &n));
    assert_true(gguf_get_float(g, "f32", &x));
    assert_true(x == 1.5);
    assert_true(gguf_get_float(g, "f64", &x));
    assert_true(x == -2);
    assert_false(gguf_get_float(g, "u8", &x));
    assert_true(gguf_get_bool(g, "bool", &flag));
    assert_int_equal(flag, 1);
    assert_false(gguf_get_bool(g, "u8", &flag));
    assert_true(gguf_has(g, "u64"));
    assert_false(gguf_has(g, "u6"));
    assert_false(gguf_has(g, ""));
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

static void test_strings_and_arrays(void **state)
{
    (void)state;
    struct writer w = {0};
    void *copy;
    put_whole_file(&w, 3);
    struct gguf *g = open_or_fail(&w, &copy);
    struct gguf_string s;
    struct gguf_array a;
    assert_true(gguf_get_string(g, "text", &s));
    assert_int_equal(s.size, 5);
    assert_memory_equal(s.data, "hello", 5);
    assert_true(gguf_get_string(g, "empty", &s));
    assert_int_equal(s.size, 0);
    assert_false(gguf_get_string(g, "u8", &s));

    assert_true(gguf_get_array(g, "words", &a));
    assert_int_equal(a.n, 3);
    assert_int_equal(a.type, GGUF_STRING);
    assert_int_equal(a.strings[1].size, 0);
    assert_int_equal(a.strings[2].size, 3);
    assert_memory_equal(a.strings[2].data, "ccc", 3);
    assert_int_equal(gguf_array_int(&a, 0), 0);

    assert_true(gguf_get_array(g, "floats", &a));
    assert_true(gguf_array_float(&a, 0) == 0.5 && gguf_array_float(&a, 1) == -2);
    assert_true(gguf_array_float(&a, 2) == 0); /* beyond the end */
    assert_int_equal(gguf_array_int(&a, 0), 0);
    assert_true(gguf_get_array(g, "shorts", &a));
    assert_int_equal(gguf_array_int(&a, 0), -7);
    assert_true(gguf_array_float(&a, 2) == 9);
    assert_false(gguf_get_array(g, "text", &a));
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

static void check_tensors(uint32_t version)
{
    struct writer w = {0};
    void *copy;
    put_whole_file(&w, version);
    struct gguf *g = open_or_fail(&w, &copy);
    const char *name;
    assert_int_equal(gguf_n_tensors(g), 3);
    const struct tensor *t = gguf_tensor(g, 0, &name);
    assert_string_equal(name, "first");
    assert_ptr_equal(t, gguf_find(g, "first"));
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 2); /* reversed: two rows of three */
    assert_int_equal(t->dims[1], 3);
    assert_memory_equal(t->data, first_data, sizeof first_data);
    t = gguf_find(g, "scalar");
    assert_int_equal(t->n_dims, 1);
    assert_int_equal(t->dims[0], 1);
    assert_true(*(const float *)t->data == 42);
    t = gguf_find(g, "quantized");
    assert_int_equal(t->dtype, DTYPE_Q4_1);
    assert_int_equal(t->n_dims, 3);
    assert_true(t->dims[0] == 5 && t->dims[1] == 2 && t->dims[2] == 64);
    assert_int_equal(((const uint8_t *)t->data)[7], 7);
    assert_null(gguf_find(g, "fourth"));
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

static void test_tensors(void **state)
{
    (void)state;
    check_tensors(3);
    check_tensors(2);
}

static void test_vocabulary_only(void **state)
{
    (void)state;
    struct writer w = {0};
    void *copy;
    put_header(&w, 3, 0, 1);
    put_array(&w, "tokenizer.ggml.tokens", GGUF_STRING, 1);
    put_string(&w, "<s>");
    struct gguf *g = open_or_fail(&w, &copy);
    struct gguf_array a;
    assert_int_equal(gguf_n_tensors(g), 0);
    assert_true(gguf_get_array(g, "tokenizer.ggml.tokens", &a));
    assert_null(gguf_find(g, "token_embd.weight"));
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

static void test_many_tensors(void **state)
{
    (void)state;
    enum { N = 3000 };
    struct writer w = {0};
    void *copy;
    char name[32];
    put_header(&w, 3, N, 1);
    put_kv_u32(&w, "general.alignment", 8);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        put_tensor(&w, name, 1, (uint64_t[]){2}, 0, (uint64_t)i * 8);
    }
    put_padding(&w, 8);
    for (int i = 0; i < N; i++) put_bytes(&w, (float[]){(float)i, 0}, 8);
    struct gguf *g = open_or_fail(&w, &copy);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "blk.%d.weight", i);
        const struct tensor *t = gguf_find(g, name);
        assert_non_null(t);
        assert_true(*(const float *)t->data == (float)i);
    }
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

/* ---- files that are wrong ------------------------------------------------------------------------------ */

static void expect_failure(struct writer *w, llm_status status, const char *message)
{
    struct llm_error err = {LLM_OK, ""};
    struct gguf *g = NULL;
    void *copy;
    llm_status got = open_written(w, &copy, &g, &err);
    if (got != status || !strstr(err.message, message))
        fail_msg("expected %s with \"%s\", got %s: %s", llm_status_text(status), message,
                 llm_status_text(got), err.message);
    assert_int_equal(err.status, status);
    assert_null(g);
    free(copy);
    drop_written(w);
}

/* A file that is cut short at any place must be refused, whatever the place. */
static void test_every_truncation(void **state)
{
    (void)state;
    struct writer w = {0};
    put_whole_file(&w, 3);
    for (size_t n = 0; n < w.n; n++) {
        struct writer cut = {w.data, n, n};
        struct llm_error err;
        struct gguf *g = NULL;
        void *copy;
        llm_status status = open_written(&cut, &copy, &g, &err);
        if (status != LLM_EFORMAT) fail_msg("%zu of %zu bytes: %s", n, w.n, llm_status_text(status));
        free(copy);
    }
    drop_written(&w);
}

static void test_bad_header(void **state)
{
    (void)state;
    struct writer w = {0};
    put_bytes(&w, "GGML", 4);
    put_u32(&w, 3);
    expect_failure(&w, LLM_EFORMAT, "does not begin with \"GGUF\"");
    put_header(&w, 1, 0, 0);
    expect_failure(&w, LLM_EUNSUP, "version 1 is not supported; 2 and 3 are");
    put_header(&w, 4, 0, 0);
    expect_failure(&w, LLM_EUNSUP, "version 4");
    put_header(&w, 0x03000000, 0, 0);
    expect_failure(&w, LLM_EUNSUP, "big-endian");
    put_header(&w, 3, 0, UINT64_MAX);
    expect_failure(&w, LLM_EFORMAT, "metadata keys; the file is too short");
    put_header(&w, 3, UINT64_MAX, 0);
    expect_failure(&w, LLM_EFORMAT, "tensors; the file is too short");
    put_header(&w, 3, (uint64_t)1 << 58, 0);
    expect_failure(&w, LLM_EFORMAT, "tensors; the file is too short");
}

static void test_bad_metadata(void **state)
{
    (void)state;
    struct writer w = {0};
    const char zeros[32] = {0};
    put_header(&w, 3, 0, 2);
    put_kv_u32(&w, "twice", 1);
    put_kv_u32(&w, "twice", 2);
    expect_failure(&w, LLM_EFORMAT, "\"twice\": it occurs twice");

    put_header(&w, 3, 0, 1);
    put_key(&w, "odd", 13);
    put_bytes(&w, zeros, sizeof zeros);
    expect_failure(&w, LLM_EFORMAT, "\"odd\": its value has an unknown type");

    put_header(&w, 3, 0, 1);
    put_array(&w, "odd", 99, 1);
    put_bytes(&w, zeros, sizeof zeros);
    expect_failure(&w, LLM_EFORMAT, "\"odd\": its array elements have an unknown type");

    put_header(&w, 3, 0, 1);
    put_array(&w, "nested", GGUF_ARRAY, 1);
    put_bytes(&w, zeros, sizeof zeros);
    expect_failure(&w, LLM_EUNSUP, "arrays of arrays");

    put_header(&w, 3, 0, 1);
    put_u64(&w, UINT64_MAX); /* the key's length */
    put_bytes(&w, zeros, sizeof zeros);
    expect_failure(&w, LLM_EFORMAT, "inside a metadata key");

    put_header(&w, 3, 0, 1);
    put_string(&w, "");
    put_bytes(&w, zeros, sizeof zeros);
    expect_failure(&w, LLM_EFORMAT, "0 bytes long");

    put_header(&w, 3, 0, 1);
    put_key(&w, "text", GGUF_STRING);
    put_u64(&w, UINT64_MAX - 7);
    expect_failure(&w, LLM_EFORMAT, "inside its string");

    const struct {
        uint32_t type;
        uint64_t n;
    } arrays[] = {{GGUF_U8, 33},
                  {GGUF_U32, UINT64_MAX / 4 + 2}, /* times 4 is 4, if it is not checked */
                  {GGUF_STRING, UINT64_MAX},
                  {GGUF_STRING, 5}};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        put_header(&w, 3, 0, 1);
        put_array(&w, "array", arrays[i].type, arrays[i].n);
        put_bytes(&w, zeros, sizeof zeros);
        expect_failure(&w, LLM_EFORMAT, "\"array\": its array is longer than the file");
    }
    put_header(&w, 3, 0, 1);
    put_array(&w, "array", GGUF_STRING, 2);
    put_string(&w, "fine");
    put_u64(&w, 1000);
    put_bytes(&w, zeros, 8);
    expect_failure(&w, LLM_EFORMAT, "inside its strings");
}

struct bad_tensor {
    const char *name;
    uint32_t n_dims;
    uint64_t dims[4];
    uint32_t type;
    uint64_t offset;
    llm_status status;
    const char *message;
};

static void test_bad_tensors(void **state)
{
    (void)state;
    const uint64_t huge = (uint64_t)1 << 62;
    const struct bad_tensor cases[] = {
        {"t", 5, {1, 1, 1, 1}, 0, 0, LLM_EFORMAT, "\"t\" has 5 dimensions"},
        {"t", 2, {4, 0}, 0, 0, LLM_EFORMAT, "dimension 1 is 0"},
        {"t", 2, {huge, 4}, 0, 0, LLM_EFORMAT, "which cannot be"},
        {"t", 1, {UINT64_MAX}, 0, 0, LLM_EFORMAT, "which cannot be"},
        {"t", 1, {huge}, 0, 0, LLM_EFORMAT, "larger than any file"}, /* the bytes overflow, not the count */
        {"t", 3, {(uint64_t)1 << 31, (uint64_t)1 << 31, 8}, 0, 0, LLM_EFORMAT, "which cannot be"},
        {"t", 2, {33, 2}, 3, 0, LLM_EFORMAT, "33 elements, not a multiple of 32 (Q4_1)"},
        {"t", 2, {32, 256}, 12, 0, LLM_EFORMAT, "not a multiple of 256 (Q4_K)"},
        {"t", 1, {4}, 0, 16, LLM_EFORMAT, "offset 16 is not a multiple of 32"},
        {"t", 1, {4}, 0, 1 << 20, LLM_EFORMAT, "beyond the end of the file"},
        {"t", 1, {4}, 0, UINT64_MAX - 31, LLM_EFORMAT, "beyond the end of the file"},
        {"t", 1, {65}, 0, 0, LLM_EFORMAT, "its 260 bytes at offset 0"},
        {"t", 1, {4}, 39, 0, LLM_EUNSUP, "\"t\" has type 39 (MXFP4)"},
        {"t",
         1,
         {4},
         1000,
         0,
         LLM_EUNSUP,
         "type 1000 (unknown), which is not supported; supported are F32, F16"},
        {"t", 1, {4}, UINT32_MAX, 0, LLM_EUNSUP, "IQ4_XS"},
        {"", 1, {4}, 0, 0, LLM_EFORMAT, "tensor name \"\""},
        {"new\nline", 1, {65}, 0, 0, LLM_EFORMAT, "\"new\\x0aline\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct bad_tensor *c = &cases[i];
        struct writer w = {0};
        put_header(&w, 3, 1, 0);
        put_string(&w, c->name);
        put_u32(&w, c->n_dims);
        put_bytes(&w, c->dims, (c->n_dims < 4 ? c->n_dims : 4) * sizeof c->dims[0]);
        put_u32(&w, c->type);
        put_u64(&w, c->offset);
        put_padding(&w, 32);
        put_bytes(&w, (char[256]){0}, 256);
        expect_failure(&w, c->status, c->message);
    }
}

static void test_names_with_zero(void **state)
{
    (void)state;
    struct writer w = {0};
    put_header(&w, 3, 1, 0);
    put_u64(&w, 3);
    put_bytes(&w, "a\0b", 3);
    put_bytes(&w, (char[64]){0}, 64);
    expect_failure(&w, LLM_EFORMAT, "\"a\\x00b\"");
}

static void test_duplicate_tensor(void **state)
{
    (void)state;
    struct writer w = {0};
    put_header(&w, 3, 2, 0);
    put_tensor(&w, "same", 1, (uint64_t[]){4}, 0, 0);
    put_tensor(&w, "same", 1, (uint64_t[]){4}, 0, 0);
    put_padding(&w, 32);
    put_bytes(&w, (char[32]){0}, 32);
    expect_failure(&w, LLM_EFORMAT, "\"same\" occurs twice");
}

static void put_aligned_file(struct writer *w, uint32_t alignment, uint32_t padding)
{
    put_header(w, 3, 1, 1);
    put_kv_u32(w, "general.alignment", alignment);
    put_tensor(w, "t", 1, (uint64_t[]){1}, 0, padding);
    put_padding(w, padding);
    for (uint32_t i = 0; i < padding; i++) put_bytes(w, "", 1);
    put_bytes(w, &(float){7}, 4);
}

static void test_alignment(void **state)
{
    (void)state;
    const uint32_t bad[] = {0, 1, 3, 4, 24, 1u << 21, 1u << 31};
    struct writer w = {0};
    void *copy;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_aligned_file(&w, bad[i], 64);
        expect_failure(&w, LLM_EFORMAT, "general.alignment must be a power of two from 8 to 1048576");
    }
    put_header(&w, 3, 0, 1);
    put_kv_string(&w, "general.alignment", "32");
    expect_failure(&w, LLM_EFORMAT, "general.alignment");
    put_aligned_file(&w, 64, 64);
    struct gguf *g = open_or_fail(&w, &copy);
    assert_true(*(const float *)gguf_find(g, "t")->data == 7);
    gguf_close(g);
    free(copy);
    drop_written(&w);
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void test_every_allocation_failure(void **state)
{
    (void)state;
    struct writer w = {0};
    put_whole_file(&w, 3);
    int n = 1;
    for (;; n++) {
        struct llm_error err = {LLM_OK, ""};
        struct gguf *g = NULL;
        mem_fail_at((uint64_t)n);
        llm_status status = gguf_open_memory(w.data, w.n, &g, &err);
        mem_fail_at(0);
        if (status == LLM_OK) {
            gguf_close(g);
            break;
        }
        assert_int_equal(status, LLM_ENOMEM);
        assert_int_equal(err.status, LLM_ENOMEM);
        assert_null(g);
    }
    assert_true(n > 5);
    drop_written(&w);
}

/* ---- files on disk ------------------------------------------------------------------------------------- */

struct part {
    uint16_t no, count;
    int32_t total; /* -1: the key is left out */
    const char *tensor;
};

static void save_part(const char *path, const struct part *p)
{
    struct writer w = {0};
    put_header(&w, 3, 1, p->total < 0 ? 2 : 3);
    put_kv_u16(&w, "split.no", p->no);
    put_kv_u16(&w, "split.count", p->count);
    if (p->total >= 0) {
        put_key(&w, "split.tensors.count", GGUF_I32);
        put_bytes(&w, &p->total, 4);
    }
    put_tensor(&w, p->tensor, 1, (uint64_t[]){1}, 0, 0);
    put_padding(&w, 32);
    put_bytes(&w, &(float){(float)p->no}, 4);
    save_written(&w, path);
    drop_written(&w);
}

struct split_dir {
    char dir[64];
    char paths[3][128];
};

static void make_split(struct split_dir *d, const struct part parts[3])
{
    char dir[] = "/tmp/test_gguf_XXXXXX";
    assert_non_null(mkdtemp(dir));
    snprintf(d->dir, sizeof d->dir, "%s", dir);
    for (int i = 0; i < 3; i++) {
        snprintf(d->paths[i], sizeof d->paths[i], "%s/m-%05d-of-00003.gguf", dir, i + 1);
        save_part(d->paths[i], &parts[i]);
    }
}

static void remove_split(const struct split_dir *d)
{
    for (int i = 0; i < 3; i++) unlink(d->paths[i]);
    rmdir(d->dir);
}

static void test_split(void **state)
{
    (void)state;
    const struct part parts[3] = {{0, 3, 3, "a"}, {1, 3, 3, "b"}, {2, 3, 3, "c"}};
    struct split_dir d;
    struct llm_error err = {LLM_OK, ""};
    struct gguf *g = NULL;
    make_split(&d, parts);
    if (gguf_open(d.paths[0], &g, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_int_equal(gguf_n_tensors(g), 3);
    for (int i = 0; i < 3; i++) {
        const struct tensor *t = gguf_find(g, parts[i].tensor);
        assert_ptr_equal(t, gguf_tensor(g, i, NULL));
        assert_true(*(const float *)t->data == (float)i);
    }
    gguf_close(g);

    assert_int_equal(gguf_open(d.paths[1], &g, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "open the first, whose name ends in -00001-of-00003.gguf"));

    int n = 1;
    for (;; n++) {
        mem_fail_at((uint64_t)n);
        llm_status status = gguf_open(d.paths[0], &g, &err);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
    }
    assert_true(n > 10);
    gguf_close(g);
    remove_split(&d);
}

static void test_bad_splits(void **state)
{
    (void)state;
    const struct {
        struct part parts[3];
        const char *message;
    } cases[] = {
        {{{0, 3, 3, "a"}, {2, 3, 3, "b"}, {1, 3, 3, "c"}}, "it is not part 2 of 3 (split.no is 2"},
        {{{0, 3, 3, "a"}, {1, 4, 3, "b"}, {2, 3, 3, "c"}}, "split.count 4"},
        {{{0, 3, 4, "a"}, {1, 3, 4, "b"}, {2, 3, 4, "c"}}, "hold 3 tensors; split.tensors.count says 4"},
        {{{0, 3, -1, "a"}, {1, 3, -1, "b"}, {2, 3, -1, "a"}}, "\"a\" occurs twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct split_dir d;
        struct llm_error err = {LLM_OK, ""};
        struct gguf *g = NULL;
        make_split(&d, cases[i].parts);
        assert_int_equal(gguf_open(d.paths[0], &g, &err), LLM_EFORMAT);
        if (!strstr(err.message, cases[i].message)) fail_msg("%s", err.message);
        remove_split(&d);
    }
    const struct part parts[3] = {{0, 3, 3, "a"}, {1, 3, 3, "b"}, {2, 3, 3, "c"}};
    struct split_dir d;
    struct llm_error err = {LLM_OK, ""};
    struct gguf *g = NULL;
    make_split(&d, parts);
    unlink(d.paths[2]);
    assert_int_equal(gguf_open(d.paths[0], &g, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, "m-00003-of-00003.gguf"));
    remove_split(&d);
}

static void test_paths(void **state)
{
    (void)state;
    struct llm_error err = {LLM_OK, ""};
    struct gguf *g = NULL;
    assert_int_equal(gguf_open("/nonexistent/model.gguf", &g, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, "/nonexistent/model.gguf"));
    assert_int_equal(gguf_open("/", &g, &err), LLM_EIO);
    assert_int_equal(gguf_open(__FILE__, &g, &err), LLM_EFORMAT);
    assert_non_null(strstr(err.message, "test_gguf.c: it is not a GGUF file"));
    assert_int_equal(gguf_open("/dev/null", &g, NULL), LLM_EIO);
    gguf_close(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_strings_and_arrays),
        cmocka_unit_test(test_tensors),
        cmocka_unit_test(test_vocabulary_only),
        cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_bad_header),
        cmocka_unit_test(test_bad_metadata),
        cmocka_unit_test(test_bad_tensors),
        cmocka_unit_test(test_names_with_zero),
        cmocka_unit_test(test_duplicate_tensor),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_every_allocation_failure),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_bad_splits),
        cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
