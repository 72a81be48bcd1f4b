#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

/* What fuzz targets share. A target is one function, called by libFuzzer with one input at a time. */

#include "base/mem.h"

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a parser promises of what it accepted. */
static inline void must(int condition)
{
    if (!condition) abort();
}

/* Reads the first and the last byte, so that a sanitizer sees a view that leaves its file. */
static inline void touch(const void *p, size_t bytes)
{
    static volatile uint8_t sink;
    if (bytes == 0) return;
    sink = ((const uint8_t *)p)[0];
    sink = ((const uint8_t *)p)[bytes - 1];
    (void)sink;
}

/* Which allocation fails in the second run over an input. */
static inline uint64_t failing_allocation(const uint8_t *data, size_t size)
{
    return size > 0 ? 1 + data[size - 1] % 32u : 1;
}

#endif
