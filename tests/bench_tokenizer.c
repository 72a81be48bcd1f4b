/* Speed of tokenizing: MB/s of one core and milliseconds to open, for each vocabulary named.
 *
 * usage: bench_tokenizer TEXT_FILE VOCABULARY…      TEXT_FILE is cut into texts of 4 KiB, as prompts come */

#include "base/file_map.h"
#include "model/tokenizer.h"

#include <stdio.h>
#include <time.h>

enum { TEXT_BYTES = 4096, REPEATS = 5 };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int bench(const struct file_map *text, const char *path)
{
    struct tokenizer *tok;
    struct llm_error err;
    struct token_list ids = {0};
    double start = seconds(), best = 1e30;
    if (tokenizer_open(path, &tok, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    double open_ms = (seconds() - start) * 1e3;
    size_t n_ids = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        n_ids = 0;
        start = seconds();
        for (size_t at = 0; at < text->size; at += TEXT_BYTES) {
            size_t n = text->size - at < TEXT_BYTES ? text->size - at : TEXT_BYTES;
            ids.n = 0;
            if (tokenizer_encode(tok, (const char *)text->data + at, n, 0, &ids, &err)) {
                fprintf(stderr, "%s\n", err.message);
                return 1;
            }
            n_ids += ids.n;
        }
        double took = seconds() - start;
        if (took < best) best = took;
    }
    printf("%8.1f MB/s  %8.1f ms to open  %5.2f bytes a token  %s\n", (double)text->size / best / 1e6,
           open_ms, (double)text->size / (double)n_ids, path);
    token_list_free(&ids);
    tokenizer_close(tok);
    return 0;
}

int main(int argc, char **argv)
{
    struct file_map text;
    struct llm_error err;
    int failed = 0;
    if (argc < 3) {
        fprintf(stderr, "usage: bench_tokenizer TEXT_FILE VOCABULARY...\n");
        return 2;
    }
    if (file_map_open(argv[1], &text, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    for (int i = 2; i < argc; i++) failed |= bench(&text, argv[i]);
    file_map_close(&text);
    return failed;
}
