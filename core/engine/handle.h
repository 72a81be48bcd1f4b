#ifndef LLM_ENGINE_HANDLE_H
#define LLM_ENGINE_HANDLE_H

/* The two halves of a llm_sequence. Its tokens are the client's: struct llm_sequence, touched on the client's
 * thread alone. Its pages are the engine's: struct handle, made by the client, then touched on the engine's
 * thread alone, and freed there when the client has sent its farewell.
 *
 * A request on a sequence carries a copy of its tokens, and how many of them are as the engine last heard
 * (`n_agreed`): the client may have rewound since. So nothing needs an answer, and rewinding is a number. A
 * fork's letter carries the same number for its parent. As a mailbox keeps the order of letters, the engine
 * sees what a client did in the order in which it did it. */

#include "engine/engine.h"

struct handle {
    struct holding holding;
    struct llm_request *borrower; /* has the holding until it ends; null: none */

    struct handle *parent; /* of a fork; for its arrival */
    int32_t n_agreed;      /* of the parent's tokens */
    struct letter arrival, departure;
};

struct llm_sequence {
    struct llm_client *client;
    struct llm_sequence *next, *previous; /* of the client */
    struct handle *handle;
    struct llm_request *request; /* that extends it now; null: none */
    int32_t *tokens;
    int32_t n_tokens, capacity;
    int32_t n_agreed;
};

/* ---- the engine's thread ------------------------------------------------------------------------------- */

/* A request on a sequence has come: its first output gets what the handle has. */
void handle_lend(struct llm_engine *e, struct llm_request *r);
/* LETTER_FORK, LETTER_DEPARTURE. */
void handle_arrive(struct llm_engine *e, struct handle *h);
void handle_depart(struct llm_engine *e, struct handle *h);

/* ---- the client's thread ------------------------------------------------------------------------------- */

/* Before a request is made of it. Errors: LLM_EINVAL: it is another client's, or in use. */
llm_status sequence_check(const struct llm_sequence *s, const struct llm_client *c, struct llm_error *err);
/* The request is made, and about to be submitted: it extends the sequence from here on. Errors: LLM_ENOMEM,
 * with nothing changed. */
llm_status sequence_begin(struct llm_sequence *s, struct llm_request *r, struct llm_error *err);
/* Makes room for the tokens of an event that is about to be taken; 0: no memory. */
int sequence_make_room(const struct llm_request *r, int32_t n_output);
/* An event says that the output has n_output tokens; text_end, of the last event: how much of its text counts
 * (request.h). */
void sequence_take(struct llm_request *r, int32_t n_output, int final, uint64_t text_end);
/* The client has let go of a request that may still run: what its events said is what stays. */
void sequence_abandon(struct llm_request *r);

#endif
