#ifndef LLM_LUA_POLICY_ARGS_H
#define LLM_LUA_POLICY_ARGS_H

/* The parameters of a Lua policy, known without its Lua state: what requests give is checked on the thread
 * that submits, while the state belongs to the engine's. */

#include "graph/graph.h"
#include "llmlua.h"

#include <lua.h>

struct policy_param {
    char *name;
    char kind;  /* of the default: 'n'umber, 'b'oolean, 's'tring, 't'able */
    int32_t at; /* in the graph's parameters; -1: not there */
};

struct policy_params {
    struct policy_param *list; /* by name */
    int32_t n;
    const struct graph *graph;         /* borrowed; null: none */
    struct graph_args *graph_defaults; /* with the defaults of tables; null without a graph */
};

/* Fills *out from the table {name = default} on top of the stack. Errors: LLM_EINVAL, LLM_ENOMEM. */
llm_status policy_params_read(lua_State *L, const struct graph *graph, int32_t vocab_size,
                              struct policy_params *out, struct llm_error *err);
void policy_params_deinit(struct policy_params *params);

/* Checks a JSON object (null: {}) against the parameters, makes what policy_args_push and the graph need.
 * Errors: LLM_EINVAL (the name, what it must be), LLM_ENOMEM. Any thread. */
llm_status policy_args_read(const struct policy_params *params, const char *json, size_t bytes,
                            struct llm_policy_args *out, struct llm_error *err);
void policy_args_free(struct llm_policy_args *args);

/* The table at `index` as the JSON object that policy_args_read takes, for the caller to free with free;
 * null: *why says what in it cannot be said so. [-0, +0, m] */
char *policy_args_write(lua_State *L, int index, const char **why);

/* Pushes what was given, by name; own: llm_policy_args.own. [-0, +1, m] */
void policy_args_push(lua_State *L, const void *own);

#endif
