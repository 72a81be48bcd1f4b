/* Detokenizing: increments join to the text that all bytes together decode to, and texts come back. */

#include "vocabs.h"

#include "model/tokenizer.h"

enum { TEXT_CAPACITY = 1 << 20 };

static char *increments, *expected;

static int set_up(void **state)
{
    (void)state;
    increments = malloc(TEXT_CAPACITY);
    expected = malloc(TEXT_CAPACITY * 4);
    return !increments || !expected;
}

static int tear_down(void **state)
{
    (void)state;
    free(increments);
    free(expected);
    return 0;
}

/* Is there a valid character at s, by table 3-7 of the Unicode standard, written out? Its length, or minus
 * the length of the maximal subpart of what is none. */
static int character(const uint8_t *s, size_t n)
{
    static const struct {
        uint8_t first_low, first_high, second_low, second_high;
        int length;
    } table[] = {{0x00, 0x7f, 0, 0, 1},       {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
                 {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
                 {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (s[0] < table[i].first_low || s[0] > table[i].first_high) continue;
        for (int k = 1; k < table[i].length; k++) {
            uint8_t low = k == 1 ? table[i].second_low : 0x80, high = k == 1 ? table[i].second_high : 0xbf;
            if ((size_t)k >= n || s[k] < low || s[k] > high) return -k;
        }
        return table[i].length;
    }
    return -1;
}

static size_t decode_replacing(const char *bytes, size_t n, char *out)
{
    size_t size = 0;
    for (size_t i = 0; i < n;) {
        int length = character((const uint8_t *)bytes + i, n - i);
        memcpy(out + size, length > 0 ? bytes + i : "\xef\xbf\xbd", length > 0 ? (size_t)length : 3);
        size += length > 0 ? (size_t)length : 3;
        i += (size_t)abs(length);
    }
    return size;
}

/* Puts the ids in one by one; every increment must be whole characters. */
static size_t put_all(const struct tokenizer *tok, const int32_t *ids, size_t n, int skip_special)
{
    struct detokenizer d;
    size_t size = 0;
    detokenizer_init(&d, tok, skip_special);
    for (size_t i = 0; i <= n; i++) {
        char *out = increments + size;
        size_t added = i < n ? detokenizer_put(&d, ids[i], out, TEXT_CAPACITY - size)
                             : detokenizer_finish(&d, out, TEXT_CAPACITY - size);
        assert_true(added <= (i < n ? tokenizer_max_token_bytes(tok) + 12 : 12));
        for (size_t k = 0; k < added;) {
            int length = character((const uint8_t *)out + k, added - k);
            assert_true(length > 0);
            k += (size_t)length;
        }
        size += added;
    }
    return size;
}

/* The text of all bytes at once, with the rule of the leading space. */
static size_t decode_at_once(const struct tokenizer *tok, const int32_t *ids, size_t n, int strips)
{
    static char bytes[TEXT_CAPACITY];
    size_t size = 0;
    for (size_t i = 0; i < n; i++) {
        size_t k;
        const char *s = tokenizer_bytes(tok, ids[i], &k);
        int drop = strips && !size && k && *s == ' ' && !tokenizer_is_special(tok, ids[i]);
        strips &= !drop;
        memcpy(bytes + size, s + drop, k - (size_t)drop);
        size += k - (size_t)drop;
    }
    return decode_replacing(bytes, size, expected);
}

static int is_valid(const char *text, size_t size)
{
    for (size_t i = 0; i < size;) {
        int length = character((const uint8_t *)text + i, size - i);
        if (length < 0) return 0;
        i += (size_t)length;
    }
    return 1;
}

/* Texts that SentencePiece vocabularies cannot give back: their sign for a space, spelt out. */
static int has_space_sign(const char *text, size_t size)
{
    for (size_t i = 0; i + 3 <= size; i++)
        if (!memcmp(text + i, "\u2581", 3)) return 1;
    return 0;
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

static int strips_space(const struct tokenizer *tok)
{
    char out[16];
    struct detokenizer d;
    int32_t id = tokenizer_find(tok, "\u2581a", 4);
    detokenizer_init(&d, tok, 0);
    return id >= 0 && detokenizer_put(&d, id, out, sizeof out) == 1;
}

static void increments_join_and_texts_come_back(void **state)
{
    (void)state;
    need_vocabs();
    for (int v = 0; v < N_VOCAB_CASES; v++) {
        struct tokenizer *tok = open_vocab(vocab_cases[v].name);
        struct corpus c = corpus_open();
        struct token_list ids = {0};
        struct llm_error err;
        const char *text;
        size_t size;
        int n_back = 0, n_lost = 0, strips = strips_space(tok);
        while (corpus_next(&c, &text, &size)) {
            ids.n = 0;
            assert_int_equal(tokenizer_encode(tok, text, size, 0, &ids, &err), LLM_OK);
            size_t n = put_all(tok, ids.ids, ids.n, 0);
            assert_int_equal(n, decode_at_once(tok, ids.ids, ids.n, strips));
            assert_memory_equal(increments, expected, n);
            if (!vocab_cases[v].lossless || !is_valid(text, size) || has_space_sign(text, size)) continue;
            if (n == size && !memcmp(increments, text, size))
                n_back++;
            else if (!n_lost++)
                print_message("%s: \"%.*s\" came back as \"%.*s\"\n", vocab_cases[v].name, (int)size, text,
                              (int)n, increments);
        }
        if (n_lost) print_message("%s: %d texts lost, %d came back\n", vocab_cases[v].name, n_lost, n_back);
        assert_int_equal(n_lost, 0);
        assert_true(!vocab_cases[v].lossless || n_back > 15000);
        token_list_free(&ids);
        corpus_close(&c);
        tokenizer_close(tok);
    }
}

/* ---- small cases --------------------------------------------------------------------------------------- */

/* Tokens 0 to 255 are the bytes; 256 is "ab\u20ac" (e2 82 ac), 257 a special one. */
static struct tokenizer *byte_vocab(void)
{
    static char json[16384];
    size_t n =
        (size_t)sprintf(json, "{\"added_tokens\":[{\"id\":257,\"content\":\"<end>\",\"special\":true}],"
                              "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},"
                              "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1}]},"
                              "\"model\":{\"byte_fallback\":true,\"vocab\":{");
    for (int b = 0; b < 256; b++) n += (size_t)sprintf(json + n, "\"<0x%02X>\":%d,", b, b);
    n += (size_t)sprintf(json + n, "\"ab\u20ac\":256},\"merges\":[]}}");
    struct tokenizer *tok;
    struct llm_error err;
    if (tokenizer_open_json(json, n, &tok, &err)) fail_msg("%s", err.message);
    return tok;
}

static void expect_text(const struct tokenizer *tok, const char *bytes, size_t n, const char *text)
{
    int32_t ids[64];
    for (size_t i = 0; i < n; i++) ids[i] = (uint8_t)bytes[i];
    size_t size = put_all(tok, ids, n, 0);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(increments, text, size);
}

/* As Python's bytes.decode("utf-8", errors="replace"). */
static void invalid_bytes_are_replaced(void **state)
{
    (void)state;
#define R "\xef\xbf\xbd"
    struct tokenizer *tok = byte_vocab();
    expect_text(tok, "\xe2\x82\xac", 3, "\u20ac");
    expect_text(tok, "\xf0\x9f\x98\x80", 4, "\U0001f600");
    expect_text(tok, "\xe2\x82", 2, R);
    expect_text(tok, "\xe2\x82x", 3, R "x");
    expect_text(tok, "\xf0\x9f\x98\xf0\x9f\x98\x80", 7, R "\U0001f600");
    expect_text(tok, "\xff\xfe", 2, R R);
    expect_text(tok, "\xc0\xaf", 2, R R);
    expect_text(tok, "\xe0\x80\xaf", 3, R R R);
    expect_text(tok, "\xed\xa0\x80", 3, R R R);
    expect_text(tok, "\xf4\x90\x80\x80", 4, R R R R);
    expect_text(tok, "\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", 9, R R R R "A");
    expect_text(tok, "\xc3\xc3\xa9", 3, R "\u00e9");
    tokenizer_close(tok);
}

static void a_space_is_dropped_at_the_start_only(void **state)
{
    (void)state;
    struct tokenizer *tok = byte_vocab();
    expect_text(tok, " a b", 4, "a b");
    expect_text(tok, "  a", 3, " a");
    expect_text(tok, "a  ", 3, "a  ");
    int32_t ids[] = {257, ' ', 'a'};
    assert_int_equal(put_all(tok, ids, 3, 1), 1); /* what is skipped begins no text */
    assert_int_equal(put_all(tok, ids, 3, 0), 7);
    assert_memory_equal(increments, "<end> a", 7);
    tokenizer_close(tok);
}

static void small_buffers_change_nothing(void **state)
{
    (void)state;
    struct tokenizer *tok = byte_vocab();
    struct detokenizer d;
    char out[16];
    detokenizer_init(&d, tok, 0);
    assert_int_equal(detokenizer_put(&d, 0xe2, out, 0), 0);
    struct detokenizer fork = d;
    assert_int_equal(detokenizer_put(&d, 256, out, 4), 8); /* U+FFFD, a, b, the euro sign */
    assert_int_equal(d.n_held, 1);
    assert_int_equal(detokenizer_put(&d, 256, out, 8), 8);
    assert_memory_equal(out, R "ab\u20ac", 8);
    assert_int_equal(detokenizer_put(&fork, 0x82, out, 0), 0);
    assert_int_equal(detokenizer_put(&fork, 0xac, out, 3), 3);
    assert_memory_equal(out, "\u20ac", 3);
    assert_int_equal(detokenizer_put(&d, -1, out, 16), 0);
    assert_int_equal(detokenizer_put(&d, 100000, out, 16), 0);
    assert_int_equal(detokenizer_put(&d, 0xc3, out, 16), 0);
    assert_int_equal(detokenizer_finish(&d, out, 2), 3);
    assert_int_equal(detokenizer_finish(&d, out, 3), 3);
    assert_int_equal(detokenizer_finish(&d, out, 3), 0);
    tokenizer_close(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(invalid_bytes_are_replaced),
        cmocka_unit_test(a_space_is_dropped_at_the_start_only),
        cmocka_unit_test(small_buffers_change_nothing),
        cmocka_unit_test(increments_join_and_texts_come_back),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
