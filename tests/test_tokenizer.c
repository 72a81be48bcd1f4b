/* Tokenizing: token for token what the originals make of a large corpus, and small cases of every feature. */

#include "vocabs.h"

#include "base/mem.h"
#include "model/bpe.h"
#include "model/gguf.h"
#include "model/pretokenize.h"
#include "model/regex_dialect.h"
#include "model/spm.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

enum { BLOCK = 50 };

/* ---- against the originals ----------------------------------------------------------------------------- */

static uint64_t fnv(uint64_t h, uint32_t unit)
{
    return (h ^ unit) * 0x100000001B3u;
}

static struct tokenizer *open_vocab(const char *name)
{
    char path[1024];
    struct tokenizer *tok;
    struct llm_error err;
    snprintf(path, sizeof path, "%s/%s", VOCABS_DIR, name);
    if (tokenizer_open(path, &tok, &err)) fail_msg("%s", err.message);
    return tok;
}

static void show_block(const char *name, const struct tokenizer *tok, struct corpus c, int block)
{
    const char *text;
    size_t size;
    struct llm_error err;
    for (int i = 0; i < BLOCK && corpus_next(&c, &text, &size); i++) {
        struct token_list ids = {0};
        tokenizer_encode(tok, text, size, block % 2 ? 3 : 0, &ids, &err);
        print_message("%s text %d \"%.*s\":", name, block * BLOCK + i, (int)size, text);
        for (size_t k = 0; k < ids.n; k++) print_message(" %d", ids.ids[k]);
        print_message("\n");
        token_list_free(&ids);
    }
}

/* Number of blocks whose ids differ from the golden ones; the first is shown. */
static int compare_with_golden(const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/golden/tokenizer/%s.hash", TESTS_DIR, name);
    FILE *golden = fopen(path, "r");
    if (!golden) fail_msg("%s is not there", path);
    struct tokenizer *tok = open_vocab(name);
    struct corpus c = corpus_open(), block_start = c;
    struct token_list ids = {0};
    struct llm_error err;
    const char *text;
    size_t size;
    int n_texts = 0, n_bad = 0, more = 1;
    /* a SentencePiece model's original is the library alone, which never parses special tokens */
    unsigned odd =
        strstr(name, ".model") ? TOKENIZE_ADD_SPECIAL : TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL;
    for (int block = 0; more; block++) {
        uint64_t h = 0xCBF29CE484222325u;
        int n = 0;
        block_start.at = c.at;
        for (; n < BLOCK && (more = corpus_next(&c, &text, &size)); n++) {
            ids.n = 0;
            if (tokenizer_encode(tok, text, size, block % 2 ? odd : 0, &ids, &err))
                fail_msg("%s: text %d: %s", name, n_texts + n, err.message);
            for (size_t i = 0; i < ids.n; i++) h = fnv(h, (uint32_t)ids.ids[i]);
            h = fnv(h, 0xFFFFFFFFu);
        }
        n_texts += n;
        char line[64];
        if (!n) break;
        assert_non_null(fgets(line, sizeof line, golden));
        if (strtoull(line, NULL, 16) == h) continue;
        if (!n_bad++) show_block(name, tok, block_start, block);
    }
    assert_true(n_texts >= 20000);
    assert_int_equal(fgetc(golden), EOF);
    fclose(golden);
    corpus_close(&c);
    token_list_free(&ids);
    tokenizer_close(tok);
    return n_bad;
}

static void corpus_gives_the_originals_ids(void **state)
{
    (void)state;
    need_vocabs();
    int n_bad = 0;
    for (int i = 0; i < N_VOCAB_CASES; i++) {
        int bad = compare_with_golden(vocab_cases[i].name);
        if (bad) print_message("%s: %d blocks differ\n", vocab_cases[i].name, bad);
        n_bad += bad;
    }
    assert_int_equal(n_bad, 0);
}

