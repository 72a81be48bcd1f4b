#ifndef LLM_MODEL_UTF8_H
#define LLM_MODEL_UTF8_H

/* UTF-8 as the tokenizers need it: strict scanning by the rule of maximal subparts (Unicode 15, section 3.9,
 * table 3-7; Python's errors="replace"), and the lenient decoding that llama.cpp applies to its input. */

#include <stddef.h>
#include <stdint.h>

/* Length of a character by its first byte alone, 1 for what cannot begin one. */
static inline size_t utf8_lead_length(uint8_t b)
{
    return b < 0xc0 ? 1 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : 4;
}

/* Looks at the first character of s[0..n), n >= 1. Returns its length and sets *cp if it is whole and valid.
 * Otherwise returns 0, and *cp is the length of the maximal subpart there (1 to 3 bytes) if it can never
 * become valid, or 0 if it is cut off by the end and more bytes might complete it. */
size_t utf8_scan(const uint8_t *s, size_t n, uint32_t *cp);

/* 1 if all of s is valid UTF-8. */
int utf8_valid(const char *s, size_t n);

/* Writes cp < 0x200000 (surrogates too) as 1 to 4 bytes; returns how many. */
size_t utf8_put(uint32_t cp, char *out);

/* Decodes one character without looking at overlong forms or surrogates, as llama.cpp does; a byte that
 * begins none, or whose continuation bytes are missing, is U+FFFD of length 1. A value above U+10FFFF, on
 * which llama.cpp throws, is treated in the same way. Returns the length read. */
size_t utf8_lenient(const uint8_t *s, size_t n, uint32_t *cp);

/* White_Space of the Unicode character database: what \s means to Oniguruma and to llama.cpp. */
static inline int unicode_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xa0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f ||
           cp == 0x3000;
}

#endif
