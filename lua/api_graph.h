#ifndef LLM_LUA_API_GRAPH_H
#define LLM_LUA_API_GRAPH_H

/* Graphs in Lua: arguments from Lua values, for those that run graphs, and llm.core's graph, which runs one
 * on rows given as tables: for trying policies out, and their tests. */

#include "api.h"
#include "graph/graph.h"

/* Gives parameter `param` the Lua value at `index`: a number, true or false; a list of token ids; llm.graph's
 * pairs (fields ids and values, of equal length); llm.graph's automaton (fields class_of and next: int32 in
 * strings; n_states, n_classes). Errors: LLM_EINVAL (what it must be), LLM_ENOMEM. [-0, +0, m] */
llm_status api_graph_argument(lua_State *L, int index, struct graph_args *args, int32_t param,
                              struct llm_error *err);

void api_open_graph(lua_State *L);

#endif
