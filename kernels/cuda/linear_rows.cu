/* What follows a product that cuBLASLt cannot fuse: bias, activation, the gated product. */

#include "kernels/cuda/linear.cuh"

enum { THREADS = 256, GROUP = GATED_GROUP };

/* A thread has GROUP outputs of one row, which lie beside each other, as do their gates and ups. `vector`:
 * everything is aligned to 16 bytes and n is a multiple of GROUP. */
template <typename T> struct alignas(16) group_of {
    T v[GROUP];
};

template <typename T>
static __global__ void gated_kernel(struct linear_args a, const T *wide, int64_t stride, int32_t n,
                                    int vector)
{
    pdl_launch();
    pdl_wait();
    const int32_t first = (int32_t)(blockIdx.x * THREADS + threadIdx.x) * GROUP;
    if (first >= n) return;
    const T *v = wide + blockIdx.y * stride + 2 * first;
    T *y = static_cast<T *>(a.y) + blockIdx.y * a.y_stride + first;
    const group_of<T> gate = *reinterpret_cast<const group_of<T> *>(v);
    const group_of<T> up = *reinterpret_cast<const group_of<T> *>(v + GROUP);
    group_of<T> out;
#pragma unroll
    for (int32_t i = 0; i < GROUP; i++) {
        float g = to_f32(gate.v[i]), u = to_f32(up.v[i]);
        if (a.bias && first + i < n) g += a.bias[first + i], u += a.bias[n + first + i];
        out.v[i] = from_f32<T>(activate(a.act, g) * u);
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
static llm_status gated_of(struct cuda_backend *cu, const struct linear_args *a, const void *wide,
                           int64_t stride, int32_t n)
{
    const int vector =
        n % GROUP == 0 && a->y_stride % GROUP == 0 && reinterpret_cast<uintptr_t>(a->y) % 16 == 0;
    const int32_t groups = (n + GROUP - 1) / GROUP;
    return cuda_launch(cu, "gated product", gated_kernel<T>,
                       dim3((groups + THREADS - 1) / THREADS, a->n_rows), dim3(THREADS), 0, *a,
                       static_cast<const T *>(wide), stride, n, vector);
}

llm_status gated_rows(struct cuda_backend *cu, const struct linear_args *a, const void *wide, int64_t stride,
                      int32_t n)
{
    switch (cu->base.act_dtype) {
    case DTYPE_F32:
        return gated_of<float>(cu, a, wide, stride, n);
    case DTYPE_F16:
        return gated_of<__half>(cu, a, wide, stride, n);
    default:
        return gated_of<__nv_bfloat16>(cu, a, wide, stride, n);
    }
}

/* ---- bias and activation --------------------------------------------------------------------------------
 */

template <typename V, typename Y>
static __global__ void finish_kernel(struct linear_args a, const V *v, int64_t v_stride, int32_t n)
{
    pdl_launch();
    pdl_wait();
    const int32_t j = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (j >= n) return;
    Y *y = static_cast<Y *>(a.y) + blockIdx.y * a.y_stride + j;
    float value = to_f32(v[blockIdx.y * v_stride + j]);
    if (a.bias) value += a.bias[j];
    value = activate(a.act, value);
    if (a.epilogue == LINEAR_ADD && static_cast<const void *>(v) != a.y) value += to_f32(*y);
    *y = from_f32<Y>(value);
}

template <typename V, typename Y>
static llm_status finish_of(struct cuda_backend *cu, const struct linear_args *a, const void *v,
                            int64_t v_stride, int32_t n)
{
    return cuda_launch(cu, "bias and activation", finish_kernel<V, Y>,
                       dim3((n + THREADS - 1) / THREADS, a->n_rows), dim3(THREADS), 0, *a,
                       static_cast<const V *>(v), v_stride, n);
}

llm_status finish_rows(struct cuda_backend *cu, const struct linear_args *a, const void *v, int64_t v_stride,
                       int32_t n)
{
    if (a->f32_out || cu->base.act_dtype == DTYPE_F32) return finish_of<float, float>(cu, a, v, v_stride, n);
    if (cu->base.act_dtype == DTYPE_F16) return finish_of<__half, __half>(cu, a, v, v_stride, n);
    return finish_of<__nv_bfloat16, __nv_bfloat16>(cu, a, v, v_stride, n);
}
