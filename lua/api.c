#include "api.h"

#include "api_graph.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>

const char *api_status_name(llm_status status)
{
    switch (status) {
#define X(name, value, text)                                                                                 \
    case LLM_##name:                                                                                         \
        return #name;
        LLM_STATUS_MAP(X)
#undef X
    }
    return "EFAILED";
}

int api_fail(lua_State *L, const struct llm_error *err)
{
    lua_pushnil(L);
    lua_pushstring(L, err->message[0] ? err->message : llm_status_text(err->status));
    lua_pushstring(L, api_status_name(err->status));
    return 3;
}

/* A whole number in [min, max] at the top of the stack. Doubles hold whole numbers exactly up to 2^53. */
static llm_status read_whole(lua_State *L, const char *name, double min, double max, double *out,
                             struct llm_error *err)
{
    if (lua_type(L, -1) != LUA_TNUMBER)
        return llm_fail(err, LLM_EINVAL, "%s must be a whole number; it is a %s", name, luaL_typename(L, -1));
    double v = lua_tonumber(L, -1);
    if (v != floor(v) || v < min || v > max)
        return llm_fail(err, LLM_EINVAL, "%s is %.14g; it must be a whole number between %.0f and %.0f", name,
                        v, min, max);
    *out = v;
    return LLM_OK;
}

static llm_status read_field(lua_State *L, const struct api_field *field, char *at, struct llm_error *err)
{
    double whole = 0;
    llm_status status = LLM_OK;
    switch (field->kind) {
    case API_STRING:
        if (lua_type(L, -1) != LUA_TSTRING)
            return llm_fail(err, LLM_EINVAL, "%s must be a string; it is a %s", field->name,
                            luaL_typename(L, -1));
        *(const char **)at = lua_tostring(L, -1);
        return LLM_OK;
    case API_BOOL:
        if (!lua_isboolean(L, -1))
            return llm_fail(err, LLM_EINVAL, "%s must be true or false; it is a %s", field->name,
                            luaL_typename(L, -1));
        *(int *)at = lua_toboolean(L, -1);
        return LLM_OK;
    case API_INT32:
        status = read_whole(L, field->name, INT32_MIN, INT32_MAX, &whole, err);
        if (status == LLM_OK) *(int32_t *)at = (int32_t)whole;
        return status;
    case API_UINT64:
        status = read_whole(L, field->name, 0, 0x1p53, &whole, err);
        if (status == LLM_OK) *(uint64_t *)at = (uint64_t)whole;
        return status;
    case API_FLOAT:
        if (lua_type(L, -1) != LUA_TNUMBER)
            return llm_fail(err, LLM_EINVAL, "%s must be a number; it is a %s", field->name,
                            luaL_typename(L, -1));
        *(float *)at = (float)lua_tonumber(L, -1);
        return LLM_OK;
    }
    return LLM_OK;
}

llm_status api_read_fields(lua_State *L, int index, const struct api_field *fields, size_t n, void *out,
                           struct llm_error *err)
{
    for (size_t i = 0; i < n; i++) {
        lua_getfield(L, index, fields[i].name);
        llm_status status = LLM_OK;
        if (!lua_isnil(L, -1)) status = read_field(L, &fields[i], (char *)out + fields[i].offset, err);
        lua_pop(L, 1);
        if (status != LLM_OK) return status;
    }
    return LLM_OK;
}

llm_status api_read_ids(lua_State *L, int index, const char *what, int32_t **ids, size_t *n,
                        struct llm_error *err)
{
    if (!lua_istable(L, index))
        return llm_fail(err, LLM_EINVAL, "%s must be a list of token ids; it is a %s", what,
                        luaL_typename(L, index));
    *n = lua_objlen(L, index);
    *ids = lua_newuserdata(L, (*n ? *n : 1) * sizeof **ids);
    for (size_t i = 0; i < *n; i++) {
        lua_rawgeti(L, index, (int)(i + 1));
        double v = lua_tonumber(L, -1);
        int good = lua_type(L, -1) == LUA_TNUMBER && v == floor(v) && v >= INT32_MIN && v <= INT32_MAX;
        (*ids)[i] = good ? (int32_t)v : 0;
        const char *type = luaL_typename(L, -1);
        lua_pop(L, 1);
        if (!good) {
            lua_pop(L, 1);
            return llm_fail(err, LLM_EINVAL, "%s[%zu] is %s; it must be a token id, a whole number", what,
                            i + 1, strcmp(type, "number") == 0 ? "not whole or out of range" : type);
        }
    }
    return LLM_OK;
}

void api_new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc)
{
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
    if (gc) {
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
}

/* require "llm.core". [-0, +1, m] */
int luaopen_llm_core(lua_State *L)
{
    lua_newtable(L);
    lua_pushstring(L, llm_version());
    lua_setfield(L, -2, "version");
    api_open_engine(L);
    api_open_graph(L);
    api_open_request(L);
    api_open_sequence(L);
    api_open_tokenizer(L);
    api_open_system(L);
    api_open_text(L);
    api_open_watch(L);
    api_open_policy(L);
    return 1;
}
