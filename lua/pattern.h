#ifndef LLM_LUA_PATTERN_H
#define LLM_LUA_PATTERN_H

/* Lua's patterns for scripts that are not trusted. The library's own matcher backtracks without end ("a-"
 * fifty times over is minutes) and no hook reaches it; this one counts its steps and raises past a bound,
 * which is under a millisecond. The language is that of Lua 5.1's manual, with %g and frontiers. */

#include <lua.h>

enum { PATTERN_MAX_STEPS = 100000, PATTERN_MAX_DEPTH = 200, PATTERN_MAX_CAPTURES = 32 };

/* match(s, pattern, init, once) -> first, last, captures… of the leftmost match from byte `init` (1 …) on,
 * nil if there is none. once: only a match that begins there. A position capture is a number. Raises what is
 * wrong with a malformed pattern, or that it is too complex. [-0, +n, e] */
int pattern_match(lua_State *L);

/* find(s, text, init) -> first, last of text in s from byte `init` on, nil if it is not there; in linear
 * time, which LuaJIT's own is not. [-0, +n, e] */
int pattern_find(lua_State *L);

#endif
