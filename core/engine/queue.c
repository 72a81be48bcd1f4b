#include "engine/queue.h"

#include <stddef.h>

/* Links: `child` is the first child, `sibling` the next one; `previous` is the sibling before, or the parent
 * for a first child, or null for the root. */

static struct sequence *meld(struct sequence *a, struct sequence *b)
{
    if (!a) return b;
    if (!b) return a;
    if (sequence_before(b, a)) {
        struct sequence *t = a;
        a = b;
        b = t;
    }
    b->sibling = a->child;
    if (b->sibling) b->sibling->previous = b;
    b->previous = a;
    a->child = b;
    return a;
}

/* The two passes that give the heap its name: meld pairs left to right, then all of them right to left. */
static struct sequence *meld_siblings(struct sequence *s)
{
    struct sequence *pairs = NULL;
    while (s) {
        struct sequence *a = s, *b = s->sibling;
        s = b ? b->sibling : NULL;
        a->sibling = a->previous = NULL;
        if (b) b->sibling = b->previous = NULL;
        a = meld(a, b);
        a->sibling = pairs;
        pairs = a;
    }
    struct sequence *root = NULL;
    while (pairs) {
        struct sequence *next = pairs->sibling;
        pairs->sibling = NULL;
        root = meld(root, pairs);
        pairs = next;
    }
    return root;
}

void queue_insert(struct queue *q, struct sequence *s)
{
    s->child = s->sibling = s->previous = NULL;
    q->first = meld(q->first, s);
    q->count++;
}

void queue_remove(struct queue *q, struct sequence *s)
{
    struct sequence *below = meld_siblings(s->child);
    if (s == q->first) {
        q->first = below;
    } else {
        if (s->previous->child == s)
            s->previous->child = s->sibling;
        else
            s->previous->sibling = s->sibling;
        if (s->sibling) s->sibling->previous = s->previous;
        q->first = meld(q->first, below);
    }
    if (q->first) q->first->previous = NULL;
    s->child = s->sibling = s->previous = NULL;
    q->count--;
}
