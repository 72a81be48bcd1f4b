/* llm.net: the event loop, timers, watched descriptors, signals, TLS settings. */

#include "api_net.h"

#include "api.h"
#include "net/http_client.h"
#include "net/http_parse.h"
#include "net/tls.h"
#include "state.h"

#include <lauxlib.h>
#include <math.h>
#include <signal.h>
#include <string.h>

/* ---- keeping and calling ------------------------------------------------------------------------------- */

struct api_loop *api_check_loop(lua_State *L, int arg)
{
    struct api_loop *loop = luaL_checkudata(L, arg, API_LOOP);
    if (!loop->loop) luaL_error(L, "the event loop is closed");
    return loop;
}

void api_keep(struct api_loop *loop, lua_State *L, const void *key, int index)
{
    if (index < 0) index = lua_gettop(L) + 1 + index;
    lua_rawgeti(L, LUA_REGISTRYINDEX, loop->env);
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_pushvalue(L, index);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

void api_forget(struct api_loop *loop, lua_State *L, const void *key)
{
    if (loop->closing) return;
    lua_rawgeti(L, LUA_REGISTRYINDEX, loop->env);
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_pushnil(L);
    lua_rawset(L, -3); /* the key is there: nothing is allocated */
    lua_pop(L, 1);
}

void api_push_kept(struct api_loop *loop, lua_State *L, const void *key)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, loop->env);
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
    lua_rawget(L, -2);
    lua_remove(L, -2);
}

lua_State *api_enter(struct api_loop *loop, lua_State *L)
{
    lua_State *outer = loop->L;
    loop->L = L;
    return outer;
}

void api_leave(struct api_loop *loop, lua_State *outer)
{
    loop->L = outer;
}

struct protected
{
    lua_CFunction body;
    void *ud;
};

static int run_protected(lua_State *L)
{
    const struct protected *p = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_pushcfunction(L, p->body);
    lua_pushlightuserdata(L, p->ud);
    return state_call(L, 1, 0) == 0 ? 0 : lua_error(L);
}

void api_call(struct api_loop *loop, lua_CFunction body, void *ud)
{
    lua_State *L = loop->L;
    if (!L || loop->closing || !lua_checkstack(L, 16)) return;
    struct protected p = {body, ud};
    if (lua_cpcall(L, run_protected, &p) == 0) return;
    if (loop->failed) {
        lua_pop(L, 1); /* the first one is the one to tell */
        return;
    }
    loop->failed = 1;
    lua_rawseti(L, LUA_REGISTRYINDEX, loop->error); /* the slot is there: nothing is allocated */
    net_loop_stop(loop->loop);
}

/* ---- the loop ------------------------------------------------------------------------------------------ */

/* net.open() -> loop | nil, message, code. [-0, +1|3, m] */
static int loop_open(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    struct api_loop *loop = lua_newuserdata(L, sizeof *loop);
    memset(loop, 0, sizeof *loop);
    loop->error = loop->env = LUA_NOREF;
    luaL_getmetatable(L, API_LOOP);
    lua_setmetatable(L, -2);
    lua_pushboolean(L, 0);
    loop->error = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_newtable(L);
    loop->env = luaL_ref(L, LUA_REGISTRYINDEX);
    if (net_loop_open(&loop->loop, &err) != LLM_OK) return api_fail(L, &err);
    return 1;
}

/* Also at the end of the state, which may come while loop:run() is on the C stack (os.exit in a callback):
 * then libevent is in use further up and is left to the process's end. */
static int loop_gc(lua_State *L)
{
    struct api_loop *loop = luaL_checkudata(L, 1, API_LOOP);
    if (!loop->loop) return 0;
    loop->closing = 1;
    api_close_fetch(loop);
    /* Servers, timers and watches, which C still points to. */
    lua_rawgeti(L, LUA_REGISTRYINDEX, loop->env);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        if (luaL_getmetafield(L, -1, "__gc")) {
            lua_pushvalue(L, -2);
            lua_call(L, 1, 0);
        }
        lua_pop(L, 1);
    }
    if (!loop->running) net_loop_close(loop->loop);
    loop->loop = NULL;
    luaL_unref(L, LUA_REGISTRYINDEX, loop->env);
    luaL_unref(L, LUA_REGISTRYINDEX, loop->error);
    return 0;
}

