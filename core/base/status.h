#ifndef LLM_BASE_STATUS_H
#define LLM_BASE_STATUS_H

/* Errors as values. A function that can fail returns an llm_status (0 is success, failures are negative) and,
 * if it fails, fills the struct llm_error it was given: what failed, where, and what to do about it. Results
 * go through out-parameters, which are written only on success. The library never prints, exits or aborts. */

#ifdef __cplusplus
extern "C" {
#endif

/* name, value, text. The only list of codes: the enum and llm_status_text are made from it. */
#define LLM_STATUS_MAP(X)                                                                                    \
    X(OK, 0, "ok")                                                                                           \
    X(EINVAL, -1, "invalid argument")                                                                        \
    X(ENOMEM, -2, "out of memory")                                                                           \
    X(EIO, -3, "input/output error")                                                                         \
    X(ENOENT, -4, "not found")                                                                               \
    X(EFORMAT, -5, "malformed file")                                                                         \
    X(EUNSUP, -6, "not supported")                                                                           \
    X(EAGAIN, -7, "nothing yet")                                                                             \
    X(EFULL, -8, "queue full")                                                                               \
    X(ECANCELED, -9, "canceled")                                                                             \
    X(EFAILED, -10, "engine failed")

typedef enum llm_status {
#define X(name, value, text) LLM_##name = value,
    LLM_STATUS_MAP(X)
#undef X
} llm_status;

/* Filled on failure; the caller owns it. A null pointer is accepted wherever one is asked for. */
struct llm_error {
    llm_status status;
    char message[500]; /* UTF-8, one line, NUL-terminated */
};

/* Fixed English text of a code, e.g. "out of memory". Never null. */
const char *llm_status_text(llm_status status);

/* Fills *err (which may be null) with a printf-formatted message; returns `status`, so that a failure is one
 * line: return llm_fail(err, LLM_EINVAL, "n is %d; it must be at least 1", n); */
llm_status llm_fail(struct llm_error *err, llm_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "context: " before the message in *err, for a caller that knows what the callee could not (the file,
 * say). Returns err's status, LLM_EFAILED if err is null. */
llm_status llm_fail_in(struct llm_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __cplusplus
}
#endif
#endif
