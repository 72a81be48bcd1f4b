#ifndef LLM_NET_DIAL_H
#define LLM_NET_DIAL_H

/* Connecting out: looks a name up (/etc/hosts, then the name servers of /etc/resolv.conf, without blocking)
 * and tries its addresses one after another. */

#include "net/loop.h"

struct net_dial;

/* fd: connected, non-blocking, now the callee's; or -1, and the reason in words. The dial is over and freed.
 */
typedef void net_dial_fn(void *ud, int fd, const char *reason);

/* unix_path: null, or what to connect to in place of host and port. The callback comes from the loop, never
 * from within this call. Errors: LLM_ENOMEM. */
llm_status net_dial_open(struct net_loop *loop, const char *host, int port, const char *unix_path,
                         net_dial_fn *fn, void *ud, struct net_dial **out, struct llm_error *err);
/* Gives up; no callback follows. Null is nothing. */
void net_dial_close(struct net_dial *dial);

#endif
