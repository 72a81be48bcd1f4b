#define _GNU_SOURCE
#include "net/dial.h"

#include "base/mem.h"
#include "net/loop_impl.h"

#include <event2/dns.h>
#include <event2/util.h>

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

struct net_dial {
    struct net_grave grave;
    struct net_loop *loop;
    net_dial_fn *fn;
    void *ud;
    struct evdns_getaddrinfo_request *lookup; /* null unless one is under way */
    struct evutil_addrinfo *list, *next;      /* all addresses; those not yet tried */
    struct event ev;                          /* the connect under way, or the failure to be told */
    int fd;                                   /* -1: none */
    char reason[160];
};

static void try_next(struct net_dial *dial);

static void dial_release(struct net_grave *grave)
{
    mem_free(grave); /* its first member */
}

void net_dial_close(struct net_dial *dial)
{
    if (!dial) return;
    event_del(&dial->ev);
    if (dial->fd >= 0) close(dial->fd);
    if (dial->list) evutil_freeaddrinfo(dial->list);
    dial->list = NULL;
    if (dial->lookup) {
        dial->fn = NULL; /* its callback still comes, with "canceled", and buries */
        evdns_getaddrinfo_cancel(dial->lookup);
        return;
    }
    net_loop_bury(dial->loop, &dial->grave, dial_release);
}

static void finish(struct net_dial *dial)
{
    net_dial_fn *fn = dial->fn;
    int fd = dial->fd;
    dial->fd = -1;
    net_dial_close(dial); /* buried: its reason is readable until the turn ends */
    fn(dial->ud, fd, dial->reason);
}

static void on_failed(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    finish(arg);
}

/* From the loop, so that the caller of net_dial_open has returned. */
static void fail_later(struct net_dial *dial, const char *reason)
{
    snprintf(dial->reason, sizeof dial->reason, "%s", reason);
    evtimer_assign(&dial->ev, dial->loop->base, on_failed, dial);
    event_active(&dial->ev, EV_TIMEOUT, 1);
}

static void on_connect(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct net_dial *dial = arg;
    int code = 0;
    socklen_t size = sizeof code;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &size);
    if (code == 0) {
        finish(dial);
        return;
    }
    close(dial->fd);
    dial->fd = -1;
    snprintf(dial->reason, sizeof dial->reason, "%s", strerror(code));
    try_next(dial);
}

/* Returns 0 when a connect is under way. */
static int try_address(struct net_dial *dial, const struct sockaddr *address, socklen_t size)
{
    int one = 1;
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (address->sa_family != AF_UNIX) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, address, size) != 0 && errno != EINPROGRESS) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    dial->fd = fd;
    event_assign(&dial->ev, dial->loop->base, fd, EV_WRITE, on_connect, dial);
    event_add(&dial->ev, NULL);
    return 0;
}

static void try_next(struct net_dial *dial)
{
    while (dial->next) {
        const struct evutil_addrinfo *a = dial->next;
        dial->next = a->ai_next;
        if (try_address(dial, a->ai_addr, (socklen_t)a->ai_addrlen) == 0) return;
        snprintf(dial->reason, sizeof dial->reason, "%s", strerror(errno));
    }
    char reason[sizeof dial->reason];
    memcpy(reason, dial->reason, sizeof reason);
    fail_later(dial, reason);
}

static void on_lookup(int code, struct evutil_addrinfo *list, void *arg)
{
    struct net_dial *dial = arg;
    dial->lookup = NULL;
    if (!dial->fn) { /* closed meanwhile */
        if (list) evutil_freeaddrinfo(list);
        net_loop_bury(dial->loop, &dial->grave, dial_release);
        return;
    }
    if (code != 0 || !list) {
        char reason[128];
        snprintf(reason, sizeof reason, "no address: %s", evutil_gai_strerror(code));
        fail_later(dial, reason);
        return;
    }
    dial->list = dial->next = list;
    try_next(dial);
}

static void look_up(struct net_dial *dial, const char *host, int port)
{
    struct evutil_addrinfo hints = {.ai_family = AF_UNSPEC,
                                    .ai_socktype = SOCK_STREAM,
                                    .ai_protocol = IPPROTO_TCP,
                                    .ai_flags = EVUTIL_AI_NUMERICHOST | EVUTIL_AI_NUMERICSERV};
    struct evutil_addrinfo *list = NULL;
    char service[16];
    snprintf(service, sizeof service, "%d", port);
    if (evutil_getaddrinfo(host, service, &hints, &list) == 0) {
        dial->list = dial->next = list;
        try_next(dial);
        return;
    }
    if (!dial->loop->dns)
        dial->loop->dns = evdns_base_new(dial->loop->base, EVDNS_BASE_INITIALIZE_NAMESERVERS |
                                                               EVDNS_BASE_DISABLE_WHEN_INACTIVE);
    if (!dial->loop->dns) {
        fail_later(dial, "cannot start name lookups: /etc/resolv.conf names no usable server");
        return;
    }
    hints.ai_flags = EVUTIL_AI_NUMERICSERV;
    /* May call on_lookup before it returns; then it returns null. */
    dial->lookup = evdns_getaddrinfo(dial->loop->dns, host, service, &hints, on_lookup, dial);
}

static void dial_unix(struct net_dial *dial, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fail_later(dial, "the socket's path is too long");
        return;
    }
    strcpy(address.sun_path, path);
    if (try_address(dial, (struct sockaddr *)&address, sizeof address) != 0)
        fail_later(dial, strerror(errno));
}

llm_status net_dial_open(struct net_loop *loop, const char *host, int port, const char *unix_path,
                         net_dial_fn *fn, void *ud, struct net_dial **out, struct llm_error *err)
{
    struct net_dial *dial = mem_zalloc(sizeof *dial);
    if (!dial) return llm_fail(err, LLM_ENOMEM, "connecting: out of memory");
    dial->loop = loop;
    dial->fn = fn;
    dial->ud = ud;
    dial->fd = -1;
    evtimer_assign(&dial->ev, loop->base, on_failed, dial);
    if (unix_path)
        dial_unix(dial, unix_path);
    else
        look_up(dial, host, port);
    *out = dial;
    return LLM_OK;
}
