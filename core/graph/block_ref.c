#define ISA(name) name##_ref
#define ISA_NAME  "ref"
#include "graph/block_impl.h"
