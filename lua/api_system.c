/* llm.core: the little that the Lua side needs of the system it runs on. */

#define _GNU_SOURCE
#include "api.h"
#include "interrupt.h"

#include "base/bandwidth.h"

#include <lauxlib.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* core.now() -> seconds of CLOCK_MONOTONIC, the clock of request:info(). [-0, +1, -] */
static int system_now(lua_State *L)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    lua_pushnumber(L, (double)t.tv_sec + 1e-9 * (double)t.tv_nsec);
    return 1;
}

/* core.sleep(seconds); Ctrl-C raises. [-0, +0, e] */
static int system_sleep(lua_State *L)
{
    double seconds = luaL_checknumber(L, 1);
    if (seconds > 0) {
        struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
        nanosleep(&t, NULL);
    }
    interrupt_check(L);
    return 0;
}

/* core.isatty(fd) -> is file descriptor fd a terminal? [-0, +1, e] */
static int system_isatty(lua_State *L)
{
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* core.columns(fd) -> width of that terminal, 80 if it does not say. [-0, +1, e] */
static int system_columns(lua_State *L)
{
    struct winsize size = {0, 0, 0, 0};
    int known = ioctl((int)luaL_checkinteger(L, 1), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    lua_pushinteger(L, known ? size.ws_col : 80);
    return 1;
}

/* Lets VmHWM start again from what is resident now (proc(5), clear_refs); where it cannot, nothing changes.
 */
static void reset_peak_memory(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "we");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

/* core.bandwidth([threads]) -> bytes a second | nil, message, code. Measured before a model is opened, its
 * buffer does not show in core.peak_memory(). [-0, +1|3, e] */
static int system_bandwidth(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    double rate = 0;
    if (bandwidth_read((int32_t)luaL_optinteger(L, 1, 0), &rate, &err) != LLM_OK) return api_fail(L, &err);
    reset_peak_memory();
    lua_pushnumber(L, rate);
    return 1;
}

/* core.peak_memory() -> most bytes this process ever had resident, nil if the system does not say. [-0, +1,
 * -] */
static int system_peak_memory(lua_State *L)
{
    FILE *f = fopen("/proc/self/status", "re");
    if (!f) return 0;
    char line[256];
    unsigned long long kib = 0;
    int found = 0;
    while (!found && fgets(line, sizeof line, f)) found = sscanf(line, "VmHWM: %llu kB", &kib) == 1;
    fclose(f);
    if (!found) return 0;
    lua_pushnumber(L, (double)kib * 1024);
    return 1;
}

void api_open_system(lua_State *L)
{
    static const luaL_Reg functions[] = {{"now", system_now},
                                         {"sleep", system_sleep},
                                         {"isatty", system_isatty},
                                         {"columns", system_columns},
                                         {"bandwidth", system_bandwidth},
                                         {"peak_memory", system_peak_memory},
                                         {NULL, NULL}};
    luaL_register(L, NULL, functions);
}
