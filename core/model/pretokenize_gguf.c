#include "model/pretokenize_gguf.h"

#include <string.h>

/* The pre-tokenizers that GGUF files name, as llama.cpp applies them. Where its engine departs from the
 * pattern of the original tokenizer, so do we: in a pattern with \p{…} it knows no letter case beyond ASCII,
 * and in one without, white space beyond ASCII is no member of any range. */

#define CONTRACTION "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define SPACES      "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define WORD        "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define SIGNS       " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
#define SIGNS_SLASH " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"

#define GPT2   "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA3 CONTRACTION "|" WORD "|\\p{N}{1,3}|" SIGNS "|" SPACES
#define QWEN2  CONTRACTION "|" WORD "|\\p{N}|" SIGNS "|" SPACES
#define QWEN35                                                                                               \
    CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACES
#define CJK             "[\\x{4e00}-\\x{9fa5}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}]+"
#define ASCII_SIGN_WORD "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
#define MARKED_WORD     "[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
#define DEEPSEEK3       ASCII_SIGN_WORD "|" MARKED_WORD "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES
/* capitals then small letters, with ASCII's the only ones told apart */
#define CASED_1            "[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]*[^\\P{L}A-Z]+"
#define CASED_2            "[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}a-z]+[^\\P{L}A-Z]*"
#define MARKED_NOT_SMALL   "(?:(?![a-z])[\\p{L}\\p{M}])"
#define MARKED_NOT_CAPITAL "(?:(?![A-Z])[\\p{L}\\p{M}])"
#define NOT_STOP           " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{ff0c}\\x{3001}\\x{964}\\x{6d4}\\x{60c})]+"
#define LINES              "[^\\n]+|[\\n]+"
#define HAN                                                                                                  \
    "\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{20000}-\\x{2a6df}\\x{2a700}-\\x{2ebef}\\x{f900}-\\x{faff}"    \
    "\\x{2f800}-\\x{2fa1f}"

/* Rules that are no regular expression. */
#define DIGIT_GROUPS_LOOSE  "\001"
#define DIGIT_GROUPS_STRICT "\002"

static const char latin_greek_cyrillic[] =
    "\\s?["
    "\\x{41}-\\x{5a}\\x{61}-\\x{7a}\\x{b5}\\x{c0}-\\x{d6}\\x{d8}-\\x{f6}\\x{f8}-\\x{1ba}"
    "\\x{1bc}-\\x{1bf}\\x{1c4}-\\x{293}\\x{295}-\\x{2af}\\x{370}-\\x{373}\\x{376}\\x{377}"
    "\\x{37b}-\\x{37d}\\x{37f}\\x{386}\\x{388}-\\x{38a}\\x{38c}\\x{38e}-\\x{3a1}\\x{3a3}-\\x{3f5}"
    "\\x{3f7}-\\x{481}\\x{48a}-\\x{52f}\\x{531}-\\x{556}\\x{10a0}-\\x{10c5}\\x{13a0}-\\x{13f5}"
    "\\x{13f8}-\\x{13fd}\\x{1c90}-\\x{1cba}\\x{1cbd}-\\x{1cbf}\\x{1d00}-\\x{1d2b}\\x{1d6b}-\\x{1d77}"
    "\\x{1d79}-\\x{1d9a}\\x{1e00}-\\x{1f15}\\x{1f18}-\\x{1f1d}\\x{1f20}-\\x{1f45}\\x{1f48}-\\x{1f4d}"
    "\\x{1f50}-\\x{1f57}\\x{1f59}\\x{1f5b}\\x{1f5d}\\x{1f5f}-\\x{1f7d}\\x{1f80}-\\x{1fb4}"
    "\\x{1fb6}-\\x{1fbc}\\x{1fbe}\\x{1fc2}-\\x{1fc4}\\x{1fc6}-\\x{1fcc}\\x{1fd0}-\\x{1fd3}"
    "\\x{1fd6}-\\x{1fdb}\\x{1fe0}-\\x{1fec}\\x{1ff2}-\\x{1ff4}\\x{1ff6}-\\x{1ffc}\\x{2102}\\x{2107}"
    "\\x{210a}-\\x{2113}\\x{2115}\\x{2119}-\\x{211d}\\x{2124}\\x{2126}\\x{2128}\\x{212a}-\\x{212d}"
    "\\x{212f}-\\x{2134}\\x{2139}\\x{213c}-\\x{213f}\\x{2145}-\\x{2149}\\x{214e}\\x{2183}\\x{2184}"
    "\\x{2c00}-\\x{2c7b}\\x{2c7e}-\\x{2ce4}\\x{2ceb}-\\x{2cee}\\x{2cf2}\\x{2cf3}\\x{a640}-\\x{a66d}"
    "\\x{a680}-\\x{a69b}\\x{a722}-\\x{a76f}\\x{a771}-\\x{a787}\\x{a78b}-\\x{a78e}\\x{ab70}-\\x{abbf}"
    "\\x{fb00}-\\x{fb06}\\x{fb13}-\\x{fb17}\\x{ff21}-\\x{ff3a}\\x{ff41}-\\x{ff5a}"
    "\\x{10400}-\\x{1044f}\\x{104b0}-\\x{104d3}\\x{104d8}-\\x{104fb}\\x{10c80}-\\x{10cb2}"
    "\\x{10cc0}-\\x{10cf2}\\x{118a0}-\\x{118df}\\x{1e900}-\\x{1e943}"
    "]+";

