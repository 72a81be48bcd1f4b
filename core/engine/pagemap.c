/* A picture of KV memory. The engine's thread draws it over the one before when somebody has asked: who reads
 * meanwhile gets a page as it was or as it is, which is as true as any picture of what changes. */

#include "engine/engine.h"

static void set(struct llm_engine *e, int32_t page, uint8_t what)
{
    atomic_store_explicit(&e->map[page], what, memory_order_relaxed);
}

static void draw_sequence(struct llm_engine *e, const struct sequence *q)
{
    uint8_t owner = (uint8_t)(LLM_PAGE_OWNED + q->arrival % (256 - LLM_PAGE_OWNED));
    for (int32_t i = 0; i < q->n_pages; i++)
        if (e->kv.pages[q->pages[i]].refs == 1) set(e, q->pages[i], owner);
}

void page_map_draw(struct llm_engine *e)
{
    if (!atomic_load_explicit(&e->map_wanted, memory_order_relaxed)) return;
    atomic_store_explicit(&e->map_wanted, 0, memory_order_relaxed);
    for (int32_t i = 0; i < e->kv.n_touched; i++) {
        const struct kv_page *page = &e->kv.pages[i];
        set(e, i, page->refs ? LLM_PAGE_SHARED : page->named ? LLM_PAGE_CACHED : LLM_PAGE_FREE);
    }
    for (const struct llm_request *r = e->requests; r; r = r->next)
        for (int32_t i = 0; i < r->n; i++)
            if (r->outputs[i].finish == LLM_FINISH_NONE) draw_sequence(e, &r->outputs[i].sequence);
}

int32_t llm_engine_page_map(struct llm_engine *e, uint8_t *map, int32_t capacity)
{
    int32_t n = e->config.n_pages;
    for (int32_t i = 0; i < n && i < capacity; i++)
        map[i] = atomic_load_explicit(&e->map[i], memory_order_relaxed);
    atomic_store_explicit(&e->map_wanted, 1, memory_order_relaxed);
    mailbox_wake(&e->inbox);
    return n;
}
