#define _GNU_SOURCE
#include "net/http_server.h"

#include "base/mem.h"
#include "net/http_server_impl.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { BACKLOG = 1024, ACCEPTS_A_TURN = 64, ACCEPT_PAUSE_MS = 100 };

void http_server_options_init(struct http_server_options *o)
{
    *o = (struct http_server_options){
        .limits = {.max_head = 65536, .max_target = 8192, .max_fields = 100},
        .max_body = (size_t)64 << 20,
        .high_water = 65536,
        .max_connections = 65536,
        .idle_timeout_ms = 75000,
        .head_timeout_ms = 10000,
        .body_timeout_ms = 30000,
        .write_timeout_ms = 60000,
    };
}

/* ---- accepting ----------------------------------------------------------------------------------------- */

static void set_accepting(struct http_server *server, int on)
{
    if (server->accepting == on) return;
    server->accepting = on;
    for (struct http_listener *l = server->listeners; l; l = l->next) {
        if (on)
            event_add(&l->ev, NULL);
        else
            event_del(&l->ev);
    }
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_server *server = arg;
    if (!server->draining && server->stats.n_connections < server->options.max_connections)
        set_accepting(server, 1);
}

/* Out of descriptors or memory: the backlog waits while connections close. */
static void pause_accepting(struct http_server *server)
{
    struct timeval after = {0, ACCEPT_PAUSE_MS * 1000};
    set_accepting(server, 0);
    event_add(&server->accept_again, &after);
}

static void prepare_socket(const struct http_server *server, int fd, int is_unix)
{
    int one = 1;
    if (!is_unix) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int bytes = server->options.send_buffer;
    if (bytes > 0) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
    (void)what;
    struct http_listener *listener = arg;
    struct http_server *server = listener->server;
    for (int i = 0; i < ACCEPTS_A_TURN; i++) {
        if (server->stats.n_connections >= server->options.max_connections) {
            set_accepting(server, 0);
            return;
        }
        int conn_fd = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (conn_fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                pause_accepting(server);
            return; /* else nobody waits any more, or one left while waiting */
        }
        int is_unix = listener->unix_path != NULL;
        prepare_socket(server, conn_fd, is_unix);
        if (http_conn_open(server, conn_fd, listener->tls, is_unix) != LLM_OK) {
            close(conn_fd);
            pause_accepting(server);
            return;
        }
        server->stats.n_accepted++;
    }
}

/* Those whom the kernel has connected already get an answer, not a reset. Up to max_connections. */
static void accept_waiting(struct http_server *server)
{
    for (struct http_listener *l = server->listeners; l; l = l->next) {
        uint64_t before;
        do {
            before = server->stats.n_accepted;
            on_accept(l->fd, EV_READ, l);
        } while (server->stats.n_accepted - before == ACCEPTS_A_TURN);
    }
}

/* ---- listening ----------------------------------------------------------------------------------------- */

static llm_status add_listener(struct http_server *server, int fd, struct net_tls *tls, const char *unix_path)
{
    struct http_listener *l = mem_zalloc(sizeof *l);
    if (!l) return LLM_ENOMEM;
    if (unix_path && !(l->unix_path = mem_strdup(unix_path))) {
        mem_free(l);
        return LLM_ENOMEM;
    }
    l->server = server;
    l->tls = tls;
    l->fd = fd;
    event_assign(&l->ev, server->loop->base, fd, EV_READ | EV_PERSIST, on_accept, l);
    if (server->accepting) event_add(&l->ev, NULL);
    struct http_listener **end = &server->listeners;
    while (*end) end = &(*end)->next;
    *end = l;
    return LLM_OK;
}

static void close_listeners(struct http_server *server)
{
    set_accepting(server, 0);
    event_del(&server->accept_again);
    while (server->listeners) {
        struct http_listener *l = server->listeners;
        server->listeners = l->next;
        if (l->unix_path) unlink(l->unix_path);
        close(l->fd);
        mem_free(l->unix_path);
        mem_free(l);
    }
}

static int bind_tcp(const struct addrinfo *a, int reuse_port)
{
    int one = 1;
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* Without it "::" would claim the IPv4 port too and the bind of "0.0.0.0" would fail. */
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if ((reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one) != 0) ||
        bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    return fd;
}

/* No IPv6 on this machine is no reason to refuse IPv4. */
static int family_is_missing(int code)
{
    return code == EAFNOSUPPORT || code == EADDRNOTAVAIL || code == EPROTONOSUPPORT;
}

llm_status http_server_listen(struct http_server *server, const char *host, int port, int reuse_port,
                              struct net_tls *tls, struct llm_error *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    char service[16];
    const char *name = host ? host : "all interfaces";
    if (port < 0 || port > 65535) return llm_fail(err, LLM_EINVAL, "port is %d; it must be 0 to 65535", port);
    snprintf(service, sizeof service, "%d", port);
    int rc = getaddrinfo(host, service, &hints, &list);
    if (rc) return llm_fail(err, LLM_EIO, "cannot listen on %s port %d: %s", name, port, gai_strerror(rc));
    int n_open = 0, code = 0;
    llm_status status = LLM_OK;
    for (struct addrinfo *a = list; a && status == LLM_OK && !(n_open > 0 && port == 0); a = a->ai_next) {
        int fd = bind_tcp(a, reuse_port);
        if (fd < 0) {
            if (!code || family_is_missing(code)) code = errno;
            if (!family_is_missing(errno)) break;
            continue;
        }
        status = add_listener(server, fd, tls, NULL);
        if (status) close(fd);
        n_open++;
    }
    freeaddrinfo(list);
    if (status) return llm_fail(err, status, "cannot listen on %s port %d: out of memory", name, port);
    if (n_open == 0 || (code && !family_is_missing(code)))
        return llm_fail(err, LLM_EIO, "cannot listen on %s port %d: %s", name, port, strerror(code));
    return LLM_OK;
}

