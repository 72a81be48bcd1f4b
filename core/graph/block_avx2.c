#define ISA(name) name##_avx2
#define ISA_NAME  "avx2"
#include "graph/block_impl.h"
