#define ISA(name) name##_avx512
#define ISA_NAME  "avx512"
#include "graph/block_impl.h"
