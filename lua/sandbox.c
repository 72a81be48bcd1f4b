#include "sandbox.h"

#include "base/mem.h"
#include "embed.h"
#include "pattern.h"

#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* The table that inside.lua and we share; writing to its two slots allocates nothing. */
enum { SLOT_CALL = 1, SLOT_PREEMPTED = 2 };

enum { MAX_VALUES = 200 }; /* results of the script, arguments of a call */

struct sandbox {
    lua_State *L, *script; /* the state, and its coroutine */
    struct watch *watch;
    struct script_account *account;
    struct sandbox_limits limits;
    size_t bytes, peak, bytes_booked;
    uint64_t run_ticks, cpu_ns;
    int system; /* registry reference of the shared table */
    int preempted;
    int ended;
    char *output;
    size_t n_output;
    const struct plain *in; /* while values are passed in */
    int n_in;
};

/* ---- memory -------------------------------------------------------------------------------------------- */

static void *capped(void *ud, void *old, size_t old_size, size_t size)
{
    struct sandbox *box = ud;
    if (!old) old_size = 0;
    if (size == 0) {
        mem_free(old);
        box->bytes -= old_size;
        return NULL;
    }
    if (size > old_size && size - old_size > box->limits.memory - box->bytes) return NULL;
    void *new = mem_grow(old, size, 1);
    if (!new) return size <= old_size ? old : NULL; /* shrinking may not fail */
    box->bytes = box->bytes - old_size + size;
    if (box->bytes > box->peak) box->peak = box->bytes;
    return new;
}

/* ---- the state ----------------------------------------------------------------------------------------- */

/* write(text): into the output, as far as there is room. [-0, +0, e] */
static int write_output(lua_State *L)
{
    struct sandbox *box = lua_touserdata(L, lua_upvalueindex(1));
    size_t n;
    const char *text = luaL_checklstring(L, 1, &n);
    size_t room = box->limits.output - box->n_output;
    if (n > room) n = room;
    memcpy(box->output + box->n_output, text, n);
    box->n_output += n;
    return 0;
}

static void open_library(lua_State *L, lua_CFunction open, const char *name)
{
    lua_pushcfunction(L, open);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
}

static void clear_globals(lua_State *L)
{
    lua_pushnil(L);
    while (lua_next(L, LUA_GLOBALSINDEX)) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, LUA_GLOBALSINDEX);
    }
}

static const struct embedded_file *inside(void)
{
    const struct embedded_file *f = embedded_files;
    while (strcmp(f->path, "lua/llm/sandbox/inside.lua") != 0) f++;
    return f;
}

/* Opens what inside.lua takes its pick of, runs it, and leaves the globals empty: from then on the state's
 * functions are what inside.lua holds and hands out. */
static int open_state(lua_State *L)
{
    struct sandbox *box = lua_touserdata(L, 1);
    open_library(L, luaopen_base, "");
    open_library(L, luaopen_string, LUA_STRLIBNAME);
    open_library(L, luaopen_table, LUA_TABLIBNAME);
    open_library(L, luaopen_math, LUA_MATHLIBNAME);
    open_library(L, luaopen_bit, LUA_BITLIBNAME);

    lua_createtable(L, 2, 0);
    lua_pushboolean(L, 0);
    lua_rawseti(L, -2, SLOT_CALL);
    lua_pushboolean(L, 0);
    lua_rawseti(L, -2, SLOT_PREEMPTED);
    lua_pushvalue(L, -1);
    box->system = luaL_ref(L, LUA_REGISTRYINDEX);

    const struct embedded_file *f = inside();
    if (luaL_loadbuffer(L, f->data, f->size, "=sandbox") != 0) return lua_error(L);
    lua_insert(L, -2);
    lua_pushcfunction(L, pattern_match);
    lua_pushcfunction(L, pattern_find);
    lua_pushlightuserdata(L, box);
    lua_pushcclosure(L, write_output, 1);
    lua_call(L, 4, 1); /* inside.lua(system, match, find, write) -> main */

    box->script = lua_newthread(L);
    luaL_ref(L, LUA_REGISTRYINDEX); /* anchors it; pops it */
    lua_xmove(L, box->script, 1);   /* main */
    clear_globals(L);
    return 0;
}

