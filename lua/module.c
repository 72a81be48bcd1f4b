/* require "llm" in a LuaJIT interpreter that is not ours: llm.so, whose lua_ functions are the interpreter's.
 */

#include "embed.h"
#include "state.h"

#include <lauxlib.h>
#include <string.h>

int luaopen_llm(lua_State *L);

/* [-0, +1, e] */
int luaopen_llm(lua_State *L)
{
    lua_getglobal(L, "jit");
    if (!lua_istable(L, -1)) return luaL_error(L, "llm needs LuaJIT; this is another Lua");
    state_install(L);
    const struct embedded_file *f = state_embedded_file("lua/llm/init.lua");
    if (luaL_loadbuffer(L, f->data, f->size, "@lua/llm/init.lua") != 0) return lua_error(L);
    lua_pushliteral(L, "llm");
    lua_call(L, 1, 1);
    return 1;
}
