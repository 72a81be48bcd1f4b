#include "model/tokenizer_impl.h"

#include "base/file_map.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "model/hf_pipeline.h"
#include "model/spm.h"
#include "model/utf8.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- helpers for the readers --------------------------------------------------------------------------- */

llm_status buffer_put(struct buffer *b, const char *s, size_t n, struct llm_error *err)
{
    if (n > b->capacity - b->size) {
        size_t capacity = b->capacity + b->capacity / 2 + n + 256;
        char *data = mem_grow(b->data, capacity, 1);
        if (!data) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of text", capacity);
        b->data = data;
        b->capacity = capacity;
    }
    if (n) memcpy(b->data + b->size, s, n);
    b->size += n;
    return LLM_OK;
}

llm_status tokenizer_fill_bytes(struct tokenizer *tok, token_bytes_fn *bytes_of, struct llm_error *err)
{
    struct buffer b = {0};
    tok->bytes_begin = mem_array((size_t)tok->n_vocab + 1, sizeof *tok->bytes_begin);
    if (!tok->bytes_begin) return llm_fail(err, LLM_ENOMEM, "no memory for %d tokens", tok->n_vocab);
    llm_status status = LLM_OK;
    for (int32_t id = 0; !status && id < tok->n_vocab; id++) {
        status = bytes_of(tok, id, &b, err);
        tok->bytes_begin[id + 1] = b.size;
        size_t n = b.size - tok->bytes_begin[id];
        /* each byte that is no UTF-8 may come out as U+FFFD, which has three */
        if (n && !utf8_valid(b.data + tok->bytes_begin[id], n)) n *= 3;
        if (n > tok->max_token_bytes) tok->max_token_bytes = n;
    }
    tok->bytes = b.data;
    return status;
}

llm_status tokenizer_add_end(struct tokenizer *tok, int32_t id, struct llm_error *err)
{
    if (id < 0 || id >= tok->n_vocab) return LLM_OK;
    for (int32_t i = 0; i < tok->n_end_tokens; i++)
        if (tok->end_tokens[i] == id) return LLM_OK;
    int32_t *ids = mem_grow(tok->end_tokens, (size_t)tok->n_end_tokens + 1, sizeof *ids);
    if (!ids) return llm_fail(err, LLM_ENOMEM, "no memory for the tokens that end a turn");
    tok->end_tokens = ids;
    ids[tok->n_end_tokens++] = id;
    return LLM_OK;
}

int tokenizer_text_ends_turn(const char *text, size_t size)
{
    static const char *const names[] = {"<|eot_id|>",
                                        "<|im_end|>",
                                        "<|end|>",
                                        "<|return|>",
                                        "<|call|>",
                                        "<|flush|>",
                                        "<|calls|>",
                                        "<end_of_turn>",
                                        "<|endoftext|>",
                                        "</s>",
                                        "<|eom_id|>",
                                        "<EOT>",
                                        "_<EOT>",
                                        "[EOT]",
                                        "[EOS]",
                                        "<|end_of_text|>",
                                        "<end_of_utterance>",
                                        "<eos>",
                                        "<turn|>",
                                        "<|tool_response>",
                                        "<\uff5cend\u2581of\u2581sentence\uff5c>",
                                        "[e~["};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strlen(names[i]) == size && !memcmp(names[i], text, size)) return 1;
    return 0;
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

