#define _GNU_SOURCE
#include "base/mem.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static atomic_uint_fast64_t n_allocations;
static atomic_uint_fast64_t fail_countdown; /* 0: off */

static int allocation_may_succeed(void)
{
    uint64_t left = atomic_load_explicit(&fail_countdown, memory_order_relaxed);
    while (left > 0) {
        if (atomic_compare_exchange_weak(&fail_countdown, &left, left - 1)) {
            if (left == 1) return 0;
            break;
        }
    }
    atomic_fetch_add_explicit(&n_allocations, 1, memory_order_relaxed);
    return 1;
}

uint64_t mem_count(void)
{
    return atomic_load(&n_allocations);
}

void mem_fail_at(uint64_t n)
{
    atomic_store(&fail_countdown, n);
}

void *mem_alloc(size_t bytes)
{
    return allocation_may_succeed() ? malloc(bytes ? bytes : 1) : NULL;
}

void *mem_zalloc(size_t bytes)
{
    return allocation_may_succeed() ? calloc(1, bytes ? bytes : 1) : NULL;
}

void *mem_array(size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    return mem_zalloc(bytes);
}

void *mem_grow(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    return allocation_may_succeed() ? realloc(old, bytes ? bytes : 1) : NULL;
}

char *mem_strndup(const char *s, size_t n)
{
    char *copy = mem_alloc(n + 1);
    if (!copy) return NULL;
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *mem_strdup(const char *s)
{
    return mem_strndup(s, strlen(s));
}

void mem_free(void *p)
{
    free(p);
}

void *mem_map(size_t bytes)
{
    if (!allocation_may_succeed()) return NULL;
    void *p = mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    madvise(p, bytes, MADV_HUGEPAGE); /* advice only: where it is refused, small pages serve as well */
    return p;
}

void mem_unmap(void *p, size_t bytes)
{
    if (p) munmap(p, bytes ? bytes : 1);
}
