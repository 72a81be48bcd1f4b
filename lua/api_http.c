/* llm.net: HTTP servers and the exchanges they hand to Lua. */

#include "api_net.h"

#include "api.h"
#include "net/http_server.h"

#include <lauxlib.h>
#include <string.h>

enum { MAX_PARTS = 16 }; /* strings in one exchange:write */

/* Userdata. */
struct api_server {
    struct api_loop *loop;
    struct http_server *server;                                  /* null: closed */
    int on_request, on_writable, on_done, format_error, drained; /* registry references */
};

/* Userdata, kept alive from on_request to on_done. */
struct api_exchange {
    struct api_server *server;
    struct http_exchange *x; /* null: over */
};

/* ---- from the server to Lua ---------------------------------------------------------------------------- */

/* Bodies of api_call. What they are told is in a struct on the stack of the callback. */

struct arrival {
    struct api_server *server;
    struct http_exchange *x;
};

static int call_on_request(lua_State *L)
{
    const struct arrival *a = lua_touserdata(L, 1);
    struct api_exchange *e = lua_newuserdata(L, sizeof *e);
    e->server = a->server;
    e->x = a->x;
    luaL_getmetatable(L, API_EXCHANGE);
    lua_setmetatable(L, -2);
    api_keep(a->server->loop, L, e, -1);
    http_exchange_set_user(a->x, e);
    lua_rawgeti(L, LUA_REGISTRYINDEX, a->server->on_request);
    lua_pushvalue(L, -2);
    lua_call(L, 1, 0);
    return 0;
}

static void on_request(void *ud, struct http_exchange *x)
{
    struct arrival arrival = {ud, x};
    struct api_loop *loop = arrival.server->loop;
    if (!loop->L || loop->closing)
        http_exchange_abort(x);
    else
        api_call(loop, call_on_request, &arrival);
}

static int call_on_writable(lua_State *L)
{
    struct api_exchange *e = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->server->on_writable);
    api_push_kept(e->server->loop, L, e);
    lua_call(L, 1, 0);
    return 0;
}

static void on_writable(void *ud, struct http_exchange *x)
{
    struct api_server *s = ud;
    struct api_exchange *e = http_exchange_user(x);
    if (e && s->on_writable != LUA_NOREF) api_call(s->loop, call_on_writable, e);
}

static const char *done_name(enum http_done why)
{
    switch (why) {
    case HTTP_DONE_SENT:
        return "sent";
    case HTTP_DONE_LEFT:
        return "left";
    case HTTP_DONE_TIMEOUT:
        return "timeout";
    case HTTP_DONE_CLOSED:
        break;
    }
    return "closed";
}

struct departure {
    struct api_exchange *exchange;
    enum http_done why;
    int status;
    double bytes;
};

static int call_on_done(lua_State *L)
{
    const struct departure *d = lua_touserdata(L, 1);
    const struct api_server *s = d->exchange->server;
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->on_done);
    api_push_kept(s->loop, L, d->exchange);
    lua_pushstring(L, done_name(d->why));
    lua_pushinteger(L, d->status);
    lua_pushnumber(L, d->bytes);
    lua_call(L, 4, 0);
    return 0;
}

static void on_done(void *ud, struct http_exchange *x, enum http_done why)
{
    struct api_server *s = ud;
    struct api_exchange *e = http_exchange_user(x);
    if (!e) return;
    struct departure departure = {e, why, http_exchange_status(x), (double)http_exchange_body_bytes(x)};
    e->x = NULL;
    if (!s->loop->L || s->on_done == LUA_NOREF) return;
    api_call(s->loop, call_on_done, &departure);
    api_forget(s->loop, s->loop->L, e);
}

struct error_text {
    struct api_server *server;
    int status;
    const char *message;
    char *text;
    size_t capacity, n;
};

static int call_format_error(lua_State *L)
{
    struct error_text *t = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, t->server->format_error);
    lua_pushinteger(L, t->status);
    lua_pushstring(L, t->message);
    lua_call(L, 2, 1);
    size_t n;
    const char *made = lua_tolstring(L, -1, &n);
    if (!made) return 0;
    t->n = n < t->capacity ? n : t->capacity;
    memcpy(t->text, made, t->n);
    return 0;
}

/* A failure here leaves the body empty: the status says what there is to say. */
static size_t format_error(void *ud, int status, const char *message, char *text, size_t capacity)
{
    struct api_server *s = ud;
    lua_State *L = s->loop->L;
    if (!L || s->loop->closing || s->format_error == LUA_NOREF || !lua_checkstack(L, 16)) return 0;
    struct error_text t = {s, status, message, text, capacity, 0};
    if (lua_cpcall(L, call_format_error, &t) != 0) lua_pop(L, 1);
    return t.n;
}

