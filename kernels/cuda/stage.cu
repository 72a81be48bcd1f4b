/* The two ends of a step between host and device, as kernels: where the host puts a step's description and
 * looks for its results changes from step to step, and a copy would be an operation of its own between two
 * recorded steps, of 3 us and more each. Pinned memory is read and written over the bus. */

#include "kernels/cuda/cuda.cuh"

enum { STAGE_THREADS = 1024, AHEAD = 8, BLOCK_WORDS = STAGE_THREADS * AHEAD }; /* words of 16 bytes */

/* to[place(i)] = from[i], i < n, of this block's share: all looks at the host's memory, which take 2 to 3 us
 * each, are under way at once. Past the caches, as the host wrote it since this device last looked; what is
 * read so by several blocks they read one after the other. */
template <typename F>
static __device__ __forceinline__ void bring(int4 *to, const int4 *from, int begin, int n, F place)
{
    int4 v[AHEAD];
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        int i = begin + threadIdx.x + k * STAGE_THREADS;
        if (i < n) v[k] = __ldcv(from + i);
    }
#pragma unroll
    for (int k = 0; k < AHEAD; k++) {
        int i = begin + threadIdx.x + k * STAGE_THREADS;
        if (i < n) to[place(i)] = v[k];
    }
}

static __host__ __device__ int n_blocks(const struct intake_piece *p)
{
    return ((int)(p->bytes / sizeof(int4)) + BLOCK_WORDS - 1) / BLOCK_WORDS;
}

/* The last block brings the table, whose width is a look more. */
static __global__ void __launch_bounds__(STAGE_THREADS)
    intake_kernel(const __grid_constant__ struct intake_args a)
{
    pdl_launch();
    pdl_wait();
    const char *from = a.from[*a.turn];
    int block = blockIdx.x;
    for (int p = 0; p < a.n_pieces; p++) {
        if (block < n_blocks(&a.pieces[p])) {
            bring(reinterpret_cast<int4 *>(a.to + a.pieces[p].offset),
                  reinterpret_cast<const int4 *>(from + a.pieces[p].offset), block * BLOCK_WORDS,
                  (int)(a.pieces[p].bytes / sizeof(int4)), [](int i) { return i; });
            return;
        }
        block -= n_blocks(&a.pieces[p]);
    }
    __shared__ int width;
    const int32_t *table = reinterpret_cast<const int32_t *>(from + a.table);
    if (threadIdx.x == 0) width = __ldcv(table) / 4;
    __syncthreads();
    int n = a.n_rows * width, stride = a.table_stride / 4;
    for (int begin = 0; begin < n; begin += BLOCK_WORDS)
        bring(reinterpret_cast<int4 *>(a.to + a.table),
              reinterpret_cast<const int4 *>(table + INTAKE_TABLE_HEAD), begin, n,
              [=](int i) { return i / width * stride + i % width; });
}

llm_status cuda_intake(struct backend *be, const struct intake_args *a)
{
    int n = 1;
    for (int32_t p = 0; p < a->n_pieces; p++) n += n_blocks(&a->pieces[p]);
    return cuda_launch(cuda_of(be), "taking in a step", intake_kernel, dim3(n), dim3(STAGE_THREADS), 0, *a);
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