static const char asian_scripts[] =
    "["
    "\\x{4e00}-\\x{9fff}\\x{3400}-\\x{4dbf}\\x{8c48}-\\x{faff}\\x{3040}-\\x{309f}\\x{30a0}-\\x{30ff}"
    "\\x{ff65}-\\x{ff9f}\\x{2f00}-\\x{2fdf}\\x{e40}-\\x{e7f}\\x{e80}-\\x{eff}\\x{1780}-\\x{17ff}"
    "\\x{1000}-\\x{109f}\\x{aa60}-\\x{aa7f}\\x{a9e0}-\\x{a9ff}\\x{ac00}-\\x{d7af}\\x{1100}-\\x{11ff}"
    "]+";

enum { MAX_NAMES = 12, MAX_PATTERNS = 6 };

static const struct entry {
    unsigned traits;
    const char *names[MAX_NAMES];
    const char *patterns[MAX_PATTERNS];
} table[] = {
    {0, {"", "default"}, {"[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2, "\\p{N}+", "[0-9][0-9][0-9]"}},
    {GGUF_PRE_IGNORE_MERGES | GGUF_PRE_ADD_BOS,
     {"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
      "jina-v5-nano"},
     {LLAMA3}},
    {0, {"dbrx", "smaug-bpe", "chatglm-bpe"}, {LLAMA3}},
    {GGUF_PRE_IGNORE_MERGES, {"glm4", "glm5"}, {LLAMA3}},
    {0,
     {"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0", "mellum",
      "modern-bert"},
     {GPT2}},
    {0,
     {"jina-v1-en", "jina-v2-code", "roberta-bpe", "mpt", "olmo", "jais", "trillion", "granite-docling",
      "exaone4"},
     {GPT2}},
    {0,
     {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
     {"\\p{N}", GPT2}},
    {0,
     {"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "megrez", "hunyuan", "solar-open",
      "grok-2"},
     {QWEN2}},
    {0, {"qwen35"}, {QWEN35}},
    {0, {"falcon"}, {"[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {0,
     {"deepseek-llm"},
     {"[\\r\\n]", latin_greek_cyrillic,
      "\\s?[!-/:-~\\x{ff01}-\\x{ff0f}\\x{ff1a}-\\x{ff5e}\\x{2018}-\\x{201f}\\x{3001}-\\x{3002}]+", "\\s+\\z",
      "(?:(?!\\s)[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}])+", "\\p{N}+"}},
    {0,
     {"deepseek-coder"},
     {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "(?:(?!\\s)[\\x{800}-\\x{9fa5}\\x{ac00}-\\x{d7ff}])+",
      "\\p{N}"}},
    {0, {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}, {"\\p{N}{1,3}", CJK, DEEPSEEK3}},
    {0,
     {"spark2_5"},
     {"\\p{N}{1,3}", CJK, ASCII_SIGN_WORD "|" MARKED_WORD "| ?[\\p{P}\\p{S}]+|[\\r\\n]|\\s+(?!\\S)|\\s+",
      "\\p{N}"}},
    {GGUF_PRE_IGNORE_MERGES,
     {"youtu"},
     {"[\\x{ac00}-\\x{d7a3}\\x{3131}-\\x{318e}]+|[\\x{ff01}\\x{2026}\\x{201c}\\x{201d}\\x{2018}\\x{2019}\\x{"
      "2014}"
      "\\x{ff1a}\\x{ff1b}\\x{ff0c}\\x{3001}-\\x{303f}\\x{fe30}-\\x{fe4f}]+|[\\x{3105}-\\x{312f}]+|" CJK,
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+" CONTRACTION "?|\\p{N}|" SIGNS_SLASH "|" SPACES}},
    {0,
     {"tiny_aya", "cohere2moe"},
     {DIGIT_GROUPS_LOOSE,
      "[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+" CONTRACTION "?|\\p{N}{1,3}|" SIGNS_SLASH "|" SPACES}},
    {0,
     {"jais-2"},
     {CONTRACTION "|" WORD "|\\p{N}{1,3}|" SIGNS "|\\s*[\\r\\n]+|\\s{512}(?!\\S)|\\s{256}(?!\\S)|"
                  "\\s{128}(?!\\S)|\\s{64}(?!\\S)|\\s{32}(?!\\S)|\\s{16}(?!\\S)|\\s{8}(?!\\S)|\\s{4}(?!\\S)|"
                  "\\s{1,2}(?!\\S)|\\s{1}"}},
    {GGUF_PRE_ESCAPE_SPACES | GGUF_PRE_WHOLE_NEWLINES | GGUF_PRE_ADD_BOS_ALWAYS,
     {"gemma4", "granite-embed-multi-311m"},
     {LINES}},
    {GGUF_PRE_ESCAPE_SPACES, {"sarvam-moe"}, {LINES}},
    {0, {"poro-chat", "bloom", "gpt3-finnish"}, {NOT_STOP}},
    {0, {"viking"}, {NOT_STOP, "\\p{N}"}},
    {GGUF_PRE_IGNORE_MERGES | GGUF_PRE_ADD_BOS,
     {"tekken"},
     {CASED_1 "|" CASED_2 "|\\p{N}|" SIGNS_SLASH "|" SPACES}},
    {0,
     {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"},
     {CASED_1 CONTRACTION "?|" CASED_2 CONTRACTION "?|\\p{N}{1,3}|" SIGNS_SLASH "|" SPACES}},
    {GGUF_PRE_IGNORE_MERGES,
     {"granite-embed-multi-97m"},
     {"[^\\r\\n\\p{L}\\p{N}]?" MARKED_NOT_SMALL "*" MARKED_NOT_CAPITAL "+" CONTRACTION
      "?|[^\\r\\n\\p{L}\\p{N}]?" MARKED_NOT_SMALL "+" MARKED_NOT_CAPITAL "*" CONTRACTION
      "?|\\p{N}{1,3}|" SIGNS_SLASH "|" SPACES}},
    {GGUF_PRE_ADD_BOS,
     {"chameleon"},
     {"<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\\t\\n]|    |  ", "\\p{N}", "[\\p{P}!-/:-@\\[-`{-~]",
      GPT2}},
    {0,
     {"kimi-k2"},
     {"[" HAN "]+|[^\\r\\n\\p{L}\\p{N}]?[^\\P{L}" HAN "]+" CONTRACTION "?|\\p{N}{1,3}|" SIGNS "|" SPACES}},
    {0, {"superbpe"}, {"\\p{N}+", DIGIT_GROUPS_STRICT}},
    {0,
     {"bailingmoe", "bailingmoe2", "llada-moe"},
     {"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|" WORD "|\\p{N}|" SIGNS "|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {0, {"seed-coder"}, {CONTRACTION "|" WORD "|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|" SPACES}},
    {0, {"ufakzeka"}, {WORD "|\\p{N}|" SIGNS "|" SPACES}},
    {0, {"afmoe"}, {DIGIT_GROUPS_LOOSE, asian_scripts, DEEPSEEK3}},
    {0, {"laguna"}, {LINES, QWEN2}},
    {0,
     {"exaone-moe"},
     {CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}|"
                  " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+"}},
    {GGUF_PRE_IGNORE_MERGES,
     {"minicpm5"},
     {"\\p{N}{1,3}", CONTRACTION "|" WORD "|\\p{N}+|" SIGNS "|" SPACES}},
};

static const struct entry *find_entry(const char *pre, size_t size)
{
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        for (int k = 0; k < MAX_NAMES && table[i].names[k]; k++)
            if (strlen(table[i].names[k]) == size && !memcmp(table[i].names[k], pre, size)) return &table[i];
    return NULL;
}

llm_status splitter_add_gguf(struct splitter *s, const char *pre, size_t size, unsigned *traits,
                             struct llm_error *err)
{
    const struct entry *entry = find_entry(pre, size);
    if (!entry)
        return llm_fail(err, LLM_EUNSUP,
                        "tokenizer.ggml.pre \"%.*s\" is not known; among those that are: "
                        "llama-bpe, qwen2, gpt-2, smollm, tekken, gpt-4o, deepseek-v3, falcon, default",
                        (int)size, pre);
    *traits = entry->traits;
    llm_status status = LLM_OK;
    for (int i = 0; !status && i < MAX_PATTERNS && entry->patterns[i]; i++) {
        const char *p = entry->patterns[i];
        if (*p == *DIGIT_GROUPS_LOOSE || *p == *DIGIT_GROUPS_STRICT)
            status = splitter_add_digit_groups(s, *p == *DIGIT_GROUPS_LOOSE, err);
        else
            status = splitter_add_regex(s, p, strlen(p), SPLIT_ISOLATED, 0, err);
    }
    return status;
}
