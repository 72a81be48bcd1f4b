/* llm.core: tokenizers, an engine's or one opened by itself. */

#include "api.h"

#include <lauxlib.h>
#include <string.h>

static const struct llm_tokenizer *check_tokenizer(lua_State *L, int arg)
{
    struct api_tokenizer *t = luaL_checkudata(L, arg, API_TOKENIZER);
    if (t->owned) return t->owned;
    if (t->borrowed) return t->borrowed;
    if (!t->engine) luaL_error(L, "the tokenizer is closed");
    if (!t->engine->engine) luaL_error(L, "the engine of this tokenizer is closed");
    return llm_engine_tokenizer(t->engine->engine);
}

static struct api_tokenizer *new_tokenizer(lua_State *L)
{
    struct api_tokenizer *t = lua_newuserdata(L, sizeof *t);
    memset(t, 0, sizeof *t);
    luaL_getmetatable(L, API_TOKENIZER);
    lua_setmetatable(L, -2);
    return t;
}

void api_push_tokenizer(lua_State *L, const struct llm_tokenizer *tokenizer)
{
    new_tokenizer(L)->borrowed = tokenizer;
}

/* core.tokenizer(path) -> tokenizer | nil, message, code. [-0, +1|3, e] */
static int tokenizer_open(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct api_tokenizer *t = new_tokenizer(L);
    struct llm_error err = {LLM_OK, ""};
    if (llm_tokenizer_open(path, &t->owned, &err) != LLM_OK) return api_fail(L, &err);
    return 1;
}

/* engine:tokenizer() -> tokenizer, or nil if the engine has none. [-0, +1, e] */
static int engine_tokenizer(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    if (!llm_engine_tokenizer(e->engine)) return 0;
    new_tokenizer(L)->engine = e;
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    return 1;
}

/* tokenizer:close(); harmless twice, and nothing to an engine's. [-0, +0, e] */
static int tokenizer_close(lua_State *L)
{
    struct api_tokenizer *t = luaL_checkudata(L, 1, API_TOKENIZER);
    llm_tokenizer_close(t->owned);
    t->owned = NULL;
    t->engine = NULL;
    t->borrowed = NULL;
    return 0;
}

/* tokenizer:encode(text, add_special, parse_special) -> list of ids | nil, message, code. [-0, +1|3, e] */
static int tokenizer_encode(lua_State *L)
{
    const struct llm_tokenizer *t = check_tokenizer(L, 1);
    size_t bytes = 0, n = 0, capacity = 0;
    const char *text = luaL_checklstring(L, 2, &bytes);
    int add_special = lua_toboolean(L, 3), parse_special = lua_toboolean(L, 4);
    struct llm_error err = {LLM_OK, ""};
    int32_t *ids = NULL;
    /* A token stands for a byte or more, but for a few that are added: the first try is nearly always enough.
     */
    for (n = bytes + 8; n > capacity;) {
        capacity = n;
        ids = lua_newuserdata(L, capacity * sizeof *ids);
        if (llm_tokenize(t, text, bytes, add_special, parse_special, ids, capacity, &n, &err) != LLM_OK)
            return api_fail(L, &err);
    }
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (int)(i + 1));
    }
    return 1;
}

/* Text of ids, pushed. LLM_OK, or an error with nothing of use pushed. [-0, +?, m] */
static llm_status push_text(lua_State *L, const struct llm_tokenizer *t, const int32_t *ids, size_t n,
                            int skip_special, struct llm_error *err)
{
    size_t bytes = n * 8 + 64, capacity = 0;
    char *text = NULL;
    while (bytes > capacity) {
        capacity = bytes;
        text = lua_newuserdata(L, capacity);
        llm_status status = llm_detokenize(t, ids, n, skip_special, text, capacity, &bytes, err);
        if (status != LLM_OK) return status;
    }
    lua_pushlstring(L, text, bytes);
    return LLM_OK;
}

/* tokenizer:decode(ids, skip_special) -> text | nil, message, code. [-0, +1|3, e] */
static int tokenizer_decode(lua_State *L)
{
    const struct llm_tokenizer *t = check_tokenizer(L, 1);
    int32_t *ids = NULL;
    size_t n = 0;
    struct llm_error err = {LLM_OK, ""};
    int skip_special = lua_toboolean(L, 3);
    if (api_read_ids(L, 2, "ids", &ids, &n, &err) != LLM_OK) return api_fail(L, &err);
    if (push_text(L, t, ids, n, skip_special, &err) != LLM_OK) return api_fail(L, &err);
    return 1;
}

