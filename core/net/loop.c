#define _GNU_SOURCE
#include "net/loop.h"

#include "base/mem.h"
#include "net/loop_impl.h"
#include "net/stream.h"

#include <event2/dns.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* What the loop calls when something happens. */
struct source {
    struct net_grave grave; /* first */
    struct net_loop *loop;
    struct event ev;
    net_call_fn *fn;
    void *ud;
};

struct net_timer {
    struct source source;
};

struct net_watch {
    struct source source;
};

int64_t net_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void drop_log(int severity, const char *message)
{
    (void)severity;
    (void)message;
}

/* The library never prints; libevent would. */
static void silence_libevent(void)
{
    event_set_log_callback(drop_log);
}

void net_loop_stop(struct net_loop *loop)
{
    atomic_store(&loop->stop, 1);
    uint64_t one = 1;
    /* A full counter means that it is awake already. */
    ssize_t n = write(loop->wake_fd, &one, sizeof one);
    (void)n;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    (void)arg; /* its only use is that the wait ends */
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
}

/* ---- turns --------------------------------------------------------------------------------------------- */

void net_loop_bury(struct net_loop *loop, struct net_grave *grave, void (*release)(struct net_grave *))
{
    grave->release = release;
    grave->next = loop->graves;
    loop->graves = grave;
}

static void release_graves(struct net_loop *loop)
{
    while (loop->graves) {
        struct net_grave *grave = loop->graves;
        loop->graves = grave->next;
        grave->release(grave);
    }
}

static void on_limit(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    (void)arg; /* its only use is that the wait ends */
}

llm_status net_loop_step(struct net_loop *loop, int64_t timeout_ms, struct llm_error *err)
{
    net_stream_flush_dirty(loop);
    int flags = EVLOOP_ONCE;
    if (timeout_ms == 0) {
        flags = EVLOOP_NONBLOCK;
    } else if (timeout_ms > 0) {
        struct timeval limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
        event_add(&loop->ev_limit, &limit);
    }
    int rc = event_base_loop(loop->base, flags);
    if (timeout_ms > 0) event_del(&loop->ev_limit);
    net_stream_flush_dirty(loop);
    release_graves(loop);
    if (rc < 0) return llm_fail(err, LLM_EIO, "event loop: %s", strerror(errno));
    return LLM_OK;
}

llm_status net_loop_run(struct net_loop *loop, struct llm_error *err)
{
    llm_status rc = LLM_OK;
    while (rc == LLM_OK && !atomic_exchange(&loop->stop, 0)) rc = net_loop_step(loop, -1, err);
    return rc;
}

llm_status net_loop_open(struct net_loop **out, struct llm_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, silence_libevent);
    struct event_config *config = NULL;
    struct net_loop *loop = mem_zalloc(sizeof *loop);
    if (!loop) return llm_fail(err, LLM_ENOMEM, "event loop: out of memory");
    loop->wake_fd = -1;
    loop->scratch = mem_alloc(NET_SCRATCH_BYTES);
    config = event_config_new();
    if (!loop->scratch || !config) {
        llm_fail(err, LLM_ENOMEM, "event loop: out of memory");
        goto fail;
    }
    /* No locks: only net_loop_stop crosses threads, and it does not enter libevent. Millisecond timers need
     * no timerfd. */
    event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
    loop->base = event_base_new_with_config(config);
    loop->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (!loop->base || loop->wake_fd < 0) {
        llm_fail(err, LLM_EIO, "event loop: %s", strerror(errno));
        goto fail;
    }
    event_assign(&loop->ev_wake, loop->base, loop->wake_fd, EV_READ | EV_PERSIST, on_wake, loop);
    evtimer_assign(&loop->ev_limit, loop->base, on_limit, loop);
    if (event_add(&loop->ev_wake, NULL) != 0) {
        llm_fail(err, LLM_EIO, "event loop: cannot watch the wake-up descriptor");
        goto fail;
    }
    event_config_free(config);
    *out = loop;
    return LLM_OK;
