/* llm.net: the HTTP client. */

#include "api_net.h"

#include "api.h"
#include "net/http_client.h"

#include <lauxlib.h>
#include <string.h>

/* Userdata, kept alive until on_done or cancel. Its environment: 1 on_head, 2 on_data, 3 on_done, 4 TLS. */
struct api_fetch {
    struct api_loop *loop;
    struct http_call *call; /* null: over */
};

enum { ON_HEAD = 1, ON_DATA, ON_DONE, TLS };

/* What a callback is told: which of the fields, it knows. */
struct news {
    struct api_fetch *fetch;
    const struct http_response *response;
    struct net_str piece;
    const char *failure; /* null: none */
};

/* Pushes the function of a callback; 0: there is none. [-0, +0|1, m] */
static int push_function(lua_State *L, struct api_fetch *f, int which)
{
    api_push_kept(f->loop, L, f);
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, which);
    return lua_isfunction(L, -1);
}

static int call_on_head(lua_State *L)
{
    const struct news *news = lua_touserdata(L, 1);
    const struct http_response *r = news->response;
    if (!push_function(L, news->fetch, ON_HEAD)) return 0;
    lua_pushinteger(L, r->status);
    api_push_headers(L, r->fields, r->n_fields);
    if (r->content_length >= 0)
        lua_pushnumber(L, (double)r->content_length);
    else
        lua_pushnil(L);
    lua_call(L, 3, 0);
    return 0;
}

static int call_on_data(lua_State *L)
{
    const struct news *news = lua_touserdata(L, 1);
    if (!push_function(L, news->fetch, ON_DATA)) return 0;
    lua_pushlstring(L, news->piece.data, news->piece.size);
    lua_call(L, 1, 0);
    return 0;
}

static int call_on_done(lua_State *L)
{
    const struct news *news = lua_touserdata(L, 1);
    if (!push_function(L, news->fetch, ON_DONE)) return 0;
    lua_pushstring(L, news->failure); /* null: nil */
    lua_call(L, 1, 0);
    return 0;
}

static void on_head(void *ud, struct http_call *call, const struct http_response *response)
{
    (void)call;
    struct news news = {.fetch = ud, .response = response};
    api_call(news.fetch->loop, call_on_head, &news);
}

static void on_data(void *ud, struct http_call *call, const char *data, size_t n)
{
    (void)call;
    struct news news = {.fetch = ud, .piece = {data, n}};
    api_call(news.fetch->loop, call_on_data, &news);
}

static void on_done(void *ud, struct http_call *call, llm_status status, const struct llm_error *err)
{
    (void)call;
    struct news news = {.fetch = ud, .failure = status == LLM_OK ? NULL : err->message};
    struct api_loop *loop = news.fetch->loop;
    news.fetch->call = NULL;
    api_call(loop, call_on_done, &news);
    if (loop->L) api_forget(loop, loop->L, news.fetch);
}

static int64_t opt_ms(lua_State *L, const char *name)
{
    lua_getfield(L, 2, name);
    double seconds = luaL_optnumber(L, -1, 0);
    if (!(seconds >= 0 && seconds < 1e9)) luaL_error(L, "%s must be 0 to 1e9 seconds", name);
    lua_pop(L, 1);
    return (int64_t)(seconds * 1000);
}

/* Strings are borrowed from the options table, which stays on the stack. */
static const char *opt_text(lua_State *L, const char *name, size_t *size)
{
    lua_getfield(L, 2, name);
    const char *text = luaL_optlstring(L, -1, NULL, size);
    lua_pop(L, 1);
    return text;
}

static llm_status ensure_client(struct api_loop *loop, struct llm_error *err)
{
    return loop->client ? LLM_OK : http_client_open(loop->loop, &loop->client, err);
}

/* net.fetch(loop, {url =, method =, headers =, body =, unix =, tls =, connect_timeout =, idle_timeout =,
 * timeout =}, on_head(status, headers, length), on_data(text), on_done(message | nil)) -> call | nil,
 * message, code. Times in seconds. [-0, +1|3, e] */
static int fetch(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    struct http_call_options o = {.on_head = on_head, .on_data = on_data, .on_done = on_done};
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 5);
    o.url = opt_text(L, "url", NULL);
    if (!o.url) return luaL_error(L, "url is missing");
    o.method = opt_text(L, "method", NULL);
    o.unix_path = opt_text(L, "unix", NULL);
    o.body = opt_text(L, "body", &o.body_bytes);
    if (!o.body) o.body_bytes = 0;
    o.connect_timeout_ms = opt_ms(L, "connect_timeout");
    o.idle_timeout_ms = opt_ms(L, "idle_timeout");
    o.timeout_ms = opt_ms(L, "timeout");
    lua_getfield(L, 2, "headers");                  /* 6 */
    o.fields = api_read_headers(L, 6, &o.n_fields); /* 7 */
    lua_getfield(L, 2, "tls");                      /* 8 */
    o.tls = api_opt_tls(L, 8);
    if (ensure_client(loop, &err) != LLM_OK) return api_fail(L, &err);

    struct api_fetch *f = lua_newuserdata(L, sizeof *f);
    f->loop = loop;
    f->call = NULL;
    luaL_getmetatable(L, API_CALL);
    lua_setmetatable(L, -2);
    lua_createtable(L, 4, 0);
    for (int i = ON_HEAD; i <= ON_DONE; i++) {
        lua_pushvalue(L, i + 2);
        lua_rawseti(L, -2, i);
    }
    lua_pushvalue(L, 8);
    lua_rawseti(L, -2, TLS);
    lua_setfenv(L, -2);
    o.ud = f;
    api_keep(loop, L, f, -1);
    lua_State *outer = api_enter(loop, L);
    llm_status rc = http_call_start(loop->client, &o, &f->call, &err);
    api_leave(loop, outer);
    if (rc != LLM_OK) {
        api_forget(loop, L, f);
        return api_fail(L, &err);
    }
    return 1;
}

/* call:cancel(): no callback follows; harmless when it is over. [-0, +0, e] */
static int call_cancel(lua_State *L)
{
    struct api_fetch *f = luaL_checkudata(L, 1, API_CALL);
    if (f->call) {
        http_call_cancel(f->call);
        f->call = NULL;
        api_forget(f->loop, L, f);
    }
    return 0;
}

/* call:pause(on): stops or resumes reading. [-0, +0, e] */
static int call_pause(lua_State *L)
{
    struct api_fetch *f = luaL_checkudata(L, 1, API_CALL);
    if (f->call) http_call_pause(f->call, lua_toboolean(L, 2));
    return 0;
}

void api_close_fetch(struct api_loop *loop)
{
    http_client_close(loop->client);
    loop->client = NULL;
}

/* At the end of the state the loop may go first, and its client with all calls. */
static int call_gc(lua_State *L)
{
    struct api_fetch *f = lua_touserdata(L, 1);
    if (f->call && f->loop->client) http_call_cancel(f->call);
    f->call = NULL;
    return 0;
}

void api_open_fetch(lua_State *L)
{
    static const luaL_Reg methods[] = {{"cancel", call_cancel}, {"pause", call_pause}, {NULL, NULL}};
    api_new_type(L, API_CALL, methods, call_gc);
    lua_pushcfunction(L, fetch);
    lua_setfield(L, -2, "fetch");
}
