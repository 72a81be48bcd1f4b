/* Every stored type against the values of the `gguf` package, to the bit (tests/golden/make_dequant.py). */

#include "test_kernels.h"

#include <stdio.h>

static uint32_t read_u32(FILE *f)
{
    uint32_t v;
    assert_int_equal(fread(&v, sizeof v, 1, f), 1);
    return v;
}

static void test_golden(void **state)
{
    (void)state;
    FILE *f = fopen(TESTS_DIR "/golden/dequant.bin", "rb");
    assert_non_null(f);
    int seen[DTYPE_COUNT] = {0};
    for (int c; (c = fgetc(f)) != EOF;) {
        ungetc(c, f);
        const int dtype = dtype_from_gguf(read_u32(f));
        assert_true(dtype >= 0);
        const uint32_t n = read_u32(f), bytes = read_u32(f);
        assert_int_equal(dtype_bytes(dtype, n), bytes);
        uint8_t *data = malloc(bytes);
        float *want = malloc(n * sizeof *want), *got = malloc(n * sizeof *got);
        assert_int_equal(fread(data, 1, bytes, f), bytes);
        assert_int_equal(fread(want, sizeof *want, n, f), n);
        /* as two rows, to exercise the row offset */
        const struct tensor t = {dtype, 2, {2, n / 2}, data};
        dequantize_row(&t, 0, got);
        dequantize_row(&t, 1, got + n / 2);
        for (uint32_t i = 0; i < n; i++)
            if (memcmp(&got[i], &want[i], sizeof *got) != 0)
                fail_msg("%s element %u: %.9g, expected %.9g", dtype_table[dtype].name, i, got[i], want[i]);
        seen[dtype] = 1;
        free(data), free(want), free(got);
    }
    fclose(f);
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (t != DTYPE_I32 && !seen[t]) fail_msg("no golden values for %s", dtype_table[t].name);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
