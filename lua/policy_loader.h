#ifndef LLM_LUA_POLICY_LOADER_H
#define LLM_LUA_POLICY_LOADER_H

/* Loading policies and schedulers: their Lua runs, their self-test, their graph is compiled for the GPU there
 * is, they serve. That takes up to the load's limit and two seconds more, which a script may wait and an
 * event loop must not: hence a thread that does it beside the loop, one load after the other, in the order in
 * which they were asked for.
 *
 * A loader belongs to one engine of one Lua state and is used by that state's thread. */

#include "base/mailbox.h"
#include "policy_host.h"

/* One load: what is asked for, and what came of it. */
struct policy_load {
    struct mail mail; /* first */
    uint64_t asked;   /* llm_policy_ask, and the load's number; 0: it was not asked for before it is run */
    struct policy_limits limits;
    struct llm_error err; /* status LLM_OK: it is loaded */
    char name[64];        /* then its name */
    int32_t generation;   /* 0: it is a scheduler */
    char details[4096];   /* of a failure of the script: its traceback; else "" */
    size_t bytes;
    const char *chunk_name, *text; /* [bytes]; as for luaL_loadbuffer */
};

/* Does it, and fills in what came of it, all of which was 0. Any thread. */
void policy_load_run(struct policy_load *load, struct llm_engine *engine);

struct policy_loader;

/* The engine must outlive it. Errors: LLM_ENOMEM, LLM_EIO. */
llm_status policy_loader_open(struct llm_engine *engine, struct policy_loader **out, struct llm_error *err);
/* Waits for the end of the load under way; those that have not begun are dropped. Null is accepted. */
void policy_loader_close(struct policy_loader *loader);

/* Copies what is asked for. *number, never 0, is that of the load that will come back from
 * policy_loader_take, whatever comes of it. Errors: LLM_ENOMEM. */
llm_status policy_loader_ask(struct policy_loader *loader, const struct policy_load *load, uint64_t *number,
                             struct llm_error *err);
/* The next that is done, valid until the next call; null: none is. */
const struct policy_load *policy_loader_take(struct policy_loader *loader);
/* Readable when one has been done. */
int policy_loader_fd(const struct policy_loader *loader);

#endif
