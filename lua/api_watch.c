/* llm.core: the watchdog as Lua sees it: accounts, and coroutines resumed under one. */

#include "api.h"
#include "watchdog.h"

#include "base/mem.h"

#include <lauxlib.h>
#include <math.h>

#define API_ACCOUNT "llm.core.account"
#define API_WATCH   "llm.core.watch"

static struct watch *watch_of(lua_State *L)
{
    return *(struct watch **)lua_touserdata(L, lua_upvalueindex(1));
}

struct script_account *api_check_account(lua_State *L, int arg)
{
    return *(struct script_account **)luaL_checkudata(L, arg, API_ACCOUNT);
}

static uint64_t opt_ns(lua_State *L, int arg)
{
    double seconds = luaL_optnumber(L, arg, 0);
    return seconds > 0 && seconds < 1e9 ? (uint64_t)ceil(seconds * 1e9) : 0;
}

/* core.account(kind, name[, soft, hard]) -> the account of this name in this thread, kind: "load", "handler",
 * "policy", "client"; limits in seconds a call, nil: none. [-0, +1, e] */
static int watch_account(lua_State *L)
{
    static const char *const kinds[] = {"load", "handler", "policy", "client", NULL};
    enum script_kind kind = (enum script_kind)luaL_checkoption(L, 1, NULL, kinds);
    const char *name = luaL_checkstring(L, 2);
    uint64_t soft = opt_ns(L, 3), hard = opt_ns(L, 4);
    struct script_account **account = lua_newuserdata(L, sizeof(struct script_account *));
    *account = watchdog_account(watch_of(L), kind, name);
    if (!*account) return luaL_error(L, "not enough memory");
    account_limit(*account, soft, hard);
    luaL_getmetatable(L, API_ACCOUNT);
    lua_setmetatable(L, -2);
    return 1;
}

/* account:limit(soft, hard): seconds a call from now on, nil: none. [-0, +0, e] */
static int account_set_limit(lua_State *L)
{
    account_limit(api_check_account(L, 1), opt_ns(L, 2), opt_ns(L, 3));
    return 0;
}

/* account:error(): one call has failed. [-0, +0, e] */
static int account_error(lua_State *L)
{
    account_add(&api_check_account(L, 1)->errors, 1);
    return 0;
}

static int push_failure(lua_State *L, const char *message, int killed)
{
    lua_pushboolean(L, 0);
    lua_pushstring(L, message);
    lua_pushboolean(L, killed);
    return 3;
}

static int can_resume(lua_State *co)
{
    return lua_status(co) == LUA_YIELD || (lua_status(co) == 0 && lua_gettop(co) > 0);
}

/* core.resume(account, co, ...) -> as coroutine.resume, within the account's limits; after a failure also
 * whether the hard limit was the reason. [-0, +n, e] */
static int watch_resume(lua_State *L)
{
    struct script_account *account = api_check_account(L, 1);
    lua_State *co = lua_tothread(L, 2);
    luaL_argcheck(L, co && co != L, 2, "a coroutine expected");
    int n = lua_gettop(L) - 2, flags = 0;
    if (!can_resume(co)) return push_failure(L, "cannot resume dead coroutine", 0);
    if (!lua_checkstack(co, n)) return push_failure(L, "too many arguments", 0);
    lua_xmove(L, co, n);
    struct watch *watch = watch_of(L);
    struct watch_call outer;
    watchdog_enter(watch, co, account, &outer);
    int status = lua_resume(co, n);
    watchdog_leave(watch, &outer, &flags);
    if (flags & WATCH_KILLED) return push_failure(L, watch->why, 1);
    if (status != 0 && status != LUA_YIELD) {
        lua_pushboolean(L, 0);
        lua_xmove(co, L, 1);
        return 2;
    }
    n = lua_gettop(co);
    lua_pushboolean(L, 1);
    if (!lua_checkstack(L, n)) {
        lua_settop(co, 0);
        return push_failure(L, "too many results", 0);
    }
    lua_xmove(co, L, n);
    return n + 1;
}

/* core.switch_account(account): what the running call does from now on is this account's. [-0, +0, e] */
static int watch_switch(lua_State *L)
{
    watchdog_switch(watch_of(L), api_check_account(L, 1));
    return 0;
}

static void push_sum(lua_State *L, const struct account_sum *sum)
{
    lua_createtable(L, 0, 8);
    lua_pushstring(L, script_kind_name(sum->kind));
    lua_setfield(L, -2, "kind");
    lua_pushstring(L, sum->name);
    lua_setfield(L, -2, "name");
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"calls", (double)sum->calls},       {"seconds", (double)sum->ns * 1e-9},
                   {"overruns", (double)sum->overruns}, {"kills", (double)sum->kills},
                   {"errors", (double)sum->errors},     {"bytes", (double)sum->bytes}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        lua_pushnumber(L, numbers[i].value);
        lua_setfield(L, -2, numbers[i].name);
    }
}

static int push_sums(lua_State *L)
{
    const struct account_sum *sums = lua_touserdata(L, 1);
    int32_t n = (int32_t)lua_tointeger(L, 2);
    lua_createtable(L, n, 0);
    for (int32_t i = 0; i < n; i++) {
        push_sum(L, &sums[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

/* core.accounts() -> list of {kind, name, calls, seconds, overruns, kills, errors, bytes}, of all threads.
 * [-0, +1, e] */
static int watch_accounts(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    struct account_sum *sums = NULL;
    int32_t n = 0;
    if (watchdog_accounts(&sums, &n, &err) != LLM_OK) return luaL_error(L, "%s", err.message);
    lua_pushcfunction(L, push_sums);
    lua_pushlightuserdata(L, sums);
    lua_pushinteger(L, n);
    int status = lua_pcall(L, 2, 1, 0);
    mem_free(sums);
    return status == 0 ? 1 : lua_error(L);
}

static int close_watch(lua_State *L)
{
    struct watch **watch = lua_touserdata(L, 1);
    watchdog_close(*watch);
    *watch = NULL;
    return 0;
}

/* The state's watch: lives in the upvalues of the functions. */
static void push_watch(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    struct watch **watch = lua_newuserdata(L, sizeof(struct watch *));
    *watch = NULL;
    luaL_getmetatable(L, API_WATCH);
    lua_setmetatable(L, -2);
    if (watchdog_open(watch, &err) != LLM_OK) luaL_error(L, "%s", err.message);
}

void api_open_watch(lua_State *L)
{
    static const luaL_Reg none[] = {{NULL, NULL}};
    static const luaL_Reg methods[] = {{"limit", account_set_limit}, {"error", account_error}, {NULL, NULL}};
    static const luaL_Reg functions[] = {{"account", watch_account},
                                         {"resume", watch_resume},
                                         {"switch_account", watch_switch},
                                         {"accounts", watch_accounts},
                                         {NULL, NULL}};
    api_new_type(L, API_ACCOUNT, methods, NULL);
    api_new_type(L, API_WATCH, none, close_watch);
    push_watch(L);
    for (const luaL_Reg *f = functions; f->name; f++) {
        lua_pushvalue(L, -1);
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -3, f->name);
    }
    api_open_sandbox(L);
#ifdef LLMLUA_CHECKHOOK
    lua_pushboolean(L, 1);
#else
    lua_pushboolean(L, 0);
#endif
    lua_setfield(L, -2, "checks_hooks"); /* do compiled loops notice a deadline? */
}
