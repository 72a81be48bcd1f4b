#include "base/quote.h"

#include <string.h>

const char *quote_bytes(struct quoted *out, const char *s, size_t bytes)
{
    static const char hex[] = "0123456789abcdef";
    static const char tail[] = "...\"";
    char *w = out->text, *end = out->text + sizeof out->text - sizeof tail;
    *w++ = '"';
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)s[i];
        int plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
        if (w + (plain ? 1 : 4) > end) {
            memcpy(w, tail, sizeof tail);
            return out->text;
        }
        if (plain) {
            *w++ = (char)c;
        } else {
            *w++ = '\\';
            *w++ = 'x';
            *w++ = hex[c >> 4];
            *w++ = hex[c & 15];
        }
    }
    memcpy(w, "\"", 2);
    return out->text;
}

const char *quote_text(struct quoted *out, const char *s)
{
    return quote_bytes(out, s, strlen(s));
}
