#ifndef LLM_TESTS_TEST_KERNELS_H
#define LLM_TESTS_TEST_KERNELS_H

/* What the kernel tests share: random numbers and stored tensors, and backends of every instruction set of
 * this machine. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "kernels/kernels.h"

#endif
