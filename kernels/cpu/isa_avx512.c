#include "kernels/cpu/isa_impl.h"
