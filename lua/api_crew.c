/* llm.crew: the threads of a server, each with a Lua state. lua/llm/workers.lua makes calls of its messages.
 */

#include "api.h"
#include "base/mem.h"
#include "crew.h"
#include "state.h"

#include <lauxlib.h>

/* The member whose state this is; null: there is no crew. */
static struct crew_member *self(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, CREW_MEMBER);
    struct crew_member *m = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return m;
}

static struct crew_member *check_self(lua_State *L)
{
    struct crew_member *m = self(L);
    if (!m) luaL_error(L, "there are no workers");
    return m;
}

/* crew.me() -> number of this state's member, how many there are: 1, 1 without a crew. [-0, +2, m] */
static int crew_me(lua_State *L)
{
    const struct crew_member *m = self(L);
    lua_pushinteger(L, m ? m->number : 1);
    lua_pushinteger(L, m ? m->crew->n : 1);
    return 2;
}

static const char **read_words(lua_State *L, int index, int *n)
{
    luaL_checktype(L, index, LUA_TTABLE);
    *n = (int)lua_objlen(L, index) + 1;
    const char **words = lua_newuserdata(L, (size_t)*n * sizeof *words);
    for (int i = 0; i < *n; i++) {
        lua_rawgeti(L, index, i);
        words[i] = luaL_checkstring(L, -1);
        lua_pop(L, 1); /* the table keeps it */
    }
    return words;
}

static struct crew_engine *read_engines(lua_State *L, int index, int *n)
{
    luaL_checktype(L, index, LUA_TTABLE);
    *n = (int)lua_objlen(L, index);
    struct crew_engine *engines = lua_newuserdata(L, (size_t)(*n + 1) * sizeof *engines);
    for (int i = 0; i < *n; i++) {
        lua_rawgeti(L, index, i + 1);
        lua_rawgeti(L, -1, 1);
        lua_rawgeti(L, -2, 2);
        engines[i].key = (char *)(uintptr_t)luaL_checkstring(L, -2);
        engines[i].engine = api_check_engine(L, lua_gettop(L))->engine;
        lua_pop(L, 3);
    }
    return engines;
}

/* crew.start(n, arg, engines, port) -> true | nil, message, code: n - 1 more threads run the script arg[0].
 * engines: a list of {key, handle}. [-0, +1|3, e] */
static int start(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    struct crew *crew;
    struct crew_plan plan = {.n = luaL_checkint(L, 1), .port = luaL_checkint(L, 4)};
    luaL_argcheck(L, plan.n >= 2 && plan.n <= CREW_MAX, 1, "workers are 2 to 64");
    if (self(L)) return luaL_error(L, "there are workers already");
    plan.words = read_words(L, 2, &plan.n_words);
    plan.engines = read_engines(L, 3, &plan.n_engines);
    if (crew_start(&plan, &crew, &err) != LLM_OK) return api_fail(L, &err);
    lua_pushlightuserdata(L, &crew->members[0]);
    lua_setfield(L, LUA_REGISTRYINDEX, CREW_MEMBER);
    lua_pushboolean(L, 1);
    return 1;
}

void api_end_crew(lua_State *L)
{
    struct crew_member *m = self(L);
    if (!m || m->number != 1) return;
    lua_pushnil(L);
    lua_setfield(L, LUA_REGISTRYINDEX, CREW_MEMBER);
    crew_stop(m->crew);
    crew_join(m->crew);
}

/* crew.finish(): member 1 stops the others and waits until they have ended. Harmless twice. [-0, +0, m] */
static int finish(lua_State *L)
{
    api_end_crew(L);
    return 0;
}

/* crew.ready(): this member serves. [-0, +0, m] */
static int ready(lua_State *L)
{
    struct crew_member *m = self(L);
    if (m) crew_ready(m);
    return 0;
}

/* crew.port() -> the port that all listen on. [-0, +1, e] */
static int port(lua_State *L)
{
    lua_pushinteger(L, check_self(L)->crew->port);
    return 1;
}

/* crew.engine(key) -> handle of the program's engine with a client of its own | nil, message, code.
 * [-0, +1|3, e] */
static int engine(lua_State *L)
{
    struct llm_engine *found = crew_find_engine(check_self(L)->crew, luaL_checkstring(L, 1));
    if (!found) return 0;
    return api_push_shared_engine(L, found);
}

/* crew.post(to, text). [-0, +0, e] */
static int post(lua_State *L)
{
    struct crew_member *m = check_self(L);
    size_t bytes;
    int to = luaL_checkint(L, 1);
    const char *text = luaL_checklstring(L, 2, &bytes);
    luaL_argcheck(L, to >= 1 && to <= m->crew->n, 1, "there is no such worker");
    if (crew_post(m, to, text, bytes) != LLM_OK) return luaL_error(L, "no memory for a message");
    return 0;
}

/* (message) in a protected call, as pushing its text may run out of memory. */
static int push_message(lua_State *L)
{
    const struct crew_message *message = lua_touserdata(L, 1);
    lua_pushinteger(L, message->from);
    lua_pushlstring(L, message->text, message->bytes);
    lua_pushinteger(L, message->ended);
    return 3;
}

/* crew.take() -> from, text, ended | nothing: the next message. from 0: member `ended` has ended, text is its
 * error, empty if there was none. [-0, +0|3, e] */
static int take(lua_State *L)
{
    struct crew_message *message = crew_take(check_self(L));
    if (!message) return 0;
    lua_pushcfunction(L, push_message);
    lua_pushlightuserdata(L, message);
    int status = lua_pcall(L, 1, 3, 0);
    mem_free(message);
    return status ? lua_error(L) : 3;
}

/* crew.fd() -> readable while messages wait. [-0, +1, e] */
static int fd(lua_State *L)
{
    lua_pushinteger(L, check_self(L)->box.fd);
    return 1;
}

int luaopen_llm_crew(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"me", crew_me},    {"start", start}, {"finish", finish}, {"ready", ready}, {"port", port},
        {"engine", engine}, {"post", post},   {"take", take},     {"fd", fd},       {NULL, NULL}};
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}