fail:
    if (config) event_config_free(config);
    net_loop_close(loop);
    return err ? err->status : LLM_EIO;
}

void net_loop_close(struct net_loop *loop)
{
    if (!loop) return;
    release_graves(loop);
    if (loop->dns) evdns_base_free(loop->dns, 0);
    if (loop->base) {
        if (loop->wake_fd >= 0 && event_initialized(&loop->ev_wake)) event_del(&loop->ev_wake);
        event_base_free(loop->base);
    }
    if (loop->wake_fd >= 0) close(loop->wake_fd);
    net_pool_deinit(&loop->pool);
    mem_free(loop->scratch);
    mem_free(loop);
}

const char *net_loop_date(struct net_loop *loop, int *bytes)
{
    time_t now = time(NULL);
    if (now != loop->date_second) {
        struct tm tm;
        gmtime_r(&now, &tm);
        loop->date_second = now;
        loop->date_bytes =
            (int)strftime(loop->date, sizeof loop->date, "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &tm);
    }
    *bytes = loop->date_bytes;
    return loop->date;
}

/* ---- timers, descriptors, signals ---------------------------------------------------------------------- */

static void on_event(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct source *source = arg;
    source->fn(source->ud);
}

static void source_release(struct net_grave *grave)
{
    mem_free(grave); /* its first member */
}

static void source_close(struct source *source)
{
    event_del(&source->ev);
    net_loop_bury(source->loop, &source->grave, source_release);
}

llm_status net_timer_open(struct net_loop *loop, net_call_fn *fn, void *ud, struct net_timer **out,
                          struct llm_error *err)
{
    struct net_timer *timer = mem_zalloc(sizeof *timer);
    if (!timer) return llm_fail(err, LLM_ENOMEM, "timer: out of memory");
    timer->source = (struct source){.loop = loop, .fn = fn, .ud = ud};
    evtimer_assign(&timer->source.ev, loop->base, on_event, &timer->source);
    *out = timer;
    return LLM_OK;
}

llm_status net_timer_start(struct net_timer *timer, int64_t ms)
{
    if (ms < 0) ms = 0;
    struct timeval after = {ms / 1000, ms % 1000 * 1000};
    return event_add(&timer->source.ev, &after) == 0 ? LLM_OK : LLM_ENOMEM;
}

void net_timer_close(struct net_timer *timer)
{
    if (timer) source_close(&timer->source);
}

static llm_status watch_open(struct net_loop *loop, int fd, short what, net_call_fn *fn, void *ud,
                             struct net_watch **out, struct llm_error *err)
{
    struct net_watch *watch = mem_zalloc(sizeof *watch);
    if (!watch) return llm_fail(err, LLM_ENOMEM, "watch: out of memory");
    struct source *source = &watch->source;
    *source = (struct source){.loop = loop, .fn = fn, .ud = ud};
    if (event_assign(&source->ev, loop->base, fd, what, on_event, source) != 0 ||
        event_add(&source->ev, NULL) != 0) {
        mem_free(watch);
        return llm_fail(err, LLM_EIO, "cannot watch %s %d: %s", what & EV_SIGNAL ? "signal" : "descriptor",
                        fd, strerror(errno));
    }
    *out = watch;
    return LLM_OK;
}

llm_status net_watch_open(struct net_loop *loop, int fd, net_call_fn *fn, void *ud, struct net_watch **out,
                          struct llm_error *err)
{
    return watch_open(loop, fd, EV_READ | EV_PERSIST, fn, ud, out, err);
}

llm_status net_signal_open(struct net_loop *loop, int signal_number, net_call_fn *fn, void *ud,
                           struct net_watch **out, struct llm_error *err)
{
    return watch_open(loop, signal_number, EV_SIGNAL | EV_PERSIST, fn, ud, out, err);
}

void net_watch_close(struct net_watch *watch)
{
    if (watch) source_close(&watch->source);
}