/* ---- servers ------------------------------------------------------------------------------------------- */

static int take_ref(lua_State *L, int table, const char *name, int required)
{
    lua_getfield(L, table, name);
    if (lua_isnil(L, -1) && !required) {
        lua_pop(L, 1);
        return LUA_NOREF;
    }
    if (!lua_isfunction(L, -1)) luaL_error(L, "%s must be a function", name);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void take_number(lua_State *L, int table, const char *name, double scale, int64_t *out)
{
    lua_getfield(L, table, name);
    if (!lua_isnil(L, -1)) {
        double v = luaL_checknumber(L, -1) * scale;
        if (!(v >= 0 && v < 9e15)) luaL_error(L, "%s is out of range", name);
        *out = (int64_t)v;
    }
    lua_pop(L, 1);
}

static void read_options(lua_State *L, int table, struct http_server_options *o)
{
    http_server_options_init(o);
    if (lua_isnoneornil(L, table)) return;
    luaL_checktype(L, table, LUA_TTABLE);
    int64_t head = (int64_t)o->limits.max_head, body = (int64_t)o->max_body, high = (int64_t)o->high_water;
    int64_t conns = o->max_connections, send_buffer = o->send_buffer;
    take_number(L, table, "max_head", 1, &head);
    take_number(L, table, "max_body", 1, &body);
    take_number(L, table, "high_water", 1, &high);
    take_number(L, table, "max_connections", 1, &conns);
    take_number(L, table, "send_buffer", 1, &send_buffer);
    take_number(L, table, "idle_timeout", 1000, &o->idle_timeout_ms);
    take_number(L, table, "head_timeout", 1000, &o->head_timeout_ms);
    take_number(L, table, "body_timeout", 1000, &o->body_timeout_ms);
    take_number(L, table, "write_timeout", 1000, &o->write_timeout_ms);
    o->limits.max_head = (size_t)head;
    o->max_body = (size_t)body;
    o->high_water = (size_t)high;
    o->max_connections = conns > INT32_MAX ? INT32_MAX : (int32_t)conns;
    o->send_buffer = send_buffer > INT32_MAX ? INT32_MAX : (int32_t)send_buffer;
}

/* net.server(loop, handlers, options) -> server | nil, message, code. handlers: on_request(exchange),
 * on_writable(exchange), on_done(exchange, why, status, body_bytes) with why "sent", "left", "timeout" or
 * "closed", format_error(status, message) -> JSON text. options: as struct http_server_options, times in
 * seconds.
 * [-0, +1|3, e] */
static int server_open(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    struct http_server_options options;
    luaL_checktype(L, 2, LUA_TTABLE);
    read_options(L, 3, &options);
    struct api_server *s = lua_newuserdata(L, sizeof *s);
    *s = (struct api_server){loop, NULL, LUA_NOREF, LUA_NOREF, LUA_NOREF, LUA_NOREF, LUA_NOREF};
    luaL_getmetatable(L, API_SERVER);
    lua_setmetatable(L, -2);
    lua_newtable(L); /* holds the TLS settings that listeners use */
    lua_setfenv(L, -2);
    s->on_request = take_ref(L, 2, "on_request", 1);
    s->on_done = take_ref(L, 2, "on_done", 1);
    s->on_writable = take_ref(L, 2, "on_writable", 0);
    s->format_error = take_ref(L, 2, "format_error", 0);
    struct http_handler handler = {
        .on_request = on_request,
        .on_writable = on_writable,
        .on_done = on_done,
        .format_error = s->format_error == LUA_NOREF ? NULL : format_error,
        .error_type = "application/json",
        .ud = s,
    };
    if (http_server_open(loop->loop, &options, &handler, &s->server, &err) != LLM_OK)
        return api_fail(L, &err);
    api_keep(loop, L, s, -1);
    return 1;
}

/* server:close(): all connections too. Harmless twice. [-0, +0, e] */
static int server_close(lua_State *L)
{
    struct api_server *s = luaL_checkudata(L, 1, API_SERVER);
    if (s->server) {
        struct http_server *server = s->server;
        s->server = NULL;
        lua_State *outer = api_enter(s->loop, L);
        http_server_close(server);
        api_leave(s->loop, outer);
        api_forget(s->loop, L, s);
    }
    int *refs[] = {&s->on_request, &s->on_writable, &s->on_done, &s->format_error, &s->drained};
    for (size_t i = 0; i < sizeof refs / sizeof refs[0]; i++) {
        luaL_unref(L, LUA_REGISTRYINDEX, *refs[i]);
        *refs[i] = LUA_NOREF;
    }
    return 0;
}

/* An open server is kept alive, so that this is the end of the state (or of its loop): nobody is told. A
 * closed one is collected at any time. */
static int server_gc(lua_State *L)
{
    struct api_server *s = lua_touserdata(L, 1);
    if (!s->server) return 0;
    s->loop->closing = 1;
    return server_close(L);
}

static struct api_server *check_server(lua_State *L)
{
    struct api_server *s = luaL_checkudata(L, 1, API_SERVER);
    if (!s->server) luaL_error(L, "the server is closed");
    return s;
}

/* server:listen(host | nil, port, reuse_port, tls | nil) -> port | nil, message, code. [-0, +1|3, e] */
static int server_listen(lua_State *L)
{
    struct api_server *s = check_server(L);
    struct llm_error err = {LLM_OK, ""};
    const char *host = luaL_optstring(L, 2, NULL);
    int port = luaL_checkint(L, 3);
    struct net_tls *tls = api_opt_tls(L, 5);
    if (http_server_listen(s->server, host, port, lua_toboolean(L, 4), tls, &err) != LLM_OK)
        return api_fail(L, &err);
    if (tls) {
        lua_getfenv(L, 1);
        lua_pushvalue(L, 5);
        lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    }
    lua_pushinteger(L, port ? port : http_server_port(s->server));
    return 1;
}

/* server:listen_unix(path, mode) -> true | nil, message, code. mode: a number such as 384 (0600). [-0, +1|3,
 * e] */
static int server_listen_unix(lua_State *L)
{
    struct api_server *s = check_server(L);
    struct llm_error err = {LLM_OK, ""};
    if (http_server_listen_unix(s->server, luaL_checkstring(L, 2), luaL_optint(L, 3, 0600), &err) != LLM_OK)
        return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

static int call_drained(lua_State *L)
{
    const struct api_server *s = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, s->drained);
    lua_call(L, 0, 0);
    return 0;
}

static void on_drained(void *ud)
{
    struct api_server *s = ud;
    if (s->drained != LUA_NOREF) api_call(s->loop, call_drained, s);
}

/* server:drain(seconds | nil, fn): no new connections; fn() when the last exchange is over. [-0, +0, e] */
static int server_drain(lua_State *L)
{
    struct api_server *s = check_server(L);
    double seconds = luaL_optnumber(L, 2, -1);
    luaL_checktype(L, 3, LUA_TFUNCTION);
    luaL_argcheck(L, seconds < 1e9, 2, "too long");
    lua_settop(L, 3);
    luaL_unref(L, LUA_REGISTRYINDEX, s->drained);
    s->drained = luaL_ref(L, LUA_REGISTRYINDEX);
    if (http_server_drain(s->server, seconds < 0 ? -1 : (int64_t)(seconds * 1000), on_drained, s) != LLM_OK)
        return luaL_error(L, "cannot drain: out of memory");
    return 0;
}

static void set_number(lua_State *L, const char *name, double v)
{
    lua_pushnumber(L, v);
    lua_setfield(L, -2, name);
}

/* server:stats() -> table, as struct http_server_stats. [-0, +1, e] */
static int server_stats(lua_State *L)
{
    struct http_server_stats stats;
    http_server_stats(check_server(L)->server, &stats);
    lua_createtable(L, 0, 8);
    set_number(L, "n_connections", stats.n_connections);
    set_number(L, "n_exchanges", stats.n_exchanges);
    set_number(L, "n_accepted", (double)stats.n_accepted);
    set_number(L, "n_requests", (double)stats.n_requests);
    set_number(L, "n_rejected", (double)stats.n_rejected);
    set_number(L, "bytes_in", (double)stats.bytes_in);
    set_number(L, "bytes_out", (double)stats.bytes_out);
    return 1;
}

/* ---- exchanges ----------------------------------------------------------------------------------------- */

static struct api_exchange *check_exchange(lua_State *L)
{
    return luaL_checkudata(L, 1, API_EXCHANGE);
}

/* For what reads the request: the owner copies what it needs before the exchange is over. */
static struct http_exchange *check_open(lua_State *L)
{
    struct api_exchange *e = check_exchange(L);
    if (!e->x) luaL_error(L, "the exchange is over");
    return e->x;
}

static int gone(lua_State *L)
{
    lua_pushnil(L);
    lua_pushliteral(L, "the client has left");
    return 2;
}

static void push_str(lua_State *L, struct net_str s)
{
    lua_pushlstring(L, s.data, s.size);
}

/* exchange:head() -> method, path, query, minor_version, tls. path is decoded, query is not. [-0, +5, e] */
static int exchange_head(lua_State *L)
{
    const struct http_request *r = http_exchange_request(check_open(L));
    push_str(L, r->method);
    push_str(L, r->path);
    push_str(L, r->query);
    lua_pushinteger(L, r->minor_version);
    lua_pushboolean(L, r->tls);
    return 5;
}

/* exchange:header(name) -> value | nil. name in lower case. [-0, +1, e] */
static int exchange_header(lua_State *L)
{
    const struct http_request *r = http_exchange_request(check_open(L));
    const struct net_str *value = http_find(r->fields, r->n_fields, luaL_checkstring(L, 2));
    if (!value) return 0;
    push_str(L, *value);
    return 1;
}

/* exchange:headers() -> {name = value, …}. [-0, +1, e] */
static int exchange_headers(lua_State *L)
{
    const struct http_request *r = http_exchange_request(check_open(L));
    api_push_headers(L, r->fields, r->n_fields);
    return 1;
}

/* exchange:body() -> text. [-0, +1, e] */
static int exchange_body(lua_State *L)
{
    push_str(L, http_exchange_request(check_open(L))->body);
    return 1;
}

/* exchange:peer() -> "address:port". [-0, +1, e] */
static int exchange_peer(lua_State *L)
{
    char text[80];
    http_exchange_peer(check_open(L), text, sizeof text);
    lua_pushstring(L, text);
    return 1;
}

static int reply_result(lua_State *L, llm_status rc)
{
    if (rc == LLM_OK) {
        lua_pushboolean(L, 1);
        return 1;
    }
    if (rc == LLM_EINVAL)
        return luaL_error(L, "the response has begun already, or a header of it is not valid");
    lua_pushnil(L);
    lua_pushstring(L, llm_status_text(rc));
    return 2;
}

/* exchange:start(status, headers, length | nil) -> true | nil, message. Raises on invalid headers. [-0, +1|2,
 * e] */
static int exchange_start(lua_State *L)
{
    struct api_exchange *e = check_exchange(L);
    if (!e->x) return gone(L);
    int32_t n;
    int status = luaL_checkint(L, 2);
    int64_t length = lua_isnoneornil(L, 4) ? -1 : (int64_t)luaL_checknumber(L, 4);
    const struct http_field *fields = api_read_headers(L, 3, &n);
    return reply_result(L, http_reply_start(e->x, status, fields, n, length));
}

/* exchange:reply(status, headers, body) -> true | nil, message. [-0, +1|2, e] */
static int exchange_reply(lua_State *L)
{
    struct api_exchange *e = check_exchange(L);
    if (!e->x) return gone(L);
    int32_t n;
    size_t size;
    int status = luaL_checkint(L, 2);
    const char *body = luaL_optlstring(L, 4, "", &size);
    const struct http_field *fields = api_read_headers(L, 3, &n);
    return reply_result(L, http_reply(e->x, status, fields, n, body, size));
}

/* May call on_done before it returns. */
static void end_with(lua_State *L, struct api_exchange *e, void (*end)(struct http_exchange *))
{
    if (!e->x) return;
    struct api_loop *loop = e->server->loop;
    lua_State *outer = api_enter(loop, L);
    end(e->x);
    api_leave(loop, outer);
}

static int write_result(lua_State *L, struct api_exchange *e, llm_status rc)
{
    if (rc == LLM_EINVAL)
        return luaL_error(L, "the response has not begun, has ended, or is longer than announced");
    if (rc == LLM_ENOMEM) {
        end_with(L, e, http_exchange_abort);
        return gone(L);
    }
    lua_pushboolean(L, rc == LLM_OK);
    return 1;
}

/* exchange:write(text, …) -> true: go on; false: taken, but wait for on_writable | nil, message: the client
 * has left. All the strings are one chunk. [-0, +1|2, e] */
static int exchange_write(lua_State *L)
{
    struct api_exchange *e = check_exchange(L);
    struct iovec parts[MAX_PARTS];
    int n = lua_gettop(L) - 1;
    if (!e->x) return gone(L);
    luaL_argcheck(L, n <= MAX_PARTS, MAX_PARTS + 1, "too many strings");
    for (int i = 0; i < n; i++) {
        size_t size;
        parts[i].iov_base = (void *)(uintptr_t)luaL_checklstring(L, i + 2, &size);
        parts[i].iov_len = size;
    }
    return write_result(L, e, http_reply_writev(e->x, parts, n));
}

/* Text to the inside of a JSON string: from s to out, which has six bytes for each of n. */
static size_t escape(char *out, const char *s, size_t n)
{
    static const char short_names[] = "btn_fr"; /* of the characters 8 to 13 */
    char *p = out;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c >= ' ' && c != '"' && c != '\\') {
            *p++ = (char)c;
            continue;
        }
        *p++ = '\\';
        if (c >= ' ') {
            *p++ = (char)c;
        } else if (c >= 8 && c <= 13 && c != 11) {
            *p++ = short_names[c - 8];
        } else {
            memcpy(p, "u00", 3);
            p[3] = (char)('0' + (c >> 4));
            p[4] = "0123456789abcdef"[c & 15];
            p += 5;
        }
    }
    return (size_t)(p - out);
}

