#ifndef LLM_LUA_SANDBOX_H
#define LLM_LUA_SANDBOX_H

/* A Lua state for one script that is not trusted: text that came with a request. It shares nothing with any
 * other state. What it can reach is what lua/llm/sandbox/inside.lua hands it: the language, bounded string
 * and table functions, and calls that its host answers. It has a cap on memory, and on running time; it is
 * interpreted, never compiled, so that machine code is not a way around either. Data passes in and out by
 * value (plain.h).
 *
 * The script is a coroutine of the state. It runs in slices, so that the thread's other work goes on, and
 * stops where it asks the host for something. A sandbox belongs to one thread. */

#include "plain.h"
#include "watchdog.h"

struct sandbox;

struct sandbox_limits {
    size_t memory;     /* bytes of the whole state, about 100 KiB of which are the libraries */
    uint64_t run_ns;   /* running time in all, waits for the host not counted */
    uint64_t slice_ns; /* after so long it makes room for others */
    size_t output;     /* bytes kept of what it prints; the rest is dropped */
    size_t data;       /* bytes passed at once, in or out */
};

/* The account is the script's for the books; its limits are set anew for each run. Borrows watch and account.
 * Errors: LLM_ENOMEM. */
llm_status sandbox_open(struct sandbox **out, const struct sandbox_limits *limits, struct watch *watch,
                        struct script_account *account, struct llm_error *err);
void sandbox_close(struct sandbox *box);

enum sandbox_event {
    SANDBOX_DONE,  /* out: what it returned */
    SANDBOX_CALL,  /* out: the call's name and arguments; in of the next run: true and results, or false, a
                      message */
    SANDBOX_SLICE, /* its slice is over; the next run's in is empty */
    SANDBOX_ERROR, /* it raised an error: text in err */
    SANDBOX_MEMORY,
    SANDBOX_TIME, /* it reached that limit; err says so */
};

/* Runs the script until its next event. The first time `in` holds the source and the table that inside.lua
 * takes; then what the last event asks for. `out` gets values, *n_out how many. After DONE and the errors
 * there is no further run.
 */
enum sandbox_event sandbox_run(struct sandbox *box, const struct plain *in, int n_in, struct plain *out,
                               int *n_out, struct llm_error *err);

/* What it has printed so far; borrowed until the next run. */
const char *sandbox_output(const struct sandbox *box, size_t *n);

struct sandbox_usage {
    uint64_t run_ns; /* what the limit counts: by the clock */
    uint64_t cpu_ns; /* the processor's part of it */
    size_t bytes, peak;
};
struct sandbox_usage sandbox_usage(const struct sandbox *box);

#endif
