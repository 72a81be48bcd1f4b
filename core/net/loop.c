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

struct net_post {
    struct net_post *next;
    net_call_fn *fn;
    void *ud;
};

struct net_timer {
    struct net_grave grave;
    struct net_loop *loop;
    struct event ev;
    net_call_fn *fn;
    void *ud;
};

struct net_watch {
    struct net_grave grave;
    struct net_loop *loop;
    struct event ev;
    net_call_fn *fn;
    void *ud;
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

/* ---- posted calls -------------------------------------------------------------------------------------- */

static void wake(struct net_loop *loop)
{
    uint64_t one = 1;
    /* A full counter means that it is awake already. */
    ssize_t n = write(loop->wake_fd, &one, sizeof one);
    (void)n;
}

llm_status net_loop_post(struct net_loop *loop, net_call_fn *fn, void *ud)
{
    struct net_post *post = mem_alloc(sizeof *post);
    if (!post) return LLM_ENOMEM;
    post->fn = fn;
    post->ud = ud;
    post->next = atomic_load_explicit(&loop->posts, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&loop->posts, &post->next, post, memory_order_release,
                                                  memory_order_relaxed)) {
    }
    wake(loop);
    return LLM_OK;
}

static struct net_post *take_posts(struct net_loop *loop)
{
    struct net_post *newest = atomic_exchange_explicit(&loop->posts, NULL, memory_order_acquire);
    struct net_post *oldest = NULL;
    while (newest) {
        struct net_post *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    return oldest;
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct net_loop *loop = arg;
    uint64_t count;
    ssize_t n = read(fd, &count, sizeof count);
    (void)n;
    struct net_post *post = take_posts(loop);
    while (post) {
        struct net_post *next = post->next;
        post->fn(post->ud);
        mem_free(post);
        post = next;
    }
}

void net_loop_stop(struct net_loop *loop)
{
    atomic_store(&loop->stop, 1);
    wake(loop);
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
    /* No locks: only net_loop_post crosses threads, and it does not enter libevent. Millisecond timers need
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
    for (struct net_post *post = take_posts(loop); post;) {
        struct net_post *next = post->next;
        mem_free(post);
        post = next;
    }
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

static void timer_release(struct net_grave *grave)
{
    mem_free(grave); /* its first member */
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct net_timer *timer = arg;
    timer->fn(timer->ud);
}

llm_status net_timer_open(struct net_loop *loop, net_call_fn *fn, void *ud, struct net_timer **out,
                          struct llm_error *err)
{
    struct net_timer *timer = mem_zalloc(sizeof *timer);
    if (!timer) return llm_fail(err, LLM_ENOMEM, "timer: out of memory");
    timer->loop = loop;
    timer->fn = fn;
    timer->ud = ud;
    evtimer_assign(&timer->ev, loop->base, on_timer, timer);
    *out = timer;
    return LLM_OK;
}

llm_status net_timer_start(struct net_timer *timer, int64_t ms)
{
    if (ms < 0) ms = 0;
    struct timeval after = {ms / 1000, ms % 1000 * 1000};
    return event_add(&timer->ev, &after) == 0 ? LLM_OK : LLM_ENOMEM;
}

void net_timer_stop(struct net_timer *timer)
{
    event_del(&timer->ev);
}

void net_timer_close(struct net_timer *timer)
{
    if (!timer) return;
    event_del(&timer->ev);
    net_loop_bury(timer->loop, &timer->grave, timer_release);
}

static void on_watch(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct net_watch *watch = arg;
    watch->fn(watch->ud);
}

static llm_status watch_open(struct net_loop *loop, int fd, short what, net_call_fn *fn, void *ud,
                             struct net_watch **out, struct llm_error *err)
{
    struct net_watch *watch = mem_zalloc(sizeof *watch);
    if (!watch) return llm_fail(err, LLM_ENOMEM, "watch: out of memory");
    watch->loop = loop;
    watch->fn = fn;
    watch->ud = ud;
    if (event_assign(&watch->ev, loop->base, fd, what, on_watch, watch) != 0 ||
        event_add(&watch->ev, NULL) != 0) {
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

static void watch_release(struct net_grave *grave)
{
    mem_free(grave); /* its first member */
}

void net_watch_close(struct net_watch *watch)
{
    if (!watch) return;
    event_del(&watch->ev);
    net_loop_bury(watch->loop, &watch->grave, watch_release);
}
