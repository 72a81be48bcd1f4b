#ifndef LLM_ENGINE_PINS_H
#define LLM_ENGINE_PINS_H

/* Cached prefixes that are kept (llm_prefix_pin): a pin holds a reference to each page of its blocks until it
 * is let go or its time is over. All pins together hold so few pages that the longest sequence fits beside
 * them, so the scheduler's promise of progress holds, and at most a quarter of all. A page under two pins
 * counts twice. */

#include "engine/kvcache.h"
#include "llmlua.h"

struct pin {
    struct pin *next;
    uint64_t id;
    int64_t expires; /* ns; INT64_MAX: never */
    int32_t n_pages;
    int32_t pages[]; /* room for the blocks that were asked for */
};

struct pins {
    struct pin *first;
    uint64_t n_made;
    int32_t n_pages, most;
    int64_t next_end; /* ns, no later than the first `expires` */
};

void pins_init(struct pins *p, int32_t n_pages, int32_t longest);

/* Lets those go whose time is over. The engine's thread. */
void pins_look(struct pins *p, struct kv_pool *kv, int64_t now);
/* Does what another thread asks for and waits for (LETTER_ERRAND). The engine's thread. */
struct letter;
void pins_run(struct llm_engine *e, struct letter *letter);
/* Frees what is left, without looking at pages. */
void pins_deinit(struct pins *p);

#endif
