/* The two ends of a step between host and device, as kernels: where the host puts a step's description and
 * looks for its results changes from step to step, and a copy would be an operation of its own between two
 * recorded steps, of 3 us and more each. Pinned memory is read and written over the bus. */

#include "kernels/cuda/cuda.cuh"

enum { STAGE_THREADS = 256, AHEAD = 4, BLOCK_BYTES = STAGE_THREADS * AHEAD * (int)sizeof(int4) };

/* Past the caches: the host wrote it since this device last looked. */
template <typename T> static __device__ __forceinline__ T fresh(const T *p)
{
    return __ldcv(p);
}

/* A look at the host's memory takes some 2 us, so all of them are under way at once: a block has BLOCK_BYTES
 * of one piece, or a row of the table, whose width is one look more. */
static __global__ void intake_kernel(struct intake_args a)
{
    pdl_launch();
    pdl_wait();
    const char *from = a.from[*a.turn];
    int block = blockIdx.x;
    for (int p = 0; p < a.n_pieces; p++) {
        int n = (int)(a.pieces[p].bytes / sizeof(int4)),
            n_blocks = ((int)a.pieces[p].bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
        if (block >= n_blocks) {
            block -= n_blocks;
            continue;
        }
        const int4 *piece = reinterpret_cast<const int4 *>(from + a.pieces[p].offset);
        int4 *to = reinterpret_cast<int4 *>(a.to + a.pieces[p].offset), v[AHEAD];
        int first = block * STAGE_THREADS * AHEAD + threadIdx.x;
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k * STAGE_THREADS < n) v[k] = fresh(piece + first + k * STAGE_THREADS);
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k * STAGE_THREADS < n) to[first + k * STAGE_THREADS] = v[k];
        return;
    }
    const int32_t *table = reinterpret_cast<const int32_t *>(from + a.table);
    int width = fresh(table);
    int32_t *to = reinterpret_cast<int32_t *>(a.to + a.table) + (int64_t)block * a.table_stride;
    table += INTAKE_TABLE_HEAD + (int64_t)block * width;
#pragma unroll 4
    for (int i = threadIdx.x; i < width; i += STAGE_THREADS) to[i] = fresh(table + i);
}

llm_status cuda_intake(struct backend *be, const struct intake_args *a)
{
    int n_blocks = a->n_rows;
    for (int32_t p = 0; p < a->n_pieces; p++)
        n_blocks += ((int)a->pieces[p].bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    return cuda_launch(cuda_of(be), "taking in a step", intake_kernel, dim3(n_blocks), dim3(STAGE_THREADS), 0,
                       *a);
}

static __global__ void deliver_kernel(struct deliver_args a)
{
    pdl_launch();
    pdl_wait();
    int turn = *a.turn;
    const int *from = static_cast<const int *>(a.from);
    int *to = static_cast<int *>(a.to[turn]);
    for (int i = threadIdx.x; i < (int)(a.bytes / sizeof(int)); i += blockDim.x) to[i] = from[i];
    __syncthreads();
    if (threadIdx.x == 0) *a.turn = !turn;
}

llm_status cuda_deliver(struct backend *be, const struct deliver_args *a)
{
    return cuda_launch(cuda_of(be), "delivering a step", deliver_kernel, dim3(1), dim3(1024), 0, *a);
}
