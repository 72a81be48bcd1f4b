/* What follows a product that cuBLASLt cannot fuse: bias, activation, the gated product. */

#include "kernels/cuda/linear.cuh"

enum { THREADS = 256, GROUP = GATED_GROUP };

/* A thread has GROUP outputs of one row, which lie beside each other, as do their gates and ups. `vector`:
 * everything is aligned to 16 bytes and n is a multiple of GROUP. */
template <typename T> struct alignas(16) group_of {
    T v[GROUP];
};

template <typename T>
static __global__ void gated_kernel(struct product p, const T *wide, int64_t stride, int vector)
{
    pdl_launch();
    pdl_wait();
    const int32_t first = (int32_t)(blockIdx.x * THREADS + threadIdx.x) * GROUP;
    const int32_t n = p.n_out;
    if (first >= n) return;
    const T *v = wide + blockIdx.y * stride + 2 * first;
    T *y = static_cast<T *>(p.y) + blockIdx.y * p.y_stride + first;
    const group_of<T> gate = *reinterpret_cast<const group_of<T> *>(v);
    const group_of<T> up = *reinterpret_cast<const group_of<T> *>(v + GROUP);
    group_of<T> out;
#pragma unroll
    for (int32_t i = 0; i < GROUP; i++) {
        float g = to_f32(gate.v[i]), u = to_f32(up.v[i]);
        if (p.bias && first + i < n) g += p.bias[first + i], u += p.up_bias[first + i];
        out.v[i] = from_f32<T>(activate(p.act, g) * u);
    }
    if (vector) {
        *reinterpret_cast<group_of<T> *>(y) = out;
        return;
    }
#pragma unroll
    for (int32_t i = 0; i < GROUP; i++)
        if (first + i < n) y[i] = out.v[i];
}

template <typename T>
static llm_status gated_of(struct cuda_backend *cu, const struct product *p, const void *wide, int64_t stride)
{
    const int vector =
        p->n_out % GROUP == 0 && p->y_stride % GROUP == 0 && reinterpret_cast<uintptr_t>(p->y) % 16 == 0;
    const int32_t groups = (p->n_out + GROUP - 1) / GROUP;
    return cuda_launch(cu, "gated product", gated_kernel<T>, dim3((groups + THREADS - 1) / THREADS, p->m),
                       dim3(THREADS), 0, *p, static_cast<const T *>(wide), stride, vector);
}

llm_status gated_rows(struct cuda_backend *cu, const struct product *p, const void *wide, int64_t stride)
{
    switch (cu->base.act_dtype) {
    case DTYPE_F32:
        return gated_of<float>(cu, p, wide, stride);
    case DTYPE_F16:
        return gated_of<__half>(cu, p, wide, stride);
    default:
        return gated_of<__nv_bfloat16>(cu, p, wide, stride);
    }
}

/* ---- bias and activation --------------------------------------------------------------------------------
 */

template <typename V, typename Y>
static __global__ void finish_kernel(struct product p, const V *v, int64_t v_stride)
{
    pdl_launch();
    pdl_wait();
    const int32_t j = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (j >= p.n_out) return;
    Y *y = static_cast<Y *>(p.y) + blockIdx.y * p.y_stride + j;
    float value = to_f32(v[blockIdx.y * v_stride + j]);
    if (p.bias) value += p.bias[j];
    value = activate(p.act, value);
    if (p.epilogue == LINEAR_ADD && static_cast<const void *>(v) != p.y) value += to_f32(*y);
    *y = from_f32<Y>(value);
}

template <typename V, typename Y>
static llm_status finish_of(struct cuda_backend *cu, const struct product *p, const void *v, int64_t v_stride)
{
    return cuda_launch(cu, "bias and activation", finish_kernel<V, Y>,
                       dim3((p->n_out + THREADS - 1) / THREADS, p->m), dim3(THREADS), 0, *p,
                       static_cast<const V *>(v), v_stride);
}

llm_status finish_rows(struct cuda_backend *cu, const struct product *p, const void *v, int64_t v_stride)
{
    if (p->f32_out || cu->base.act_dtype == DTYPE_F32) return finish_of<float, float>(cu, p, v, v_stride);
    if (cu->base.act_dtype == DTYPE_F16) return finish_of<__half, __half>(cu, p, v, v_stride);
    return finish_of<__nv_bfloat16, __nv_bfloat16>(cu, p, v, v_stride);
}
