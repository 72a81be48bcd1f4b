#define _GNU_SOURCE
/* Stop strings, cut by tokens in every way, against a plain search of the whole text. */

#include "engine/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    struct stop_matcher m;
    const char *strings[4];
    size_t bytes[4];
    char window[256];
};

static void set_up(struct fixture *f, int include, size_t n, const char *const *strings)
{
    memset(f, 0, sizeof *f);
    size_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        f->strings[i] = strings[i];
        f->bytes[i] = strlen(strings[i]);
        if (f->bytes[i] > longest) longest = f->bytes[i];
    }
    assert_true(stop_window_bytes(longest, 64) <= sizeof f->window);
    f->m = (struct stop_matcher){.strings = f->strings,
                                 .bytes = f->bytes,
                                 .n = n,
                                 .longest = longest,
                                 .include = include,
                                 .window = f->window};
}

static int32_t feed(struct fixture *f, const char *text, size_t n, int check, uint64_t *end)
{
    memcpy(stop_room(&f->m), text, n);
    return stop_feed(&f->m, n, check, end);
}

static void holds_back_what_may_become_a_stop_string(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t end = 0;
    set_up(&f, 0, 1, (const char *[]){"</s>"});
    assert_int_equal(feed(&f, "ab<", 3, 1, &end), -1);
    assert_int_equal(stop_safe(&f.m), 2);
    assert_int_equal(feed(&f, "/", 1, 1, &end), -1);
    assert_int_equal(stop_safe(&f.m), 2);
    assert_int_equal(feed(&f, "x", 1, 1, &end), -1);
    assert_int_equal(stop_safe(&f.m), 5);
    assert_int_equal(feed(&f, "<</s", 4, 1, &end), -1);
    assert_int_equal(stop_safe(&f.m), 6);
    assert_int_equal(feed(&f, ">tail", 5, 1, &end), 0);
    assert_int_equal(end, 6);
}

static void include_keeps_the_stop_string_and_cuts_behind_it(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t end = 0;
    set_up(&f, 1, 1, (const char *[]){"stop"});
    assert_int_equal(feed(&f, "a st", 4, 1, &end), -1);
    assert_int_equal(stop_safe(&f.m), 4);
    assert_int_equal(feed(&f, "op here", 7, 1, &end), 0);
    assert_int_equal(end, 6);
}

static void the_first_to_begin_wins(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t end = 0;
    set_up(&f, 0, 2, (const char *[]){"b", "ab"});
    assert_int_equal(feed(&f, "xxab", 4, 1, &end), 1);
    assert_int_equal(end, 2);
}

static void unchecked_text_still_begins_a_stop_string(void **state)
{
    (void)state;
    struct fixture f;
    uint64_t end = 0;
    set_up(&f, 0, 1, (const char *[]){"END"});
    assert_int_equal(feed(&f, "END E", 5, 0, &end), -1); /* before min_tokens */
    assert_int_equal(stop_safe(&f.m), 4);
    assert_int_equal(feed(&f, "ND", 2, 1, &end), 0);
    assert_int_equal(end, 4);
}

/* Over a two-letter alphabet everything overlaps with everything. */
static void random_texts_and_cuts(void **state)
{
    (void)state;
    srand(11);
    int stopped = 0;
    for (int round = 0; round < 40000; round++) {
        char text[49], strings[3][6];
        const char *list[3];
        size_t n = 1 + (size_t)(rand() % 3);
        for (int i = 0; i < 48; i++) text[i] = "ab"[rand() % 2];
        text[48] = 0;
        for (size_t i = 0; i < n; i++) {
            size_t k = 1 + (size_t)(rand() % 5);
            for (size_t j = 0; j < k; j++) strings[i][j] = "ab"[rand() % 2];
            if (rand() % 4 == 0) strings[i][k - 1] = 'c'; /* one that never comes */
            strings[i][k] = 0;
            list[i] = strings[i];
        }
        struct fixture f;
        int include = rand() % 2;
        set_up(&f, include, n, list);
        uint64_t end = 0, shown = 0;
        for (size_t at = 0; at < 48;) {
            size_t k = (size_t)(rand() % 6);
            if (k > 48 - at) k = 48 - at;
            int32_t found = feed(&f, text + at, k, 1, &end);
            at += k;
            /* the plain search: the earliest match in all of the text so far */
            size_t want = SIZE_MAX, want_bytes = 0;
            for (size_t i = 0; i < n; i++) {
                const char *p = memmem(text, at, list[i], strlen(list[i]));
                if (p && (size_t)(p - text) < want) {
                    want = (size_t)(p - text);
                    want_bytes = strlen(list[i]);
                }
            }
            if (want == SIZE_MAX) {
                assert_int_equal(found, -1);
                assert_true(stop_safe(&f.m) >= shown && stop_safe(&f.m) <= at);
                shown = stop_safe(&f.m);
                continue;
            }
            assert_true(found >= 0);
            assert_int_equal(end, want + (include ? want_bytes : 0));
            if (!include) assert_true(shown <= want); /* no part of it was shown */
            stopped++;
            break;
        }
    }
    assert_true(stopped > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holds_back_what_may_become_a_stop_string),
        cmocka_unit_test(include_keeps_the_stop_string_and_cuts_behind_it),
        cmocka_unit_test(the_first_to_begin_wins),
        cmocka_unit_test(unchecked_text_still_begins_a_stop_string),
        cmocka_unit_test(random_texts_and_cuts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
