/* Enough of CUDA C++ to run the kernel of a graph on the CPU: a thread of the device is a fiber, which runs
 * until it waits for others. Included before the source, with emulate at the end of it; only for
 * graph_device.cuh, whose functions for the device's own instructions are given here. Slow: for small
 * vocabularies. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define THREADS 64

#define __device__
#define __global__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)

/* ---- threads ------------------------------------------------------------------------------------------- */

enum { WARPS_A_BLOCK = THREADS / 32, STACK_BYTES = 1 << 17, MOST_ROUNDS = 4000000 };

struct meeting {
    int count, size;
    unsigned generation;
};

struct warp {
    struct meeting meeting;
    uint64_t lanes[32]; /* what each has to say */
};

struct fiber {
    ucontext_t context;
    int thread, block, ended;
    char *stack;
};

static struct fiber *fibers, *running;
static struct warp *warps;
static struct meeting *blocks, *clusters;
static char **memories; /* of blocks */
static int blocks_a_cluster, n_clusters_run;
static ucontext_t scheduler;

struct place {
    int x;
};
#define threadIdx (place{running->thread})
#define blockIdx  (place{running->block})
#define gridDim   (place{blocks_a_cluster * n_clusters_run})

static void meet_at(struct meeting *m)
{
    const unsigned generation = m->generation;
    if (++m->count == m->size) {
        m->count = 0;
        m->generation++;
    }
    while (m->generation == generation) swapcontext(&running->context, &scheduler);
}

static struct warp *own_warp(void)
{
    return &warps[running->block * WARPS_A_BLOCK + running->thread / 32];
}

static inline void __syncthreads(void)
{
    meet_at(&blocks[running->block]);
}

static inline void __syncwarp(void)
{
    meet_at(&own_warp()->meeting);
}

static inline void __threadfence(void) {}

/* ---- what lanes tell each other ------------------------------------------------------------------------ */

template <typename T> static T from_lane(T v, int lane)
{
    struct warp *w = own_warp();
    memcpy(&w->lanes[running->thread % 32], &v, sizeof v);
    meet_at(&w->meeting);
    memcpy(&v, &w->lanes[lane & 31], sizeof v);
    meet_at(&w->meeting);
    return v;
}

template <typename T> static T __shfl_sync(unsigned, T v, int lane, int width = 32)
{
    return from_lane(v, (running->thread % 32 & ~(width - 1)) | (lane & (width - 1)));
}

template <typename T> static T __shfl_xor_sync(unsigned, T v, int d)
{
    return from_lane(v, running->thread % 32 ^ d);
}

template <typename T> static T __shfl_up_sync(unsigned, T v, int d)
{
    const int lane = running->thread % 32;
    return from_lane(v, lane >= d ? lane - d : lane);
}

static uint32_t __ballot_sync(unsigned, bool v)
{
    uint32_t all = 0;
    for (int lane = 0; lane < 32; lane++) all |= (uint32_t)from_lane((uint64_t)v, lane) << lane;
    return all;
}

static bool __any_sync(unsigned all, bool v)
{
    return __ballot_sync(all, v) != 0;
}

/* ---- single instructions ------------------------------------------------------------------------------- */

template <typename To, typename From> static To same_bits(From from)
{
    To to;
    static_assert(sizeof to == sizeof from, "");
    memcpy(&to, &from, sizeof to);
    return to;
}

#define __float_as_uint(v)      same_bits<uint32_t>((float)(v))
#define __uint_as_float(v)      same_bits<float>((uint32_t)(v))
#define __double_as_longlong(v) same_bits<long long>((double)(v))
#define __longlong_as_double(v) same_bits<double>((long long)(v))

static unsigned long long __double2ull_rn(double v)
{
    return v >= 0x1p64 ? ~0ull : v > 0 ? (unsigned long long)nearbyint(v) : 0;
}

static int __ffs(int v)
{
    return __builtin_ffs(v);
}

static int __clz(int v)
{
    return v ? __builtin_clz((unsigned)v) : 32;
}

static int __popc(unsigned v)
{
    return __builtin_popcount(v);
}

static uint32_t atomicAdd(uint32_t *p, uint32_t v)
{
    const uint32_t old = *p;
    *p += v;
    return old;
}

static uint32_t atomicMax(uint32_t *p, uint32_t v)
{
    const uint32_t old = *p;
    if (v > old) *p = v;
    return old;
}

template <typename T> static T __ldcg(const T *p)
{
    return *p;
}

