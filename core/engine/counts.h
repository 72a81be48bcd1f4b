#ifndef LLM_ENGINE_COUNTS_H
#define LLM_ENGINE_COUNTS_H

/* How often each token occurs in one sequence, for the penalties: a hash table over a dense list, sized when
 * the request is made. A vocabulary-sized array a sequence would cost 0.5 MB each and a pass over it each
 * token. */

#include <stddef.h>
#include <stdint.h>

struct token_count {
    int32_t token;
    int32_t in_prompt; /* 0 or 1 */
    int32_t in_output; /* times */
};

struct token_counts {
    struct token_count *list;
    int32_t n;
    int32_t *slots; /* index in list + 1; 0: free */
    uint32_t mask;
};

/* Entries of `slots` for up to n distinct tokens. */
uint32_t counts_slots_for(int32_t n);
/* list: room for n; slots: counts_slots_for(n), zeroed. Both stay the caller's. */
void counts_init(struct token_counts *c, struct token_count *list, int32_t *slots, int32_t n);
void counts_add_prompt(struct token_counts *c, int32_t token);
void counts_add_output(struct token_counts *c, int32_t token);

#endif
