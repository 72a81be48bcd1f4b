#ifndef LLM_LUA_WATCHDOG_H
#define LLM_LUA_WATCHDOG_H

/* Deadlines for Lua code, and the books of who used how much.
 *
 * C code that calls into Lua says so: watchdog_enter before, watchdog_leave after. One thread of the process
 * looks at what is under way. When a call is past its limit, that thread signals (SIGURG) the thread that
 * runs it; the handler sets a count hook of 1, which is the one thing LuaJIT allows a handler to do, and the
 * hook acts at the next instruction:
 *   - past the soft limit: the place is logged, once an account, and counted; the script goes on;
 *   - past the hard limit: the hook raises an error, and again at each further instruction until
 * watchdog_leave, so that neither pcall nor an error handler of the script keeps it alive. No hook is ever
 * set before it is needed: one that is costs 140 times the speed. Compiled loops look at it only in a LuaJIT
 * built with LUAJIT_ENABLE_CHECKHOOK (scripts/dev/build-luajit.sh); without, they run on until they leave
 * compiled code. A C function (string.find with a hostile pattern, say) is not stopped while it runs: what
 * untrusted scripts can call must be bounded by itself.
 *
 * The kernel times the signal once the watchdog has seen the call, so it is not late when all processors are
 * busy.
 *
 * Enter and leave cost about 25 ns together, two readings of the clock: no system call, no lock. The
 * watchdog's thread sleeps while nothing is entered; the first call after a second of rest wakes it, which
 * costs some µs.
 *
 * How a killed call ends is not to be relied on: lua_resume may answer LUA_YIELD, or LUA_ERRMEM. WATCH_KILLED
 * says it, watch->why the place and the reason. Prefer lua_resume to lua_pcall: unwinding 10,000 pcalls of a
 * script takes 50 ms, putting its coroutine aside takes nothing. A killed coroutine is not to be resumed
 * again.
 *
 * A watch belongs to the thread that opened it. Its calls may nest, for the same Lua state or others; the
 * time of the inner one does not count against the outer. Between enter and leave no Lua error may pass: the
 * code in between is lua_pcall, lua_cpcall or lua_resume. The hook belongs to the whole Lua state, so leave
 * comes before any other Lua code of that state runs. */

#include "base/status.h"
#include "base/ticks.h"

#include <lua.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#define WATCHDOG_NEVER UINT64_MAX

enum script_kind { SCRIPT_LOAD, SCRIPT_HANDLER, SCRIPT_POLICY, SCRIPT_CLIENT, SCRIPT_N_KINDS };

/* What one name (a script, a route, a policy) may use in one call, and what it has used in all. Written by
 * the watch's thread, read by any. */
struct script_account {
    enum script_kind kind;
    char name[88];
    uint64_t soft, hard; /* ticks a call; WATCHDOG_NEVER: no limit. Set by account_limit */
    uint64_t first;      /* the smaller of the two */
    uint64_t look;       /* how often the watchdog must look for it; WATCHDOG_NEVER: watchdog_arm is used */
    /* Called in the hook when the soft limit has passed, in place of the log; it may lua_yield. */
    void (*on_soft)(lua_State *L, struct script_account *account);
    _Atomic uint64_t calls, ticks, overruns, kills, errors, bytes;
    struct watch *watch;         /* null: nobody's at present */
    struct script_account *next; /* in the list of all */
    int logged;                  /* the first overrun has been */
};

struct watch {
    lua_State *L; /* these three: of the innermost call under way; the watch's thread's and its handler's */
    struct script_account *account;
    int flags;
    _Atomic uint64_t start; /* ticks */
    _Atomic uint64_t due;   /* ticks: when the hook is to be set; WATCHDOG_NEVER: no call under way */
    uint64_t thread;        /* pthread_t */
    timer_t timer;          /* signals the thread */
    _Atomic uint64_t armed; /* what `timer` was last set for */
    int users;
    char why[160]; /* of the last call that was killed: the place and the reason */

    struct watch *next;
};

/* What a call leaves behind, flags: */
enum { WATCH_HOOKED = 1, WATCH_LATE = 2, WATCH_KILLED = 4 };

/* The call that was under way when this one began; on the caller's stack. */
struct watch_call {
    lua_State *L;
    struct script_account *account;
    int flags;
    uint64_t start, due;
    uint64_t entered; /* when the inner call began */
};

