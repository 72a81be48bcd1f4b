#include "model/model.h"

#include "base/mem.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

enum source_kind { SOURCE_GGUF, SOURCE_SAFETENSORS, SOURCE_DUMMY };

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* What `path` is, as load_format allows. */
static llm_status find_kind(const struct model_options *options, enum source_kind *out, struct llm_error *err)
{
    const char *path = options->path, *format = options->load_format ? options->load_format : "auto";
    struct stat st;
    if (!path || !*path) return llm_fail(err, LLM_EINVAL, "no model given: a GGUF file or a model directory");
    if (stat(path, &st) != 0)
        return llm_fail(err, errno == ENOENT || errno == ENOTDIR ? LLM_ENOENT : LLM_EIO, "no model at %s: %s",
                        path, strerror(errno));
    int is_dir = S_ISDIR(st.st_mode);
    if (strcmp(format, "dummy") == 0) {
        if (!is_dir && !ends_with(path, ".json"))
            return llm_fail(err, LLM_EINVAL,
                            "load_format dummy needs a config.json or a directory with one; %s is neither",
                            path);
        *out = SOURCE_DUMMY;
    } else if (strcmp(format, "gguf") == 0 || (strcmp(format, "auto") == 0 && !is_dir)) {
        if (is_dir)
            return llm_fail(err, LLM_EINVAL, "load_format gguf needs a file; %s is a directory", path);
        *out = SOURCE_GGUF;
    } else if (strcmp(format, "safetensors") == 0 || strcmp(format, "auto") == 0) {
        if (!is_dir)
            return llm_fail(err, LLM_EINVAL, "load_format safetensors needs a model directory; %s is a file",
                            path);
        *out = SOURCE_SAFETENSORS;
    } else {
        return llm_fail(err, LLM_EINVAL, "load_format is \"%s\"; it must be auto, gguf, safetensors or dummy",
                        format);
    }
    return LLM_OK;
}

/* The directory a config.json lies in; `path` itself if it is not a .json file. To be freed. */
static char *config_dir(const char *path)
{
    if (!ends_with(path, ".json")) return mem_strdup(path);
    const char *slash = strrchr(path, '/');
    return slash ? mem_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : mem_strdup(".");
}

static llm_status open_config(struct model *m, const struct model_options *options, enum source_kind kind,
                              struct llm_error *err)
{
    llm_status st;
    if (kind == SOURCE_GGUF) {
        st = gguf_open(options->path, &m->files->gguf, err);
        if (st) return st;
        st = config_from_gguf(m->files->gguf, &m->config, err);
        return st ? llm_fail_in(err, "%s", options->path) : LLM_OK;
    }
    char *dir = config_dir(options->path);
    if (!dir) return llm_fail(err, LLM_ENOMEM, "no memory for a path");
    st = config_from_dir(dir, &m->config, err);
    if (!st && kind == SOURCE_SAFETENSORS) st = safetensors_open(dir, &m->files->safetensors, err);
    mem_free(dir);
    return st;
}

/* A model that brings no tokenizer is one for token ids alone. */
static llm_status open_tokenizer(struct model *m, const struct model_options *options, enum source_kind kind,
                                 struct llm_error *err)
{
    struct stat sb;
    struct gguf_string name;
    if (options->skip_tokenizer) return LLM_OK;
    if (options->tokenizer) return tokenizer_open(options->tokenizer, &m->tokenizer, err);
    if (kind == SOURCE_GGUF) {
        if (!gguf_get_string(m->files->gguf, "tokenizer.ggml.model", &name)) return LLM_OK;
        llm_status st = tokenizer_open_gguf(m->files->gguf, &m->tokenizer, err);
        return st ? llm_fail_in(err, "%s", options->path) : LLM_OK;
    }
    if (stat(options->path, &sb) != 0 || !S_ISDIR(sb.st_mode)) return LLM_OK;
    llm_status st = tokenizer_open(options->path, &m->tokenizer, err);
    return st == LLM_ENOENT ? LLM_OK : st;
}

/* Features that a config can describe but the decoder does not compute. */
static llm_status check_supported(const struct model_config *c, struct llm_error *err)
{
    if (c->residual_scale != 1)
        return llm_fail(err, LLM_EUNSUP, "residual_scale is %g; only 1 is supported",
                        (double)c->residual_scale);
    return LLM_OK;
}

llm_status model_open(struct backend *backend, const struct model_options *options, struct model **out,
                      struct llm_error *err)
{
    enum source_kind kind;
    llm_status st = find_kind(options, &kind, err);
    if (st) return st;
    enum llm_dtype ignored;
    st = weights_dtype(options->dtype, DTYPE_F32, &ignored, err);
    if (st) return st;
    struct model *m = mem_zalloc(sizeof *m);
    if (!m) return llm_fail(err, LLM_ENOMEM, "no memory for a model");
    m->backend = backend;
    m->files = mem_zalloc(sizeof *m->files);
    if (!m->files) {
        st = llm_fail(err, LLM_ENOMEM, "no memory for a model");
        goto fail;
    }
    if ((st = open_config(m, options, kind, err))) goto fail;
    if ((st = check_supported(&m->config, err)) || (st = weights_load(m, options, err))) {
        llm_fail_in(err, "%s", options->path);
        goto fail;
    }
    if ((st = open_tokenizer(m, options, kind, err))) goto fail;
    *out = m;
    return LLM_OK;
fail:
    model_close(m);
    return st;
}

llm_status model_stored_dtype(const struct model_options *options, enum llm_dtype *out, struct llm_error *err)
{
    struct model_files files = {0};
    struct model m = {.files = &files};
    enum source_kind kind;
    llm_status st = find_kind(options, &kind, err);
    if (!st) st = open_config(&m, options, kind, err);
    if (!st) *out = m.config.dtype;
    gguf_close(files.gguf);
    safetensors_close(files.safetensors);
    config_free(&m.config);
    return st;
}

void model_close(struct model *m)
{
    if (!m) return;
    tokenizer_close(m->tokenizer);
    if (m->files) {
        weights_free(m);
        gguf_close(m->files->gguf);
        safetensors_close(m->files->safetensors);
        mem_free(m->files);
    }
    config_free(&m->config);
    mem_free(m);
}
