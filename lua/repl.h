#ifndef LLM_LUA_REPL_H
#define LLM_LUA_REPL_H

/* The interactive prompt. The loop is lua/llm/repl.lua; the module llm.line here gives it line editing,
 * history and completion (libedit). */

#include <lua.h>

/* Runs until the end of input. Returns the process's exit code. [-0, +0, -] */
int repl_run(lua_State *L);

#endif