/* loop:close(): not while it runs. Harmless twice. [-0, +0, e] */
static int loop_close(lua_State *L)
{
    struct api_loop *loop = luaL_checkudata(L, 1, API_LOOP);
    if (loop->running) return luaL_error(L, "the event loop is running; stop it first");
    return loop_gc(L);
}

/* loop:run(): turns until loop:stop(). Raises what a callback raised. [-0, +0, e] */
static int loop_run(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    if (loop->running) return luaL_error(L, "the event loop is running already");
    lua_State *outer = api_enter(loop, L);
    loop->running = 1;
    llm_status rc = net_loop_run(loop->loop, &err);
    loop->running = 0;
    api_leave(loop, outer);
    if (loop->failed) {
        loop->failed = 0;
        lua_rawgeti(L, LUA_REGISTRYINDEX, loop->error);
        lua_pushboolean(L, 0);
        lua_rawseti(L, LUA_REGISTRYINDEX, loop->error);
        return lua_error(L);
    }
    return rc == LLM_OK ? 0 : luaL_error(L, "%s", err.message);
}

/* loop:stop(): run() returns after this turn. [-0, +0, e] */
static int loop_stop(lua_State *L)
{
    net_loop_stop(api_check_loop(L, 1)->loop);
    return 0;
}

/* ---- timers -------------------------------------------------------------------------------------------- */

/* Userdata of timers and watches. The function is its environment's element 1. */
struct api_event {
    struct api_loop *loop; /* null: over */
    struct net_timer *timer;
    struct net_watch *watch;
};

static void event_shut(struct api_event *e, lua_State *L)
{
    if (!e->loop) return;
    net_timer_close(e->timer);
    net_watch_close(e->watch);
    api_forget(e->loop, L, e);
    e->loop = NULL;
    e->timer = NULL;
    e->watch = NULL;
}

static int event_close(lua_State *L)
{
    event_shut(lua_touserdata(L, 1), L);
    return 0;
}

static int call_event(lua_State *L)
{
    struct api_event *e = lua_touserdata(L, 1);
    api_push_kept(e->loop, L, e);
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, 1);
    if (e->timer) event_shut(e, L); /* one shot */
    lua_call(L, 0, 0);
    return 0;
}

static void on_event(void *ud)
{
    struct api_event *e = ud;
    api_call(e->loop, call_event, e);
}

/* A userdata with the function at argument `fn` as its environment, on top of the stack. */
static struct api_event *event_new(lua_State *L, struct api_loop *loop, const char *type, int fn)
{
    luaL_checktype(L, fn, LUA_TFUNCTION);
    struct api_event *e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    luaL_getmetatable(L, type);
    lua_setmetatable(L, -2);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, fn);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    api_keep(loop, L, e, -1);
    e->loop = loop;
    return e;
}

/* loop:after(seconds, fn) -> timer: calls fn() once. timer:close() calls it off. [-0, +1, e] */
static int loop_after(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    double seconds = luaL_checknumber(L, 2);
    struct llm_error err = {LLM_OK, ""};
    luaL_argcheck(L, seconds >= 0 && seconds < 1e9, 2, "seconds must be 0 to 1e9");
    struct api_event *e = event_new(L, loop, API_TIMER, 3);
    if (net_timer_open(loop->loop, on_event, e, &e->timer, &err) != LLM_OK ||
        net_timer_start(e->timer, (int64_t)ceil(seconds * 1000)) != LLM_OK) {
        event_shut(e, L);
        return luaL_error(L, "cannot start a timer: out of memory");
    }
    return 1;
}

/* ---- descriptors and signals --------------------------------------------------------------------------- */

static int watch_result(lua_State *L, struct api_event *e, llm_status rc, const struct llm_error *err)
{
    if (rc == LLM_OK) return 1;
    event_shut(e, L);
    return api_fail(L, err);
}

