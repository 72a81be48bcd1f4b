#ifndef LLM_ENGINE_STOP_H
#define LLM_ENGINE_STOP_H

/* Stop strings, found in the running text of one sequence although tokens cut it anywhere. Tells how much of
 * the text may be shown: never a byte that could turn out to be the beginning of a stop string. If one token
 * completes several, the match that begins first counts, so that the text before it holds none. Offsets
 * count bytes from the start of the output's text. No allocation after the request is made. */

#include <stddef.h>
#include <stdint.h>

struct stop_matcher {
    const char *const *strings; /* none empty */
    const size_t *bytes;        /* of each */
    size_t n;
    size_t longest;
    int include;  /* 1: the stop string is part of the output */
    char *window; /* the text's end: longest - 1 bytes, and a token's text */
    size_t n_window;
    uint64_t total; /* bytes of text so far */
};

/* Bytes the window needs if a token's text has at most max_token_text. */
size_t stop_window_bytes(size_t longest, size_t max_token_text);

/* Where a token's text goes: at most max_token_text bytes; then stop_feed is told how many they are. */
char *stop_room(struct stop_matcher *m);
/* Takes the text put into stop_room. Returns the index of the stop string that now ends the output, whose
 * text then is *end bytes long; -1: none. check 0: nothing can stop the output yet. */
int32_t stop_feed(struct stop_matcher *m, size_t bytes, int check, uint64_t *end);
/* Bytes of the text that may be shown. */
uint64_t stop_safe(const struct stop_matcher *m);

#endif