/* exchange:pieces(before, text, ends, after) -> as write. One chunk before .. piece .. after for each piece
 * of the text that is not empty, escaped for a JSON string; ends: where the pieces end, nil: one piece. For
 * the events of a stream, a token each. [-0, +1|2, e] */
static int exchange_pieces(lua_State *L)
{
    struct api_exchange *e = check_exchange(L);
    struct iovec parts[3];
    size_t bytes, begin = 0;
    lua_settop(L, 5);
    if (!e->x) return gone(L);
    parts[0].iov_base = (void *)(uintptr_t)luaL_checklstring(L, 2, &parts[0].iov_len);
    const char *text = luaL_checklstring(L, 3, &bytes);
    parts[2].iov_base = (void *)(uintptr_t)luaL_checklstring(L, 5, &parts[2].iov_len);
    int n = 1;
    if (!lua_isnil(L, 4)) {
        luaL_checktype(L, 4, LUA_TTABLE);
        n = (int)lua_objlen(L, 4);
    }
    char small[1024];
    parts[1].iov_base = bytes * 6 <= sizeof small ? small : lua_newuserdata(L, bytes * 6);
    llm_status rc = LLM_OK;
    for (int i = 1; i <= n && (rc == LLM_OK || rc == LLM_EAGAIN); i++) {
        size_t end = bytes;
        if (i < n) {
            lua_rawgeti(L, 4, i);
            end = (size_t)lua_tointeger(L, -1);
            lua_pop(L, 1);
        }
        luaL_argcheck(L, end >= begin && end <= bytes, 4, "the ends must ascend, up to the text's");
        if (end == begin) continue;
        parts[1].iov_len = escape(parts[1].iov_base, text + begin, end - begin);
        rc = http_reply_writev(e->x, parts, 3);
        begin = end;
    }
    return write_result(L, e, rc);
}

