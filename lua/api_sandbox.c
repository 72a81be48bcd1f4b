/* llm.core: sandboxes (sandbox.h) as Lua sees them. */

#include "api.h"
#include "sandbox.h"

#include <lauxlib.h>
#include <string.h>

#define API_SANDBOX "llm.core.sandbox"

struct api_sandbox {
    struct sandbox *box; /* null: closed */
    struct plain in, out;
};

static struct api_sandbox *check_sandbox(lua_State *L)
{
    struct api_sandbox *s = luaL_checkudata(L, 1, API_SANDBOX);
    if (!s->box) luaL_error(L, "the sandbox is closed");
    return s;
}

static double number_field(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    double value = luaL_checknumber(L, -1);
    lua_pop(L, 1);
    return value;
}

/* core.sandbox(account, {memory, seconds, slice, output, data}) -> sandbox | nil, message, code. memory,
 * output and data in bytes; all must be there. The account must be this sandbox's thread's. [-0, +1|3, e] */
static int sandbox_new(lua_State *L)
{
    struct watch *watch = *(struct watch **)lua_touserdata(L, lua_upvalueindex(1));
    struct script_account *account = api_check_account(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    struct sandbox_limits limits = {
        .memory = (size_t)number_field(L, 2, "memory"),
        .run_ns = (uint64_t)(number_field(L, 2, "seconds") * 1e9),
        .slice_ns = (uint64_t)(number_field(L, 2, "slice") * 1e9),
        .output = (size_t)number_field(L, 2, "output"),
        .data = (size_t)number_field(L, 2, "data"),
    };
    struct api_sandbox *s = lua_newuserdata(L, sizeof *s);
    memset(s, 0, sizeof *s);
    s->in.max_bytes = s->out.max_bytes = limits.data;
    luaL_getmetatable(L, API_SANDBOX);
    lua_setmetatable(L, -2);
    struct llm_error err = {LLM_OK, ""};
    if (sandbox_open(&s->box, &limits, watch, account, &err) != LLM_OK) return api_fail(L, &err);
    return 1;
}

/* Values that cannot be passed in: what the script gets instead is false and why. Returns how many. */
static int write_refusal(struct api_sandbox *s, lua_State *L, const struct llm_error *why)
{
    struct llm_error err = {LLM_OK, ""};
    plain_clear(&s->in);
    lua_pushboolean(L, 0);
    lua_pushstring(L, why->message);
    if (plain_write(&s->in, L, -2, &err) != LLM_OK || plain_write(&s->in, L, -1, &err) != LLM_OK)
        return luaL_error(L, "%s", err.message);
    lua_pop(L, 2);
    return 2;
}

/* box:run(...) -> event, values… The values are plain data: first the source and the table of inside.lua.
 * event: "done" (with results), "call" (with name and arguments; the next run takes true and results, or
 * false and a message), "slice" (the next run takes nothing), "error", "memory", "time" (with a message).
 * [-0, +n, e] */
static int sandbox_run_lua(lua_State *L)
{
    static const char *const events[] = {"done", "call", "slice", "error", "memory", "time"};
    struct api_sandbox *s = check_sandbox(L);
    struct llm_error err = {LLM_OK, ""};
    int n_in = lua_gettop(L) - 1, n_out = 0;
    plain_clear(&s->in);
    plain_clear(&s->out);
    llm_status status = LLM_OK;
    for (int i = 2; i <= n_in + 1 && status == LLM_OK; i++) status = plain_write(&s->in, L, i, &err);
    if (status != LLM_OK) n_in = write_refusal(s, L, &err);
    enum sandbox_event event = sandbox_run(s->box, &s->in, n_in, &s->out, &n_out, &err);
    lua_pushstring(L, events[event]);
    if (event > SANDBOX_SLICE) {
        lua_pushstring(L, err.message);
        return 2;
    }
    luaL_checkstack(L, n_out + 4, "too many results");
    const char *at = s->out.data;
    for (int i = 0; i < n_out; i++) plain_read(L, &at);
    return n_out + 1;
}

/* box:output() -> what it has printed. [-0, +1, e] */
static int sandbox_get_output(lua_State *L)
{
    size_t n;
    const char *text = sandbox_output(check_sandbox(L)->box, &n);
    lua_pushlstring(L, text, n);
    return 1;
}

/* box:usage() -> seconds it ran, most bytes it had, seconds of the processor it took. [-0, +3, e] */
static int sandbox_get_usage(lua_State *L)
{
    struct sandbox_usage usage = sandbox_usage(check_sandbox(L)->box);
    lua_pushnumber(L, (double)usage.run_ns * 1e-9);
    lua_pushnumber(L, (double)usage.peak);
    lua_pushnumber(L, (double)usage.cpu_ns * 1e-9);
    return 3;
}

/* box:close(): harmless twice. [-0, +0, -] */
static int sandbox_gc(lua_State *L)
{
    struct api_sandbox *s = luaL_checkudata(L, 1, API_SANDBOX);
    sandbox_close(s->box);
    s->box = NULL;
    plain_free(&s->in);
    plain_free(&s->out);
    return 0;
}

void api_open_sandbox(lua_State *L)
{
    static const luaL_Reg methods[] = {{"run", sandbox_run_lua},
                                       {"output", sandbox_get_output},
                                       {"usage", sandbox_get_usage},
                                       {"close", sandbox_gc},
                                       {NULL, NULL}};
    api_new_type(L, API_SANDBOX, methods, sandbox_gc);
    lua_pushcclosure(L, sandbox_new, 1);
    lua_setfield(L, -2, "sandbox");
}