/* llama.cpp's own test inputs: texts between separator lines, and a line of ids for each. */
static void llama_cpp_cases(void **state)
{
    (void)state;
    need_vocabs();
    static const char separator[] = "\n__ggml_vocab_test__\n";
    int n_files = 0;
    for (int i = 0; i < N_VOCAB_CASES; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s.inp", VOCABS_DIR, vocab_cases[i].name);
        if (access(path, R_OK)) continue;
        n_files++;
        size_t in_size, out_size;
        char *in = read_file(path, &in_size);
        snprintf(path, sizeof path, "%s/%s.out", VOCABS_DIR, vocab_cases[i].name);
        char *out = read_file(path, &out_size), *line = out;
        struct tokenizer *tok = open_vocab(vocab_cases[i].name);
        struct token_list ids = {0};
        struct llm_error err;
        int n_cases = 0;
        /* what follows the last separator is no case: the writer puts one after each */
        for (char *text = in, *end; (end = strstr(text, separator)); text = end + sizeof separator - 1) {
            ids.n = 0;
            assert_int_equal(tokenizer_encode(tok, text, (size_t)(end - text), 0, &ids, &err), LLM_OK);
            char *rest = line;
            for (size_t k = 0; k < ids.n; k++) assert_int_equal(strtol(rest, &rest, 10), ids.ids[k]);
            rest += strspn(rest, " ");
            assert_int_equal(*rest, '\n');
            line = rest + 1;
            n_cases++;
        }
        assert_true(n_cases > 30);
        token_list_free(&ids);
        tokenizer_close(tok);
        free(in);
        free(out);
    }
    assert_int_equal(n_files, 14); /* aquila, baichuan and gpt-neox come without */
}

/* ---- small vocabularies -------------------------------------------------------------------------------- */

/* A tokenizer.json; the parts are JSON. */
static struct tokenizer *make(const char *vocab, const char *merges, const char *model,
                              const char *pre_tokenizer, const char *added)
{
    char json[8192];
    struct llm_error err;
    struct tokenizer *tok;
    int n = snprintf(json, sizeof json,
                     "{\"added_tokens\":[%s],\"pre_tokenizer\":%s,\"decoder\":null,"
                     "\"model\":{\"type\":\"BPE\",%s\"vocab\":{%s},\"merges\":[%s]}}",
                     added, pre_tokenizer, model, vocab, merges);
    assert_true(n < (int)sizeof json);
    if (tokenizer_open_json(json, (size_t)n, &tok, &err)) fail_msg("%s", err.message);
    return tok;
}

static void expect_ids(struct tokenizer *tok, const char *text, unsigned flags, const char *expected)
{
    struct token_list ids = {0};
    struct llm_error err;
    char got[512] = "";
    assert_int_equal(tokenizer_encode(tok, text, strlen(text), flags, &ids, &err), LLM_OK);
    for (size_t i = 0, n = 0; i < ids.n; i++)
        n += (size_t)snprintf(got + n, sizeof got - n, i ? " %d" : "%d", ids.ids[i]);
    assert_string_equal(got, expected);
    token_list_free(&ids);
}

static const char abc[] = "\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"bc\":4,\"abc\":5,\"aa\":6,\"aaaa\":7,\"<x>\":8";

static void merges_go_by_rank_then_from_the_left(void **state)
{
    (void)state;
    struct tokenizer *tok = make(abc, "\"b c\",\"a b\",\"a bc\",\"a a\",[\"aa\",\"aa\"]", "", "null", "");
    expect_ids(tok, "abc", 0, "5");
    expect_ids(tok, "ab", 0, "3");
    expect_ids(tok, "aab", 0, "0 3");
    expect_ids(tok, "aaa", 0, "6 0");
    expect_ids(tok, "aaaaaaa", 0, "7 6 0");
    expect_ids(tok, "axb", 0, "3"); /* x has no token, and there is none for the unknown: as if not there */
    expect_ids(tok, "", 0, "");
    assert_int_equal(tokenizer_vocab_size(tok), 9);
    assert_int_equal(tokenizer_find(tok, "abc", 3), 5);
    assert_int_equal(tokenizer_find(tok, "abcd", 4), -1);
    tokenizer_close(tok);
}

