/* The exchange of rows between host and device (device.h): each direction has a stream of its own, so that a
 * row comes while another goes and the host works on a third. */

#include "kernels/cuda/exchange.cuh"

#include <cstring>

cudaError_t exchange_open(struct cuda_exchange *x)
{
    cudaError_t e = cudaStreamCreateWithFlags(&x->out, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaStreamCreateWithFlags(&x->in, cudaStreamNonBlocking);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&x->begun, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&x->returned, cudaEventDisableTiming);
    if (e == cudaSuccess) e = cudaEventCreateWithFlags(&x->ended, cudaEventDisableTiming);
    for (int i = 0; i < EXCHANGE_TICKETS && e == cudaSuccess; i++)
        e = cudaEventCreateWithFlags(&x->fetched[i], cudaEventDisableTiming);
    return e;
}

void exchange_close(struct cuda_exchange *x)
{
    for (cudaEvent_t fetched : x->fetched)
        if (fetched) cudaEventDestroy(fetched);
    if (x->begun) cudaEventDestroy(x->begun);
    if (x->returned) cudaEventDestroy(x->returned);
    if (x->ended) cudaEventDestroy(x->ended);
    if (x->out) cudaStreamDestroy(x->out);
    if (x->in) cudaStreamDestroy(x->in);
}

/* What is put into `later` from now on waits for what is in `sooner`. */
static cudaError_t order(cudaStream_t sooner, cudaEvent_t event, cudaStream_t later)
{
    cudaError_t e = cudaEventRecord(event, sooner);
    return e == cudaSuccess ? cudaStreamWaitEvent(later, event, 0) : e;
}

llm_status cuda_begin_exchange(struct backend *be)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    memset(cu->exchange.used, 0, sizeof cu->exchange.used);
    return cuda_check(cu, order(cu->stream, cu->exchange.begun, cu->exchange.out), "an exchange of rows");
}

llm_status cuda_fetch(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    struct cuda_exchange *x = &cu->exchange;
    if (cu->failed) return LLM_EFAILED;
    cudaError_t e = x->used[ticket] ? order(x->in, x->returned, x->out) : cudaSuccess;
    if (e == cudaSuccess) e = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, x->out);
    if (e == cudaSuccess) e = cudaEventRecord(x->fetched[ticket], x->out);
    return cuda_check(cu, e, "fetching a row");
}

llm_status cuda_await(struct backend *be, int32_t ticket)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return cuda_check(cu, cudaEventSynchronize(cu->exchange.fetched[ticket]), "fetching a row");
}

llm_status cuda_give_back(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    struct cuda_exchange *x = &cu->exchange;
    if (cu->failed) return LLM_EFAILED;
    x->used[ticket] = 1;
    if (bytes == 0) return LLM_OK;
    return cuda_check(cu, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, x->in),
                      "giving back a row");
}

llm_status cuda_end_exchange(struct backend *be)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    return cuda_check(cu, order(cu->exchange.in, cu->exchange.ended, cu->stream), "an exchange of rows");
}
