#ifndef LLM_MODEL_PRETOKENIZE_H
#define LLM_MODEL_PRETOKENIZE_H

/* Cutting text into the pieces that BPE works on. A splitter is a list of rules; each cuts every piece that
 * the rules before it left, seeing nothing beyond that piece. Regular expressions are PCRE2, compiled to
 * machine code, in the dialect below. Immutable after open; a run needs a scratch of its own. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { SPLITTER_MAX_RULES = 12 };

/* What becomes of the parts that a rule finds; the text between them stays as it is. Names as in Hugging
 * Face's Split. */
enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS, /* adjacent ones become one */
};

struct splitter;
struct splitter_scratch;

llm_status splitter_open(struct splitter **out, struct llm_error *err);
void splitter_close(struct splitter *s);

/* A rule that isolates the matches of a regular expression: Perl's dialect as far as Oniguruma and PCRE2
 * agree, UTF-8; \s is White_Space, \d is Nd, a bracket inside brackets is a union (Oniguruma). `invert`: the
 * behaviour applies to what lies between the matches. Errors: LLM_EUNSUP (what, at which offset). */
llm_status splitter_add_regex(struct splitter *s, const char *pattern, size_t size,
                              enum split_behavior behavior, int invert, struct llm_error *err);
/* A rule for a literal string. */
llm_status splitter_add_literal(struct splitter *s, const char *text, size_t size,
                                enum split_behavior behavior, int invert, struct llm_error *err);
/* Runs of digits in groups of three counted from their right end. `loose`: text before a run sticks to its
 * first group, and \p{N} are digits; else only 0-9 are, and runs of less than four stay whole. (Lookahead
 * patterns that say this take quadratic time.) */
llm_status splitter_add_digit_groups(struct splitter *s, int loose, struct llm_error *err);

/* Receives the pieces in order; a status other than LLM_OK ends the run and is returned by it. */
typedef llm_status piece_fn(void *ud, const char *piece, size_t size, struct llm_error *err);

llm_status splitter_scratch_open(const struct splitter *s, struct splitter_scratch **out,
                                 struct llm_error *err);
void splitter_scratch_close(struct splitter_scratch *scratch);

/* text must be valid UTF-8. Pieces point into it and are never empty. Errors: LLM_EFAILED (the regular
 * expression engine gave up), those of fn. */
llm_status splitter_run(const struct splitter *s, struct splitter_scratch *scratch, const char *text,
                        size_t size, piece_fn *fn, void *ud, struct llm_error *err);

#endif
