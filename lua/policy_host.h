#ifndef LLM_LUA_POLICY_HOST_H
#define LLM_LUA_POLICY_HOST_H

/* A policy written in Lua as the engine sees one (struct llm_policy, llmlua.h): a Lua state of its own in
 * which the file was run, and functions that call its hooks. The state is made, filled and tested on the
 * thread that loads, then belongs to the engine's thread, and to whoever gives up the last use to be closed.
 *
 * lua/llm/policy/state.lua is the other half, in the state. What both look at is in the structs here; the
 * Lua side declares them again and compares their sizes. */

#include "llmlua.h"

/* Views for hooks. Between hooks they are empty: n is -1. */
struct policy_row {
    float *data; /* [n] */
    int32_t n;
    int32_t from, to; /* what was changed: from to to - 1 at most */
};

struct policy_best {
    const struct llm_candidate *list; /* [n] */
    int32_t n;
};

/* One sequence; its memory is the Lua side's. */
struct policy_sequence {
    const struct llm_policy_run *run; /* an empty one after done */
    uint32_t n_draws;                 /* random numbers drawn for this position */
    int32_t drawn_at;
};

struct policy_limits {
    uint64_t load_ns;          /* for the file, its registration and its self-test */
    uint64_t soft_ns, hard_ns; /* a hook: logged beyond the first, ended beyond the second */
    size_t memory;             /* bytes of its Lua state */
};

/* Runs the file's text (chunk_name as for luaL_loadbuffer: "@file"), checks and tests what it registers: a
 * policy, or a scheduler, which fills *scheduler too; else its functions are null. *out has a name that lives
 * as long as the policy. After a failure of the script details [room] has its traceback. Errors: LLM_EINVAL
 * (the script's: file, line, what), LLM_ENOMEM. */
llm_status policy_host_load(struct llm_engine *engine, const char *chunk_name, const char *text, size_t bytes,
                            const struct policy_limits *limits, struct llm_policy *out,
                            struct llm_scheduler *scheduler, char *details, size_t room,
                            struct llm_error *err);

#endif
