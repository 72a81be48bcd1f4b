#ifndef LLM_ENGINE_QUEUE_H
#define LLM_ENGINE_QUEUE_H

/* The waiting sequences in the order of sequence_before, as an intrusive pairing heap (Fredman, Sedgewick,
 * Sleator and Tarjan, 1986): no bound, no allocation, O(1) to insert and to look at the first, O(log n)
 * amortized to take any one out. */

#include "engine/sequence.h"

struct queue {
    struct sequence *first; /* null: empty */
    int32_t count;
};

void queue_insert(struct queue *q, struct sequence *s);
void queue_remove(struct queue *q, struct sequence *s);

#endif
