#include "model/tokenizer_impl.h"
#include "model/utf8.h"

#include <string.h>

/* Token bytes are joined and decoded as one stream, so what comes out does not depend on where tokens end.
 * Nothing is cleaned up (no removal of the space before a comma): transformers no longer does so by default,
 * and no increment could take a space back. */

static const char replacement[] = "\xef\xbf\xbd";

struct sink {
    char *out;
    size_t capacity, n; /* n: needed so far, also past capacity */
};

static void emit(struct sink *s, const void *data, size_t size)
{
    if (s->n + size <= s->capacity) memcpy(s->out + s->n, data, size);
    s->n += size;
}

void detokenizer_init(struct detokenizer *d, const struct tokenizer *tok, int skip_special)
{
    memset(d, 0, sizeof *d);
    d->tok = tok;
    d->skip_special = skip_special;
    d->at_start = 1;
}

/* Decodes n bytes; what may still become a character goes to held. */
static void decode(struct detokenizer *d, const uint8_t *s, size_t n, struct sink *sink)
{
    size_t plain = 0; /* start of the valid stretch not yet put out */
    for (size_t i = 0; i < n;) {
        uint32_t skip;
        size_t length = s[i] < 0x80 ? 1 : utf8_scan(s + i, n - i, &skip);
        if (length) {
            i += length;
            continue;
        }
        emit(sink, s + plain, i - plain);
        if (!skip) {
            d->n_held = (uint8_t)(n - i);
            memcpy(d->held, s + i, n - i);
            return;
        }
        emit(sink, replacement, 3);
        i += skip;
        plain = i;
    }
    emit(sink, s + plain, n - plain);
}

static void put_bytes(struct detokenizer *d, const uint8_t *s, size_t n, struct sink *sink)
{
    /* first settle what is held, with as few of the new bytes as that takes */
    while (d->n_held && n) {
        uint8_t joined[8];
        size_t n_joined = d->n_held;
        memcpy(joined, d->held, n_joined);
        joined[n_joined++] = *s++;
        n--;
        d->n_held = 0;
        decode(d, joined, n_joined, sink);
    }
    decode(d, s, n, sink);
}

size_t detokenizer_put(struct detokenizer *d, int32_t id, char *out, size_t capacity)
{
    size_t n;
    const uint8_t *s = (const uint8_t *)tokenizer_bytes(d->tok, id, &n);
    if (!n || (d->skip_special && tokenizer_is_special(d->tok, id))) return 0;
    struct detokenizer next = *d;
    struct sink sink = {out, capacity, 0};
    if (next.at_start && d->tok->strip_space && !tokenizer_is_special(d->tok, id) && *s == ' ') {
        s++;
        n--;
    }
    next.at_start = 0;
    put_bytes(&next, s, n, &sink);
    if (sink.n <= capacity) *d = next;
    return sink.n;
}

size_t detokenizer_finish(struct detokenizer *d, char *out, size_t capacity)
{
    /* all that is held is one maximal subpart */
    size_t needed = d->n_held ? 3 : 0;
    if (needed > capacity) return needed;
    memcpy(out, replacement, needed);
    d->n_held = 0;
    return needed;
}
