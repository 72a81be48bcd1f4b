#define _GNU_SOURCE
#include "watchdog.h"

#include "base/mem.h"
#include "interrupt.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* SIGURG: ignored unless somebody asks for it, so one that comes late does no harm. */
enum { SIGNAL = SIGURG };

enum { AGAIN_NS = 500000, EPOCH_NS = 1000000000, TIMER_SLACK_NS = 10000 };

_Atomic uint64_t watchdog_interval = WATCHDOG_NEVER;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the two lists and `running` */
static pthread_cond_t wake;                              /* on CLOCK_MONOTONIC */
static struct watch *watches;
static struct script_account *accounts;
static int running; /* the watchdog's thread has been started */

static _Thread_local struct watch *mine;

const char *script_kind_name(enum script_kind kind)
{
    static const char *const names[SCRIPT_N_KINDS] = {"load", "handler", "policy", "client"};
    return names[kind];
}

/* ---- in the script's thread ---------------------------------------------------------------------------- */

void watchdog_unhook(struct watch *watch)
{
    lua_sethook(watch->L, NULL, 0, 0);
    watch->flags &= ~WATCH_HOOKED;
    interrupt_rearm(watch->L); /* Ctrl-C has a hook of its own in the main state */
}

void watchdog_switch(struct watch *watch, struct script_account *account)
{
    if (!watch->account) return;
    struct watch_call outer;
    int flags = watch->flags;
    watchdog_enter(watch, watch->L, account, &outer); /* never left: it takes the outer one's place */
    uint64_t start = atomic_load_explicit(&watch->start, memory_order_relaxed);
    account_add(&outer.account->calls, 1);
    account_add(&outer.account->ticks, start - outer.start);
    watch->flags = flags;
}

static void log_overrun(lua_State *L, lua_Debug *ar, struct script_account *account)
{
    if (account->logged) return;
    account->logged = 1;
    lua_getinfo(L, "Sl", ar);
    fprintf(stderr, "llmlua: %s:%d: %s '%s' has run for more than %.0f ms without a pause\n", ar->short_src,
            ar->currentline, script_kind_name(account->kind), account->name,
            (double)ticks_to_ns(account->soft) / 1e6);
}

/* In place of the allocator for one request of this size, which it refuses. */
enum { REFUSED = 1 << 30 };

struct refusal {
    lua_State *L;
    lua_Alloc inner;
    void *ud;
};

static _Thread_local struct refusal refusal;

static void *refuse(void *ud, void *old, size_t old_size, size_t size)
{
    (void)ud;
    if (size < REFUSED) return refusal.inner(refusal.ud, old, old_size, size);
    lua_setallocf(refusal.L, refusal.inner, refusal.ud);
    return NULL;
}

/* Raises out of memory: the one error for which LuaJIT calls no handler. A handler (xpcall's) for an error
 * raised in a hook would run with hooks off, for ever if it liked. */
static void raise_uncaught(lua_State *L)
{
    refusal.L = L;
    refusal.inner = lua_getallocf(L, &refusal.ud);
    lua_setallocf(L, refuse, NULL);
    lua_newuserdata(L, REFUSED);
}

/* A coroutine is put aside, in the middle of what it did: no pcall notices. What cannot yield (it was called
 * by a C function, such as string.gsub) is unwound, an error an instruction; so it goes on until the C code
 * that has entered is reached. */
static void kill_script(lua_State *L, lua_Debug *ar, struct watch *watch)
{
    if (!(watch->flags & WATCH_KILLED)) {
        watch->flags |= WATCH_KILLED;
        account_add(&watch->account->kills, 1);
        lua_getinfo(L, "Sl", ar);
        snprintf(watch->why, sizeof watch->why, "%s:%d: stopped: it has run for more than %.0f ms",
                 ar->short_src, ar->currentline, (double)ticks_to_ns(watch->account->hard) / 1e6);
    }
    if (lua_isyieldable(L)) {
        lua_yield(L, 0);
    } else {
        raise_uncaught(L);
    }
}

