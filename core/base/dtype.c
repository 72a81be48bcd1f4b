#include "base/dtype.h"

const struct dtype_info dtype_table[DTYPE_COUNT] = {
#define X(name, gguf, block, bytes) {#name, gguf, block, bytes},
    LLM_DTYPE_MAP(X)
#undef X
};

int dtype_from_gguf(uint32_t gguf_id)
{
    for (int t = 0; t < DTYPE_COUNT; t++)
        if ((uint32_t)dtype_table[t].gguf_id == gguf_id) return t;
    return -1;
}

/* Scaling by 2^112 moves a half's exponent to a float's, subnormals included (no branch on them needed). */
float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, u = (uint32_t)(h & 0x7fffu) << 13;
    float f;
    if ((h & 0x7c00u) == 0x7c00u) {
        u |= 0x7f800000u; /* infinity and NaN keep all exponent bits */
    } else {
        memcpy(&f, &u, 4);
        f *= 0x1p112f;
        memcpy(&u, &f, 4);
    }
    u |= sign;
    memcpy(&f, &u, 4);
    return f;
}

uint16_t f32_to_f16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    u &= 0x7fffffffu;
    if (u > 0x7f800000u) return sign | 0x7e00u;  /* NaN */
    if (u >= 0x477ff000u) return sign | 0x7c00u; /* rounds to infinity */
    if (u < 0x38800000u) {                       /* subnormal half: let the FPU round at the right bit */
        float magic = 0.5f, x;
        memcpy(&x, &u, 4);
        x += magic;
        memcpy(&u, &x, 4);
        return sign | (uint16_t)(u - 0x3f000000u);
    }
    u += 0xc8000fffu + ((u >> 13) & 1); /* rebias the exponent, round to nearest even */
    return sign | (uint16_t)(u >> 13);
}
