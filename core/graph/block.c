#include "graph/block.h"

#include <string.h>

#if defined(__x86_64__)

static int have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
}

/* All that CMakeLists.txt compiles *_avx512.c for. */
static int have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

#endif

const struct block_isa *block_isa_find(const char *name)
{
#if defined(__x86_64__)
    if ((!name || strcmp(name, "avx512") == 0) && have_avx512()) return &block_isa_avx512;
    if ((!name || strcmp(name, "avx2") == 0) && have_avx2()) return &block_isa_avx2;
#endif
    return !name || strcmp(name, "ref") == 0 ? &block_isa_ref : NULL;
}
