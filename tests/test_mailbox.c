/* Letters from many threads to one: each arrives once, those of a sender in order, and the receiver wakes. */

#include "base/mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

enum { SENDERS = 4, LETTERS = 20000 };

struct letter {
    struct mail mail; /* first */
    int32_t sender, number;
};

static struct mailbox box;
static struct letter letters[SENDERS][LETTERS];

static int readable(void)
{
    struct pollfd p = {.fd = box.fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static void descriptor_says_that_letters_wait(void **state)
{
    (void)state;
    struct letter a = {.number = 1}, b = {.number = 2};
    assert_int_equal(mailbox_init(&box, NULL), LLM_OK);
    assert_false(readable());
    assert_null(mailbox_take(&box));
    mailbox_post(&box, &a.mail);
    mailbox_post(&box, &b.mail);
    assert_true(readable());
    struct mail *m = mailbox_take(&box);
    assert_ptr_equal(m, &a.mail);
    assert_ptr_equal(m->next, &b.mail);
    assert_null(m->next->next);
    assert_true(readable()); /* until it is cleared */
    mailbox_clear(&box);
    assert_false(readable());
    assert_int_equal(mailbox_wait(&box, 1), 0);
    mailbox_wake(&box);
    assert_int_equal(mailbox_wait(&box, -1), 1);
    mailbox_deinit(&box);
}

static void *send_all(void *arg)
{
    struct letter *mine = arg;
    for (int32_t i = 0; i < LETTERS; i++) mailbox_post(&box, &mine[i].mail);
    return NULL;
}

static void nothing_is_lost(void **state)
{
    (void)state;
    pthread_t threads[SENDERS];
    int32_t next[SENDERS] = {0};
    assert_int_equal(mailbox_init(&box, NULL), LLM_OK);
    for (int32_t s = 0; s < SENDERS; s++) {
        for (int32_t i = 0; i < LETTERS; i++) letters[s][i] = (struct letter){.sender = s, .number = i};
        assert_int_equal(pthread_create(&threads[s], NULL, send_all, letters[s]), 0);
    }
    for (int32_t left = SENDERS * LETTERS; left > 0;) {
        struct mail *m = mailbox_take(&box);
        if (!m) { /* asleep until one comes: a lost wake would hang here */
            assert_int_equal(mailbox_wait(&box, -1), 1);
            mailbox_clear(&box);
            continue;
        }
        for (; m; m = m->next, left--) {
            const struct letter *l = (const struct letter *)m;
            assert_int_equal(l->number, next[l->sender]++);
        }
    }
    for (int32_t s = 0; s < SENDERS; s++) pthread_join(threads[s], NULL);
    assert_null(mailbox_take(&box));
    mailbox_deinit(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(descriptor_says_that_letters_wait),
                                       cmocka_unit_test(nothing_is_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
