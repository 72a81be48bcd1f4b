/* safetensors files made by hand: right ones, and one for each way of being wrong. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct bytes {
    uint8_t *data;
    size_t n;
};

/* A file of this header and `room` bytes of data: 0, 1, 2 … */
static struct bytes make_file(const char *header, size_t room)
{
    uint64_t length = strlen(header);
    struct bytes b = {NULL, 8 + (size_t)length + room};
    b.data = malloc(b.n); /* of exactly that size: a sanitizer sees a read beyond it */
    if (!b.data) abort();
    memcpy(b.data, &length, 8);
    memcpy(b.data + 8, header, (size_t)length);
    for (size_t i = 0; i < room; i++) b.data[8 + length + i] = (uint8_t)i;
    return b;
}

static void save_file(const char *path, const char *header, size_t room)
{
    struct bytes b = make_file(header, room);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(b.data, 1, b.n, f) != b.n || fclose(f) != 0) abort();
    free(b.data);
}

/* 64 bytes long, so that the data section is aligned. */
static const char aligned_header[] =
    "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}       ";

static void test_aligned(void **state)
{
    (void)state;
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    assert_int_equal((sizeof aligned_header - 1) % 8, 0);
    struct bytes b = make_file(aligned_header, 24);
    if (safetensors_open_memory(b.data, b.n, &s, &err) != LLM_OK) fail_msg("%s", err.message);
    const char *name;
    const struct tensor *t = safetensors_tensor(s, 0, &name);
    assert_int_equal(safetensors_n_tensors(s), 1);
    assert_string_equal(name, "a");
    assert_ptr_equal(t, safetensors_find(s, "a"));
    assert_int_equal(t->dtype, DTYPE_F32);
    assert_int_equal(t->n_dims, 2);
    assert_true(t->dims[0] == 2 && t->dims[1] == 3);
    assert_ptr_equal(t->data, b.data + 8 + sizeof aligned_header - 1); /* a view, not a copy */
    assert_null(safetensors_find(s, "b"));
    safetensors_close(s);
    free(b.data);
}

/* What an early writer left: a header of any length. Elements still can be read through typed pointers. */
static void test_unaligned(void **state)
{
    (void)state;
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"x\":{\"dtype\":\"F16\",\"shape\":[3],\"data_offsets\":[1,7]},"
                         "\"y\":{\"dtype\":\"BF16\",\"shape\":[1,1,1,1],\"data_offsets\":[8,10]},"
                         "\"z\":{\"dtype\":\"I32\",\"shape\":[],\"data_offsets\":[10,14]},"
                         "\"none\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[14,14]}}";
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    for (int pad = 0; pad < 4; pad++) {
        char padded[512];
        snprintf(padded, sizeof padded, "%s%*s", header, pad, "");
        struct bytes b = make_file(padded, 14);
        if (safetensors_open_memory(b.data, b.n, &s, &err) != LLM_OK) fail_msg("%s", err.message);
        assert_int_equal(safetensors_n_tensors(s), 4);
        const struct tensor *x = safetensors_find(s, "x"), *y = safetensors_find(s, "y"),
                            *z = safetensors_find(s, "z");
        assert_int_equal(((const uint16_t *)x->data)[2], 0x0605);
        assert_int_equal(*(const uint16_t *)y->data, 0x0908);
        assert_int_equal(y->n_dims, 4);
        assert_int_equal(*(const int32_t *)z->data, 0x0d0c0b0a);
        assert_true(z->n_dims == 1 && z->dims[0] == 1);
        assert_int_equal(tensor_count(safetensors_find(s, "none")), 0);
        safetensors_close(s);
        free(b.data);
    }
}

