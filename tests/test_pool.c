/* The thread pool: every member once a job, barriers, sleep and wake, partition, failure to open. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/pool.h"

#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_MEMBERS = 16 };

static struct pool *open_or_fail(int32_t n)
{
    struct pool *pool = NULL;
    struct llm_error err = {LLM_OK, ""};
    if (pool_open(n, &pool, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_int_equal(pool_size(pool), n);
    return pool;
}

/* Plain counters: a member writes only its own, the caller reads after pool_run. What the pool must order, a
 * thread sanitizer sees. */
struct calls {
    int64_t n[MAX_MEMBERS];
    int32_t n_members;
};

static void count_call(void *arg, int32_t member, int32_t n_members)
{
    struct calls *calls = arg;
    calls->n[member]++;
    if (member == 0) calls->n_members = n_members;
}

static void test_every_member_once(void **state)
{
    (void)state;
    const int32_t sizes[] = {1, 2, 3, 8, MAX_MEMBERS};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        struct pool *pool = open_or_fail(sizes[s]);
        struct calls calls = {{0}, 0};
        for (int i = 0; i < 200; i++) pool_run(pool, count_call, &calls);
        assert_int_equal(calls.n_members, sizes[s]);
        for (int32_t m = 0; m < MAX_MEMBERS; m++) assert_int_equal(calls.n[m], m < sizes[s] ? 200 : 0);
        pool_close(pool);
    }
}

enum { ROUNDS = 300 };

struct relay {
    struct pool *pool;
    int32_t written[2][MAX_MEMBERS]; /* by round parity: one barrier a round is enough then */
    atomic_int wrong;
};

/* In each round a member reads what its neighbour wrote before the barrier. */
static void pass_round(void *arg, int32_t member, int32_t n_members)
{
    struct relay *relay = arg;
    for (int32_t round = 0; round < ROUNDS; round++) {
        relay->written[round % 2][member] = round * n_members + member;
        pool_barrier(relay->pool);
        int32_t neighbour = (member + 1) % n_members;
        if (relay->written[round % 2][neighbour] != round * n_members + neighbour)
            atomic_store(&relay->wrong, 1);
    }
}

static void test_barrier(void **state)
{
    (void)state;
    for (int32_t n = 1; n <= 5; n++) {
        struct relay relay = {open_or_fail(n), {{0}}, 0};
        for (int i = 0; i < 3; i++) pool_run(relay.pool, pass_round, &relay);
        assert_int_equal(atomic_load(&relay.wrong), 0);
        pool_close(relay.pool);
    }
}

/* Number of threads of this process that the kernel has put to sleep. */
static int n_asleep(void)
{
    DIR *dir = opendir("/proc/self/task");
    assert_non_null(dir);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[300], text[512] = "";
        snprintf(path, sizeof path, "/proc/self/task/%.200s/stat", e->d_name);
        FILE *f = e->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (!f) continue;
        size_t got = fread(text, 1, sizeof text - 1, f);
        fclose(f);
        const char *after_name = got ? strrchr(text, ')') : NULL;
        n += after_name && after_name[1] && after_name[2] == 'S';
    }
    closedir(dir);
    return n;
}

static void pause_1ms(void)
{
    nanosleep(&(struct timespec){0, 1000000}, NULL);
}

/* An idle engine burns no processor: with no job, workers end up asleep; a job wakes all of them. */
static void test_sleep_and_wake(void **state)
{
    (void)state;
    struct pool *pool = open_or_fail(4);
    struct calls calls = {{0}, 0};
    int already = n_asleep();
    for (int i = 1; i <= 5; i++) {
        while (n_asleep() < already + 3) pause_1ms();
        pool_run(pool, count_call, &calls);
        for (int32_t m = 0; m < 4; m++) assert_int_equal(calls.n[m], i);
    }
    while (n_asleep() < already + 3) pause_1ms();
    pool_close(pool); /* from sleep as well */
}

/* Pauses about as long as workers take to fall asleep: the window in which a wake-up could be lost. */
static void test_no_lost_wake(void **state)
{
    (void)state;
    struct pool *pool = open_or_fail(3);
    struct calls calls = {{0}, 0};
    for (int i = 0; i < 100; i++) {
        nanosleep(&(struct timespec){0, i * 50000}, NULL);
        pool_run(pool, count_call, &calls);
    }
    for (int32_t m = 0; m < 3; m++) assert_int_equal(calls.n[m], 100);
    pool_close(pool);
}

static void test_parts(void **state)
{
    (void)state;
    const int64_t sizes[] = {0, 1, 7, 8, 9, 63, 64, 1000, ((int64_t)1 << 40) + 3};
    const int64_t grains[] = {1, 4, 16, 100};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++)
        for (size_t g = 0; g < sizeof grains / sizeof grains[0]; g++)
            for (int32_t n = 1; n <= 9; n++) {
                int64_t expected = 0, begin, end;
                for (int32_t m = 0; m < n; m++) {
                    pool_part(sizes[s], grains[g], m, n, &begin, &end);
                    assert_int_equal(begin, expected);
                    assert_true(end >= begin && end <= sizes[s]);
                    assert_true(end == sizes[s] || end % grains[g] == 0);
                    expected = end;
                }
                assert_int_equal(expected, sizes[s]);
            }
}

static void test_bad_sizes(void **state)
{
    (void)state;
    struct pool *pool = NULL;
    struct llm_error err;
    const int32_t sizes[] = {0, -1, 1025, INT32_MIN};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(pool_open(sizes[i], &pool, &err), LLM_EINVAL);
        assert_non_null(strstr(err.message, "between 1 and 1024"));
    }
    assert_null(pool);
    pool_close(NULL);
}

static void test_every_allocation_failure(void **state)
{
    (void)state;
    struct pool *pool = NULL;
    int n = 1;
    for (;; n++) {
        struct llm_error err = {LLM_OK, ""};
        mem_fail_at((uint64_t)n);
        llm_status status = pool_open(4, &pool, &err);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_int_equal(status, LLM_ENOMEM);
        assert_null(pool);
    }
    assert_true(n > 4);
    struct calls calls = {{0}, 0};
    uint64_t before = mem_count();
    pool_run(pool, count_call, &calls);
    assert_int_equal(mem_count(), before);
    pool_close(pool);
}

static void test_cpu_count(void **state)
{
    (void)state;
    int32_t n = pool_cpu_count();
    assert_true(n >= 1 && n <= sysconf(_SC_NPROCESSORS_CONF));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_member_once),
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_sleep_and_wake),
        cmocka_unit_test(test_no_lost_wake),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_bad_sizes),
        cmocka_unit_test(test_every_allocation_failure),
        cmocka_unit_test(test_cpu_count),
    };
    alarm(300); /* a lost wake-up hangs: let it end as a failure */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
