#include "engine/holding.h"

#include <string.h>

static void link_newest(struct idle_list *idle, struct holding *h)
{
    h->newer = NULL;
    h->older = idle->newest;
    if (h->older)
        h->older->newer = h;
    else
        idle->oldest = h;
    idle->newest = h;
}

static void unlink_idle(struct idle_list *idle, struct holding *h)
{
    if (h->older)
        h->older->newer = h->newer;
    else
        idle->oldest = h->newer;
    if (h->newer)
        h->newer->older = h->older;
    else
        idle->newest = h->older;
    h->older = h->newer = NULL;
}

void holding_put(struct idle_list *idle, struct holding *h, const int32_t *pages, int32_t n_pages,
                 int32_t n_tokens)
{
    if (n_pages == 0) return;
    memcpy(h->pages, pages, sizeof *pages * (size_t)n_pages);
    h->n_pages = n_pages;
    h->n_tokens = n_tokens;
    link_newest(idle, h);
}

int32_t holding_take(struct idle_list *idle, struct holding *h, int32_t *pages)
{
    int32_t n = h->n_pages;
    if (n == 0) return 0;
    memcpy(pages, h->pages, sizeof *pages * (size_t)n);
    h->n_pages = h->n_tokens = 0;
    unlink_idle(idle, h);
    return n;
}

void holding_rewind(struct idle_list *idle, struct kv_pool *kv, struct holding *h, int32_t n_tokens)
{
    if (h->n_tokens <= n_tokens) return;
    h->n_tokens = n_tokens;
    int32_t n = kv_pages_for(kv, n_tokens);
    while (h->n_pages > n) kv_unref(kv, h->pages[--h->n_pages]);
    if (h->n_pages == 0) unlink_idle(idle, h);
}

void holding_share(struct idle_list *idle, struct kv_pool *kv, const struct holding *from, struct holding *to)
{
    for (int32_t i = 0; i < from->n_pages; i++) kv_ref(kv, from->pages[i]);
    holding_put(idle, to, from->pages, from->n_pages, from->n_tokens);
}

int holding_reclaim(struct idle_list *idle, struct kv_pool *kv)
{
    struct holding *h = idle->oldest;
    if (!h) return 0;
    holding_rewind(idle, kv, h, (h->n_pages - 1) * kv->page_size);
    return 1;
}
