/* llm.core: what is slow in Lua when JSON is read: looking at each byte of a long string, each number of a
 * long list. These take the plain cases; on anything else they answer nothing, and the reader in Lua
 * (llm/jinja/json.lua), which they agree with, goes on from where it was and says what is wrong. */

#include "api.h"
#include "model/utf8.h"

#include <lauxlib.h>
#include <string.h>

/* core.is_utf8(text) -> boolean. [-0, +1, e] */
static int is_utf8(lua_State *L)
{
    size_t n;
    const char *s = luaL_checklstring(L, 1, &n);
    lua_pushboolean(L, utf8_valid(s, n));
    return 1;
}

/* Bytes before the first one from s on that is a quote, a backslash or a control character. */
static size_t plain_bytes(const char *s, const char *end)
{
    const char *p = s;
    while (p < end && (unsigned char)*p >= ' ' && *p != '"' && *p != '\\') p++;
    return (size_t)(p - s);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The value of \u and four hex digits at s; -1: it is none. */
static int32_t read_unit(const char *s, const char *end)
{
    int32_t v = 0;
    if (end - s < 6 || s[0] != '\\' || s[1] != 'u') return -1;
    for (int i = 2; i < 6; i++) {
        int digit = hex_digit(s[i]);
        if (digit < 0) return -1;
        v = v << 4 | digit;
    }
    return v;
}

/* The character of an escape at s, with its low surrogate if it has one; a lone surrogate is U+FFFD. Returns
 * the escape's bytes, 0: it is malformed. */
static size_t read_escape(const char *s, const char *end, uint32_t *cp)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    const char *name = end - s >= 2 && s[1] ? strchr(names, s[1]) : NULL;
    if (name) {
        *cp = (uint32_t)(unsigned char)values[name - names];
        return 2;
    }
    int32_t high = read_unit(s, end);
    if (high < 0) return 0;
    *cp = (uint32_t)high;
    if (high < 0xD800 || high >= 0xE000) return 6;
    int32_t low = high < 0xDC00 ? read_unit(s + 6, end) : -1;
    if (low < 0xDC00 || low >= 0xE000) {
        *cp = 0xFFFD;
        return 6;
    }
    *cp = 0x10000 + ((uint32_t)(high - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
    return 12;
}

/* core.json_string(text, at) -> string, next position | nothing: the string whose opening quote is at `at`.
 * [-0, +0|2, e] */
static int json_string(lua_State *L)
{
    size_t n;
    const char *s = luaL_checklstring(L, 1, &n), *end = s + n;
    lua_Integer at = luaL_checkinteger(L, 2);
    luaL_argcheck(L, at >= 1 && (size_t)at <= n, 2, "no position in the text");
    const char *p = s + at;
    size_t plain = plain_bytes(p, end);
    if (p + plain < end && p[plain] == '"') { /* no escape: no copy but Lua's own */
        lua_pushlstring(L, p, plain);
        lua_pushinteger(L, (lua_Integer)(p + plain + 1 - s) + 1);
        return 2;
    }
    luaL_Buffer out;
    luaL_buffinit(L, &out);
    for (;;) {
        luaL_addlstring(&out, p, plain);
        p += plain;
        if (p == end || (*p != '"' && *p != '\\')) return 0;
        if (*p == '"') break;
        uint32_t cp;
        char utf8[4];
        size_t escape = read_escape(p, end, &cp);
        if (!escape) return 0;
        luaL_addlstring(&out, utf8, utf8_put(cp, utf8));
        p += escape;
        plain = plain_bytes(p, end);
    }
    luaL_pushresult(&out);
    lua_pushinteger(L, (lua_Integer)(p + 1 - s) + 1);
    return 2;
}

static const char *skip_space(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

/* core.json_integers(text, at) -> list, its length, next position | nothing: the array whose bracket is at
 * `at`, if it has nothing but whole numbers from 0 to 10^15 - 1. [-0, +0|3, e] */
static int json_integers(lua_State *L)
{
    size_t bytes;
    const char *s = luaL_checklstring(L, 1, &bytes), *end = s + bytes;
    lua_Integer at = luaL_checkinteger(L, 2);
    luaL_argcheck(L, at >= 1 && (size_t)at <= bytes, 2, "no position in the text");
    const char *p = skip_space(s + at, end);
    if (p == end || *p < '0' || *p > '9') return 0;
    lua_newtable(L);
    for (int n = 1;; n++) {
        int64_t v = 0;
        const char *begin = p;
        while (p < end && *p >= '0' && *p <= '9' && p - begin < 16) v = v * 10 + (*p++ - '0');
        if (p == begin || p - begin > 15 || (*begin == '0' && p - begin > 1)) return 0;
        lua_pushnumber(L, (double)v);
        lua_rawseti(L, -2, n);
        p = skip_space(p, end);
        if (p == end || (*p != ',' && *p != ']')) return 0;
        if (*p == ']') {
            lua_pushinteger(L, n);
            lua_pushinteger(L, (lua_Integer)(p + 1 - s) + 1);
            return 3;
        }
        p = skip_space(p + 1, end);
    }
}

void api_open_text(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"is_utf8", is_utf8}, {"json_string", json_string}, {"json_integers", json_integers}, {NULL, NULL}};
    luaL_register(L, NULL, functions);
}
