#define _GNU_SOURCE
/* Step 8 of 10. In: a token's text. Out: whether it ends the output, how much may be shown. Next: the client.
 */

#include "engine/stop.h"

#include <string.h>

size_t stop_window_bytes(size_t longest, size_t max_token_text)
{
    return longest + max_token_text;
}

char *stop_room(struct stop_matcher *m)
{
    size_t keep = m->longest - 1;
    if (m->n_window > keep) {
        memmove(m->window, m->window + m->n_window - keep, keep);
        m->n_window = keep;
    }
    return m->window + m->n_window;
}

int32_t stop_feed(struct stop_matcher *m, size_t bytes, int check, uint64_t *end)
{
    size_t old = m->n_window;
    m->n_window += bytes;
    m->total += bytes;
    if (!check) return -1;
    int32_t found = -1;
    size_t found_at = 0;
    for (size_t i = 0; i < m->n; i++) {
        size_t n = m->bytes[i];
        /* Only matches that end in the new text: earlier ones were looked for, or did not count. */
        size_t from = old + 1 > n ? old + 1 - n : 0;
        if (m->n_window < from + n) continue;
        const char *at = memmem(m->window + from, m->n_window - from, m->strings[i], n);
        if (!at) continue;
        size_t where = (size_t)(at - m->window);
        if (found >= 0 && where >= found_at) continue;
        found = (int32_t)i;
        found_at = where;
    }
    if (found >= 0) *end = m->total - m->n_window + found_at + (m->include ? m->bytes[found] : 0);
    return found;
}

/* Length of the longest suffix of the window that begins stop string i and is not all of it. */
static size_t begun(const struct stop_matcher *m, size_t i)
{
    size_t k = m->bytes[i] - 1;
    if (k > m->n_window) k = m->n_window;
    for (; k > 0; k--)
        if (!memcmp(m->window + m->n_window - k, m->strings[i], k)) return k;
    return 0;
}

uint64_t stop_safe(const struct stop_matcher *m)
{
    size_t held = 0;
    for (size_t i = 0; i < m->n && !m->include; i++) {
        size_t k = begun(m, i);
        if (k > held) held = k;
    }
    return m->total - held;
}
