#ifndef LLM_TESTS_CUDA_TESTS_H
#define LLM_TESTS_CUDA_TESTS_H

/* How the tests of a CUDA device begin: they skip where there is none, run in short under tools that make a
 * program many times slower, and can be run one by one. Include it after cmocka.h.
 *
 * usage: test_cuda_X [--small] [PATTERN]     PATTERN: of the tests to run, such as "*page*" */

#include <stdio.h>
#include <string.h>

#include "kernels/device.h"

enum { CUDA_TESTS_SKIPPED = 77 };

static int cuda_tests_small;

/* In a small run all but one of seven cases are left out: a prime, so that cases of all kinds remain. */
static inline int cuda_tests_left_out(void)
{
    static unsigned n;
    return cuda_tests_small && n++ % 7;
}

/* 0, or the exit code of a program that can run nothing. */
static inline int cuda_tests_begin(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--small") == 0)
            cuda_tests_small = 1;
        else
            cmocka_set_test_filter(argv[i]);
    }
    struct backend *be;
    struct llm_error err = {0};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_F32}, &be, &err)) {
        printf("[  SKIPPED ] no CUDA device: %s\n", err.message);
        return CUDA_TESTS_SKIPPED;
    }
    be->close(be);
    return 0;
}

#endif
