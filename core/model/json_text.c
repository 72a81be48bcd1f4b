#include "model/json_text.h"
#include "base/file_map.h"
#include "base/quote.h"

llm_status json_text_parse(const char *text, size_t bytes, json_t **out, struct llm_error *err)
{
    json_error_t e;
    json_t *root = json_loadb(text ? text : "", bytes, JSON_REJECT_DUPLICATES, &e);
    if (!root) {
        if (json_error_code(&e) == json_error_out_of_memory)
            return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of JSON", bytes);
        struct quoted q;
        return llm_fail(err, LLM_EFORMAT, "it is not valid JSON: line %d, column %d: %s", e.line, e.column,
                        quote_text(&q, e.text));
    }
    *out = root;
    return LLM_OK;
}

llm_status json_text_read(const char *path, size_t max_bytes, json_t **out, struct llm_error *err)
{
    struct file_map map;
    json_t *root = NULL;
    llm_status status = file_map_open(path, &map, err);
    if (status != LLM_OK) return status;
    if (map.size > max_bytes)
        status =
            llm_fail(err, LLM_EFORMAT, "it is %zu bytes long; at most %zu are read", map.size, max_bytes);
    else
        status = json_text_parse((const char *)map.data, map.size, &root, err);
    if (status == LLM_OK && !json_is_object(root)) {
        json_decref(root);
        status = llm_fail(err, LLM_EFORMAT, "it must hold a JSON object");
    }
    file_map_close(&map);
    if (status != LLM_OK) {
        llm_fail_in(err, "%s", path);
        return status;
    }
    *out = root;
    return LLM_OK;
}
