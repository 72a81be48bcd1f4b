/* The load generator of scripts/dev/bench_front.sh: opens streams of an OpenAI completions server, one for
 * each connection, reads them to their ends, and checks that each token had an event of its own. Reports
 * events a second from the first event of the last stream to start until the first stream's end, when all
 * run; the processor time of the server in the whole run; and its own.
 *
 *   bench_front PORT SERVER_PID CONNECTIONS TOKENS EXTRA [PATH]
 *
 * EXTRA: events of a stream that carry no token, such as [DONE]. PATH: of the endpoint, /v1/completions. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 4096, READ_BYTES = 1 << 18 };

struct stream {
    int fd, head_seen, ended;
    long n_events;
    char last; /* byte read */
};

static struct stream streams[MAX_CONNECTIONS];
static int n_streams, n_begun, n_ended;
static long n_tokens, n_extra, n_counted; /* counted: events while all streams ran */
static double t_all, t_first_end;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_front: %s: %s\n", what, errno ? strerror(errno) : "unexpected");
    exit(1);
}

/* User and system time of a process, in seconds. */
static double process_seconds(long pid)
{
    char path[64], text[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    if (f) fclose(f);
    text[n] = 0;
    const char *after = strrchr(text, ')');
    if (!after ||
        sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        die("the server's process");
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static int connect_to(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) != 0) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void send_request(int fd, int number, const char *path)
{
    char body[256], text[768];
    int bytes =
        snprintf(body, sizeof body,
                 "{\"prompt\": \"stream %d\", \"max_tokens\": %ld, \"temperature\": 0, \"stream\": true,"
                 " \"ignore_eos\": true}",
                 number, n_tokens);
    int n = snprintf(text, sizeof text,
                     "POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                     "Connection: close\r\nContent-Length: %d\r\n\r\n%s",
                     path, bytes, body);
    if (write(fd, text, (size_t)n) != n) die("write");
}

/* Events end with an empty line; the framing of HTTP's chunks has carriage returns. */
static long count_events(struct stream *s, const char *data, size_t n)
{
    long found = 0;
    const char *end = data + n;
    char last = s->last;
    for (const char *p = data; (p = memchr(p, '\n', (size_t)(end - p))); p++)
        found += (p > data ? p[-1] : last) == '\n';
    s->last = data[n - 1];
    return found;
}

static void begin(struct stream *s, const char *data, size_t n)
{
    if (n < 12 || memcmp(data, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "bench_front: the server answered %.*s\n", (int)(n < 600 ? n : 600), data);
        exit(1);
    }
    s->head_seen = 1;
    if (++n_begun == n_streams) t_all = now();
}

static void end(struct stream *s)
{
    if (n_ended++ == 0) t_first_end = now();
    s->ended = 1;
    close(s->fd);
    if (s->n_events == n_tokens + n_extra) return;
    fprintf(stderr, "bench_front: a stream had %ld events; it must have %ld\n", s->n_events,
            n_tokens + n_extra);
    exit(1);
}

static void take(struct stream *s)
{
    static char data[READ_BYTES];
    ssize_t n = read(s->fd, data, sizeof data);
    if (n < 0) die("read");
    if (n == 0) {
        end(s);
        return;
    }
    if (!s->head_seen) begin(s, data, (size_t)n);
    long found = count_events(s, data, (size_t)n);
    s->n_events += found;
    if (n_begun == n_streams && n_ended == 0) n_counted += found;
}

static void read_all(int poll)
{
    struct epoll_event events[256];
    while (n_ended < n_streams) {
        int n = epoll_wait(poll, events, 256, 30000);
        if (n == 0) die("nothing came for 30 s");
        for (int i = 0; i < n; i++) take(&streams[events[i].data.u32]);
    }
}

int main(int argc, char **argv)
{
    if (argc < 6) return 2;
    int port = atoi(argv[1]), poll = epoll_create1(0);
    long pid = atol(argv[2]);
    n_streams = atoi(argv[3]);
    n_tokens = atol(argv[4]);
    n_extra = atol(argv[5]);
    const char *path = argc > 6 ? argv[6] : "/v1/completions";
    if (n_streams < 1 || n_streams > MAX_CONNECTIONS || n_tokens < 1) return 2;
    double cpu = process_seconds(pid), start = now();
    for (int i = 0; i < n_streams; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        streams[i].fd = connect_to(port);
        send_request(streams[i].fd, i, path);
        epoll_ctl(poll, EPOLL_CTL_ADD, streams[i].fd, &e);
    }
    read_all(poll);
    double wall = now() - start;
    cpu = process_seconds(pid) - cpu;
    struct rusage own;
    getrusage(RUSAGE_SELF, &own);
    double mine = (double)(own.ru_utime.tv_sec + own.ru_stime.tv_sec) +
                  (double)(own.ru_utime.tv_usec + own.ru_stime.tv_usec) * 1e-6;
    double total = (double)n_streams * (double)n_tokens;
    printf("%d streams x %ld tokens: %.0f tokens/s in %.2f s (%.0f while all ran); server %.2f s of CPU, "
           "%.2f us a token, %.1f %% of a core; generator %.2f us a token\n",
           n_streams, n_tokens, total / wall, wall,
           t_first_end > t_all ? (double)n_counted / (t_first_end - t_all) : 0, cpu, cpu / total * 1e6,
           cpu / wall * 100, mine / total * 1e6);
    return 0;
}
