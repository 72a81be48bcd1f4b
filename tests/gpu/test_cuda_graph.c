/* Policy graphs on a CUDA device (tests/graph_device.inc.c). Without a device or NVRTC it skips. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cuda_tests.h"

enum { N_COMPILERS = 16 };
static const int32_t case_sizes[] = {5, 1000, 32003, 128256}, golden_sizes[] = {1000, 128256};

static llm_status open_device(struct backend **out, struct llm_error *err)
{
    return cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_F32}, out, err);
}

#define LEFT_OUT() cuda_tests_left_out()
#include "../graph_device.inc.c"

int main(int argc, char **argv)
{
    int skipped = cuda_tests_begin(argc, argv);
    return skipped ? skipped : run_graph_tests();
}