llm_status sandbox_open(struct sandbox **out, const struct sandbox_limits *limits, struct watch *watch,
                        struct script_account *account, struct llm_error *err)
{
    struct sandbox *box = mem_zalloc(sizeof *box);
    if (!box) return llm_fail(err, LLM_ENOMEM, "no memory for a client's script");
    box->limits = *limits;
    box->watch = watch;
    box->account = account;
    box->output = mem_alloc(limits->output ? limits->output : 1);
    box->L = box->output ? lua_newstate(capped, box) : NULL;
    if (!box->L || lua_cpcall(box->L, open_state, box) != 0) {
        const char *why = box->L ? lua_tostring(box->L, -1) : "no memory";
        llm_fail(err, LLM_ENOMEM, "cannot make a state for a client's script: %s", why ? why : "no memory");
        sandbox_close(box);
        return LLM_ENOMEM;
    }
    *out = box;
    return LLM_OK;
}

void sandbox_close(struct sandbox *box)
{
    if (!box) return;
    if (box->L) lua_close(box->L);
    mem_free(box->output);
    mem_free(box);
}

/* ---- running ------------------------------------------------------------------------------------------- */

static int shared(struct sandbox *box, lua_State *L, int slot)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->system);
    lua_rawgeti(L, -1, slot);
    int is = lua_toboolean(L, -1);
    lua_pop(L, 2);
    return is;
}

static void set_shared(struct sandbox *box, lua_State *L, int slot, int value)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, box->system);
    lua_pushboolean(L, value);
    lua_rawseti(L, -2, slot);
    lua_pop(L, 1);
}

/* The sandbox whose run is the innermost of this thread. */
static _Thread_local struct sandbox *current;

/* The watchdog's soft limit is the slice. A coroutine of the script's own yields to the one that resumed it;
 * inside.lua passes that on. */
static void preempt(lua_State *L, struct script_account *account)
{
    (void)account;
    if (!lua_isyieldable(L)) return;
    set_shared(current, L, SLOT_PREEMPTED, 1);
    current->preempted = 1;
    lua_yield(L, 0);
}

/* [-0, +0, m]; the values end up on the script's stack. */
static int pass_in(lua_State *L)
{
    struct sandbox *box = lua_touserdata(L, 1);
    const char *at = box->in->data;
    luaL_checkstack(L, box->n_in + 4, "too many values");
    luaL_checkstack(box->script, box->n_in + 4, "too many values");
    for (int i = 0; i < box->n_in; i++) plain_read(L, &at);
    lua_xmove(L, box->script, box->n_in);
    return 0;
}

/* The values on the script's stack. */
static llm_status pass_out(struct sandbox *box, struct plain *out, int *n_out, struct llm_error *err)
{
    lua_State *L = box->script;
    int n = lua_gettop(L);
    if (n > MAX_VALUES) return llm_fail(err, LLM_EINVAL, "more than %d values at once", MAX_VALUES);
    for (int i = 1; i <= n; i++) {
        llm_status status = plain_write(out, L, i, err);
        if (status != LLM_OK) return status;
    }
    *n_out = n;
    return LLM_OK;
}

static enum sandbox_event out_of_memory(struct sandbox *box, struct llm_error *err)
{
    account_add(&box->account->errors, 1);
    llm_fail(err, LLM_ENOMEM, "not enough memory: the script may use %.0f MiB",
             (double)box->limits.memory / (1024 * 1024));
    return SANDBOX_MEMORY;
}

