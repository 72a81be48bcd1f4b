#include "engine/settings.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_SEQS = 256 };
/* On a device a step of 8192 tokens keeps the matrix units busy, and a page of 64 is a tile of attention. */
static const struct {
    int32_t batched_tokens, block_size;
} defaults[2] = {{512, 16}, {8192, 64}};
static const uint64_t default_kv_bytes = (uint64_t)4 << 30;

void llm_engine_options_init(struct llm_engine_options *o)
{
    *o = (struct llm_engine_options){.load_format = "auto",
                                     .dtype = "auto",
                                     .kv_cache_dtype = "auto",
                                     .enable_prefix_caching = 1,
                                     .enable_chunked_prefill = 1,
                                     .scheduling_policy = "fcfs",
                                     .step_time_target = -1,
                                     .device = "auto",
                                     .gpu_memory_utilization = 0.9f,
                                     .max_logprobs = 20};
}

struct size_text size_text(uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    struct size_text s;
    double v = (double)bytes;
    int u = 0;
    for (; v >= 1024 && u < 4; u++) v /= 1024;
    snprintf(s.text, sizeof s.text, u ? "%.1f %s" : "%.0f %s", v, units[u]);
    return s;
}

static llm_status check_signs(const struct llm_engine_options *o, struct llm_error *err)
{
    const struct {
        const char *name;
        int32_t value;
    } counts[] = {{"max_model_len", o->max_model_len},
                  {"max_num_seqs", o->max_num_seqs},
                  {"max_num_batched_tokens", o->max_num_batched_tokens},
                  {"block_size", o->block_size},
                  {"max_num_queued_reqs", o->max_num_queued_reqs},
                  {"threads", o->threads}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < 0)
            return llm_fail(err, LLM_EINVAL, "%s is %d; it must be 1 or more, or 0 for the default",
                            counts[i].name, counts[i].value);
    if (o->max_logprobs < -1)
        return llm_fail(err, LLM_EINVAL, "max_logprobs is %d; it must be 0 or more, or -1 for the vocabulary",
                        o->max_logprobs);
    return LLM_OK;
}

static llm_status check_policy(const struct llm_engine_options *o, int *priority, struct llm_error *err)
{
    const char *policy = o->scheduling_policy ? o->scheduling_policy : "fcfs";
    *priority = !strcmp(policy, "priority");
    if (*priority || !strcmp(policy, "fcfs")) return LLM_OK;
    return llm_fail(err, LLM_EINVAL, "scheduling_policy is \"%s\"; it must be fcfs or priority", policy);
}

/* The budget and the number of sequences of a step. What was asked for is kept or refused; what was left to
 * us fits it. */
static llm_status decide_step(const struct llm_engine_options *o, int on_device, struct engine_config *c,
                              struct llm_error *err)
{
    int32_t seqs = o->max_num_seqs, tokens = o->max_num_batched_tokens;
    int32_t least = c->chunked_prefill ? 1 : c->max_model_len;
    if (seqs && tokens && tokens < seqs)
        return llm_fail(err, LLM_EINVAL,
                        "max_num_batched_tokens is %d; it must be at least max_num_seqs, which is %d", tokens,
                        seqs);
    if (tokens && tokens < least)
        return llm_fail(err, LLM_EINVAL,
                        "max_num_batched_tokens is %d; without chunked prefill it must be at least "
                        "max_model_len, which is %d",
                        tokens, least);
    if (!tokens) {
        tokens = defaults[on_device].batched_tokens;
        if (tokens < seqs) tokens = seqs;
        if (tokens < least) tokens = least;
    }
    if (!seqs) seqs = tokens < DEFAULT_SEQS ? tokens : DEFAULT_SEQS;
    c->max_num_seqs = seqs;
    c->max_num_batched_tokens = tokens;
    return LLM_OK;
}

llm_status settings_limits(const struct llm_engine_options *o, int32_t model_max_len, int on_device,
                           struct engine_config *c, struct llm_error *err)
{
    if (check_signs(o, err) || check_policy(o, &c->priority, err)) return LLM_EINVAL;
    if (o->max_model_len > model_max_len)
        return llm_fail(err, LLM_EINVAL, "max_model_len is %d; the model's positions end at %d",
                        o->max_model_len, model_max_len);
    c->max_model_len = o->max_model_len ? o->max_model_len : model_max_len;
    if (c->max_model_len < 2)
        return llm_fail(err, LLM_EINVAL, "max_model_len is %d; it must be 2 or more: a prompt and an output",
                        c->max_model_len);
    c->block_size = o->block_size ? o->block_size : defaults[on_device].block_size;
    if (c->block_size < 8 || c->block_size > PREFIX_MAX_BLOCK || (c->block_size & (c->block_size - 1)))
        return llm_fail(err, LLM_EINVAL, "block_size is %d; it must be 8, 16, 32, 64 or 128", c->block_size);
    c->chunked_prefill = o->enable_chunked_prefill;
    c->prefix_caching = o->enable_prefix_caching;
    c->max_num_queued_reqs = o->max_num_queued_reqs;
    c->max_logprobs = o->max_logprobs;
    c->step_time_target = o->step_time_target >= 0 ? o->step_time_target : on_device ? 50 : 0;
    if (!c->chunked_prefill) c->step_time_target = 0; /* a prompt must not be cut */
    c->seed = o->seed;
    return decide_step(o, on_device, c, err);
}

