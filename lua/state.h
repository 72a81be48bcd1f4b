#ifndef LLM_LUA_STATE_H
#define LLM_LUA_STATE_H

/* A Lua state as llmlua makes it: LuaJIT's standard libraries, the modules compiled into the binary (llm and
 * llm.*, see embed.h) and nothing else in the globals. One state belongs to one thread. */

#include <lua.h>
#include <stddef.h>

/* A new state, null if there is no memory. Close it with lua_close. */
lua_State *state_open(void);

/* Memory that a state may take: `used` of `most` bytes. */
struct state_memory {
    size_t most, used;
};

/* The same within a limit; memory outlives the state. What goes beyond raises "not enough memory". */
lua_State *state_open_within(struct state_memory *memory);

/* Makes the library's modules known to a state that has the standard libraries, ours or another program's,
 * and os.exit close it. Once a state. [-0, +0, m] */
void state_install(lua_State *L);

/* require(name) calls this function. [-0, +0, m] */
void state_preload(lua_State *L, const char *name, lua_CFunction open);

/* A message handler for lua_pcall: appends a traceback to a message. An exit object (see state_report) goes
 * through unchanged. [-1, +1, m] */
int state_traceback(lua_State *L);

/* Calls the function under n_args arguments on top of the stack, with tracebacks. n_results may be
 * LUA_MULTRET. Returns lua_pcall's status; on failure the error is on the stack instead of results.
 * [-(n_args + 1), +(n_results | 1), -] */
int state_call(lua_State *L, int n_args, int n_results);

/* Prints the error on top of the stack to stderr and returns the process's exit code: 1, or what an exit
 * object says. An exit object is a table with exit_code (an integer) and, if something is to be said,
 * message; llm.exit raises one to end a script, Ctrl-C another. They carry no traceback. [-1, +0, -] */
int state_report(lua_State *L);

/* Pushes the chunk of a script: a path, "-" (standard input), else the name of an embedded one. Returns
 * luaL_loadfile's status, with a message in place of the chunk. [-0, +1, m] */
int state_load_script(lua_State *L, const char *name);

/* Key in the registry: light userdata, the member of a crew (crew.h) that this state belongs to. */
#define CREW_MEMBER "llm.crew.member"

/* The embedded file of this path (embed.h), null if there is none. */
const struct embedded_file *state_embedded_file(const char *path);

#endif
