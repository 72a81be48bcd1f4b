/* The transport alone: streams many short chunks to many connections from one loop, as a server does when an
 * engine emits tokens, while a second thread reads them. Reports chunks a second, and processor time of the
 * serving thread per chunk and per 10,000 chunks/s.
 *
 *   bench_net [connections [chunks a connection [chunks a turn]]] */

#define _GNU_SOURCE
#include "net/http_server.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int n_connections = 64, n_chunks = 40000, burst = 1;

/* An OpenAI completion chunk of one token, as clients get them. */
static const char event[] =
    "data: {\"id\":\"cmpl-1f0c\",\"object\":\"text_completion\",\"created\":1700000000,\"model\":\"m\","
    "\"choices\":[{\"index\":0,\"text\":\" token\",\"logprobs\":null,\"finish_reason\":null}]}\n\n";

struct stream {
    struct http_exchange *x;
    int left, paused;
};

struct bench {
    struct net_loop *loop;
    struct net_timer *tick;
    struct stream *streams;
    int n_open, n_done;
    double wall, cpu;
};

static double seconds(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

/* One engine step: every running sequence gets its tokens. */
static void on_tick(void *ud)
{
    struct bench *b = ud;
    for (int i = 0; i < n_connections; i++) {
        struct stream *s = &b->streams[i];
        for (int k = 0; k < burst && s->left > 0 && !s->paused; k++) {
            s->paused = http_reply_write(s->x, event, sizeof event - 1) == LLM_EAGAIN;
            if (--s->left == 0) http_reply_end(s->x);
        }
    }
    if (b->n_done < n_connections) net_timer_start(b->tick, 0);
}

static void on_request(void *ud, struct http_exchange *x)
{
    struct bench *b = ud;
    struct http_field type = {{"Content-Type", 12}, {"text/event-stream", 17}};
    struct stream *s = &b->streams[b->n_open++];
    *s = (struct stream){x, n_chunks, 0};
    http_exchange_set_user(x, s);
    http_reply_start(x, 200, &type, 1, -1);
    if (b->n_open < n_connections) return;
    b->wall = seconds(CLOCK_MONOTONIC);
    b->cpu = seconds(CLOCK_THREAD_CPUTIME_ID);
    net_timer_start(b->tick, 0);
}

static void on_writable(void *ud, struct http_exchange *x)
{
    (void)ud;
    ((struct stream *)http_exchange_user(x))->paused = 0;
}

static void on_done(void *ud, struct http_exchange *x, enum http_done why)
{
    (void)x;
    (void)why;
    struct bench *b = ud;
    if (++b->n_done < n_connections) return;
    b->wall = seconds(CLOCK_MONOTONIC) - b->wall;
    b->cpu = seconds(CLOCK_THREAD_CPUTIME_ID) - b->cpu;
    net_loop_stop(b->loop);
}

static void *read_all(void *arg)
{
    int port = *(int *)arg, poll = epoll_create1(0), open = n_connections;
    static char sink[1 << 18];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (int i = 0; i < n_connections; i++) {
        static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
        if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) exit(1);
        if (write(fd, request, sizeof request - 1) < 0) exit(1);
        epoll_ctl(poll, EPOLL_CTL_ADD, fd, &e);
    }
    while (open > 0) {
        struct epoll_event events[64];
        int n = epoll_wait(poll, events, 64, -1);
        for (int i = 0; i < n; i++)
            if (read(events[i].data.fd, sink, sizeof sink) <= 0) {
                close(events[i].data.fd);
                open--;
            }
    }
    close(poll);
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc > 1) n_connections = atoi(argv[1]);
    if (argc > 2) n_chunks = atoi(argv[2]);
    if (argc > 3) burst = atoi(argv[3]);
    if (n_connections < 1 || n_chunks < 1 || burst < 1) return 2;
    struct bench b = {.streams = calloc((size_t)n_connections, sizeof *b.streams)};
    struct http_handler handler = {
        .on_request = on_request, .on_writable = on_writable, .on_done = on_done, .ud = &b};
    struct http_server *server;
    struct llm_error err = {0};
    if (net_loop_open(&b.loop, &err) || net_timer_open(b.loop, on_tick, &b, &b.tick, &err) ||
        http_server_open(b.loop, NULL, &handler, &server, &err) ||
        http_server_listen(server, "127.0.0.1", 0, 0, NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    int port = http_server_port(server);
    pthread_t reader;
    pthread_create(&reader, NULL, read_all, &port);
    net_loop_run(b.loop, &err);
    pthread_join(reader, NULL);
    double total = (double)n_connections * n_chunks;
    printf("%d connections x %d chunks of %zu bytes, %d a turn: %.0f chunks/s, %.2f us of CPU a chunk, "
           "10,000 chunks/s cost %.1f %% of a core\n",
           n_connections, n_chunks, sizeof event - 1, burst, total / b.wall, b.cpu / total * 1e6,
           b.cpu / total * 1e6);
    http_server_close(server);
    net_timer_close(b.tick);
    net_loop_close(b.loop);
    free(b.streams);
    return 0;
}
