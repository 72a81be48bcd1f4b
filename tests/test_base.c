/* The base layer but for the thread pool: errors, memory, file mapping, number formats, random numbers,
 * names. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/file_map.h"
#include "base/mem.h"
#include "base/name_table.h"
#include "base/quote.h"
#include "base/rng.h"
#include "base/status.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- errors -------------------------------------------------------------------------------------------- */

static void test_status(void **state)
{
    (void)state;
    struct llm_error err = {LLM_OK, "untouched"};
    assert_string_equal(llm_status_text(LLM_ENOMEM), "out of memory");
    assert_string_equal(llm_status_text(LLM_OK), "ok");
    assert_string_equal(llm_status_text((llm_status)-99), "unknown status");
    assert_int_equal(llm_fail(&err, LLM_EINVAL, "n is %d", 7), LLM_EINVAL);
    assert_int_equal(err.status, LLM_EINVAL);
    assert_string_equal(err.message, "n is 7");
    assert_int_equal(llm_fail(NULL, LLM_EIO, "%s", "nobody listens"), LLM_EIO);
    assert_int_equal(llm_fail_in(&err, "file %s", "x"), LLM_EINVAL);
    assert_string_equal(err.message, "file x: n is 7");
    assert_int_equal(llm_fail_in(NULL, "file"), LLM_EFAILED);
}