static uint64_t longest_pages(const struct engine_config *c)
{
    return ((uint64_t)c->max_model_len + (uint64_t)c->block_size - 1) / (uint64_t)c->block_size;
}

/* As many pages as `bytes` has room for, if one sequence fits in them. */
static llm_status take_pages(const struct llm_engine_options *o, size_t page_bytes, uint64_t bytes,
                             struct engine_config *c, struct llm_error *err)
{
    uint64_t longest = longest_pages(c), most = INT32_MAX / c->block_size, pages = bytes / page_bytes;
    if (pages > most) pages = most;
    if (pages < longest) {
        uint64_t fits = pages * (uint64_t)c->block_size;
        char other[64] = "";
        if (fits)
            snprintf(other, sizeof other, ", or set max_model_len to at most %llu", (unsigned long long)fits);
        return llm_fail(
            err, LLM_EINVAL,
            "one sequence of max_model_len = %d tokens takes %s of KV memory; %s %s holds %llu tokens: "
            "raise kv_cache_memory%s",
            c->max_model_len, size_text(longest * page_bytes).text,
            o->kv_cache_memory ? "kv_cache_memory =" : "the default of", size_text(bytes).text,
            (unsigned long long)fits, other);
    }
    c->n_pages = (int32_t)pages;
    return LLM_OK;
}

llm_status settings_pages(const struct llm_engine_options *o, size_t page_bytes, uint64_t available,
                          struct engine_config *c, struct llm_error *err)
{
    uint64_t longest = longest_pages(c), bytes = o->kv_cache_memory;
    if (bytes > available) /* mapped lazily it would seem to work, until the system runs out */
        return llm_fail(err, LLM_ENOMEM, "kv_cache_memory is %s; this machine has %s left: set it lower",
                        size_text(bytes).text, size_text(available).text);
    if (!bytes) {
        bytes = (uint64_t)c->max_num_seqs * longest * page_bytes;
        uint64_t enough = longest * page_bytes > default_kv_bytes ? longest * page_bytes : default_kv_bytes;
        if (bytes > enough) bytes = enough;
        if (bytes > available / 2) bytes = available / 2;
    }
    return take_pages(o, page_bytes, bytes, c, err);
}

llm_status settings_device_pages(const struct llm_engine_options *o, size_t page_bytes, uint64_t left,
                                 uint64_t total, struct engine_config *c, struct llm_error *err)
{
    uint64_t bytes = o->kv_cache_memory;
    if (!(o->gpu_memory_utilization > 0 && o->gpu_memory_utilization <= 1))
        return llm_fail(err, LLM_EINVAL, "gpu_memory_utilization is %g; it must be above 0 and at most 1",
                        (double)o->gpu_memory_utilization);
    if (bytes > left)
        return llm_fail(err, LLM_ENOMEM, "kv_cache_memory is %s; the device has %s left: set it lower",
                        size_text(bytes).text, size_text(left).text);
    if (!bytes) {
        uint64_t spared = (uint64_t)((1 - (double)o->gpu_memory_utilization) * (double)total);
        bytes = left > spared ? left - spared : 0;
        uint64_t most = (uint64_t)c->max_num_seqs * longest_pages(c) * page_bytes;
        if (bytes > most) bytes = most;
    }
    return take_pages(o, page_bytes, bytes, c, err);
}

llm_status settings_kv_dtype(const struct llm_engine_options *o, enum llm_dtype act, enum llm_dtype *out,
                             struct llm_error *err)
{
    const char *kv = o->kv_cache_dtype ? o->kv_cache_dtype : "auto";
    int full = o->dtype && !strcmp(o->dtype, "float32");
    if (!strcmp(kv, "auto"))
        *out = full ? DTYPE_F32 : act == DTYPE_F32 ? DTYPE_F16 : act;
    else if (!strcmp(kv, "float32"))
        *out = DTYPE_F32;
    else if (!strcmp(kv, "float16"))
        *out = DTYPE_F16;
    else if (!strcmp(kv, "bfloat16"))
        *out = DTYPE_BF16;
    else
        return llm_fail(err, LLM_EINVAL,
                        "kv_cache_dtype is \"%s\"; it must be auto, float32, float16 or bfloat16", kv);
    return LLM_OK;
}

/* ---- memory -------------------------------------------------------------------------------------------- */

/* The number after `key` in a file of small lines; 0: not there. */
static int read_number(const char *path, const char *key, uint64_t *out)
{
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    char line[128];
    int found = 0;
    size_t n = strlen(key);
    while (!found && fgets(line, sizeof line, f)) {
        unsigned long long v;
        found = !strncmp(line, key, n) && sscanf(line + n, "%llu", &v) == 1;
        if (found) *out = v;
    }
    fclose(f);
    return found;
}

uint64_t memory_available(void)
{
    uint64_t available = (uint64_t)1 << 40, v, used;
    if (read_number("/proc/meminfo", "MemAvailable:", &v)) available = v * 1024;
    if (read_number("/sys/fs/cgroup/memory.max", "", &v) &&
        read_number("/sys/fs/cgroup/memory.current", "", &used)) {
        uint64_t left = v > used ? v - used : 0;
        if (left < available) available = left;
    }
    return available;
}