/* loop:watch(fd, fn) -> watch: calls fn() while the descriptor is readable. An engine's handle in place of
 * fd: while events of its client wait. Close the watch before the engine. [-0, +1|3, e] */
static int loop_watch(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    int fd = lua_isnumber(L, 2) ? (int)lua_tointeger(L, 2) : llm_client_fd(api_check_engine(L, 2)->client);
    struct api_event *e = event_new(L, loop, API_WATCH, 3);
    return watch_result(L, e, net_watch_open(loop->loop, fd, on_event, e, &e->watch, &err), &err);
}

/* loop:signal(name, fn) -> watch: "INT", "TERM" or "HUP". [-0, +1|3, e] */
static int loop_signal(lua_State *L)
{
    static const char *const names[] = {"INT", "TERM", "HUP", "USR1", NULL};
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1};
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    int number = numbers[luaL_checkoption(L, 2, NULL, names)];
    struct api_event *e = event_new(L, loop, API_WATCH, 3);
    return watch_result(L, e, net_signal_open(loop->loop, number, on_event, e, &e->watch, &err), &err);
}

/* ---- TLS ----------------------------------------------------------------------------------------------- */

struct api_tls {
    struct net_tls *tls;
};

struct net_tls *api_opt_tls(lua_State *L, int arg)
{
    if (lua_isnoneornil(L, arg)) return NULL;
    struct api_tls *t = luaL_checkudata(L, arg, API_TLS);
    return t->tls;
}

/* net.tls{certificate =, key =, ca =} -> tls for a server; net.tls{client = true, ca =, verify =} for a
 * client. | nil, message, code. [-0, +1|3, e] */
static int tls_open(lua_State *L)
{
    static const char *const names[] = {"certificate", "key", "ca", "client", "verify"};
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    for (int i = 0; i < 5; i++) lua_getfield(L, 1, names[i]); /* at 2 .. 6 */
    struct llm_error err = {LLM_OK, ""};
    struct api_tls *t = lua_newuserdata(L, sizeof *t);
    t->tls = NULL;
    luaL_getmetatable(L, API_TLS);
    lua_setmetatable(L, -2);
    const char *ca = luaL_optstring(L, 4, NULL);
    llm_status rc;
    if (lua_toboolean(L, 5))
        rc = net_tls_client_open(ca, lua_isnil(L, 6) || lua_toboolean(L, 6), &t->tls, &err);
    else
        rc = net_tls_server_open(luaL_checkstring(L, 2), luaL_checkstring(L, 3), ca, &t->tls, &err);
    return rc == LLM_OK ? 1 : api_fail(L, &err);
}

static int tls_gc(lua_State *L)
{
    struct api_tls *t = lua_touserdata(L, 1);
    net_tls_close(t->tls);
    t->tls = NULL;
    return 0;
}

/* ---- headers ------------------------------------------------------------------------------------------- */

static void read_header(lua_State *L, struct http_field *field, const char *name, size_t name_size)
{
    size_t size;
    if (!lua_isstring(L, -1))
        luaL_error(L, "header %s is a %s; it must be a string", name, luaL_typename(L, -1));
    field->name = (struct net_str){name, name_size};
    field->value.data = lua_tolstring(L, -1, &size);
    field->value.size = size;
}

/* Numbers become strings in place, so that the table owns what the fields borrow. */
static void stringify(lua_State *L, int table)
{
    if (lua_type(L, -1) != LUA_TNUMBER) return;
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_tostring(L, -1);
    lua_settable(L, table);
    lua_pushvalue(L, -2);
    lua_gettable(L, table);
    lua_replace(L, -2);
}

static int32_t count_headers(lua_State *L, int index)
{
    int32_t n = 0;
    lua_pushnil(L);
    while (lua_next(L, index)) {
        n += lua_istable(L, -1) ? (int32_t)lua_objlen(L, -1) : 1;
        lua_pop(L, 1);
    }
    return n;
}

