#ifndef LLM_MODEL_CONFIG_H
#define LLM_MODEL_CONFIG_H

/* What a model is, read once from config.json or from GGUF metadata and validated here: a decoder reads only
 * this. Families differ by this data, not by code. All counts are > 0 and bounded after a successful read. */

#include "base/status.h"
#include "kernels/kernels.h"

struct gguf;

enum { CONFIG_MAX_EOS = 16, CONFIG_MAX_LAYERS = 512 };

enum rope_scaling {
    ROPE_SCALE_NONE,
    ROPE_SCALE_LINEAR,
    ROPE_SCALE_DYNAMIC,
    ROPE_SCALE_LLAMA3,
    ROPE_SCALE_YARN,
    ROPE_SCALE_LONGROPE
};

/* How rotation angles are made; formulas in rope.c. */
struct rope_config {
    enum rope_kind kind;
    int32_t rotary_dim; /* even */
    double theta;
    enum rope_scaling scaling;
    double factor;                            /* of scaling; 1 without */
    int32_t original_max_position;            /* tokens the model was trained for before scaling */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    int truncate;                             /* yarn: the ramp ends at whole dims */
    double mscale, mscale_all_dim;            /* yarn; 0: none given */
    double attention_factor;                  /* yarn, longrope; 0: derived */
    float
        *short_factor;  /* [rotary_dim / 2] divisors of the frequencies; longrope, GGUF's rope_freqs.weight */
    float *long_factor; /* the same where longrope runs beyond original_max_position; null otherwise */
};

enum naming { NAMING_HF, NAMING_GGUF }; /* which tensor names the files use */

struct model_config {
    char arch[64]; /* "llama", "mistral", "qwen2", "qwen3", … (config.json model_type; GGUF
                      general.architecture) */
    enum naming naming;

    int32_t vocab_size, hidden_size, n_layers, n_heads, n_kv_heads, head_dim, ffn_size;
    int32_t
        max_position; /* context in tokens: the trained one, times the factor of linear, dynamic and yarn */

    enum norm_kind norm;
    float norm_eps;
    int norm_unit_offset; /* the stored weight w means 1 + w (Gemma from HF files) */
    int qk_norm;          /* per-head RMS norm of q and k before rotation (Qwen3) */

    enum activation act;
    int gated_mlp;
    int qkv_bias, o_bias, mlp_bias;
    int tied_embeddings; /* no lm_head tensor: the embedding is the head */

    struct rope_config rope;
    float attn_scale; /* 1 / sqrt(head_dim) unless the family says otherwise */
    float attn_softcap, logit_softcap;
    float embed_scale, residual_scale, logit_scale; /* 1 unless the family says otherwise */
    int32_t window;                                 /* sliding-window attention, tokens; 0: none */
    uint8_t full_attention[CONFIG_MAX_LAYERS]; /* 1: this layer sees all positions whatever window says */
    uint8_t no_rope[CONFIG_MAX_LAYERS];        /* 1: this layer does not rotate q and k (SmolLM3) */

    enum llm_dtype dtype; /* of the stored float matrices: F32, F16 or BF16; F32 where the files do not say */

    /* From generation_config.json, else config.json, or from the GGUF tokenizer keys; -1: unset. An id that
     * the vocabulary does not have can never be sampled and is left out. */
    int32_t bos_token_id, pad_token_id;
    int32_t n_eos;
    int32_t eos_token_ids[CONFIG_MAX_EOS];
    /* sampling defaults the model's authors recommend; NaN / -1 where they say nothing */
    float default_temperature, default_top_p, default_min_p, default_repetition_penalty;
    int32_t default_top_k;
};

/* `dir`: a Hugging Face model directory (config.json needed, generation_config.json optional). Accepts old
 * and new field names (torch_dtype/dtype, rope_theta + rope_scaling / rope_parameters). Keys that may be
 * absent default as in transformers. Errors: LLM_ENOENT, LLM_EIO, LLM_ENOMEM, LLM_EFORMAT (the key, its value
 * and what it must be), LLM_EUNSUP (the architecture, and those supported; a feature that would change the
 * model's output if it were ignored). On success free with config_free. */
llm_status config_from_dir(const char *dir, struct model_config *out, struct llm_error *err);
/* The same from text; generation_json may be null. */
llm_status config_from_json(const char *json, size_t bytes, const char *generation_json,
                            size_t generation_bytes, struct model_config *out, struct llm_error *err);
/* From the metadata and the presence of tensors. Errors: as above. */
llm_status config_from_gguf(const struct gguf *g, struct model_config *out, struct llm_error *err);
void config_free(struct model_config *config); /* the factor arrays */

/* Sliding window of a layer in tokens, 0: none. */
int32_t config_layer_window(const struct model_config *config, int32_t layer);

#endif
