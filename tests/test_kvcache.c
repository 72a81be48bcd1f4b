/* Pages: references, order of reuse, the prefix index. */

#include "base/mem.h"
#include "engine/kvcache.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t secret[PREFIX_SECRET_BYTES] = {1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233};

static struct block_hash name(uint64_t i)
{
    return (struct block_hash){i * 0x9E3779B97F4A7C15u, i};
}

static void open_pool(struct kv_pool *pool, int32_t n_pages)
{
    assert_int_equal(kv_pool_init(pool, n_pages, 16, secret, NULL), LLM_OK);
}

static int32_t cached_page(struct kv_pool *pool, uint64_t i)
{
    int32_t page = kv_alloc(pool);
    assert_true(page >= 0);
    kv_fill(pool, page, 16);
    kv_name(pool, page, name(i));
    return page;
}

static void pages_come_back(void **state)
{
    (void)state;
    struct kv_pool pool;
    open_pool(&pool, 3);
    int32_t a = kv_alloc(&pool), b = kv_alloc(&pool), c = kv_alloc(&pool);
    assert_true(a != b && b != c && a != c);
    assert_int_equal(kv_alloc(&pool), -1);
    kv_ref(&pool, b);
    kv_unref(&pool, b);
    assert_int_equal(kv_n_free(&pool), 0); /* one reference is left */
    kv_unref(&pool, b);
    assert_int_equal(kv_n_free(&pool), 1);
    assert_int_equal(kv_alloc(&pool), b);
    assert_true(kv_check(&pool));
    kv_pool_deinit(&pool);
}

/* Memory once touched is used again before fresh memory, and what is cached is given up last, oldest first.
 */
static void order_of_reuse(void **state)
{
    (void)state;
    struct kv_pool pool;
    open_pool(&pool, 4);
    int32_t first = cached_page(&pool, 1), second = cached_page(&pool, 2), plain = kv_alloc(&pool);
    kv_unref(&pool, plain);
    kv_unref(&pool, second);
    kv_unref(&pool, first);
    assert_int_equal(kv_alloc(&pool), plain);
    assert_int_equal(kv_alloc(&pool), 3);
    assert_int_equal(kv_find(&pool, name(2)), second);
    kv_unref(&pool, second); /* used last now */
    assert_int_equal(kv_alloc(&pool), first);
    assert_int_equal(kv_find(&pool, name(1)), -1);
    assert_int_equal(kv_alloc(&pool), second);
    assert_int_equal(kv_find(&pool, name(2)), -1);
    assert_int_equal(kv_alloc(&pool), -1);
    assert_true(kv_check(&pool));
    kv_pool_deinit(&pool);
}

static void one_name_one_page(void **state)
{
    (void)state;
    struct kv_pool pool;
    open_pool(&pool, 4);
    int32_t a = cached_page(&pool, 7), b = cached_page(&pool, 7);
    assert_int_equal(kv_find(&pool, name(7)), a);
    kv_unref(&pool, a);
    kv_unref(&pool, b); /* has no name: spare at once */
    kv_unref(&pool, a);
    assert_int_equal(pool.n_cached, 1);
    assert_int_equal(pool.n_spare, 1);
    kv_forget(&pool);
    assert_int_equal(kv_find(&pool, name(7)), -1);
    assert_int_equal(pool.n_cached, 0);
    assert_int_equal(pool.n_spare, 2);
    assert_true(kv_check(&pool));
    kv_pool_deinit(&pool);
}

static void waste_counts_empty_slots(void **state)
{
    (void)state;
    struct kv_pool pool;
    open_pool(&pool, 4);
    assert_true(kv_waste(&pool) == 0);
    int32_t a = kv_alloc(&pool), b = kv_alloc(&pool);
    kv_fill(&pool, a, 16);
    kv_fill(&pool, b, 4);
    assert_true(kv_waste(&pool) == 12.0 / 32);
    kv_unref(&pool, b);
    assert_true(kv_waste(&pool) == 0);
    kv_pool_deinit(&pool);
}

