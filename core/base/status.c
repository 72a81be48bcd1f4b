#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *llm_status_text(llm_status status)
{
    switch (status) {
#define X(name, value, text)                                                                                 \
    case LLM_##name:                                                                                         \
        return text;
        LLM_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

llm_status llm_fail(struct llm_error *err, llm_status status, const char *format, ...)
{
    if (!err) return status;
    va_list ap;
    va_start(ap, format);
    err->status = status;
    vsnprintf(err->message, sizeof err->message, format, ap);
    va_end(ap);
    return status;
}

llm_status llm_fail_in(struct llm_error *err, const char *format, ...)
{
    if (!err) return LLM_EFAILED;
    char inner[sizeof err->message];
    memcpy(inner, err->message, sizeof inner);
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(err->message, sizeof err->message, format, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n, end = sizeof err->message - 1;
    if (at < end) err->message[at++] = ':';
    if (at < end) err->message[at++] = ' ';
    for (const char *s = inner; at < end && *s;) err->message[at++] = *s++; /* what does not fit is cut */
    err->message[at < end ? at : end] = '\0';
    return err->status;
}
