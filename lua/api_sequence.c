/* llm.core.sequence: texts whose K and V the engine keeps. The functions take the userdata; its methods are
 * written in Lua (lua/llm/sequence.lua), into the table llm.core.sequence.methods. */

#include "api.h"

#include <lauxlib.h>
#include <string.h>

void api_sequence_close(struct api_sequence *s)
{
    if (!s->sequence) return;
    llm_sequence_close(s->sequence);
    s->sequence = NULL;
    if (s->prev) {
        s->prev->next = s->next;
    } else {
        s->owner->sequences = s->next;
    }
    if (s->next) s->next->prev = s->prev;
    s->owner = NULL;
}

struct llm_sequence *api_check_sequence(lua_State *L, int arg)
{
    struct api_sequence *s = luaL_checkudata(L, arg, API_SEQUENCE);
    if (!s->sequence) luaL_error(L, "the sequence is closed");
    return s->sequence;
}

/* Pushes a closed one; `engine` is the index of the engine's userdata, which it keeps. [-0, +1, m] */
static struct api_sequence *push_new(lua_State *L, int engine)
{
    struct api_sequence *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    luaL_getmetatable(L, API_SEQUENCE);
    lua_setmetatable(L, -2);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, engine);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    return s;
}

static void enlist(struct api_sequence *s, struct api_engine *owner)
{
    s->owner = owner;
    s->next = owner->sequences;
    if (s->next) s->next->prev = s;
    owner->sequences = s;
}

/* sequence.open(engine) -> sequence | nil, message, code; an empty one. [-0, +1|3, e] */
static int sequence_open(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    struct llm_error err = {LLM_OK, ""};
    struct api_sequence *s = push_new(L, 1);
    if (llm_sequence_open(e->client, &s->sequence, &err) != LLM_OK) return api_fail(L, &err);
    enlist(s, e);
    return 1;
}

/* sequence.fork(sequence) -> sequence | nil, message, code. [-0, +1|3, e] */
static int sequence_fork(lua_State *L)
{
    struct llm_sequence *from = api_check_sequence(L, 1);
    struct api_engine *owner = ((struct api_sequence *)lua_touserdata(L, 1))->owner;
    struct llm_error err = {LLM_OK, ""};
    lua_settop(L, 1);
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, 1);
    struct api_sequence *s = push_new(L, 3);
    if (llm_sequence_fork(from, &s->sequence, &err) != LLM_OK) return api_fail(L, &err);
    enlist(s, owner);
    return 1;
}

/* sequence.append(sequence, ids) -> true | nil, message, code. [-0, +1|3, e] */
static int sequence_append(lua_State *L)
{
    struct llm_sequence *s = api_check_sequence(L, 1);
    struct llm_error err = {LLM_OK, ""};
    int32_t *ids = NULL;
    size_t n = 0;
    if (api_read_ids(L, 2, "tokens", &ids, &n, &err) != LLM_OK) return api_fail(L, &err);
    if (llm_sequence_append(s, ids, n, &err) != LLM_OK) return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* sequence.rewind(sequence, n_tokens) -> true | nil, message, code: keeps the first n_tokens. [-0, +1|3, e]
 */
static int sequence_rewind(lua_State *L)
{
    struct llm_sequence *s = api_check_sequence(L, 1);
    struct llm_error err = {LLM_OK, ""};
    lua_Number n = luaL_checknumber(L, 2);
    if (!(n >= 0 && n <= INT32_MAX)) return luaL_error(L, "a sequence cannot be rewound to %f", n);
    if (llm_sequence_rewind(s, (size_t)n, &err) != LLM_OK) return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* sequence.tokens(sequence, from) -> list of ids, from the token with this number (1: the first) on.
 * [-0, +1, e] */
static int sequence_tokens(lua_State *L)
{
    size_t n;
    const int32_t *ids = llm_sequence_tokens(api_check_sequence(L, 1), &n);
    lua_Integer from = luaL_optinteger(L, 2, 1);
    luaL_argcheck(L, from >= 1, 2, "must be 1 or more");
    size_t first = (size_t)from - 1;
    lua_createtable(L, first < n ? (int)(n - first) : 0, 0);
    for (size_t i = first; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (int)(i - first + 1));
    }
    return 1;
}

/* #sequence -> its tokens. [-0, +1, e] */
static int sequence_length(lua_State *L)
{
    size_t n;
    llm_sequence_tokens(api_check_sequence(L, 1), &n);
    lua_pushinteger(L, (lua_Integer)n);
    return 1;
}

/* sequence.close(sequence); harmless twice. [-0, +0, e] */
static int sequence_close(lua_State *L)
{
    api_sequence_close(luaL_checkudata(L, 1, API_SEQUENCE));
    return 0;
}

/* sequence.is_open(sequence) -> boolean. [-0, +1, e] */
static int sequence_is_open(lua_State *L)
{
    const struct api_sequence *s = luaL_checkudata(L, 1, API_SEQUENCE);
    lua_pushboolean(L, s->sequence != NULL);
    return 1;
}

void api_open_sequence(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {{"open", sequence_open},       {"fork", sequence_fork},
                                         {"append", sequence_append},   {"rewind", sequence_rewind},
                                         {"tokens", sequence_tokens},   {"close", sequence_close},
                                         {"is_open", sequence_is_open}, {NULL, NULL}};
    api_new_type(L, API_SEQUENCE, none, sequence_close);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    luaL_getmetatable(L, API_SEQUENCE);
    lua_pushcfunction(L, sequence_length);
    lua_setfield(L, -2, "__len");
    lua_getfield(L, -1, "__index");
    lua_setfield(L, -3, "methods");
    lua_setfield(L, -2, "metatable");
    lua_setfield(L, -2, "sequence");
}
