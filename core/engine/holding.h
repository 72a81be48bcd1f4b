#ifndef LLM_ENGINE_HOLDING_H
#define LLM_ENGINE_HOLDING_H

/* Pages that somebody keeps between requests: the K and V of a beginning of a text (llm_sequence_open). A
 * running sequence takes them over when it is admitted and gives them back, with what it has computed, when
 * it ends; meanwhile the holding is empty. What lies idle is kept while there is room: pages are taken from
 * the holding that has been idle longest, from its end, before any running sequence is preempted. What was
 * taken is computed again when it is needed. Engine thread only; no allocation. */

#include "engine/kvcache.h"

struct holding {
    int32_t *pages; /* room for the longest sequence */
    int32_t n_pages;
    int32_t n_tokens; /* leading tokens whose K and V are in the pages; n_pages hold no more than they need */
    struct holding *older, *newer; /* of the idle list, which it is in while it has pages */
};

struct idle_list {
    struct holding *oldest, *newest;
};

/* Puts n_pages pages with n_tokens tokens, whose references it takes, into an empty holding. */
void holding_put(struct idle_list *idle, struct holding *h, const int32_t *pages, int32_t n_pages,
                 int32_t n_tokens);
/* Empties it into `pages`, keeping references and order. Returns how many. */
int32_t holding_take(struct idle_list *idle, struct holding *h, int32_t *pages);
/* Forgets all but the first n_tokens tokens. */
void holding_rewind(struct idle_list *idle, struct kv_pool *kv, struct holding *h, int32_t n_tokens);
/* Gives an empty holding all that another one has: every page is shared, none copied. */
void holding_share(struct idle_list *idle, struct kv_pool *kv, const struct holding *from,
                   struct holding *to);
/* Takes a page from the oldest holding; 0: none has any. The page is free if nobody else reads it. */
int holding_reclaim(struct idle_list *idle, struct kv_pool *kv);

#endif
