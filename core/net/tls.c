#include "net/tls.h"

#include "base/mem.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

struct net_tls {
    SSL_CTX *ctx;
    int is_client, verify;
};

/* ---- a socket BIO that raises no SIGPIPE --------------------------------------------------------------- */

static BIO_METHOD *socket_bio;

static int socket_fd(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

static int socket_write(BIO *bio, const char *data, int n)
{
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(socket_fd(bio), data, (size_t)n, MSG_NOSIGNAL);
    if (sent < 0 && would_block()) BIO_set_retry_write(bio);
    return (int)sent;
}

static int socket_read(BIO *bio, char *data, int n)
{
    BIO_clear_retry_flags(bio);
    ssize_t got = recv(socket_fd(bio), data, (size_t)n, 0);
    if (got < 0 && would_block()) BIO_set_retry_read(bio);
    if (got == 0) BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)got;
}

static long socket_ctrl(BIO *bio, int command, long number, void *pointer)
{
    (void)number;
    (void)pointer;
    if (command == BIO_CTRL_FLUSH) return 1;
    if (command == BIO_CTRL_EOF) return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return 0;
}

static void make_socket_bio(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket, no SIGPIPE");
    if (!method) return;
    BIO_meth_set_write(method, socket_write);
    BIO_meth_set_read(method, socket_read);
    BIO_meth_set_ctrl(method, socket_ctrl);
    socket_bio = method;
}

/* ---- contexts ------------------------------------------------------------------------------------------ */

/* The first error of several is the cause: of a file that is missing, the last is "system lib". */
static llm_status fail_openssl(struct llm_error *err, const char *what, const char *file)
{
    unsigned long code = ERR_peek_error();
    const char *reason =
        ERR_GET_LIB(code) == ERR_LIB_SYS ? strerror(ERR_GET_REASON(code)) : ERR_reason_error_string(code);
    return llm_fail(err, LLM_EINVAL, "TLS: %s%s%s: %s", what, file ? " " : "", file ? file : "",
                    reason ? reason : "OpenSSL does not say why");
}

/* Takes http/1.1 from the client's list; a client that offers only others is told so by an alert. */
static int select_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_bytes, const unsigned char *in,
                       unsigned int in_bytes, void *arg)
{
    (void)ssl;
    (void)arg;
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *choice;
    if (SSL_select_next_proto(&choice, out_bytes, ours, sizeof ours - 1, in, in_bytes) !=
        OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    *out = choice;
    return SSL_TLSEXT_ERR_OK;
}

static llm_status context_open(const SSL_METHOD *method, struct net_tls **out, struct llm_error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_socket_bio);
    struct net_tls *tls = mem_zalloc(sizeof *tls);
    if (!tls || !socket_bio) {
        mem_free(tls);
        return llm_fail(err, LLM_ENOMEM, "TLS: out of memory");
    }
    ERR_clear_error();
    tls->ctx = SSL_CTX_new(method);
    if (!tls->ctx) {
        mem_free(tls);
        return fail_openssl(err, "cannot make a context", NULL);
    }
    SSL_CTX_set_min_proto_version(tls->ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(tls->ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_mode(tls->ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                   SSL_MODE_RELEASE_BUFFERS);
    *out = tls;
    return LLM_OK;
}

llm_status net_tls_server_open(const char *cert_file, const char *key_file, const char *ca_file,
                               struct net_tls **out, struct llm_error *err)
{
    struct net_tls *tls;
    llm_status rc = context_open(TLS_server_method(), &tls, err);
    if (rc) return rc;
    SSL_CTX_set_alpn_select_cb(tls->ctx, select_alpn, NULL);
    SSL_CTX_set_options(tls->ctx, SSL_OP_CIPHER_SERVER_PREFERENCE);
    static const unsigned char session_context[] = "llmlua";
    SSL_CTX_set_session_id_context(tls->ctx, session_context, sizeof session_context - 1);
    if (SSL_CTX_use_certificate_chain_file(tls->ctx, cert_file) != 1)
        rc = fail_openssl(err, "cannot use the certificate", cert_file);
    else if (SSL_CTX_use_PrivateKey_file(tls->ctx, key_file, SSL_FILETYPE_PEM) != 1)
        rc = fail_openssl(err, "cannot use the key", key_file);
    else if (SSL_CTX_check_private_key(tls->ctx) != 1)
        rc = fail_openssl(err, "the key does not fit the certificate:", key_file);
    else if (ca_file && SSL_CTX_load_verify_locations(tls->ctx, ca_file, NULL) != 1)
        rc = fail_openssl(err, "cannot use the authorities", ca_file);
    if (rc) {
        net_tls_close(tls);
        return rc;
    }
    if (ca_file) {
        SSL_CTX_set_client_CA_list(tls->ctx, SSL_load_client_CA_file(ca_file));
        SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    *out = tls;
    return LLM_OK;
}

llm_status net_tls_client_open(const char *ca_file, int verify, struct net_tls **out, struct llm_error *err)
{
    struct net_tls *tls;
    llm_status rc = context_open(TLS_client_method(), &tls, err);
    if (rc) return rc;
    tls->is_client = 1;
    tls->verify = verify;
    SSL_CTX_set_verify(tls->ctx, verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    static const unsigned char alpn[] = "\x08http/1.1";
    SSL_CTX_set_alpn_protos(tls->ctx, alpn, sizeof alpn - 1);
    if (ca_file && SSL_CTX_load_verify_locations(tls->ctx, ca_file, NULL) != 1)
        rc = fail_openssl(err, "cannot use the authorities", ca_file);
    else if (!ca_file && verify && SSL_CTX_set_default_verify_paths(tls->ctx) != 1)
        rc = fail_openssl(err, "cannot load the system's authorities", NULL);
    if (rc) {
        net_tls_close(tls);
        return rc;
    }
    *out = tls;
    return LLM_OK;
}

void net_tls_close(struct net_tls *tls)
{
    if (!tls) return;
    SSL_CTX_free(tls->ctx); /* sessions hold references of their own */
    mem_free(tls);
}

/* ---- sessions ------------------------------------------------------------------------------------------ */

static int expect_host(SSL *ssl, const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    if (inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host);
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, host) && SSL_set_tlsext_host_name(ssl, host);
}

SSL *net_tls_session(struct net_tls *tls, int fd, const char *host)
{
    SSL *ssl = SSL_new(tls->ctx);
    BIO *bio = ssl ? BIO_new(socket_bio) : NULL;
    if (!bio) {
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    if (tls->is_client)
        SSL_set_connect_state(ssl);
    else
        SSL_set_accept_state(ssl);
    if (tls->is_client && host && !expect_host(ssl, host)) {
        SSL_free(ssl);
        return NULL;
    }
    return ssl;
}

const char *net_tls_reason(SSL *ssl, char *text, size_t capacity)
{
    long verdict = ssl ? SSL_get_verify_result(ssl) : X509_V_OK;
    if (verdict != X509_V_OK) return X509_verify_cert_error_string(verdict);
    unsigned long code = ERR_peek_last_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    if (reason) return reason;
    if (code == 0) return errno ? strerror(errno) : "the peer closed the connection";
    ERR_error_string_n(code, text, capacity);
    return text;
}