struct http_field *api_read_headers(lua_State *L, int index, int32_t *n)
{
    *n = 0;
    if (lua_isnoneornil(L, index)) {
        lua_pushnil(L);
        return NULL;
    }
    luaL_checktype(L, index, LUA_TTABLE);
    int32_t count = count_headers(L, index);
    struct http_field *fields = lua_newuserdata(L, ((size_t)count + 1) * sizeof *fields);
    lua_pushnil(L);
    while (lua_next(L, index)) {
        size_t name_size;
        if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "a header's name must be a string");
        const char *name = lua_tolstring(L, -2, &name_size);
        if (lua_istable(L, -1)) {
            int list = lua_gettop(L);
            for (int i = 1; i <= (int)lua_objlen(L, list) && *n < count; i++) {
                lua_rawgeti(L, list, i);
                read_header(L, &fields[(*n)++], name, name_size);
                lua_pop(L, 1);
            }
        } else if (*n < count) {
            stringify(L, index);
            read_header(L, &fields[(*n)++], name, name_size);
        }
        lua_pop(L, 1);
    }
    return fields;
}

void api_push_headers(lua_State *L, const struct http_field *fields, int32_t n)
{
    lua_createtable(L, 0, n);
    for (int32_t i = 0; i < n; i++) {
        lua_pushlstring(L, fields[i].name.data, fields[i].name.size);
        lua_pushvalue(L, -1);
        lua_rawget(L, -3);
        if (lua_isnil(L, -1)) {
            lua_pop(L, 1);
            lua_pushlstring(L, fields[i].value.data, fields[i].value.size);
        } else {
            lua_pushliteral(L, ", ");
            lua_pushlstring(L, fields[i].value.data, fields[i].value.size);
            lua_concat(L, 3);
        }
        lua_rawset(L, -3);
    }
}

/* ---- the module ---------------------------------------------------------------------------------------- */

static int decode(lua_State *L, int plus_is_space)
{
    struct net_str in;
    in.data = luaL_checklstring(L, 1, &in.size);
    char *out = lua_newuserdata(L, in.size + 1);
    ptrdiff_t n = net_percent_decode(in, plus_is_space, out);
    if (n < 0) return 0;
    lua_pushlstring(L, out, (size_t)n);
    return 1;
}

/* net.query(text) -> {name = value, …}: decoded, the last of equal names. Pairs with broken escapes are left
 * out.
 * [-0, +1, m] */
static int parse_query(lua_State *L)
{
    struct net_str rest, key, value;
    rest.data = luaL_checklstring(L, 1, &rest.size);
    lua_settop(L, 1);
    char *out = lua_newuserdata(L, rest.size + 1);
    lua_newtable(L);
    while (net_query_next(&rest, &key, &value)) {
        ptrdiff_t n = net_percent_decode(key, 1, out);
        if (n < 0) continue;
        lua_pushlstring(L, out, (size_t)n);
        n = net_percent_decode(value, 1, out);
        if (n < 0) {
            lua_pop(L, 1);
            continue;
        }
        lua_pushlstring(L, out, (size_t)n);
        lua_rawset(L, -3);
    }
    return 1;
}

/* net.unescape(text) -> text | nil. [-0, +0|1, m] */
static int unescape(lua_State *L)
{
    return decode(L, 0);
}

int luaopen_llm_net(lua_State *L)
{
    static const luaL_Reg loop_methods[] = {
        {"run", loop_run},       {"stop", loop_stop},   {"after", loop_after}, {"watch", loop_watch},
        {"signal", loop_signal}, {"close", loop_close}, {NULL, NULL}};
    static const luaL_Reg event_methods[] = {{"close", event_close}, {NULL, NULL}};
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg functions[] = {
        {"open", loop_open}, {"tls", tls_open}, {"query", parse_query}, {"unescape", unescape}, {NULL, NULL}};
    api_new_type(L, API_LOOP, loop_methods, loop_gc);
    api_new_type(L, API_TIMER, event_methods, event_close);
    api_new_type(L, API_WATCH, event_methods, event_close);
    api_new_type(L, API_TLS, none, tls_gc);
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    api_open_server(L);
    api_open_fetch(L);
    api_open_files(L);
    return 1;
}
