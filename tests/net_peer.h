#ifndef TESTS_NET_PEER_H
#define TESTS_NET_PEER_H

/* For the tests of core/net: the other end of a connection as a bare socket, driven in the loop's own thread,
 * so that every order of events is the test's choice. */

#include "net/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

struct peer {
    int fd;
    int closed; /* the other side has ended, or reset */
    size_t n, capacity;
    char *in; /* all it has said, NUL-terminated */
};

static inline struct peer peer_take(int fd)
{
    struct peer p = {.fd = fd};
    assert_true(fd >= 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    p.in = calloc(1, p.capacity = 65536);
    return p;
}

static inline struct peer peer_connect(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return peer_take(fd);
}

/* A socket that listens on a free port of 127.0.0.1. */
static inline int peer_listen(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t size = sizeof a;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static inline void peer_close(struct peer *p)
{
    if (p->fd >= 0) close(p->fd);
    p->fd = -1;
    free(p->in);
    p->in = NULL;
}

static inline void peer_send_bytes(struct peer *p, const char *data, size_t n)
{
    assert_int_equal(send(p->fd, data, n, MSG_NOSIGNAL), n);
}

static inline void peer_send(struct peer *p, const char *text)
{
    peer_send_bytes(p, text, strlen(text));
}

/* Takes what is there now. */
static inline void peer_read(struct peer *p)
{
    for (;;) {
        if (p->n + 65536 > p->capacity) p->in = realloc(p->in, p->capacity *= 2);
        ssize_t n = recv(p->fd, p->in + p->n, 65535, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) p->closed = 1;
            return;
        }
        p->n += (size_t)n;
        p->in[p->n] = '\0';
    }
}

static inline void turn(struct net_loop *loop)
{
    struct llm_error err;
    if (net_loop_step(loop, 5, &err) != LLM_OK) fail_msg("%s", err.message);
}

/* Turns the loop until `condition` holds; gives up, and fails, after far more turns than any of them needs.
 */
#define UNTIL(loop, condition)                                                                               \
    do {                                                                                                     \
        int turns_ = 0;                                                                                      \
        while (!(condition)) {                                                                               \
            turn(loop);                                                                                      \
            if (++turns_ > 4000) fail_msg("never: %s", #condition);                                          \
        }                                                                                                    \
    } while (0)

#define UNTIL_SAYS(loop, peer, text) UNTIL(loop, (peer_read(peer), strstr((peer)->in, (text)) != NULL))
#define UNTIL_CLOSED(loop, peer)     UNTIL(loop, (peer_read(peer), (peer)->closed))

static inline int count_of(const char *text, const char *what)
{
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

static inline void peer_forget(struct peer *p)
{
    p->n = 0;
    p->in[0] = '\0';
}

static inline void add_name(X509 *cert, const char *alt_names)
{
    X509_NAME *name = X509_get_subject_name(cert);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"llmlua test", -1, -1, 0);
    X509_set_issuer_name(cert, name);
    X509_EXTENSION *alt = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, alt_names);
    assert_non_null(alt);
    X509_add_ext(cert, alt, -1);
    X509_EXTENSION_free(alt);
}

/* Writes a fresh self-signed certificate and its key as PEM. alt_names: e.g. "DNS:localhost,IP:127.0.0.1". */
static inline void make_certificate(const char *cert_path, const char *key_path, const char *alt_names)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    assert_non_null(key);
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
    X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
    X509_gmtime_adj(X509_getm_notAfter(cert), 86400);
    X509_set_pubkey(cert, key);
    add_name(cert, alt_names);
    assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
    FILE *f = fopen(cert_path, "w");
    assert_non_null(f);
    PEM_write_X509(f, cert);
    fclose(f);
    f = fopen(key_path, "w");
    assert_non_null(f);
    PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
}

#endif