static void test_left_out(void **state)
{
    (void)state;
    const char *header =
        "{\"ids\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]},"
        "\"deep\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[16,20]},"
        "\"future\":{\"dtype\":\"F6_E3M2_AND_LONGER\",\"shape\":[3],\"data_offsets\":[20,21]},"
        "\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[24,28]}}";
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    struct bytes b = make_file(header, 28);
    if (safetensors_open_memory(b.data, b.n, &s, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_int_equal(safetensors_n_tensors(s), 1);
    assert_non_null(safetensors_find(s, "w"));
    assert_null(safetensors_find(s, "ids"));
    assert_int_equal(safetensors_explain_missing(s, "ids", &err), LLM_EUNSUP);
    assert_non_null(strstr(err.message, "\"ids\" has dtype \"I64\"; supported are F32, F16, BF16 and I32"));
    assert_int_equal(safetensors_explain_missing(s, "deep", &err), LLM_EUNSUP);
    assert_non_null(strstr(err.message, "5 dimensions"));
    assert_int_equal(safetensors_explain_missing(s, "future", &err), LLM_EUNSUP);
    assert_int_equal(safetensors_explain_missing(s, "lm_head", &err), LLM_EFORMAT);
    assert_non_null(strstr(err.message, "\"lm_head\" is not in the files"));
    safetensors_close(s);
    free(b.data);
}

static void test_bad_files(void **state)
{
    (void)state;
    const struct {
        const char *header; /* the file has 16 bytes of data */
        const char *message;
    } cases[] = {
        {"", "not valid JSON"},
        {"[]", "must be a JSON object"},
        {"{", "not valid JSON"},
        {"{}{}", "not valid JSON"},
        {"{\"a\":1}", "\"a\": it must be an object"},
        {"{\"\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", "empty name"},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,16]}}", "\"a\": it must be an object with dtype"},
        {"{\"a\":{\"dtype\":3,\"shape\":[4],\"data_offsets\":[0,16]}}",
         "\"a\": it must be an object with dtype"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":4,\"data_offsets\":[0,16]}}", "\"a\": it must be an object"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4]}}", "data_offsets must be two integers"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0]}}", "data_offsets must be two"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16.0]}}", "data_offsets must be two"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]}}", "0 <= begin <= end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-1,15]}}", "0 <= begin <= end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[4,20]}}", "beyond the end of the file"},
        {"{\"a\":{\"dtype\":\"I64\",\"shape\":[4],\"data_offsets\":[0,17]}}", "beyond the end of the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,16]}}", "do not agree"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-4],\"data_offsets\":[0,16]}}", "integers >= 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[\"4\"],\"data_offsets\":[0,16]}}", "integers >= 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,16]}}",
         "larger than any file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387908],\"data_offsets\":[0,16]}}",
         "larger than any file"}, /* times 4 wraps to 16 */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,16]}}",
         "not valid JSON"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}",
         "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llm_error err = {LLM_OK, ""};
        struct safetensors *s = NULL;
        struct bytes b = make_file(cases[i].header, 16);
        llm_status status = safetensors_open_memory(b.data, b.n, &s, &err);
        if (status != LLM_EFORMAT || !strstr(err.message, cases[i].message))
            fail_msg("%s: %s: %s", cases[i].header, llm_status_text(status), err.message);
        assert_null(s);
        free(b.data);
    }
}

static void test_truncation_and_length(void **state)
{
    (void)state;
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    struct bytes b = make_file(aligned_header, 24);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *cut = malloc(n ? n : 1);
        memcpy(cut, b.data, n);
        assert_int_equal(safetensors_open_memory(cut, n, &s, &err), LLM_EFORMAT);
        free(cut);
    }
    const uint64_t lengths[] = {UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63, 100000001, b.n - 7};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        memcpy(b.data, &lengths[i], 8);
        assert_int_equal(safetensors_open_memory(b.data, b.n, &s, &err), LLM_EFORMAT);
        assert_non_null(strstr(err.message, "does not fit"));
    }
    free(b.data);
}

static void test_deep_json(void **state)
{
    (void)state;
    enum { DEPTH = 100000 };
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    char *deep = malloc(DEPTH + 16);
    if (!deep) abort();
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', DEPTH);
    deep[5 + DEPTH] = '\0';
    struct bytes b = make_file(deep, 0);
    assert_int_equal(safetensors_open_memory(b.data, b.n, &s, &err), LLM_EFORMAT);
    free(b.data);
    free(deep);
}

static void test_every_allocation_failure(void **state)
{
    (void)state;
    const char *header = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[1,5]},"
                         "\"b\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[5,6]}}";
    struct bytes b = make_file(header, 6);
    struct safetensors *s = NULL;
    int n = 1;
    for (;; n++) {
        struct llm_error err = {LLM_OK, ""};
        mem_fail_at((uint64_t)n);
        llm_status status = safetensors_open_memory(b.data, b.n, &s, &err);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
        assert_null(s);
    }
    assert_true(n > 6);
    safetensors_close(s);
    free(b.data);
}

/* ---- directories --------------------------------------------------------------------------------------- */

struct model_dir {
    char path[64];
};

static struct model_dir make_dir(void)
{
    struct model_dir d = {"/tmp/test_safetensors_XXXXXX"};
    assert_non_null(mkdtemp(d.path));
    return d;
}

static const char *in_dir(const struct model_dir *d, const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", d->path, name);
    return path;
}

static void save_text(const struct model_dir *d, const char *name, const char *text)
{
    FILE *f = fopen(in_dir(d, name), "wb");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) abort();
}

