#include "base/ticks.h"

#include <pthread.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

int ticks_use_tsc;

static double ticks_per_ns = 1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int has_invariant_tsc(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d >> 8 & 1);
#else
    return 0;
#endif
}

static void init(void)
{
    if (!has_invariant_tsc()) return;
    ticks_use_tsc = 1;
    uint64_t ns = monotonic_ns(), ticks = ticks_now();
    struct timespec pause = {0, 2000000};
    nanosleep(&pause, NULL);
    uint64_t ns_after = monotonic_ns(), ticks_after = ticks_now();
    ticks_per_ns = (double)(ticks_after - ticks) / (double)(ns_after - ns);
}

void ticks_init(void)
{
    pthread_once(&once, init);
}

uint64_t ticks_of_ns(uint64_t ns)
{
    return (uint64_t)((double)ns * ticks_per_ns);
}

uint64_t ticks_to_ns(uint64_t ticks)
{
    return (uint64_t)((double)ticks / ticks_per_ns);
}
