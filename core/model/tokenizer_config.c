#include "model/tokenizer_impl.h"

#include "base/file_map.h"
#include "base/mem.h"
#include "model/hf_pipeline.h"
#include "model/json_text.h"

#include <stdio.h>
#include <string.h>

/* What stands beside tokenizer.json or tokenizer.model in a model directory. */

enum { MAX_CONFIG_BYTES = 16 * 1024 * 1024 };

static int join(char *out, size_t capacity, const char *dir, const char *name)
{
    int n = snprintf(out, capacity, "%s/%s", dir, name);
    return n > 0 && (size_t)n < capacity;
}

/* *out is null if there is no such file. */
static llm_status read_if_there(const char *dir, const char *name, json_t **out, struct llm_error *err)
{
    char path[4096];
    struct llm_error e;
    *out = NULL;
    if (!join(path, sizeof path, dir, name)) return llm_fail(err, LLM_EINVAL, "%s: path too long", dir);
    llm_status status = json_text_read(path, MAX_CONFIG_BYTES, out, &e);
    if (status == LLM_ENOENT) return LLM_OK;
    return status ? llm_fail(err, status, "%s", e.message) : LLM_OK;
}

/* A token given as "text" or {"content": "text"}; -1: not given, or not in the vocabulary. */
static int32_t find_token(const struct tokenizer *tok, const json_t *value)
{
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return -1;
    return tokenizer_find(tok, json_string_value(value), json_string_length(value));
}

static void read_tokens(struct tokenizer *tok, const json_t *config)
{
    int32_t bos = find_token(tok, json_object_get(config, "bos_token"));
    int32_t eos = find_token(tok, json_object_get(config, "eos_token"));
    if (bos >= 0) tok->bos = bos;
    if (eos >= 0) tok->eos = eos;
}

/* Whether BOS and EOS are added is the post-processor's matter, but transformers rewrites that of the Llama
 * and Gemma tokenizers from these keys, and the library that reads tokenizer.model has no opinion. */
static int obeys_add_bos(const struct tokenizer *tok, const json_t *config)
{
    static const char *const classes[] = {"LlamaTokenizer",         "LlamaTokenizerFast",
                                          "GemmaTokenizer",         "GemmaTokenizerFast",
                                          "CodeLlamaTokenizerFast", "CodeLlamaTokenizer"};
    if (!tok->hf) return 1;
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    for (size_t i = 0; name && i < sizeof classes / sizeof *classes; i++)
        if (!strcmp(name, classes[i])) return 1;
    return 0;
}

static void read_add_bos(struct tokenizer *tok, const json_t *config)
{
    if (!obeys_add_bos(tok, config)) return;
    const json_t *add_bos = json_object_get(config, "add_bos_token");
    const json_t *add_eos = json_object_get(config, "add_eos_token");
    if (json_is_boolean(add_bos)) tok->add_bos = json_is_true(add_bos);
    if (json_is_boolean(add_eos)) tok->add_eos = json_is_true(add_eos);
    if (!tok->hf) return;
    if (json_is_boolean(add_bos) && tok->bos >= 0) {
        tok->hf->n_before = tok->add_bos;
        tok->hf->before[0] = tok->bos;
    }
    if (json_is_boolean(add_eos) && tok->eos >= 0) {
        tok->hf->n_after = tok->add_eos;
        tok->hf->after[0] = tok->eos;
    }
}

static llm_status set_template(struct tokenizer *tok, const char *text, size_t size, struct llm_error *err)
{
    mem_free(tok->chat_template);
    tok->chat_template = mem_strndup(text, size);
    return tok->chat_template ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for the chat template");
}

/* A string, or a list of {name, template} with one named "default". */
static llm_status read_template(struct tokenizer *tok, const json_t *value, struct llm_error *err)
{
    const json_t *chosen = json_is_string(value) ? value : NULL;
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (!chosen || (name && !strcmp(name, "default"))) chosen = json_object_get(entry, "template");
    }
    if (!json_is_string(chosen)) return LLM_OK;
    return set_template(tok, json_string_value(chosen), json_string_length(chosen), err);
}

static llm_status read_template_file(struct tokenizer *tok, const char *dir, struct llm_error *err)
{
    char path[4096];
    struct file_map map;
    if (!join(path, sizeof path, dir, "chat_template.jinja")) return LLM_OK;
    if (file_map_open(path, &map, NULL)) return LLM_OK; /* most models have none */
    llm_status status = LLM_OK;
    if (map.size <= MAX_CONFIG_BYTES) status = set_template(tok, (const char *)map.data, map.size, err);
    file_map_close(&map);
    return status;
}

llm_status tokenizer_read_config(struct tokenizer *tok, const char *dir, struct llm_error *err)
{
    json_t *map = NULL, *config = NULL;
    llm_status status = read_if_there(dir, "special_tokens_map.json", &map, err);
    if (!status) status = read_if_there(dir, "tokenizer_config.json", &config, err);
    if (!status) {
        read_tokens(tok, map);
        read_tokens(tok, config);
        read_add_bos(tok, config);
        status = read_template(tok, json_object_get(config, "chat_template"), err);
    }
    if (!status) status = read_template_file(tok, dir, err);
    if (!status) status = tokenizer_add_end(tok, tok->eos, err);
    json_decref(map);
    json_decref(config);
    return status;
}
