#ifndef LLM_BASE_TICKS_H
#define LLM_BASE_TICKS_H

/* A clock that costs 10 ns to read where CLOCK_MONOTONIC costs 23: the processor's time-stamp counter if it
 * runs at one rate whatever the core does, else CLOCK_MONOTONIC in nanoseconds. For what is measured at every
 * call of a script. Its zero means nothing, and it is not to be compared with other clocks. Thread-safe after
 * ticks_init. */

#include <stdint.h>
#include <time.h>

/* Finds out which clock and its rate; takes 2 ms the first time. Call it before any other function here. */
void ticks_init(void);

/* 1: the time-stamp counter. Set by ticks_init. */
extern int ticks_use_tsc;

static inline uint64_t ticks_now(void)
{
#if defined(__x86_64__)
    if (ticks_use_tsc) return __builtin_ia32_rdtsc();
#endif
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Durations; exact to about 1 in 10,000. */
uint64_t ticks_of_ns(uint64_t ns);
uint64_t ticks_to_ns(uint64_t ticks);

#endif