/* The watch of the calling thread, made if it has none; each open needs a close, by the same thread. Starts
 * the watchdog with the first. Errors: LLM_ENOMEM, LLM_EFAILED (no thread). */
llm_status watchdog_open(struct watch **out, struct llm_error *err);
void watchdog_close(struct watch *watch);

/* The account of this name, made if there is none. It lives as long as the process, so that counters never
 * fall. Null if there is no memory. Thread: the watch's. */
struct script_account *watchdog_account(struct watch *watch, enum script_kind kind, const char *name);

/* Limits of later calls; 0: none. The next overrun is logged again. */
void account_limit(struct script_account *account, uint64_t soft_ns, uint64_t hard_ns);

static inline void account_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* The longest the watchdog sleeps without looking; a call with a smaller limit has to wake it. */
extern _Atomic uint64_t watchdog_interval;
void watchdog_wake(uint64_t interval);
void watchdog_unhook(struct watch *watch);

/* Lua code of L is about to run under this account, from `now` on: ticks_now(), or what the watchdog_leave
 * just before returned. */
static inline void watchdog_enter_at(struct watch *watch, lua_State *L, struct script_account *account,
                                     struct watch_call *outer, uint64_t now)
{
    outer->due = atomic_load_explicit(&watch->due, memory_order_relaxed);
    atomic_store_explicit(&watch->due, WATCHDOG_NEVER, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst); /* the handler sees either call whole */
    outer->L = watch->L;
    outer->account = watch->account;
    outer->flags = watch->flags;
    outer->start = atomic_load_explicit(&watch->start, memory_order_relaxed);
    outer->entered = now;
    watch->L = L;
    watch->account = account;
    watch->flags = 0;
    atomic_store_explicit(&watch->start, now, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    uint64_t first = account->first;
    atomic_store_explicit(&watch->due, first == WATCHDOG_NEVER ? first : now + first, memory_order_release);
    if (account->look < atomic_load_explicit(&watchdog_interval, memory_order_relaxed))
        watchdog_wake(account->look);
}

static inline void watchdog_enter(struct watch *watch, lua_State *L, struct script_account *account,
                                  struct watch_call *outer)
{
    watchdog_enter_at(watch, L, account, outer, ticks_now());
}

/* After watchdog_enter, for calls that are rare beside their cost (0.5 µs): the kernel will signal on time,
 * whatever the watchdog's thread does. */
void watchdog_arm(struct watch *watch);

/* It has run: books the call, goes back to the outer one. `outer` is what watchdog_enter filled. Returns the
 * time; *flags (may be null): WATCH_LATE, WATCH_KILLED, or 0. */
static inline uint64_t watchdog_leave(struct watch *watch, const struct watch_call *outer, int *flags)
{
    uint64_t now = ticks_now(), spent = now - atomic_load_explicit(&watch->start, memory_order_relaxed);
    uint64_t elapsed = now - outer->entered; /* with what calls inside have spent */
    atomic_store_explicit(&watch->due, WATCHDOG_NEVER, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (watch->flags & WATCH_HOOKED) watchdog_unhook(watch);
    if (flags) *flags = watch->flags;
    account_add(&watch->account->calls, 1);
    account_add(&watch->account->ticks, spent);
    watch->L = outer->L;
    watch->account = outer->account;
    watch->flags = outer->flags;
    atomic_store_explicit(&watch->start, outer->start + elapsed, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&watch->due, outer->due == WATCHDOG_NEVER ? WATCHDOG_NEVER : outer->due + elapsed,
                          memory_order_release);
    return now;
}

/* The innermost call under way goes on under another account, as a call of that one's; the outer calls are
 * not touched. Nothing if none is under way. */
void watchdog_switch(struct watch *watch, struct script_account *account);

/* ---- the books ----------------------------------------------------------------------------------------- */

struct account_sum {
    enum script_kind kind;
    char name[88];
    uint64_t calls, ns, overruns, kills, errors, bytes;
};

/* All accounts so far, those of one kind and name (in several threads) added up. *out is an array for
 * mem_free. Errors: LLM_ENOMEM. Any thread. */
llm_status watchdog_accounts(struct account_sum **out, int32_t *n, struct llm_error *err);

const char *script_kind_name(enum script_kind kind); /* "load", "handler", "policy", "client" */

#endif