static enum sandbox_event out_of_time(struct sandbox *box, struct llm_error *err)
{
    const char *colon = strstr(box->watch->why, ": stopped");
    llm_fail(err, LLM_EFAILED, "%.*s: stopped: the script has run for more than %.0f ms",
             colon ? (int)(colon - box->watch->why) : 6, colon ? box->watch->why : "script",
             (double)box->limits.run_ns / 1e6);
    return SANDBOX_TIME;
}

static enum sandbox_event failed(struct sandbox *box, int status, struct llm_error *err)
{
    if (status == LUA_ERRMEM) return out_of_memory(box, err);
    account_add(&box->account->errors, 1);
    lua_State *L = box->script;
    if (lua_type(L, -1) == LUA_TSTRING) {
        llm_fail(err, LLM_EINVAL, "%s", lua_tostring(L, -1));
    } else {
        llm_fail(err, LLM_EINVAL, "script: it raised a %s, which is no message", luaL_typename(L, -1));
    }
    return SANDBOX_ERROR;
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Lets the script's coroutine run under what is left of its limits; returns lua_resume's status. */
static int resume(struct sandbox *box, int n, int *flags)
{
    struct script_account *account = box->account;
    uint64_t limit = ticks_of_ns(box->limits.run_ns);
    account->on_soft = preempt;
    account->soft = account->first = ticks_of_ns(box->limits.slice_ns);
    account->hard = limit > box->run_ticks ? limit - box->run_ticks : 1;
    if (account->hard < account->first) account->first = account->hard;
    account->look = WATCHDOG_NEVER;

    struct sandbox *outer_current = current;
    struct watch_call outer;
    current = box;
    uint64_t cpu_before = thread_cpu_ns(), start = ticks_now();
    watchdog_enter_at(box->watch, box->script, account, &outer, start);
    watchdog_arm(box->watch);
    int status = lua_resume(box->script, n);
    box->run_ticks += watchdog_leave(box->watch, &outer, flags) - start;
    box->cpu_ns += thread_cpu_ns() - cpu_before;
    current = outer_current;
    return status;
}

enum sandbox_event sandbox_run(struct sandbox *box, const struct plain *in, int n_in, struct plain *out,
                               int *n_out, struct llm_error *err)
{
    *n_out = 0;
    if (box->ended) {
        llm_fail(err, LLM_EINVAL, "the script has ended");
        return SANDBOX_ERROR;
    }
    box->in = in;
    box->n_in = n_in;
    int flags = 0, status = lua_cpcall(box->L, pass_in, box);
    if (status != 0) {
        box->ended = 1;
        return out_of_memory(box, err);
    }
    box->preempted = 0;
    set_shared(box, box->L, SLOT_PREEMPTED, 0);
    status = resume(box, n_in, &flags);
    account_add(&box->account->bytes, box->peak - box->bytes_booked);
    box->bytes_booked = box->peak;

    if (!(flags & WATCH_KILLED) && status == LUA_YIELD && box->preempted) return SANDBOX_SLICE;
    if (!(flags & WATCH_KILLED) && status == LUA_YIELD && shared(box, box->L, SLOT_CALL)) {
        set_shared(box, box->L, SLOT_CALL, 0);
        llm_status passed = pass_out(box, out, n_out, err);
        lua_settop(box->script, 0);
        if (passed == LLM_OK) return SANDBOX_CALL;
        box->ended = 1;
        account_add(&box->account->errors, 1);
        return SANDBOX_ERROR;
    }
    box->ended = 1;
    if (flags & WATCH_KILLED) return out_of_time(box, err);
    if (status != 0) return failed(box, status, err);
    if (pass_out(box, out, n_out, err) == LLM_OK) return SANDBOX_DONE;
    account_add(&box->account->errors, 1);
    return SANDBOX_ERROR;
}

const char *sandbox_output(const struct sandbox *box, size_t *n)
{
    *n = box->n_output;
    return box->output;
}

struct sandbox_usage sandbox_usage(const struct sandbox *box)
{
    return (struct sandbox_usage){ticks_to_ns(box->run_ticks), box->cpu_ns, box->bytes, box->peak};
}
