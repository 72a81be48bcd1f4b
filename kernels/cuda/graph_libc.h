/* What the source of a graph's kernel takes from the headers of the C library, which a compiler at run time
 * has not: it stands for stdint.h, stddef.h, float.h and math.h. */

#pragma once

typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;

#define INFINITY __int_as_float(0x7f800000)
#define NAN      __int_as_float(0x7fffffff)
#define FLT_MIN  1.17549435e-38f
#define FLT_MAX  3.40282347e+38f