/* A socket file that nobody answers on is left over from a process that died. */
static void remove_stale_socket(const struct sockaddr_un *address)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode)) return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return;
    if (connect(fd, (const struct sockaddr *)address, sizeof *address) != 0 && errno == ECONNREFUSED)
        unlink(address->sun_path);
    close(fd);
}

llm_status http_server_listen_unix(struct http_server *server, const char *path, int mode,
                                   struct llm_error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return llm_fail(err, LLM_EINVAL, "socket path %s is too long; at most %zu bytes", path,
                        sizeof address.sun_path - 1);
    strcpy(address.sun_path, path);
    remove_stale_socket(&address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int bound = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    if (!bound || chmod(path, (mode_t)mode) != 0 || listen(fd, BACKLOG) != 0) {
        llm_fail(err, LLM_EIO, "cannot listen on %s: %s", path, strerror(errno));
        goto fail;
    }
    if (add_listener(server, fd, NULL, path) != LLM_OK) {
        llm_fail(err, LLM_ENOMEM, "cannot listen on %s: out of memory", path);
        goto fail;
    }
    return LLM_OK;
fail:
    if (bound) unlink(path);
    if (fd >= 0) close(fd);
    return err ? err->status : LLM_EIO;
}

int http_server_port(const struct http_server *server)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    const struct http_listener *l = server->listeners;
    if (!l || l->unix_path || getsockname(l->fd, (struct sockaddr *)&address, &size) != 0) return 0;
    return address.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&address)->sin6_port)
                                         : ntohs(((struct sockaddr_in *)&address)->sin_port);
}

/* ---- lifetime ------------------------------------------------------------------------------------------ */

static void tell_drained(struct http_server *server)
{
    net_call_fn *drained = server->drained;
    server->drained = NULL;
    event_del(&server->drain_timer);
    if (drained) drained(server->drained_ud);
}

static void on_drain_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_server *server = arg;
    while (server->conns) http_conn_close(server->conns, HTTP_DONE_CLOSED);
    tell_drained(server);
}

void http_server_conn_closed(struct http_server *server)
{
    if (server->draining) {
        /* Told from the loop, not from whatever closed the last connection. */
        if (!server->conns) event_active(&server->drain_timer, EV_TIMEOUT, 1);
    } else if (!server->accepting && !evtimer_pending(&server->accept_again, NULL)) {
        set_accepting(server, 1);
    }
}

/* A request may have come that the loop has not read yet. */
static int has_sent(const struct http_conn *c)
{
    char byte;
    return recv(c->stream.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

llm_status http_server_drain(struct http_server *server, int64_t deadline_ms, net_call_fn *drained, void *ud)
{
    server->draining = 1;
    server->drained = drained;
    server->drained_ud = ud;
    accept_waiting(server);
    close_listeners(server);
    struct http_conn *next;
    for (struct http_conn *c = server->conns; c; c = next) {
        next = c->next;
        if (c->state == CONN_IDLE && !has_sent(c)) http_conn_close(c, HTTP_DONE_CLOSED);
    }
    if (!server->conns) {
        event_active(&server->drain_timer, EV_TIMEOUT, 1);
    } else if (deadline_ms >= 0) {
        struct timeval after = {deadline_ms / 1000, deadline_ms % 1000 * 1000};
        if (event_add(&server->drain_timer, &after) != 0) return LLM_ENOMEM;
    }
    return LLM_OK;
}

llm_status http_server_open(struct net_loop *loop, const struct http_server_options *options,
                            const struct http_handler *handler, struct http_server **out,
                            struct llm_error *err)
{
    struct http_server_options defaults;
    http_server_options_init(&defaults);
    if (!options) options = &defaults;
    if (!handler->on_request || !handler->on_done)
        return llm_fail(err, LLM_EINVAL, "HTTP server: on_request and on_done are required");
    if (options->limits.max_head < 64 || options->limits.max_fields < 1 || options->high_water < 1)
        return llm_fail(err, LLM_EINVAL, "HTTP server: limits must be positive, max_head at least 64 bytes");
    struct http_server *server = mem_zalloc(sizeof *server);
    struct http_field *fields = mem_array((size_t)options->limits.max_fields, sizeof *fields);
    if (!server || !fields) {
        mem_free(server);
        mem_free(fields);
        return llm_fail(err, LLM_ENOMEM, "HTTP server: out of memory");
    }
    server->loop = loop;
    server->options = *options;
    server->handler = *handler;
    server->scratch_fields = fields;
    server->accepting = 1;
    evtimer_assign(&server->accept_again, loop->base, on_accept_again, server);
    evtimer_assign(&server->drain_timer, loop->base, on_drain_timer, server);
    *out = server;
    return LLM_OK;
}

static void server_release(struct net_grave *grave)
{
    struct http_server *server = (struct http_server *)grave;
    mem_free(server->scratch_fields);
    mem_free(server);
}

void http_server_close(struct http_server *server)
{
    if (!server) return;
    server->draining = 1; /* nothing is accepted in place of what closes */
    server->drained = NULL;
    close_listeners(server);
    while (server->conns) http_conn_close(server->conns, HTTP_DONE_CLOSED);
    event_del(&server->drain_timer);
    net_loop_bury(server->loop, &server->grave, server_release);
}

void http_server_stats(const struct http_server *server, struct http_server_stats *out)
{
    *out = server->stats;
}