static void on_hook(lua_State *L, lua_Debug *ar)
{
    struct watch *watch = mine;
    uint64_t now = ticks_now();
    if (!watch || now < atomic_load_explicit(&watch->due, memory_order_relaxed)) {
        if (watch) watch->flags &= ~WATCH_HOOKED;
        lua_sethook(L, NULL, 0, 0);
        interrupt_rearm(L);
        return;
    }
    struct script_account *account = watch->account;
    uint64_t start = atomic_load_explicit(&watch->start, memory_order_relaxed);
    if (account->hard != WATCHDOG_NEVER && now >= start + account->hard) {
        kill_script(L, ar, watch);
        return;
    }
    account_add(&account->overruns, 1);
    watch->flags |= WATCH_LATE;
    watchdog_unhook(watch);
    atomic_store_explicit(&watch->due,
                          account->hard == WATCHDOG_NEVER ? WATCHDOG_NEVER : start + account->hard,
                          memory_order_release);
    if (account->on_soft) {
        account->on_soft(L, account);
    } else {
        log_overrun(L, ar, account);
    }
}

/* ---- the timer ----------------------------------------------------------------------------------------- */

/* The kernel signals the watch's thread when its call is due, on time even if no processor is free for the
 * watchdog, and again until the handler finds nothing to do: a hook set while LuaJIT itself changes its
 * dispatch table may be undone, and a soft limit is followed by a hard one. The handler calls this too. */
static void set_timer(struct watch *watch, uint64_t due, uint64_t now)
{
    uint64_t ns = due > now ? ticks_to_ns(due - now) + 1 : 1;
    struct itimerspec at = {{0, AGAIN_NS}, {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)}};
    if (due == WATCHDOG_NEVER) memset(&at, 0, sizeof at);
    timer_settime(watch->timer, 0, &at, NULL);
    atomic_store_explicit(&watch->armed, due, memory_order_relaxed);
}

void watchdog_arm(struct watch *watch)
{
    uint64_t due = atomic_load_explicit(&watch->due, memory_order_relaxed);
    if (due != WATCHDOG_NEVER) set_timer(watch, due, ticks_now());
}

static void on_signal(int sig)
{
    (void)sig;
    int saved = errno;
    struct watch *watch = mine;
    uint64_t now = ticks_now(), due = watch ? atomic_load_explicit(&watch->due, memory_order_relaxed) : 0;
    if (!watch) return;
    if (due <= now) {
        watch->flags |= WATCH_HOOKED;
        /* Out and in again: a handler that interrupts LuaJIT's own change of its dispatch table leaves it
         * without the hook but marked as with, and a mere repetition would find nothing to change. */
        lua_sethook(watch->L, NULL, 0, 0);
        lua_sethook(watch->L, on_hook, LUA_MASKCOUNT, 1);
    } else {
        set_timer(watch, due, now);
    }
    errno = saved;
}

/* ---- the watchdog's thread ----------------------------------------------------------------------------- */

static void deadline(struct timespec *at, uint64_t ns)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    ns += (uint64_t)at->tv_nsec;
    at->tv_sec += (time_t)(ns / 1000000000u);
    at->tv_nsec = (long)(ns % 1000000000u);
}

/* Sets the timers of who will be past due, signals who is; returns when to look next on account of what is
 * under way now. */
static uint64_t look(uint64_t now)
{
    uint64_t next = WATCHDOG_NEVER;
    for (struct watch *watch = watches; watch; watch = watch->next) {
        uint64_t due = atomic_load_explicit(&watch->due, memory_order_acquire);
        if (due == WATCHDOG_NEVER) continue;
        if (due <= now) {
            pthread_kill((pthread_t)watch->thread, SIGNAL); /* in case the timer was not set in time */
            due = now;
        } else if (atomic_load_explicit(&watch->armed, memory_order_relaxed) != due) {
            set_timer(watch, due, now);
        }
        due += ticks_of_ns(AGAIN_NS);
        if (due < next) next = due;
    }
    return next;
}

