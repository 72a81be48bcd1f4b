#ifndef LLM_BASE_QUOTE_H
#define LLM_BASE_QUOTE_H

/* Names found in files, made fit for an error message: one line, printable, of bounded length. */

#include <stddef.h>

struct quoted {
    char text[96]; /* NUL-terminated */
};

/* Puts `bytes` bytes of s in double quotes into *out, cut with "..." where they are too long; bytes that are
 * not printable ASCII become \xNN. Returns out->text. */
const char *quote_bytes(struct quoted *out, const char *s, size_t bytes);
/* The same for a NUL-terminated string. */
const char *quote_text(struct quoted *out, const char *s);

#endif