static void whole_pieces_and_unknown_characters(void **state)
{
    (void)state;
    struct tokenizer *tok = make(abc, "\"b c\"", "\"ignore_merges\":true,", "null", "");
    expect_ids(tok, "abc", 0, "5");
    expect_ids(tok, "abcb", 0, "0 4 1");
    tokenizer_close(tok);
    tok = make("\"<unk>\":0,\"a\":1,\"<0xC3>\":2,\"<0xA9>\":3", "",
               "\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,", "null", "");
    expect_ids(tok, "a\u00e9a", 0, "1 2 3 1");
    expect_ids(tok, "axya", 0, "1 0 1");
    tokenizer_close(tok);
    tok = make("\"<unk>\":0,\"a\":1", "", "\"unk_token\":\"<unk>\",", "null", "");
    expect_ids(tok, "axya", 0, "1 0 0 1");
    tokenizer_close(tok);
}

static void added_tokens_and_their_flags(void **state)
{
    (void)state;
    struct tokenizer *tok = make("\"a\":0,\"b\":1,\" \":2,\"<\":3,\"s\":4,\">\":5", "", "", "null",
                                 "{\"id\":6,\"content\":\"<s>\",\"special\":true},"
                                 "{\"id\":7,\"content\":\"<l>\",\"lstrip\":true,\"special\":false},"
                                 "{\"id\":8,\"content\":\"<r>\",\"rstrip\":true,\"special\":false},"
                                 "{\"id\":9,\"content\":\"ab\",\"single_word\":true,\"special\":false},"
                                 "{\"id\":10,\"content\":\"<l>b\",\"special\":false}");
    expect_ids(tok, "a<s>b", TOKENIZE_PARSE_SPECIAL, "0 6 1");
    expect_ids(tok, "a<s>b", 0, "0 3 4 5 1");
    expect_ids(tok, "a  <l> b", 0, "0 7 2 1");
    expect_ids(tok, "a <r>  b", 0, "0 2 8 1");
    expect_ids(tok, "a<l>b", 0, "0 10");
    expect_ids(tok, "ab", 0, "9");
    expect_ids(tok, "aab ab", 0, "0 0 1 2 9");
    assert_true(tokenizer_is_special(tok, 6));
    assert_false(tokenizer_is_special(tok, 7));
    assert_false(tokenizer_is_special(tok, 1000));
    tokenizer_close(tok);
}

/* A word of a megabyte must not take a quadratic time: with one it would run for hours. */
static void a_word_of_a_megabyte(void **state)
{
    (void)state;
    enum { SIZE = 1 << 20 };
    struct tokenizer *tok = make(abc, "\"b c\",\"a b\",\"a a\",[\"aa\",\"aa\"]", "",
                                 "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", "");
    char *text = malloc(SIZE);
    memset(text, 'a', SIZE);
    struct token_list ids = {0};
    struct llm_error err;
    assert_int_equal(tokenizer_encode(tok, text, SIZE, 0, &ids, &err), LLM_OK);
    assert_int_equal(ids.n, SIZE / 4);
    for (size_t i = 0; i < ids.n; i++) assert_int_equal(ids.ids[i], 7);
    token_list_free(&ids);
    free(text);
    tokenizer_close(tok);
}

static llm_status collect(void *ud, const char *piece, size_t size, struct llm_error *err)
{
    (void)err;
    char *out = ud;
    size_t n = strlen(out);
    snprintf(out + n, 256 - n, "[%.*s]", (int)size, piece);
    return LLM_OK;
}

