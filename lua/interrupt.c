#define _GNU_SOURCE
#include "interrupt.h"

#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

/* timeout(1) sends the signal twice, to the process and to its group: one that comes so soon after another is
 * its echo. */
enum { EXIT_INTERRUPTED = 128 + SIGINT, ECHO_MS = 100 };

static lua_State *volatile target;
static volatile sig_atomic_t pending;
static struct timespec last_time; /* of the last that counted; touched by the handler only */

static int exit_object_tostring(lua_State *L)
{
    lua_getfield(L, 1, "message");
    return 1;
}

static int raise_exit(lua_State *L)
{
    pending = 0;
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, EXIT_INTERRUPTED);
    lua_setfield(L, -2, "exit_code");
    lua_pushliteral(L, "interrupted");
    lua_setfield(L, -2, "message");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, exit_object_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_setmetatable(L, -2);
    return lua_error(L);
}

static void on_hook(lua_State *L, lua_Debug *ar)
{
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    if (pending) raise_exit(L);
}

/* lua_sethook is the one call of LuaJIT that a signal handler may make. */
static void on_sigint(int sig)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ms =
        (int64_t)(now.tv_sec - last_time.tv_sec) * 1000 + (now.tv_nsec - last_time.tv_nsec) / 1000000;
    if (last_time.tv_sec && ms < ECHO_MS) return;
    last_time = now;
    if (pending) { /* the script does not listen */
        signal(sig, SIG_DFL);
        raise(sig);
    }
    pending = 1;
    if (target) lua_sethook(target, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

static void arm(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_sigint;
    sigaction(SIGINT, &action, NULL);
}

void interrupt_install(lua_State *L)
{
    target = L;
    arm();
}

void interrupt_remove(void)
{
    signal(SIGINT, SIG_DFL);
    target = NULL;
}

void interrupt_check(lua_State *L)
{
    if (!pending) return;
    lua_sethook(L, NULL, 0, 0);
    raise_exit(L);
}

void interrupt_rearm(lua_State *L)
{
    if (!pending || !target) return;
    if (lua_topointer(L, LUA_REGISTRYINDEX) != lua_topointer(target, LUA_REGISTRYINDEX))
        return; /* another's */
    lua_sethook(L, on_hook, LUA_MASKCALL | LUA_MASKRET | LUA_MASKCOUNT, 1);
}

int interrupt_take(void)
{
    int was = pending;
    pending = 0;
    if (target) {
        lua_sethook(target, NULL, 0, 0);
        arm();
    }
    return was;
}