/* exchange:finish(): the response is complete. [-0, +0, e] */
static int exchange_finish(lua_State *L)
{
    end_with(L, check_exchange(L), http_reply_end);
    return 0;
}

/* exchange:cut(): sends what is written, then closes the connection without a proper end. [-0, +0, e] */
static int exchange_cut(lua_State *L)
{
    end_with(L, check_exchange(L), http_reply_cut);
    return 0;
}

/* exchange:abort(): cuts the connection. [-0, +0, e] */
static int exchange_abort(lua_State *L)
{
    end_with(L, check_exchange(L), http_exchange_abort);
    return 0;
}

/* exchange:is_open() -> boolean: false once the client has left or all is sent. [-0, +1, e] */
static int exchange_is_open(lua_State *L)
{
    lua_pushboolean(L, check_exchange(L)->x != NULL);
    return 1;
}

void api_open_server(lua_State *L)
{
    static const luaL_Reg server_methods[] = {{"listen", server_listen}, {"listen_unix", server_listen_unix},
                                              {"drain", server_drain},   {"stats", server_stats},
                                              {"close", server_close},   {NULL, NULL}};
    static const luaL_Reg exchange_methods[] = {{"head", exchange_head},       {"header", exchange_header},
                                                {"headers", exchange_headers}, {"body", exchange_body},
                                                {"peer", exchange_peer},       {"start", exchange_start},
                                                {"reply", exchange_reply},     {"write", exchange_write},
                                                {"pieces", exchange_pieces},   {"finish", exchange_finish},
                                                {"abort", exchange_abort},     {"cut", exchange_cut},
                                                {"is_open", exchange_is_open}, {NULL, NULL}};
    api_new_type(L, API_SERVER, server_methods, server_gc);
    api_new_type(L, API_EXCHANGE, exchange_methods, NULL);
    lua_pushcfunction(L, server_open);
    lua_setfield(L, -2, "server");
}
