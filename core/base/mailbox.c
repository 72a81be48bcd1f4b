#include "base/mailbox.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

llm_status mailbox_init(struct mailbox *box, struct llm_error *err)
{
    atomic_init(&box->head, NULL);
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (box->fd < 0)
        return llm_fail(err, LLM_EIO, "cannot make an eventfd: %s; raise the limit on open files (ulimit -n)",
                        strerror(errno));
    return LLM_OK;
}

void mailbox_deinit(struct mailbox *box)
{
    if (box->fd >= 0) close(box->fd);
    box->fd = -1;
}

void mailbox_wake(struct mailbox *box)
{
    /* Fails only when the counter is full, and then the receiver is awake already. */
    ssize_t ignored = write(box->fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)ignored;
}

void mailbox_post(struct mailbox *box, struct mail *mail)
{
    struct mail *head = atomic_load_explicit(&box->head, memory_order_relaxed);
    do {
        mail->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&box->head, &head, mail, memory_order_release,
                                                    memory_order_relaxed));
    /* From here on the letter may be gone: only the old head's value is looked at. */
    if (!head) mailbox_wake(box);
}

struct mail *mailbox_take(struct mailbox *box)
{
    if (!atomic_load_explicit(&box->head, memory_order_relaxed)) return NULL;
    struct mail *newest = atomic_exchange_explicit(&box->head, NULL, memory_order_acquire);
    struct mail *oldest = NULL;
    while (newest) {
        struct mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

void mailbox_clear(struct mailbox *box)
{
    uint64_t count;
    ssize_t ignored = read(box->fd, &count, sizeof count);
    (void)ignored;
}

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int mailbox_wait(struct mailbox *box, int timeout_ms)
{
    int64_t end = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;
    for (;;) {
        struct pollfd p = {.fd = box->fd, .events = POLLIN};
        int left = timeout_ms;
        if (timeout_ms > 0) {
            int64_t ms = end - now_ms();
            left = ms > 0 ? (int)ms : 0;
        }
        int n = poll(&p, 1, left);
        if (n > 0) return 1;
        if (n == 0 || errno != EINTR) return 0;
    }
}