/* A call whose limit is twice the interval is seen, by one look or another, well before it is due; calls with
 * smaller limits shorten the interval and wake us. Once a second the interval is forgotten, so that it
 * follows what runs, and stays infinite if nothing does. A call that began just then may have seen the old
 * one: hence one more look after that, before a longer sleep. */
static void *watchdog(void *unused)
{
    (void)unused;
    prctl(PR_SET_NAME, "watchdog");
    prctl(PR_SET_TIMERSLACK, (unsigned long)TIMER_SLACK_NS);
    uint64_t epoch = ticks_of_ns(EPOCH_NS), epoch_end = ticks_now() + epoch;
    pthread_mutex_lock(&lock);
    for (;;) {
        uint64_t now = ticks_now(), next = look(now);
        uint64_t interval = atomic_load_explicit(&watchdog_interval, memory_order_relaxed);
        if (interval != WATCHDOG_NEVER && now >= epoch_end) {
            atomic_store_explicit(&watchdog_interval, WATCHDOG_NEVER, memory_order_relaxed);
            epoch_end = now + epoch;
        }
        if (interval != WATCHDOG_NEVER && next - now > interval) next = now + interval;
        if (next == WATCHDOG_NEVER) {
            pthread_cond_wait(&wake, &lock);
        } else {
            struct timespec at;
            deadline(&at, ticks_to_ns(next - now));
            pthread_cond_timedwait(&wake, &lock, &at);
        }
    }
    return NULL;
}

void watchdog_wake(uint64_t interval)
{
    pthread_mutex_lock(&lock);
    if (interval < atomic_load_explicit(&watchdog_interval, memory_order_relaxed)) {
        atomic_store_explicit(&watchdog_interval, interval, memory_order_relaxed);
        pthread_cond_signal(&wake);
    }
    pthread_mutex_unlock(&lock);
}

/* With the lock. */
static llm_status start(struct llm_error *err)
{
    if (running) return LLM_OK;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    sigfillset(&action.sa_mask);
    action.sa_flags = SA_RESTART;
    sigaction(SIGNAL, &action, NULL);

    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&wake, &attributes);
    pthread_condattr_destroy(&attributes);

    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, watchdog, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return llm_fail(err, LLM_EFAILED, "cannot start the watchdog's thread: %s", strerror(failed));
    pthread_detach(thread);
    running = 1;
    return LLM_OK;
}

/* ---- watches and accounts ------------------------------------------------------------------------------ */

llm_status watchdog_open(struct watch **out, struct llm_error *err)
{
    if (mine) {
        mine->users++;
        *out = mine;
        return LLM_OK;
    }
    ticks_init();
    struct watch *watch = mem_zalloc(sizeof *watch);
    if (!watch) return llm_fail(err, LLM_ENOMEM, "no memory to watch a script");
    atomic_store_explicit(&watch->due, WATCHDOG_NEVER, memory_order_relaxed);
    watch->thread = (uint64_t)pthread_self();
    watch->users = 1;
    struct sigevent event;
    memset(&event, 0, sizeof event);
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = SIGNAL;
    event._sigev_un._tid = gettid();
    if (timer_create(CLOCK_MONOTONIC, &event, &watch->timer) != 0) {
        mem_free(watch);
        return llm_fail(err, LLM_EFAILED, "cannot make a timer to watch scripts with: %s", strerror(errno));
    }
    pthread_mutex_lock(&lock);
    llm_status status = start(err);
    if (status == LLM_OK) {
        watch->next = watches;
        watches = watch;
    }
    pthread_mutex_unlock(&lock);
    if (status != LLM_OK) {
        timer_delete(watch->timer);
        mem_free(watch);
        return status;
    }
    mine = watch;
    *out = watch;
    return LLM_OK;
}

