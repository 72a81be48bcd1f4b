#include "model/utf8.h"

#include <string.h>

size_t utf8_scan(const uint8_t *s, size_t n, uint32_t *cp)
{
    uint8_t b = s[0];
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    if (b < 0xc2 || b > 0xf4) {
        *cp = 1;
        return 0;
    }
    size_t length = utf8_lead_length(b);
    /* the second byte's range excludes overlong forms, surrogates and values above U+10FFFF */
    uint8_t low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80;
    uint8_t high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
    uint32_t value = b & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if (i >= n) {
            *cp = 0;
            return 0;
        }
        if (s[i] < low || s[i] > high) {
            *cp = (uint32_t)i;
            return 0;
        }
        value = value << 6 | (s[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *cp = value;
    return length;
}

int utf8_valid(const char *text, size_t n)
{
    const uint8_t *s = (const uint8_t *)text;
    uint32_t cp;
    size_t i = 0;
    while (i < n) {
        uint64_t word;
        if (i + 8 <= n) {
            memcpy(&word, s + i, 8);
            if (!(word & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        size_t length = utf8_scan(s + i, n - i, &cp);
        if (!length) return 0;
        i += length;
    }
    return 1;
}

size_t utf8_put(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

size_t utf8_lenient(const uint8_t *s, size_t n, uint32_t *cp)
{
    uint8_t b = s[0];
    *cp = 0xfffd;
    if (b < 0x80) {
        *cp = b;
        return 1;
    }
    if (b < 0xc0 || b > 0xf7) return 1;
    size_t length = utf8_lead_length(b);
    if (length > n) return 1;
    uint32_t value = b & (0xffu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((s[i] & 0xc0) != 0x80) return 1;
        value = value << 6 | (s[i] & 0x3f);
    }
    if (value > 0x10ffff) return 1;
    *cp = value;
    return length;
}