static void remove_dir(const struct model_dir *d)
{
    const char *names[] = {"model.safetensors", "model.safetensors.index.json", "one.safetensors",
                           "two.safetensors", "pytorch_model.bin"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) unlink(in_dir(d, names[i]));
    assert_int_equal(rmdir(d->path), 0);
}

static const char one[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}    ";
static const char two[] = "{\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                          "\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[4,12]}}";

static void test_single_file_directory(void **state)
{
    (void)state;
    struct model_dir d = make_dir();
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    assert_int_equal(safetensors_open(d.path, &s, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, "neither model.safetensors nor model.safetensors.index.json"));
    save_text(&d, "pytorch_model.bin", "");
    assert_int_equal(safetensors_open(d.path, &s, &err), LLM_EUNSUP);
    assert_non_null(strstr(err.message, "convert them to safetensors"));
    save_file(in_dir(&d, "model.safetensors"), one, 4);
    if (safetensors_open(d.path, &s, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_non_null(safetensors_find(s, "a"));
    safetensors_close(s);
    if (safetensors_open(in_dir(&d, "model.safetensors"), &s, &err) != LLM_OK) fail_msg("%s", err.message);
    safetensors_close(s);
    assert_int_equal(safetensors_open(in_dir(&d, "no.safetensors"), &s, &err), LLM_ENOENT);
    remove_dir(&d);
}

static void test_shards(void **state)
{
    (void)state;
    struct model_dir d = make_dir();
    struct llm_error err = {LLM_OK, ""};
    struct safetensors *s = NULL;
    save_file(in_dir(&d, "one.safetensors"), one, 4);
    save_file(in_dir(&d, "two.safetensors"), two, 12);
    save_text(&d, "model.safetensors.index.json",
              "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"a\":\"one.safetensors\","
              "\"b\":\"two.safetensors\",\"c\":\"two.safetensors\"}}");
    if (safetensors_open(d.path, &s, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_int_equal(safetensors_n_tensors(s), 2);
    assert_non_null(safetensors_find(s, "a"));
    assert_non_null(safetensors_find(s, "b"));
    assert_int_equal(safetensors_explain_missing(s, "c", &err), LLM_EUNSUP);
    safetensors_close(s);
    remove_dir(&d);
}

static void test_bad_indexes(void **state)
{
    (void)state;
    const struct {
        const char *index;
        llm_status status;
        const char *message;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"z\":\"two.safetensors\"}}", LLM_EFORMAT,
         "lists tensor \"z\" in \"two.safetensors\", which does not have it"},
        {"{\"weight_map\":{\"a\":\"three.safetensors\"}}", LLM_ENOENT, "three.safetensors"},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", LLM_EFORMAT, "of the same directory"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", LLM_EFORMAT, "of the same directory"},
        {"{\"weight_map\":{\"a\":\"..\"}}", LLM_EFORMAT, "of the same directory"},
        {"{\"weight_map\":{\"a\":7}}", LLM_EFORMAT, "of the same directory"},
        {"{\"weight_map\":{}}", LLM_EFORMAT, "weight_map must be an object"},
        {"{}", LLM_EFORMAT, "weight_map must be an object"},
        {"[1]", LLM_EFORMAT, "must hold a JSON object"},
        {"{\"weight_map\"", LLM_EFORMAT, "not valid JSON"},
        {"", LLM_EFORMAT, "not valid JSON"},
        /* one tensor in two shards */
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"b\":\"model2.safetensors\"}}", LLM_EFORMAT,
         "occurs twice"},
    };
    struct model_dir d = make_dir();
    save_file(in_dir(&d, "one.safetensors"), one, 4);
    save_file(in_dir(&d, "two.safetensors"), two, 12);
    save_file(in_dir(&d, "model2.safetensors"), one, 4);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct llm_error err = {LLM_OK, ""};
        struct safetensors *s = NULL;
        save_text(&d, "model.safetensors.index.json", cases[i].index);
        llm_status status = safetensors_open(d.path, &s, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].message))
            fail_msg("%s: %s: %s", cases[i].index, llm_status_text(status), err.message);
        assert_null(s);
    }
    unlink(in_dir(&d, "model2.safetensors"));
    remove_dir(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_aligned),
        cmocka_unit_test(test_unaligned),
        cmocka_unit_test(test_left_out),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_truncation_and_length),
        cmocka_unit_test(test_deep_json),
        cmocka_unit_test(test_every_allocation_failure),
        cmocka_unit_test(test_single_file_directory),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_bad_indexes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