static void expect_pieces(const char *pattern, enum split_behavior behavior, int invert, const char *text,
                          const char *expected)
{
    struct splitter *s;
    struct splitter_scratch *scratch;
    struct llm_error err;
    char got[256] = "";
    assert_int_equal(splitter_open(&s, &err), LLM_OK);
    if (splitter_add_regex(s, pattern, strlen(pattern), behavior, invert, &err)) fail_msg("%s", err.message);
    assert_int_equal(splitter_scratch_open(s, &scratch, &err), LLM_OK);
    assert_int_equal(splitter_run(s, scratch, text, strlen(text), collect, got, &err), LLM_OK);
    assert_string_equal(got, expected);
    splitter_scratch_close(scratch);
    splitter_close(s);
}

/* Expected pieces are those of tokenizers 0.23's Split. */
static void split_behaviors(void **state)
{
    (void)state;
    expect_pieces("-", SPLIT_ISOLATED, 0, "a-b--c", "[a][-][b][-][-][c]");
    expect_pieces("-", SPLIT_REMOVED, 0, "a-b--c", "[a][b][c]");
    expect_pieces("-", SPLIT_CONTIGUOUS, 0, "a-b--c", "[a][-][b][--][c]");
    expect_pieces("-", SPLIT_MERGED_WITH_PREVIOUS, 0, "a-b--c", "[a-][b-][-][c]");
    expect_pieces("-", SPLIT_MERGED_WITH_NEXT, 0, "a-b--c", "[a][-b][-][-c]");
    expect_pieces("[^-]+", SPLIT_REMOVED, 1, "a-b--c", "[a][b][c]");
    expect_pieces("\\s", SPLIT_ISOLATED, 0,
                  "a\u3000b\u180ec\xc2\x85"
                  "d",
                  "[a][\u3000][b\u180ec][\xc2\x85][d]");
    expect_pieces("[\\S]+", SPLIT_ISOLATED, 0, "a b", "[a][ ][b]");
    expect_pieces(" ?[^(\\s|[.,!?])]+", SPLIT_ISOLATED, 0, "hi, you(", "[hi][,][ you][(]");
    expect_pieces("(?=b)", SPLIT_ISOLATED, 0, "abab", "[a][ba][b]");
}

static void patterns_not_understood_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"[\\p{L}&&[^a]]", "[a[^b]]", "[a", "a\\", "(", "\\p{Nope}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct splitter *s;
        struct llm_error err;
        assert_int_equal(splitter_open(&s, &err), LLM_OK);
        assert_int_equal(splitter_add_regex(s, bad[i], strlen(bad[i]), SPLIT_ISOLATED, 0, &err), LLM_EUNSUP);
        assert_true(strlen(err.message) > 10);
        splitter_close(s);
    }
}

static void bytes_and_characters_are_a_bijection(void **state)
{
    (void)state;
    int seen[0x144] = {0};
    for (int b = 0; b < 256; b++) {
        uint32_t cp = bpe_char_of_byte((uint8_t)b);
        assert_true(cp < 0x144);
        assert_int_equal(seen[cp]++, 0);
        assert_int_equal(bpe_byte_of_char(cp), b);
    }
    assert_int_equal(bpe_char_of_byte(' '), 0x120);
    assert_int_equal(bpe_char_of_byte('\n'), 0x10a);
    assert_int_equal(bpe_byte_of_char(0x144), -1);
    assert_int_equal(bpe_byte_of_char(' '), -1);
}

/* ---- what files say beside the vocabulary -------------------------------------------------------------- */

static int ends_turn(const struct tokenizer *tok, int32_t id)
{
    int32_t n;
    const int32_t *ids = tokenizer_end_tokens(tok, &n);
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id) return 1;
    return 0;
}