static void test_long_messages(void **state)
{
    (void)state;
    struct llm_error err;
    char longest[2000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    llm_fail(&err, LLM_EIO, "%s", longest);
    assert_int_equal(strlen(err.message), sizeof err.message - 1);
    for (size_t n = sizeof err.message - 5; n < sizeof err.message + 5; n++) {
        llm_fail(&err, LLM_EIO, "inner");
        llm_fail_in(&err, "%.*s", (int)n, longest);
        assert_int_equal(strlen(err.message), sizeof err.message - 1);
        assert_int_equal(err.message[sizeof err.message - 10], 'a');
    }
    llm_fail(&err, LLM_EIO, "inner");
    llm_fail_in(&err, "%.*s", 480, longest);
    assert_string_equal(err.message + 480, ": inner");
}

static void test_quote(void **state)
{
    (void)state;
    struct quoted q;
    char longest[300];
    memset(longest, 'b', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_string_equal(quote_text(&q, "plain name"), "\"plain name\"");
    assert_string_equal(quote_text(&q, ""), "\"\"");
    assert_string_equal(quote_bytes(&q, "a\0\n\"\\\x7f\xff", 7), "\"a\\x00\\x0a\\x22\\x5c\\x7f\\xff\"");
    quote_text(&q, longest);
    assert_true(strlen(q.text) < sizeof q.text);
    assert_string_equal(q.text + strlen(q.text) - 5, "b...\"");
    memset(longest, '\n', sizeof longest - 1);
    quote_text(&q, longest);
    assert_true(strlen(q.text) < sizeof q.text);
    assert_string_equal(q.text + strlen(q.text) - 8, "\\x0a...\"");
}

/* ---- memory -------------------------------------------------------------------------------------------- */

static void test_memory(void **state)
{
    (void)state;
    uint64_t before = mem_count();
    char *a = mem_alloc(0), *b = mem_zalloc(100), *c = mem_strndup("hello", 4);
    uint32_t *d = mem_array(10, sizeof *d);
    assert_true(a && b && c && d);
    assert_string_equal(c, "hell");
    for (int i = 0; i < 100; i++) assert_int_equal(b[i], 0);
    d[9] = 5;
    uint32_t *grown = mem_grow(d, 1000, sizeof *d);
    assert_non_null(grown);
    assert_int_equal(grown[9], 5);
    assert_int_equal(mem_count() - before, 5);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(grown);
    mem_free(NULL);
    assert_null(mem_array(SIZE_MAX / 2, 3));
    assert_null(mem_array(SIZE_MAX / 4 + 1, 4)); /* the product wraps to 0 */
    assert_null(mem_grow(NULL, SIZE_MAX / 4 + 2, 4));
    assert_int_equal(mem_count() - before, 5);
}

static void test_failing_memory(void **state)
{
    (void)state;
    mem_fail_at(3);
    void *p[5];
    for (int i = 0; i < 5; i++) p[i] = mem_alloc(8);
    for (int i = 0; i < 5; i++) {
        if (i == 2)
            assert_null(p[i]);
        else
            assert_non_null(p[i]);
        mem_free(p[i]);
    }
    void *(*const one_block[])(size_t) = {mem_alloc, mem_zalloc, mem_map};
    for (size_t i = 0; i < 3; i++) {
        mem_fail_at(1);
        assert_null(one_block[i](64));
    }
    mem_fail_at(1);
    assert_null(mem_array(4, 4));
    mem_fail_at(1);
    assert_null(mem_grow(NULL, 4, 4));
    mem_fail_at(1);
    assert_null(mem_strdup("text"));
    mem_fail_at(1);
    mem_fail_at(0);
    void *fine = mem_alloc(1);
    assert_non_null(fine);
    mem_free(fine);
}

static void test_mapped_memory(void **state)
{
    (void)state;
    const size_t bytes = (size_t)8 << 30; /* far more than it will use */
    uint8_t *p = mem_map(bytes);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 4096, 0);
    assert_int_equal(p[0] | p[bytes / 2] | p[bytes - 1], 0);
    p[bytes / 2] = 1;
    assert_int_equal(p[bytes / 2], 1);
    mem_unmap(p, bytes);
    mem_unmap(NULL, 5);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void test_file_map(void **state)
{
    (void)state;
    char path[] = "/tmp/test_base_XXXXXX";
    struct file_map map = {(const uint8_t *)path, 1};
    struct llm_error err = {LLM_OK, ""};
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(file_map_open(path, &map, &err), LLM_OK);
    assert_int_equal(map.size, 0);
    assert_null(map.data);
    file_map_close(&map);

    enum { N = 100000 };
    uint8_t *bytes = malloc(N);
    for (int i = 0; i < N; i++) bytes[i] = (uint8_t)(i * 7 + i / 256);
    assert_int_equal(write(fd, bytes, N), N);
    close(fd);
    assert_int_equal(file_map_open(path, &map, &err), LLM_OK);
    assert_int_equal(map.size, N);
    assert_memory_equal(map.data, bytes, N);
    file_map_drop(map.data + 5000, 50000);
    file_map_drop(map.data + 1, 10); /* less than a page */
    assert_memory_equal(map.data, bytes, N);
    file_map_close(&map);
    assert_null(map.data);
    file_map_close(&map);
    free(bytes);
    unlink(path);

    map = (struct file_map){NULL, 77};
    assert_int_equal(file_map_open(path, &map, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, path));
    assert_int_equal(file_map_open("/", &map, &err), LLM_EIO);
    assert_non_null(strstr(err.message, "not a regular file"));
    assert_int_equal(map.size, 77); /* written only on success */
}

/* ---- number formats ------------------------------------------------------------------------------------ */

/* What the bits of a float format with this many bits of exponent and fraction mean; not NaN. */
static double decode(uint32_t bits, int exponent_bits, int fraction_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (int)(bits >> fraction_bits) & ((1 << exponent_bits) - 1);
    double fraction = (double)(bits & ((1u << fraction_bits) - 1)) / (double)(1u << fraction_bits);
    double sign = bits >> (exponent_bits + fraction_bits) ? -1 : 1;
    if (exponent == (1 << exponent_bits) - 1) return sign * INFINITY;
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias);
    return sign * ldexp(1 + fraction, exponent - bias);
}

struct half_format {
    int exponent_bits, fraction_bits;
    float (*to_f32)(uint16_t);
    uint16_t (*from_f32)(float);
};

/* Every value exact, every value its own image, and around the middle between each two neighbours the right
 * rounding. */
static void check_half_format(const struct half_format *f)
{
    const uint32_t infinity = ((1u << f->exponent_bits) - 1) << f->fraction_bits;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = f->to_f32((uint16_t)h);
        if ((h & 0x7fff) > infinity) {
            assert_true(isnan(x));
            uint16_t back = f->from_f32(x);
            assert_true((back & 0x7fff) > infinity);
            assert_int_equal(back & 0x8000, h & 0x8000);
            continue;
        }
        assert_true((double)x == decode(h, f->exponent_bits, f->fraction_bits));
        assert_int_equal(signbit(x) != 0, h >> 15);
        assert_int_equal(f->from_f32(x), h);
        if ((h & 0x7fff) == infinity) continue;
        /* The step above the largest number is as long as the one below it: what rounds to it is infinite. */
        uint32_t next = h + 1;
        double step = decode(h & 0x7fff, f->exponent_bits, f->fraction_bits);
        step = (next & 0x7fff) == infinity
                   ? step - decode((h & 0x7fff) - 1, f->exponent_bits, f->fraction_bits)
                   : decode(next & 0x7fff, f->exponent_bits, f->fraction_bits) - step;
        float middle = (float)(fabs((double)x) + step / 2);
        if (isinf(middle)) continue; /* bfloat16's largest: its middle is no float */
        float sign = h >> 15 ? -1 : 1;
        assert_int_equal(f->from_f32(sign * middle), h % 2 ? next : h);
        assert_int_equal(f->from_f32(sign * nextafterf(middle, 0)), h);
        assert_int_equal(f->from_f32(sign * nextafterf(middle, INFINITY)), next);
    }
}

static float bf16_in(uint16_t h)
{
    return bf16_to_f32(h);
}

static uint16_t bf16_out(float f)
{
    return f32_to_bf16(f);
}

static void test_f16(void **state)
{
    (void)state;
    const struct half_format f16 = {5, 10, f16_to_f32, f32_to_f16};
    check_half_format(&f16);
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(f32_to_f16(1e-30f), 0);
    assert_int_equal(f32_to_f16(-1e-30f), 0x8000);
}

