#ifndef LLM_NET_LOOP_IMPL_H
#define LLM_NET_LOOP_IMPL_H

/* What the files of core/net share about a loop. */

#include "net/buf.h"
#include "net/loop.h"

#include <event2/event.h>
#include <event2/event_struct.h>
#include <stdatomic.h>
#include <time.h>

struct evdns_base;
struct net_stream;

enum { NET_SCRATCH_BYTES = 65536 };

/* First member of what net_loop_bury frees. */
struct net_grave {
    struct net_grave *next;
    void (*release)(struct net_grave *grave); /* frees the object */
};

struct net_loop {
    struct event_base *base;
    struct evdns_base *dns; /* null until a name is looked up */
    int wake_fd;
    struct event ev_wake, ev_limit;
    atomic_int stop;
    struct net_stream *dirty_first, *dirty_last; /* with output not yet tried this turn */
    struct net_grave *graves;
    struct net_pool pool;
    char *scratch; /* NET_SCRATCH_BYTES; what a socket said, for the length of a callback */
    time_t date_second;
    char date[40]; /* "Date: ...\r\n" of that second */
    int date_bytes;
};

/* Frees the object at the end of the turn, when nobody up the stack can still be using it. */
void net_loop_bury(struct net_loop *loop, struct net_grave *grave, void (*release)(struct net_grave *));

/* The Date header line, at most a second old. */
const char *net_loop_date(struct net_loop *loop, int *bytes);

#endif