static void special_ids_and_templates_of_gguf(void **state)
{
    (void)state;
    need_vocabs();
    struct tokenizer *tok = open_vocab("smollm2.gguf");
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_int_equal(tokenizer_eos(tok), 2);
    assert_false(tokenizer_adds_bos(tok));
    assert_int_equal(tokenizer_find(tok, "<|im_end|>", 10), 2);
    assert_true(ends_turn(tok, 2) && ends_turn(tok, 0) && !ends_turn(tok, 1));
    assert_non_null(strstr(tokenizer_chat_template(tok), "<|im_start|>"));
    size_t n;
    const char *bytes = tokenizer_bytes(tok, tokenizer_find(tok, "\u0120the", 5), &n);
    assert_int_equal(n, 4);
    assert_memory_equal(bytes, " the", 4);
    tokenizer_close(tok);
    tok = open_vocab("gemma-3.gguf");
    assert_true(tokenizer_adds_bos(tok));
    assert_true(ends_turn(tok, tokenizer_find(tok, "<end_of_turn>", 13)));
    tokenizer_close(tok);
    tok = open_vocab("mistral-v3.model");
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_true(tokenizer_adds_bos(tok) && ends_turn(tok, 2));
    assert_null(tokenizer_chat_template(tok));
    tokenizer_close(tok);
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void a_directory_with_its_configuration(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                                        "chat_template.jinja"};
    char dir[] = "/tmp/llmlua-tokenizer-XXXXXX", path[512];
    struct tokenizer *tok;
    struct llm_error err;
    assert_non_null(mkdtemp(dir));
    write_text(
        dir, names[0],
        "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":\"</s>\","
        "\"special\":true}],\"model\":{\"vocab\":{\"a\":0,\"<s>\":1,\"</s>\":2},\"merges\":[]}}");
    write_text(
        dir, names[1],
        "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true,\"add_eos_token\":true,"
        "\"bos_token\":{\"content\":\"<s>\"},\"chat_template\":[{\"name\":\"tool\",\"template\":\"T\"},"
        "{\"name\":\"default\",\"template\":\"D\"}]}");
    write_text(dir, names[2], "{\"eos_token\":\"</s>\"}");
    if (tokenizer_open(dir, &tok, &err)) fail_msg("%s", err.message);
    assert_int_equal(tokenizer_bos(tok), 1);
    assert_int_equal(tokenizer_eos(tok), 2);
    assert_true(ends_turn(tok, 2));
    assert_string_equal(tokenizer_chat_template(tok), "D");
    expect_ids(tok, "a", TOKENIZE_ADD_SPECIAL, "1 0 2");
    expect_ids(tok, "a", 0, "0");
    tokenizer_close(tok);

    write_text(dir, names[3], "from a file");
    snprintf(path, sizeof path, "%s/%s", dir, names[0]);
    if (tokenizer_open(path, &tok, &err)) fail_msg("%s", err.message);
    assert_string_equal(tokenizer_chat_template(tok), "from a file");
    tokenizer_close(tok);

    write_text(dir, names[1], "{");
    assert_int_equal(tokenizer_open(dir, &tok, &err), LLM_EFORMAT);
    assert_non_null(strstr(err.message, names[1]));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        remove(path);
    }
    rmdir(dir);
}

/* ---- bad input ----------------------------------------------------------------------------------------- */

static void expect_refusal(const char *json, llm_status status, const char *says)
{
    struct tokenizer *tok;
    struct llm_error err;
    assert_int_equal(tokenizer_open_json(json, strlen(json), &tok, &err), status);
    if (!strstr(err.message, says)) fail_msg("\"%s\" does not say \"%s\"", err.message, says);
}

