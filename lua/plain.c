#include "plain.h"

#include "base/mem.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

/* A value is a tag and: nothing; a double; a length and bytes; the number of pairs and these. */
enum tag { TAG_NIL, TAG_FALSE, TAG_TRUE, TAG_NUMBER, TAG_STRING, TAG_TABLE };

static llm_status append(struct plain *out, const void *data, size_t n, struct llm_error *err)
{
    if (n > out->max_bytes - out->used)
        return llm_fail(err, LLM_EINVAL, "too much data: more than %zu bytes", out->max_bytes);
    if (out->used + n > out->room) {
        size_t room = 2 * (out->used + n) + 256;
        char *more = mem_grow(out->data, room, 1);
        if (!more) return llm_fail(err, LLM_ENOMEM, "not enough memory");
        out->data = more;
        out->room = room;
    }
    memcpy(out->data + out->used, data, n);
    out->used += n;
    return LLM_OK;
}

static llm_status append_tag(struct plain *out, enum tag tag, struct llm_error *err)
{
    char byte = (char)tag;
    return append(out, &byte, 1, err);
}

static llm_status write_string(struct plain *out, lua_State *L, int index, struct llm_error *err)
{
    size_t n;
    const char *s = lua_tolstring(L, index, &n);
    uint32_t length = (uint32_t)n;
    if (n > UINT32_MAX) return llm_fail(err, LLM_EINVAL, "too much data: a string of %zu bytes", n);
    llm_status status = append_tag(out, TAG_STRING, err);
    if (status == LLM_OK) status = append(out, &length, sizeof length, err);
    return status == LLM_OK ? append(out, s, n, err) : status;
}

static llm_status write_value(struct plain *out, lua_State *L, int index, int depth, struct llm_error *err);

static llm_status write_table(struct plain *out, lua_State *L, int index, int depth, struct llm_error *err)
{
    if (depth >= PLAIN_MAX_DEPTH)
        return llm_fail(err, LLM_EINVAL, "tables are nested more than %d deep, or in a circle",
                        PLAIN_MAX_DEPTH);
    if (!lua_checkstack(L, 3)) return llm_fail(err, LLM_ENOMEM, "not enough memory");
    uint32_t n = 0;
    llm_status status = append_tag(out, TAG_TABLE, err);
    size_t count_at = out->used;
    if (status == LLM_OK) status = append(out, &n, sizeof n, err);
    int top = lua_gettop(L);
    lua_pushnil(L);
    while (status == LLM_OK && lua_next(L, index)) {
        int key = lua_type(L, top + 1);
        if (key != LUA_TSTRING && key != LUA_TNUMBER)
            status = llm_fail(err, LLM_EINVAL, "a key is a %s; only strings and numbers can be passed on",
                              lua_typename(L, key));
        if (status == LLM_OK) status = write_value(out, L, top + 1, depth + 1, err);
        if (status == LLM_OK) status = write_value(out, L, top + 2, depth + 1, err);
        lua_settop(L, top + 1);
        n++;
    }
    lua_settop(L, top);
    if (status == LLM_OK) memcpy(out->data + count_at, &n, sizeof n);
    return status;
}

/* index is absolute. */
static llm_status write_value(struct plain *out, lua_State *L, int index, int depth, struct llm_error *err)
{
    if (++out->n_values > PLAIN_MAX_VALUES)
        return llm_fail(err, LLM_EINVAL, "too much data: more than %d values", PLAIN_MAX_VALUES);
    double number;
    llm_status status;
    switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TNONE:
        return append_tag(out, TAG_NIL, err);
    case LUA_TBOOLEAN:
        return append_tag(out, lua_toboolean(L, index) ? TAG_TRUE : TAG_FALSE, err);
    case LUA_TNUMBER:
        number = lua_tonumber(L, index);
        status = append_tag(out, TAG_NUMBER, err);
        return status == LLM_OK ? append(out, &number, sizeof number, err) : status;
    case LUA_TSTRING:
        return write_string(out, L, index, err);
    case LUA_TTABLE:
        return write_table(out, L, index, depth, err);
    default:
        return llm_fail(err, LLM_EINVAL,
                        "a %s cannot be passed on; only nil, booleans, numbers, strings and tables",
                        lua_typename(L, lua_type(L, index)));
    }
}

llm_status plain_write(struct plain *out, lua_State *L, int index, struct llm_error *err)
{
    if (index < 0) index = lua_gettop(L) + 1 + index;
    return write_value(out, L, index, 0, err);
}

static void take(const char **at, void *out, size_t n)
{
    memcpy(out, *at, n);
    *at += n;
}

void plain_read(lua_State *L, const char **at)
{
    uint32_t n;
    double number;
    luaL_checkstack(L, 3, "too many values");
    switch ((enum tag)(unsigned char)*(*at)++) {
    case TAG_NIL:
        lua_pushnil(L);
        break;
    case TAG_FALSE:
    case TAG_TRUE:
        lua_pushboolean(L, (*at)[-1] == TAG_TRUE);
        break;
    case TAG_NUMBER:
        take(at, &number, sizeof number);
        lua_pushnumber(L, number);
        break;
    case TAG_STRING:
        take(at, &n, sizeof n);
        lua_pushlstring(L, *at, n);
        *at += n;
        break;
    case TAG_TABLE:
        take(at, &n, sizeof n);
        lua_newtable(L);
        for (uint32_t i = 0; i < n; i++) {
            plain_read(L, at);
            plain_read(L, at);
            lua_rawset(L, -3);
        }
        break;
    }
}

void plain_clear(struct plain *plain)
{
    plain->used = 0;
    plain->n_values = 0;
}

void plain_free(struct plain *plain)
{
    mem_free(plain->data);
    plain->data = NULL;
    plain->used = plain->room = 0;
}