void watchdog_close(struct watch *watch)
{
    if (!watch || --watch->users > 0) return;
    pthread_mutex_lock(&lock);
    struct watch **at = &watches;
    while (*at != watch) at = &(*at)->next;
    *at = watch->next;
    for (struct script_account *a = accounts; a; a = a->next) {
        if (a->watch == watch) a->watch = NULL;
    }
    pthread_mutex_unlock(&lock);
    mine = NULL;
    timer_delete(watch->timer);
    mem_free(watch);
}

/* With the lock: an account of this name that is the watch's or nobody's. */
static struct script_account *find_account(const struct watch *watch, enum script_kind kind, const char *name)
{
    struct script_account *free_one = NULL;
    for (struct script_account *a = accounts; a; a = a->next) {
        if (a->kind != kind || strcmp(a->name, name) != 0) continue;
        if (a->watch == watch) return a;
        if (!a->watch) free_one = a;
    }
    return free_one;
}

struct script_account *watchdog_account(struct watch *watch, enum script_kind kind, const char *name)
{
    char shortened[sizeof((struct script_account *)0)->name];
    snprintf(shortened, sizeof shortened, "%s", name);
    pthread_mutex_lock(&lock);
    struct script_account *account = find_account(watch, kind, shortened);
    if (!account && (account = mem_zalloc(sizeof *account))) {
        account->kind = kind;
        memcpy(account->name, shortened, sizeof shortened);
        account_limit(account, 0, 0);
        account->next = accounts;
        accounts = account;
    }
    if (account) account->watch = watch;
    pthread_mutex_unlock(&lock);
    return account;
}

void account_limit(struct script_account *account, uint64_t soft_ns, uint64_t hard_ns)
{
    account->soft = soft_ns ? ticks_of_ns(soft_ns) : WATCHDOG_NEVER;
    account->hard = hard_ns ? ticks_of_ns(hard_ns) : WATCHDOG_NEVER;
    account->first = account->soft < account->hard ? account->soft : account->hard;
    account->look = account->first == WATCHDOG_NEVER ? WATCHDOG_NEVER : account->first / 2;
    account->logged = 0;
}

/* ---- the books ----------------------------------------------------------------------------------------- */

static void add_up(struct account_sum *sum, const struct script_account *a)
{
    sum->kind = a->kind;
    memcpy(sum->name, a->name, sizeof sum->name);
    sum->calls += atomic_load_explicit(&a->calls, memory_order_relaxed);
    sum->ns += ticks_to_ns(atomic_load_explicit(&a->ticks, memory_order_relaxed));
    sum->overruns += atomic_load_explicit(&a->overruns, memory_order_relaxed);
    sum->kills += atomic_load_explicit(&a->kills, memory_order_relaxed);
    sum->errors += atomic_load_explicit(&a->errors, memory_order_relaxed);
    sum->bytes += atomic_load_explicit(&a->bytes, memory_order_relaxed);
}

llm_status watchdog_accounts(struct account_sum **out, int32_t *n, struct llm_error *err)
{
    pthread_mutex_lock(&lock);
    size_t count = 0;
    for (struct script_account *a = accounts; a; a = a->next) count++;
    struct account_sum *sums = mem_array(count ? count : 1, sizeof *sums);
    int32_t used = 0;
    for (struct script_account *a = sums ? accounts : NULL; a; a = a->next) {
        int32_t i = 0;
        while (i < used && (sums[i].kind != a->kind || strcmp(sums[i].name, a->name) != 0)) i++;
        if (i == used) used++;
        add_up(&sums[i], a);
    }
    pthread_mutex_unlock(&lock);
    if (!sums) return llm_fail(err, LLM_ENOMEM, "no memory for the accounts of scripts");
    *out = sums;
    *n = used;
    return LLM_OK;
}
