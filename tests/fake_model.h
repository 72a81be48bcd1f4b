#ifndef FAKE_MODEL_H
#define FAKE_MODEL_H

/* A model for tests of the engine: its KV memory holds token ids, and its logits are a function of the tokens
 * that it finds through the page tables. A wrong page, slot, position or copy gives other tokens. */

#include "engine/engine.h"

#include <semaphore.h>

struct fake_model {
    int32_t vocab_size, page_size, n_pages, max_tokens;
    int32_t *slots;     /* [n_pages * page_size] tokens, -1: never written */
    uint64_t *state;    /* [max_tokens] hash of a row's sequence up to it */
    int32_t fail_after; /* forward fails after so many calls; -1: never */
    _Atomic int32_t n_forward;
    _Atomic int gated; /* 1: each forward waits for a post on `gate` */
    sem_t gate;
};

struct fake_model *fake_model_new(int32_t vocab_size, int32_t page_size, int32_t n_pages, int32_t max_tokens);
/* The table for engine_start, which takes the model. */
struct engine_model fake_model_table(struct fake_model *m);

/* Logits after these tokens: what an engine over this model must have seen. */
void fake_logits(const int32_t *tokens, int32_t n, int32_t vocab_size, float *out);

#endif