/* The index against a plain array, with few distinct low bits so that probes collide. */
static void index_against_an_array(void **state)
{
    (void)state;
    enum { N = 64 };
    struct prefix_table t;
    int32_t plain[N];
    memset(plain, 255, sizeof plain);
    assert_int_equal(prefix_init(&t, N, secret, NULL), LLM_OK);
    srand(5);
    for (int step = 0; step < 200000; step++) {
        uint64_t i = (uint64_t)rand() % N;
        struct block_hash h = {i % 7 * 37, i};
        assert_int_equal(prefix_find(&t, h), plain[i]);
        if (plain[i] < 0) {
            plain[i] = rand() % 1000;
            prefix_insert(&t, h, plain[i]);
        } else if (rand() % 2) {
            plain[i] = -1;
            prefix_remove(&t, h);
        }
    }
    prefix_deinit(&t);
}

static int same(struct block_hash a, struct block_hash b)
{
    return a.low == b.low && a.high == b.high;
}

/* A block's name depends on its tokens, on all before it, and on the salt. */
static void names_stand_for_prefixes(void **state)
{
    (void)state;
    struct prefix_table t;
    assert_int_equal(prefix_init(&t, 4, secret, NULL), LLM_OK);
    int32_t x[16] = {1, 2, 3}, y[16] = {1, 2, 4};
    struct block_hash root = prefix_root(&t, NULL, 0), salted = prefix_root(&t, "tenant", 6);
    struct block_hash rx = prefix_next(&t, root, x, 16), ry = prefix_next(&t, root, y, 16);
    assert_false(same(root, salted));
    assert_false(same(rx, ry));
    assert_false(same(rx, prefix_next(&t, salted, x, 16)));
    assert_false(same(prefix_next(&t, rx, x, 16), prefix_next(&t, ry, x, 16)));
    assert_true(same(rx, prefix_next(&t, root, x, 16)));
    prefix_deinit(&t);
    struct prefix_table other;
    assert_int_equal(prefix_init(&other, 4, NULL, NULL), LLM_OK); /* its own secret */
    assert_false(same(rx, prefix_next(&other, prefix_root(&other, NULL, 0), x, 16)));
    prefix_deinit(&other);
}

static uint64_t count_of(const struct histogram *h, double *sum)
{
    struct llm_histogram copy;
    histogram_read(h, &copy);
    uint64_t n = 0;
    for (int32_t i = 0; i <= copy.n_bounds; i++) n += copy.counts[i];
    *sum = copy.sum;
    return n;
}

static void times_of_cached_pages(void **state)
{
    (void)state;
    const int64_t second = 1000000000;
    struct kv_pool pool;
    open_pool(&pool, 2);
    pool.now = 10 * second;
    int32_t page = cached_page(&pool, 1), other = kv_alloc(&pool);
    pool.now = 12 * second;
    kv_unref(&pool, page);
    pool.now = 15 * second;
    assert_int_equal(kv_find(&pool, name(1)), page);
    double sum;
    assert_int_equal(count_of(&pool.reuse, &sum), 1);
    assert_true(sum == 3);
    pool.now = 16 * second;
    kv_unref(&pool, page);
    pool.now = 20 * second;
    assert_int_equal(kv_alloc(&pool), page); /* what it held is lost */
    assert_int_equal(count_of(&pool.lifetime, &sum), 1);
    assert_true(sum == 10);
    assert_int_equal(count_of(&pool.idle, &sum), 1);
    assert_true(sum == 4);
    kv_unref(&pool, page);
    kv_unref(&pool, other);
    assert_int_equal(kv_alloc(&pool), other); /* nothing was cached: nothing is lost */
    assert_int_equal(count_of(&pool.lifetime, &sum), 1);
    kv_pool_deinit(&pool);
}

static void buckets_include_their_ends(void **state)
{
    (void)state;
    static const double bounds[] = {1, 2.5, 10};
    struct histogram h;
    histogram_init(&h, bounds, 3);
    const double values[] = {0, 1, 1.5, 2.5, 2.6, 10, 11, 1e9};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) histogram_add(&h, values[i]);
    struct llm_histogram out;
    histogram_read(&h, &out);
    const uint64_t expected[] = {2, 2, 2, 2};
    assert_int_equal(out.n_bounds, 3);
    assert_memory_equal(out.counts, expected, sizeof expected);
    assert_true(out.sum == 1 + 1.5 + 2.5 + 2.6 + 10 + 11 + 1e9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_come_back),        cmocka_unit_test(order_of_reuse),
        cmocka_unit_test(one_name_one_page),      cmocka_unit_test(waste_counts_empty_slots),
        cmocka_unit_test(index_against_an_array), cmocka_unit_test(names_stand_for_prefixes),
        cmocka_unit_test(times_of_cached_pages),  cmocka_unit_test(buckets_include_their_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