static void malformed_files_are_refused(void **state)
{
    (void)state;
    expect_refusal("", LLM_EFORMAT, "byte 0");
    expect_refusal("{}", LLM_EFORMAT, "model");
    expect_refusal("{\"model\":[]}", LLM_EFORMAT, "model");
    expect_refusal("{\"model\":{}}", LLM_EUNSUP, "vocab");
    expect_refusal("{\"model\":{\"vocab\":{}}}", LLM_EFORMAT, "empty");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":-1}}}", LLM_EFORMAT, "-1");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":99999999}}}", LLM_EFORMAT, "99999999");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"ab\"]}}", LLM_EFORMAT, "merge");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", LLM_EFORMAT, "merge");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[5]}}", LLM_EFORMAT, "array expected");
    expect_refusal("{\"model\":{\"vocab\":{\"a\":0", LLM_EFORMAT, "ends");
    expect_refusal("{\"model\":{\"vocab\":{\"\\ud800\":0}}}", LLM_EFORMAT, "surrogate");
    expect_refusal("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"a\":0}}}", LLM_EUNSUP, "WordPiece");
    expect_refusal("{\"normalizer\":{\"type\":\"Nmt\"},\"model\":{\"vocab\":{\"a\":0}}}", LLM_EUNSUP, "Nmt");
    expect_refusal("{\"pre_tokenizer\":{\"type\":\"X\"},\"model\":{\"vocab\":{\"a\":0}}}", LLM_EUNSUP, "X");
    expect_refusal("{\"decoder\":{\"type\":\"CTC\"},\"model\":{\"vocab\":{\"a\":0}}}", LLM_EUNSUP, "CTC");
    expect_refusal("{\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",7],\"sep\":[\"a\",0]},"
                   "\"model\":{\"vocab\":{\"a\":0}}}",
                   LLM_EFORMAT, "7");
    struct tokenizer *tok;
    struct llm_error err;
    assert_int_equal(tokenizer_open(TESTS_DIR "/no-such-file", &tok, &err), LLM_ENOENT);
    assert_int_equal(tokenizer_open(TESTS_DIR, &tok, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, "tokenizer.model"));
    struct spm *spm;
    assert_int_equal(spm_open("", 0, &spm, &err), LLM_EFORMAT);
    assert_int_equal(spm_open("\x0a\x05hello", 7, &spm, &err), LLM_EFORMAT);
}

/* Every allocation of opening and encoding fails once; nothing crashes or leaks, and the status says why. */
static void running_out_of_memory(void **state)
{
    (void)state;
    static const char json[] =
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true,\"normalized\":true}],"
        "\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"a\"},"
        "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true},"
        "\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\",\"ab ab\"]}}";
    struct tokenizer *tok = NULL;
    struct llm_error err;
    int n = 0;
    for (llm_status status = LLM_ENOMEM; status; n++) {
        mem_fail_at((uint64_t)n + 1);
        status = tokenizer_open_json(json, sizeof json - 1, &tok, &err);
        mem_fail_at(0);
        if (status) assert_int_equal(status, LLM_ENOMEM);
    }
    assert_true(n > 10);
    char text[300];
    memset(text, 'b', sizeof text);
    memcpy(text, "ab<s>\xff", 6);
    n = 0;
    for (llm_status status = LLM_ENOMEM; status; n++) {
        struct token_list ids = {0};
        mem_fail_at((uint64_t)n + 1);
        status = tokenizer_encode(tok, text, sizeof text, 3, &ids, &err);
        mem_fail_at(0);
        if (status) assert_int_equal(status, LLM_ENOMEM);
        token_list_free(&ids);
    }
    assert_true(n > 5);
    tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_and_characters_are_a_bijection),
        cmocka_unit_test(merges_go_by_rank_then_from_the_left),
        cmocka_unit_test(whole_pieces_and_unknown_characters),
        cmocka_unit_test(added_tokens_and_their_flags),
        cmocka_unit_test(a_word_of_a_megabyte),
        cmocka_unit_test(split_behaviors),
        cmocka_unit_test(patterns_not_understood_are_refused),
        cmocka_unit_test(special_ids_and_templates_of_gguf),
        cmocka_unit_test(a_directory_with_its_configuration),
        cmocka_unit_test(malformed_files_are_refused),
        cmocka_unit_test(running_out_of_memory),
        cmocka_unit_test(llama_cpp_cases),
        cmocka_unit_test(corpus_gives_the_originals_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
