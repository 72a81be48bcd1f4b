#ifndef LLM_BASE_MAILBOX_H
#define LLM_BASE_MAILBOX_H

/* How threads hand each other work: a lock-free mailbox with any number of senders and one receiver, and a
 * file descriptor that wakes the receiver. A letter is a link embedded in what is sent, so posting allocates
 * nothing and cannot fail for want of room (a cancel must never be refused, which rules out a bounded ring).
 * The receiver takes all letters at once, which is why the usual trouble of lock-free stacks (ABA) cannot
 * arise. Posting is one compare-and-swap, and a system call only when the box was empty. */

#include "base/status.h"

#include <stdatomic.h>

struct mail {
    struct mail *next;
};

struct mailbox {
    _Atomic(struct mail *) head; /* newest first */
    int fd;                      /* eventfd, non-blocking */
};

/* Errors: LLM_EIO (no file descriptor left; the message says so). */
llm_status mailbox_init(struct mailbox *box, struct llm_error *err);
void mailbox_deinit(struct mailbox *box);

/* Any thread. The letter belongs to the box until the receiver has taken it. The box itself is touched once
 * more after that, to wake the receiver: who wants to end a box must first know that no sender is in here. */
void mailbox_post(struct mailbox *box, struct mail *mail);
/* Any thread: wakes the receiver without a letter. */
void mailbox_wake(struct mailbox *box);

/* Receiver only. All letters, oldest first; null: none. */
struct mail *mailbox_take(struct mailbox *box);
/* Receiver only. Makes fd unreadable until the next post to an empty box or wake: take again afterwards, lest
 * a letter be overlooked. */
void mailbox_clear(struct mailbox *box);
/* Receiver only. Sleeps until fd is readable or timeout_ms has passed (-1: no limit). 1 if it is readable. */
int mailbox_wait(struct mailbox *box, int timeout_ms);

#endif
