#ifndef LLM_ENGINE_SETTINGS_H
#define LLM_ENGINE_SETTINGS_H

/* The options of an engine and what a model allows become the engine's settings: defaults, checks, the size
 * of KV memory. Pure but for the machine's free memory, which is passed in. */

#include "engine/engine.h"

/* 1024, 24.0 KiB, 1.5 GiB …, for messages. */
struct size_text {
    char text[32];
};
struct size_text size_text(uint64_t bytes);

/* All but n_pages. model_max_len: positions the model has. on_device: the defaults are a GPU's. Errors:
 * LLM_EINVAL (which option, what it must be). */
llm_status settings_limits(const struct llm_engine_options *options, int32_t model_max_len, int on_device,
                           struct engine_config *out, struct llm_error *err);

/* out->n_pages. available: bytes of memory free to be used. Errors: LLM_EINVAL if one sequence of
 * max_model_len does not fit. */
llm_status settings_pages(const struct llm_engine_options *options, size_t page_bytes, uint64_t available,
                          struct engine_config *out, struct llm_error *err);

/* The dtype of KV memory for a backend that computes in `act`. Errors: LLM_EINVAL. */
llm_status settings_kv_dtype(const struct llm_engine_options *options, enum llm_dtype act,
                             enum llm_dtype *out, struct llm_error *err);

/* out->n_pages on a device: what kv_cache_memory says, else what is left of gpu_memory_utilization of the
 * device's memory when weights and workspaces are in place. Errors: LLM_EINVAL as above, LLM_ENOMEM. */
llm_status settings_device_pages(const struct llm_engine_options *options, size_t page_bytes, uint64_t left,
                                 uint64_t total, struct engine_config *out, struct llm_error *err);

/* Bytes that this process may still take, by the system's and the control group's account. */
uint64_t memory_available(void);

#endif
