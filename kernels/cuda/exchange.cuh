#ifndef LLM_KERNELS_CUDA_EXCHANGE_CUH
#define LLM_KERNELS_CUDA_EXCHANGE_CUH

/* The exchange of rows between host and device: device.h says what the ops do. */

#include "kernels/cuda/cuda.cuh"

/* close: of what there is, after a failed open too. */
cudaError_t exchange_open(struct cuda_exchange *x);
void exchange_close(struct cuda_exchange *x);

llm_status cuda_begin_exchange(struct backend *be);
llm_status cuda_fetch(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes);
llm_status cuda_await(struct backend *be, int32_t ticket);
llm_status cuda_give_back(struct backend *be, int32_t ticket, void *to, const void *from, size_t bytes);
llm_status cuda_end_exchange(struct backend *be);

#endif
