#ifndef LLM_NET_LOOP_H
#define LLM_NET_LOOP_H

/* An event loop: sockets, timers, file descriptors to watch, and signals. libevent does the waiting. One loop
 * belongs to one thread, and so does everything opened on it; the only call allowed from elsewhere is
 * net_loop_stop (for others there are mailboxes, whose descriptors can be watched). Callbacks run on the
 * loop's thread, never inside the call that asked for them, and must not run the loop themselves.
 *
 * Writes are corked: what callbacks write during one turn leaves at its end with one system call a
 * connection, however many pieces it was.
 *
 * libevent's own evhttp is not used: it reads without bound, cannot pause a response for a slow reader, and
 * accepts request shapes that smuggle. Its bufferevents are not used either: they cost two epoll_ctl calls
 * and a turn of delay for each burst of output, where a direct send needs none. */

#include "base/status.h"

#include <stdint.h>

struct net_loop;
struct net_timer;
struct net_watch;

/* Errors: LLM_ENOMEM, LLM_EIO. */
llm_status net_loop_open(struct net_loop **out, struct llm_error *err);
/* Everything opened on it has been closed before. */
void net_loop_close(struct net_loop *loop);

/* Turns until net_loop_stop. Errors: LLM_EIO. */
llm_status net_loop_run(struct net_loop *loop, struct llm_error *err);
/* One turn: waits for something to happen, at most timeout_ms (-1: no limit), and serves it. */
llm_status net_loop_step(struct net_loop *loop, int64_t timeout_ms, struct llm_error *err);
/* Any thread: net_loop_run returns at the end of its turn, or at once if it has not begun yet. */
void net_loop_stop(struct net_loop *loop);

typedef void net_call_fn(void *ud);

/* Milliseconds of CLOCK_MONOTONIC. */
int64_t net_now_ms(void);

/* One-shot timers. Not running when opened; starting one that runs sets it anew. Closing in its own callback
 * is allowed. Null is nothing. */
llm_status net_timer_open(struct net_loop *loop, net_call_fn *fn, void *ud, struct net_timer **out,
                          struct llm_error *err);
llm_status net_timer_start(struct net_timer *timer, int64_t ms);
void net_timer_close(struct net_timer *timer);

/* Calls fn(ud) while fd (borrowed; outlives the watch) is readable: level-triggered. */
llm_status net_watch_open(struct net_loop *loop, int fd, net_call_fn *fn, void *ud, struct net_watch **out,
                          struct llm_error *err);
/* Calls fn(ud) on the loop's thread after the process got the signal. Only one loop of a process may watch
 * signals. */
llm_status net_signal_open(struct net_loop *loop, int signal_number, net_call_fn *fn, void *ud,
                           struct net_watch **out, struct llm_error *err);
/* Closing in its own callback is allowed. Null is nothing. */
void net_watch_close(struct net_watch *watch);

#endif
