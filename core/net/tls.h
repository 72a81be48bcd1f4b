#ifndef LLM_NET_TLS_H
#define LLM_NET_TLS_H

/* TLS settings for servers and clients, on OpenSSL: TLS 1.2 and newer, ALPN "http/1.1". A net_tls is
 * immutable once opened and may be shared by any number of loops and threads. */

#include "base/status.h"

#include <stddef.h>

struct net_tls;
struct ssl_st;

/* cert_file: PEM, the chain, leaf first. ca_file: null, or PEM with the authorities that a client's
 * certificate must come from, which is then demanded. Errors: LLM_EINVAL with OpenSSL's reason and the file's
 * name. */
llm_status net_tls_server_open(const char *cert_file, const char *key_file, const char *ca_file,
                               struct net_tls **out, struct llm_error *err);
/* ca_file: PEM authorities to trust; null: the system's. verify 0 accepts any certificate: for tests. */
llm_status net_tls_client_open(const char *ca_file, int verify, struct net_tls **out, struct llm_error *err);
void net_tls_close(struct net_tls *tls);

/* For stream.c: a session over fd. host: the name or address that the server's certificate must have; null on
 * the server's side. Null: out of memory. */
struct ssl_st *net_tls_session(struct net_tls *tls, int fd, const char *host);
/* The reason of OpenSSL's latest error in this thread, in words; never null. */
const char *net_tls_reason(struct ssl_st *ssl, char *text, size_t capacity);

#endif