int tokenizer_hex_byte(const char *s, size_t size)
{
    if (size != 6 || memcmp(s, "<0x", 3) || s[5] != '>') return -1;
    int high = hex_digit(s[3]), low = hex_digit(s[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

llm_status tokenizer_put_unescaped(struct buffer *out, const char *s, size_t size, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (size_t i = 0, n; !status && i < size; i += n) {
        n = 1;
        if (size - i >= 3 && !memcmp(s + i, "\xe2\x96\x81", 3)) {
            n = 3;
            status = buffer_put(out, " ", 1, err);
        } else {
            status = buffer_put(out, s + i, 1, err);
        }
    }
    return status;
}

llm_status tokenizer_put_gpt2_bytes(struct buffer *out, const char *s, size_t size, int *mapped,
                                    struct llm_error *err)
{
    size_t before = out->size;
    llm_status status = LLM_OK;
    *mapped = 1;
    for (size_t i = 0, n; !status && i < size; i += n) {
        uint32_t cp;
        n = utf8_scan((const uint8_t *)s + i, size - i, &cp);
        int byte = n ? bpe_byte_of_char(cp) : -1;
        if (byte < 0) {
            *mapped = 0;
            out->size = before;
            return LLM_OK;
        }
        char c = (char)byte;
        status = buffer_put(out, &c, 1, err);
    }
    return status;
}

/* ---- open and close ------------------------------------------------------------------------------------ */

void tokenizer_close(struct tokenizer *tok)
{
    if (!tok) return;
    special_close(tok->special);
    splitter_close(tok->splitter);
    bpe_close(tok->bpe);
    spm_close(tok->spm);
    hf_close(tok->hf);
    strings_close(&tok->texts);
    mem_free(tok->kinds);
    mem_free(tok->bytes);
    mem_free(tok->bytes_begin);
    mem_free(tok->end_tokens);
    mem_free(tok->chat_template);
    mem_free(tok);
}

static struct tokenizer *new_tokenizer(struct llm_error *err)
{
    struct tokenizer *tok = mem_zalloc(sizeof *tok);
    if (!tok) llm_fail(err, LLM_ENOMEM, "no memory for a tokenizer");
    return tok;
}

/* Takes a tokenizer that a reader has filled, or closes it. */
static llm_status finish(struct tokenizer *tok, llm_status status, struct tokenizer **out)
{
    if (status)
        tokenizer_close(tok);
    else
        *out = tok;
    return status;
}

llm_status tokenizer_open_gguf(const struct gguf *g, struct tokenizer **out, struct llm_error *err)
{
    struct tokenizer *tok = new_tokenizer(err);
    return tok ? finish(tok, tokenizer_read_gguf(tok, g, err), out) : LLM_ENOMEM;
}

llm_status tokenizer_open_json(const char *json, size_t bytes, struct tokenizer **out, struct llm_error *err)
{
    struct tokenizer *tok = new_tokenizer(err);
    return tok ? finish(tok, tokenizer_read_json(tok, json, bytes, err), out) : LLM_ENOMEM;
}

static llm_status open_gguf_file(const char *path, struct tokenizer **out, struct llm_error *err)
{
    struct gguf *g;
    llm_status status = gguf_open(path, &g, err);
    if (status) return status;
    status = tokenizer_open_gguf(g, out, err);
    gguf_close(g);
    if (status) llm_fail_in(err, "%s", path);
    return status;
}

static int looks_like_json(const struct file_map *map)
{
    size_t i = 0;
    while (i < map->size && strchr(" \t\r\n", map->data[i]) && map->data[i]) i++;
    return i < map->size && map->data[i] == '{';
}

/* A file by its content; `dir` is where its configuration stands. */
static llm_status open_file(const char *path, const char *dir, struct tokenizer **out, struct llm_error *err)
{
    struct file_map map;
    llm_status status = file_map_open(path, &map, err);
    if (status) return status;
    if (map.size >= 4 && !memcmp(map.data, "GGUF", 4)) {
        file_map_close(&map);
        return open_gguf_file(path, out, err);
    }
    struct tokenizer *tok = new_tokenizer(err);
    if (!tok)
        status = LLM_ENOMEM;
    else if (looks_like_json(&map))
        status = tokenizer_read_json(tok, (const char *)map.data, map.size, err);
    else
        status = tokenizer_read_spm(tok, map.data, map.size, err);
    file_map_close(&map);
    if (status && tok) llm_fail_in(err, "%s", path);
    if (!status) status = tokenizer_read_config(tok, dir, err);
    return finish(tok, status, out);
}

static llm_status open_directory(const char *dir, struct tokenizer **out, struct llm_error *err)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    char path[4096];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int n = snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (n < 0 || (size_t)n >= sizeof path) return llm_fail(err, LLM_EINVAL, "%s: path too long", dir);
        if (!access(path, F_OK)) return open_file(path, dir, out, err);
    }
    return llm_fail(err, LLM_ENOENT, "%s: neither tokenizer.json nor tokenizer.model is there", dir);
}

llm_status tokenizer_open(const char *path, struct tokenizer **out, struct llm_error *err)
{
    struct stat st;
    if (!stat(path, &st) && S_ISDIR(st.st_mode)) return open_directory(path, out, err);
    char dir[4096];
    const char *slash = strrchr(path, '/');
    int n =
        slash ? snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path) : snprintf(dir, sizeof dir, ".");
    if (n < 0 || (size_t)n >= sizeof dir) return llm_fail(err, LLM_EINVAL, "%s: path too long", path);
    return open_file(path, n ? dir : "/", out, err);
}

/* ---- encoding and the rest of the interface ------------------------------------------------------------ */

void token_list_free(struct token_list *list)
{
    mem_free(list->ids);
    memset(list, 0, sizeof *list);
}

llm_status tokenizer_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                            struct token_list *out, struct llm_error *err)
{
    if (bytes > INT32_MAX / 4)
        return llm_fail(err, LLM_EINVAL, "a text of %zu bytes; at most %d can be tokenized at once", bytes,
                        INT32_MAX / 4);
    return tok->encode(tok, text, bytes, flags, out, err);
}

int32_t tokenizer_vocab_size(const struct tokenizer *tok)
{
    return tok->n_vocab;
}

const char *tokenizer_bytes(const struct tokenizer *tok, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= tok->n_vocab || !tok->bytes) return "";
    *bytes = tok->bytes_begin[id + 1] - tok->bytes_begin[id];
    return tok->bytes + tok->bytes_begin[id];
}

int tokenizer_is_special(const struct tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n_vocab && (tok->kinds[id] & (TOKEN_CONTROL | TOKEN_UNKNOWN));
}

int32_t tokenizer_find(const struct tokenizer *tok, const char *text, size_t bytes)
{
    int32_t id = strings_find(&tok->texts, text, bytes);
    return id < tok->n_vocab ? id : -1;
}

int32_t tokenizer_bos(const struct tokenizer *tok)
{
    return tok->bos;
}

int32_t tokenizer_eos(const struct tokenizer *tok)
{
    return tok->eos;
}

const int32_t *tokenizer_end_tokens(const struct tokenizer *tok, int32_t *n)
{
    *n = tok->n_end_tokens;
    return tok->end_tokens;
}

const char *tokenizer_chat_template(const struct tokenizer *tok)
{
    return tok->chat_template;
}

int tokenizer_adds_bos(const struct tokenizer *tok)
{
    return tok->add_bos && tok->bos >= 0;
}

size_t tokenizer_max_token_bytes(const struct tokenizer *tok)
{
    return tok->max_token_bytes;
}