static void test_bf16(void **state)
{
    (void)state;
    const struct half_format bf16 = {8, 7, bf16_in, bf16_out};
    check_half_format(&bf16);
    assert_int_equal(f32_to_bf16(3.4028235e38f), 0x7f80); /* FLT_MAX rounds up */
    assert_int_equal(f32_to_bf16(1e-45f), 0);
}

static void test_dtype_table(void **state)
{
    (void)state;
    for (int t = 0; t < DTYPE_COUNT; t++) {
        assert_int_equal(dtype_from_gguf((uint32_t)dtype_table[t].gguf_id), t);
        assert_int_equal(dtype_bytes((enum llm_dtype)t, dtype_table[t].block * 5), dtype_table[t].bytes * 5);
        assert_int_equal(dtype_is_quantized((enum llm_dtype)t), dtype_table[t].block > 1);
    }
    assert_int_equal(dtype_from_gguf(9), -1);
    assert_int_equal(dtype_from_gguf(UINT32_MAX), -1);
    assert_string_equal(dtype_table[DTYPE_Q4_1].name, "Q4_1");
    const struct tensor t = {DTYPE_F32, 3, {2, 3, 4, 99}, NULL};
    assert_int_equal(tensor_count(&t), 24);
}

/* ---- random numbers ------------------------------------------------------------------------------------ */

/* Philox4x32-10 as the paper words it, for any counter and key. */
static struct rng_block philox_by_the_paper(const uint32_t counter[4], const uint32_t key[2])
{
    struct rng_block c;
    uint32_t k[2] = {key[0], key[1]};
    memcpy(c.word, counter, sizeof c.word);
    for (int round = 0; round < 10; round++) {
        uint64_t left = (uint64_t)0xD2511F53 * c.word[0], right = (uint64_t)0xCD9E8D57 * c.word[2];
        c = (struct rng_block){{(uint32_t)(right >> 32) ^ c.word[1] ^ k[0], (uint32_t)right,
                                (uint32_t)(left >> 32) ^ c.word[3] ^ k[1], (uint32_t)left}};
        k[0] += 0x9E3779B9;
        k[1] += 0xBB67AE85;
    }
    return c;
}

/* Known answers: kat_vectors of the paper's authors' library, Random123. */
static void test_philox(void **state)
{
    (void)state;
    const struct {
        uint32_t counter[4], key[2], answer[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (int i = 0; i < 3; i++) {
        struct rng_block b = philox_by_the_paper(known[i].counter, known[i].key);
        assert_memory_equal(b.word, known[i].answer, sizeof b.word);
    }
    struct rng_block zero = rng_philox(0, 0, 0);
    assert_memory_equal(zero.word, known[0].answer, sizeof zero.word);
    uint64_t x = 88172645463325252u; /* any numbers will do: xorshift */
    for (int i = 0; i < 1000; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint64_t seed = x * 3, position = x * 5;
        uint32_t stream = (uint32_t)(x >> 32);
        const uint32_t counter[4] = {(uint32_t)position, (uint32_t)(position >> 32), stream, 0};
        const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
        struct rng_block a = rng_philox(seed, stream, position), b = philox_by_the_paper(counter, key);
        assert_memory_equal(&a, &b, sizeof a);
    }
}

static void test_uniform(void **state)
{
    (void)state;
    assert_true(rng_uniform(0) == 0);
    assert_true(rng_uniform(UINT32_MAX) < 1);
    assert_true(rng_uniform(UINT32_MAX) == 1 - 0x1p-24f);
    assert_true(rng_uniform(0x80000000u) == 0.5f);
}

/* ---- names --------------------------------------------------------------------------------------------- */

static void test_name_table(void **state)
{
    (void)state;
    enum { N = 5000 };
    static char names[N][16];
    struct name_table table = {0};
    assert_int_equal(name_table_find(&table, "x", 1), -1);
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "name%d", i);
        assert_int_equal(name_table_put(&table, names[i], strlen(names[i]), i), 1);
    }
    assert_int_equal(name_table_put(&table, "name77", 6, 1), 0);
    for (int i = 0; i < N; i++) assert_int_equal(name_table_find(&table, names[i], strlen(names[i])), i);
    assert_int_equal(name_table_find(&table, "name", 4), -1);
    assert_int_equal(name_table_find(&table, "name77x", 7), -1);
    assert_int_equal(name_table_find(&table, "name77x", 6), 77);
    name_table_free(&table);
    mem_fail_at(1);
    assert_int_equal(name_table_put(&table, "a", 1, 0), -1);
    assert_int_equal(name_table_put(&table, "a", 1, 0), 1);
    name_table_free(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),         cmocka_unit_test(test_long_messages),
        cmocka_unit_test(test_quote),          cmocka_unit_test(test_memory),
        cmocka_unit_test(test_failing_memory), cmocka_unit_test(test_mapped_memory),
        cmocka_unit_test(test_file_map),       cmocka_unit_test(test_f16),
        cmocka_unit_test(test_bf16),           cmocka_unit_test(test_dtype_table),
        cmocka_unit_test(test_philox),         cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_name_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
