#ifndef LLM_LUA_API_NET_H
#define LLM_LUA_API_NET_H

/* The C side of llm.net: core/net as Lua sees it. One loop a Lua state. Callbacks are Lua functions called on
 * the loop's thread, which is the state's; waiting and coroutines are the business of lua/llm/task.lua. An
 * error that escapes a callback ends loop:run(), which raises it.
 *
 * A callback runs on the Lua thread (coroutine) that has called into C and waits there: api_enter says which.
 * Any other would do for stock Lua, but LuaJIT keeps the running thread in a global that it does not set back
 * when a C function raises: an error after a callback on a thread of the loop's own would leave compiled code
 * working on that thread's stack. */

#include "net/loop.h"

#include <lua.h>

int luaopen_llm_net(lua_State *L);

#define API_LOOP     "llm.net.loop"
#define API_TIMER    "llm.net.timer"
#define API_WATCH    "llm.net.watch"
#define API_TLS      "llm.net.tls"
#define API_SERVER   "llm.net.server"
#define API_EXCHANGE "llm.net.exchange"
#define API_CALL     "llm.net.call"

/* Userdata. env is a table that keeps alive what C points to, by light userdata: the userdata of servers,
 * exchanges, calls, timers and watches while they are active. */
struct api_loop {
    lua_State
        *L; /* for callbacks: the thread that has called into C; null outside of api_enter … api_leave */
    struct net_loop *loop;
    struct http_client *client; /* opened by the first fetch */
    int env;                    /* registry reference of the environment */
    int error;                  /* registry reference of what a callback raised, kept ready */
    int failed;                 /* 1: there is something */
    int running;                /* loop:run() is on the C stack */
    int closing;                /* no callback into Lua any more */
};

/* The loop at this argument. Raises if it is something else or closed. [-0, +0, e] */
struct api_loop *api_check_loop(lua_State *L, int arg);

/* Keeps the value at `index` alive under `key`, forgets it, pushes it (nil if there is none). */
void api_keep(struct api_loop *loop, lua_State *L, const void *key, int index);
void api_forget(struct api_loop *loop, lua_State *L, const void *key);
void api_push_kept(struct api_loop *loop, lua_State *L, const void *key);

/* Around every call of core/net that may call back. L: the running thread. Returns what api_leave takes; no
 * Lua error may pass between the two. */
lua_State *api_enter(struct api_loop *loop, lua_State *L);
void api_leave(struct api_loop *loop, lua_State *outer);

/* Calls body with `ud` as light userdata, on loop->L: all that a callback does with Lua, also finding and
 * pushing what it works with, as any of it may run out of memory, and the error must not pass through
 * libevent. What it raises ends loop:run(). Nothing happens if there is to be no callback. [-0, +0, -] */
void api_call(struct api_loop *loop, lua_CFunction body, void *ud);

void api_open_server(lua_State *L); /* api_http.c: adds to the module table on top. [-0, +0, m] */
void api_open_fetch(lua_State *L);  /* api_fetch.c */
void api_open_files(lua_State *L);  /* api_files.c */
void api_close_fetch(struct api_loop *loop);

/* A net_tls, owned by the userdata at this argument; null for nil. [-0, +0, e] */
struct net_tls *api_opt_tls(lua_State *L, int arg);

struct http_field;
/* Reads a table {name = value, …} (values: strings, numbers, or lists of them) at `index` into userdata that
 * is pushed; strings are borrowed from the table. nil: none. Raises if it is something else. [-0, +1, e] */
struct http_field *api_read_headers(lua_State *L, int index, int32_t *n);
/* The opposite: names in lower case; repeated ones joined by ", ". [-0, +1, m] */
void api_push_headers(lua_State *L, const struct http_field *fields, int32_t n);

#endif
