#ifndef LLM_ENGINE_CLIENT_H
#define LLM_ENGINE_CLIENT_H

/* What a client is to the files that make it up: client.c (requests and events), client_sequence.c. */

#include "engine/handle.h"

struct llm_client {
    struct llm_engine *engine;
    struct mailbox box;
    struct mail *letters; /* taken from the box, oldest first; outputs with news */
    struct llm_request *requests;
    struct llm_sequence *sequences;
};

#endif
