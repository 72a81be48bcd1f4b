#ifndef LLM_LUA_INTERRUPT_H
#define LLM_LUA_INTERRUPT_H

/* Ctrl-C. The first one makes the running script raise an exit object (state.h) with code 130: at once if it
 * waits for the engine, at the next instruction if it runs Lua. With the system's LuaJIT compiled loops that
 * call nothing do not look (watchdog.h); the second Ctrl-C ends the process. */

#include <lua.h>

/* From now on SIGINT interrupts L, which must be a main state. */
void interrupt_install(lua_State *L);
/* Before the state is closed. */
void interrupt_remove(void);
/* Raises the exit object if Ctrl-C was pressed since the last time. [-0, +0, e] */
void interrupt_check(lua_State *L);
/* For who has taken a hook out of L: puts back the one of a Ctrl-C that has not been seen to yet. */
void interrupt_rearm(lua_State *L);
/* Was Ctrl-C pressed since the last time? Forgets it, and is ready for the next. For the REPL, where it ends
 * a line and not the session. */
int interrupt_take(void);

#endif
