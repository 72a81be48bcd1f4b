#ifndef LLM_LUA_CREW_H
#define LLM_LUA_CREW_H

/* A crew: threads that run the program's script again, each in a Lua state of its own, over the engines that
 * the program has opened (--workers of a server). The program's own state is member 1; it starts the others,
 * and joins them before it closes an engine. Members send each other messages, texts that Lua makes sense of;
 * each has a mailbox whose descriptor an event loop watches. No member sees another's Lua values.
 *
 * Any thread may post; the other calls belong to the thread of the member they name, the crew's to member 1.
 */

#include "llmlua.h"

#include "base/mailbox.h"

#include <pthread.h>

enum { CREW_MAX = 64 };

struct crew_message {
    struct mail mail; /* first */
    int from;         /* member's number; 0: the crew itself says that member `ended` has ended */
    int ended;
    size_t bytes;
    char text[];
};

struct crew_member {
    struct crew *crew;
    int number; /* from 1 */
    pthread_t thread;
    struct mailbox box;
    struct crew_message *letters;                         /* taken, oldest first */
    enum { CREW_STARTING, CREW_READY, CREW_ENDED } stage; /* under the crew's lock */
    char *error;                                          /* why it ended, null: as it should */
};

struct crew_engine {
    char *key; /* what it was asked for; compared */
    struct llm_engine *engine;
};

struct crew {
    int n;
    struct crew_member members[CREW_MAX]; /* [n]; the first is the program's own */
    struct crew_engine *engines;
    int n_engines, port;
    char **words; /* [n_words] the script and its arguments */
    int n_words, n_threads;
    pthread_mutex_t lock;
    pthread_cond_t moved; /* a member's stage has changed */
};

/* What crew_start takes; all borrowed for the call. */
struct crew_plan {
    int n; /* members, the program's own counted */
    int port;
    const char *const *words;
    int n_words; /* 1 or more */
    const struct crew_engine *engines;
    int n_engines;
};

/* Starts the other members and waits until each is ready. Errors: LLM_ENOMEM, LLM_EIO, LLM_EFAILED (what a
 * member's script raised, with file and line); then none runs. */
llm_status crew_start(const struct crew_plan *plan, struct crew **out, struct llm_error *err);
/* Waits until all others have ended, then frees the crew. Who wants them to end tells them so before. */
void crew_join(struct crew *crew);
/* Posts "stop" to all others, which ends their event loops. */
void crew_stop(struct crew *crew);

/* This member is ready to serve. */
void crew_ready(struct crew_member *member);
/* Copies the text. Errors: LLM_ENOMEM. To a member that has ended: nothing happens. */
llm_status crew_post(struct crew_member *from, int to, const char *text, size_t bytes);
/* The next message, null if there is none; the caller's, to be freed with mem_free. */
struct crew_message *crew_take(struct crew_member *member);
/* The engine that was asked for with this key, null: none. */
struct llm_engine *crew_find_engine(const struct crew *crew, const char *key);

#endif