template <typename T> static T __ldg(const T *p)
{
    return *p;
}

static inline float pinned(float v)
{
    return v;
}

template <typename T> static T *pinned(T *p)
{
    return p;
}

static inline float top_of(float a, float b)
{
    return a != a || b != b ? NAN : a > b ? a : b;
}

static inline uint32_t load_word(const uint32_t *p)
{
    return *p;
}

/* ---- the cluster --------------------------------------------------------------------------------------- */

static inline char *shared_memory(void)
{
    return memories[running->block];
}

static inline int cluster_rank(void)
{
    return running->block % blocks_a_cluster;
}

static inline int cluster_size(void)
{
    return blocks_a_cluster;
}

static inline void cluster_barrier(void)
{
    meet_at(&clusters[running->block / blocks_a_cluster]);
}

template <typename T> static T *of_rank(T *p, int rank)
{
    const int block = running->block / blocks_a_cluster * blocks_a_cluster + rank;
    return (T *)(memories[block] + ((char *)p - shared_memory()));
}

static inline void push(unsigned long long *p, int rank, unsigned long long v)
{
    *of_rank(p, rank) = v;
}

static inline uint32_t pull(const uint32_t *p, int rank)
{
    return *of_rank(p, rank);
}

static inline void begin_kernel(void) {}

/* ---- running ------------------------------------------------------------------------------------------- */

static void begin_fiber(struct fiber *f, int i, void (*entry)(void))
{
    *f = (struct fiber){};
    f->thread = i % THREADS;
    f->block = i / THREADS;
    f->stack = (char *)malloc(STACK_BYTES);
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    makecontext(&f->context, entry, 0);
}

/* All threads once through `entry`, forwards and backwards by turns. Returns 0, or -1 if they wait for ever.
 */
static int run_all(int size, int n, int shared_bytes, void (*entry)(void))
{
    const int n_blocks = size * n, n_fibers = n_blocks * THREADS;
    blocks_a_cluster = size;
    n_clusters_run = n;
    fibers = (struct fiber *)calloc((size_t)n_fibers, sizeof *fibers);
    warps = (struct warp *)calloc((size_t)(n_blocks * WARPS_A_BLOCK), sizeof *warps);
    blocks = (struct meeting *)calloc((size_t)n_blocks, sizeof *blocks);
    clusters = (struct meeting *)calloc((size_t)n, sizeof *clusters);
    memories = (char **)calloc((size_t)n_blocks, sizeof *memories);
    for (int i = 0; i < n_blocks * WARPS_A_BLOCK; i++) warps[i].meeting.size = 32;
    for (int i = 0; i < n_blocks; i++) {
        blocks[i].size = THREADS;
        memories[i] = (char *)malloc((size_t)shared_bytes + 8);
        memset(memories[i], 0xff, (size_t)shared_bytes); /* what nobody wrote is no number */
    }
    for (int i = 0; i < n; i++) clusters[i].size = size * THREADS;
    for (int i = 0; i < n_fibers; i++) begin_fiber(&fibers[i], i, entry);
    int left = n_fibers;
    for (int round = 0; left && round < MOST_ROUNDS; round++) {
        for (int i = 0; i < n_fibers; i++) {
            running = &fibers[round % 2 ? n_fibers - 1 - i : i];
            if (running->ended) continue;
            swapcontext(&scheduler, &running->context);
            left -= running->ended;
        }
    }
    for (int i = 0; i < n_fibers; i++) free(fibers[i].stack);
    for (int i = 0; i < n_blocks; i++) free(memories[i]);
    free(fibers);
    free(warps);
    free(blocks);
    free(clusters);
    free(memories);
    return left ? -1 : 0;
}

/* After the source: a function that runs its kernel. */
#define EMULATE(kernel)                                                                                      \
    static const struct sample_args *args_of_run;                                                            \
    static const struct graph_launch *launch_of_run;                                                         \
    static void run_thread(void)                                                                             \
    {                                                                                                        \
        kernel(*args_of_run, *launch_of_run);                                                                \
        running->ended = 1;                                                                                  \
        swapcontext(&running->context, &scheduler);                                                          \
    }                                                                                                        \
    extern "C" int emulate(const struct sample_args *a, const struct graph_launch *l, int size, int n,       \
                           int shared_bytes)                                                                 \
    {                                                                                                        \
        args_of_run = a;                                                                                     \
        launch_of_run = l;                                                                                   \
        return run_all(size, n, shared_bytes, run_thread);                                                   \
    }