/* Decoding a token by itself drops the leading space that SentencePiece adds to a text, so it is decoded
 * twice in a row and what the second adds is taken. */
void api_push_token_text(lua_State *L, const struct llm_tokenizer *tokenizer, int32_t id)
{
    enum { ROOM = 1024 };
    char once[ROOM], twice[ROOM];
    const int32_t ids[2] = {id, id};
    size_t n_once = 0, n_twice = 0;
    if (llm_detokenize(tokenizer, ids, 1, 0, once, ROOM, &n_once, NULL) != LLM_OK || n_once > ROOM ||
        llm_detokenize(tokenizer, ids, 2, 0, twice, ROOM, &n_twice, NULL) != LLM_OK || n_twice > ROOM ||
        n_twice < n_once) {
        lua_pushliteral(L, "");
        return;
    }
    lua_pushlstring(L, twice + n_once, n_twice - n_once);
}

/* tokenizer:token_text(id) -> its text as it reads inside a text | nil, message, code. [-0, +1|3, e] */
static int tokenizer_token_text(lua_State *L)
{
    const struct llm_tokenizer *t = check_tokenizer(L, 1);
    lua_Number id = luaL_checknumber(L, 2);
    struct llm_tokenizer_info info;
    llm_tokenizer_info(t, &info);
    if (!(id >= 0 && id < info.vocab_size)) {
        struct llm_error err = {LLM_OK, ""};
        llm_fail(&err, LLM_EINVAL, "token %.14g; the tokenizer's tokens are 0 to %d", id,
                 info.vocab_size - 1);
        return api_fail(L, &err);
    }
    api_push_token_text(L, t, (int32_t)id);
    return 1;
}

/* tokenizer:token_bytes(id) -> its bytes; nil for control tokens and ids out of range. [-0, +1, e] */
static int tokenizer_token_bytes(lua_State *L)
{
    const struct llm_tokenizer *t = check_tokenizer(L, 1);
    lua_Integer id = luaL_checkinteger(L, 2);
    size_t bytes = 0;
    const char *s = id >= 0 && id <= INT32_MAX ? llm_token_bytes(t, (int32_t)id, &bytes) : NULL;
    if (!bytes || llm_token_is_special(t, (int32_t)id)) return 0;
    lua_pushlstring(L, s, bytes);
    return 1;
}

/* tokenizer:end_tokens() -> list of ids. [-0, +1, e] */
static int tokenizer_end_tokens_list(lua_State *L)
{
    int32_t n = 0;
    const int32_t *ids = llm_end_tokens(check_tokenizer(L, 1), &n);
    lua_createtable(L, n, 0);
    for (int32_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* tokenizer:info() -> {vocab_size, bos, eos, chat_template}; what there is none of is nil. [-0, +1, e] */
static int tokenizer_info(lua_State *L)
{
    struct llm_tokenizer_info info;
    llm_tokenizer_info(check_tokenizer(L, 1), &info);
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, info.vocab_size);
    lua_setfield(L, -2, "vocab_size");
    if (info.bos >= 0) {
        lua_pushinteger(L, info.bos);
        lua_setfield(L, -2, "bos");
    }
    if (info.eos >= 0) {
        lua_pushinteger(L, info.eos);
        lua_setfield(L, -2, "eos");
    }
    lua_pushstring(L, info.chat_template); /* null: nil */
    lua_setfield(L, -2, "chat_template");
    return 1;
}

void api_open_tokenizer(lua_State *L)
{
    static const luaL_Reg methods[] = {{"encode", tokenizer_encode},
                                       {"decode", tokenizer_decode},
                                       {"info", tokenizer_info},
                                       {"token_text", tokenizer_token_text},
                                       {"token_bytes", tokenizer_token_bytes},
                                       {"end_tokens", tokenizer_end_tokens_list},
                                       {"close", tokenizer_close},
                                       {NULL, NULL}};
    api_new_type(L, API_TOKENIZER, methods, tokenizer_close);
    luaL_getmetatable(L, API_ENGINE);
    lua_getfield(L, -1, "__index");
    lua_pushcfunction(L, engine_tokenizer);
    lua_setfield(L, -2, "tokenizer");
    lua_pop(L, 2);
    lua_pushcfunction(L, tokenizer_open);
    lua_setfield(L, -2, "tokenizer");
}
