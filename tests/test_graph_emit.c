/* The sources of graphs' kernels, without a GPU: each is stable, what devices cannot do is refused, and the
 * run-time compiler accepts them all, if it is installed. */

#include "base/mem.h"
#include "kernels/cuda/graph_cache.h"
#include "kernels/cuda/graph_emit.h"
#include "kernels/cuda/graph_nvrtc.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

enum { MOST_GRAPHS = 64 };

static struct graph *graphs[MOST_GRAPHS];
static char names[MOST_GRAPHS][64];
static int n_graphs;

static struct graph *parse(const char *text)
{
    struct graph *g = NULL;
    struct llm_error err = {0};
    if (graph_parse(text, strlen(text), &g, &err)) fail_msg("%s\nin\n%s", err.message, text);
    return g;
}

static int load_graphs(void **state)
{
    (void)state;
    static const char dir[] = TESTS_DIR "/golden/graphs";
    static char text[1 << 16];
    struct dirent **files;
    int n = scandir(dir, &files, NULL, alphasort);
    for (int i = 0; i < n; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", dir, files[i]->d_name);
        FILE *f = strstr(path, ".graph") && n_graphs < MOST_GRAPHS ? fopen(path, "r") : NULL;
        if (f) {
            text[fread(text, 1, sizeof text - 1, f)] = 0;
            fclose(f);
            snprintf(names[n_graphs], sizeof names[0], "%.63s", files[i]->d_name);
            graphs[n_graphs++] = parse(text);
        }
        free(files[i]);
    }
    if (n >= 0) free(files);
    return n_graphs < 15 ? -1 : 0;
}

static int free_graphs(void **state)
{
    (void)state;
    for (int i = 0; i < n_graphs; i++) graph_free(graphs[i]);
    return 0;
}

static struct graph_source emit(const struct graph *g, int32_t vocab_size)
{
    struct graph_source s = {0};
    struct llm_error err = {0};
    if (graph_emit(g, vocab_size, &s, &err)) fail_msg("%s", err.message);
    assert_int_equal(strlen(s.text), s.bytes);
    return s;
}

/* A graph and its text read again give the same source; another vocabulary another. */
static void a_graph_has_one_source(void **state)
{
    (void)state;
    for (int i = 0; i < n_graphs; i++) {
        char *text = NULL;
        struct llm_error err;
        assert_int_equal(graph_dump(graphs[i], &text, NULL, &err), LLM_OK);
        struct graph *again = parse(text);
        struct graph_source a = emit(graphs[i], 32003), b = emit(again, 32003), c = emit(graphs[i], 128256);
        assert_string_equal(a.text, b.text);
        assert_string_not_equal(a.text, c.text);
        assert_int_equal(a.shared_bytes, b.shared_bytes);
        graph_source_free(&a);
        graph_source_free(&b);
        graph_source_free(&c);
        graph_free(again);
        mem_free(text);
    }
}

static void lists_become_bits(void **state)
{
    (void)state;
    struct graph *g =
        parse("graph 1\n%0 row = logits\n%1 list = ids [0 1 2 3 4 5 6 7 33 70 1000]\n%2 mask = set %1\n"
              "%3 num = const 0\n%4 row = where %2 %0 %3\nresult row %4\n");
    struct graph_source s = emit(g, 71);
    assert_int_equal(s.n_constants, 3);
    assert_int_equal(s.constants[0], 0xff);
    assert_int_equal(s.constants[1], 2);
    assert_int_equal(s.constants[2], 64);
    graph_source_free(&s);
    graph_free(g);
}

static void refused(const struct graph *g, int32_t vocab_size, const char *why)
{
    struct graph_source s;
    struct llm_error err = {0};
    assert_int_equal(graph_emit(g, vocab_size, &s, &err), LLM_EUNSUP);
    if (!strstr(err.message, why)) fail_msg("%s", err.message);
    assert_null(s.text);
}

static void what_devices_cannot_do_is_refused(void **state)
{
    (void)state;
    char text[4096];
    struct graph *g = parse("graph 1\n%0 row = logits\nresult row %0\n");
    refused(g, GRAPH_SOURCE_VOCAB + 1, "tokens");
    graph_free(g);
    size_t n = (size_t)snprintf(text, sizeof text, "graph 1\n%%0 row = logits\n");
    for (int i = 0; i <= GRAPH_SOURCE_TABLES; i++)
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "%%%d num = const %d\n%%%d row = recent %%%d\n%%%d row = add %%%d %%%d\n",
                              3 * i + 1, i, 3 * i + 2, 3 * i + 1, 3 * i + 3, 3 * i, 3 * i + 2);
    snprintf(text + n, sizeof text - n, "result row %%%d\n", 3 * GRAPH_SOURCE_TABLES + 3);
    g = parse(text);
    refused(g, 1000, "recent");
    graph_free(g);
}

static void allocations_may_fail(void **state)
{
    (void)state;
    struct llm_error err;
    for (uint64_t n = 1;; n++) {
        struct graph_source s;
        mem_fail_at(n);
        llm_status status = graph_emit(graphs[0], 1000, &s, &err);
        mem_fail_at(0);
        if (status == LLM_OK) {
            graph_source_free(&s);
            assert_true(n > 3);
            return;
        }
        assert_int_equal(status, LLM_ENOMEM);
    }
}

/* ---- the compiler -------------------------------------------------------------------------------------- */

static int no_compiler(void)
{
    int version;
    struct llm_error err;
    if (nvrtc_version(&version, &err) == LLM_OK) return 0;
    print_message("skipped: %s\n", err.message);
    return 1;
}

static void compile_some(const char *arch, int n)
{
    if (no_compiler()) skip();
    for (int i = 0; i < n; i++) {
        struct graph_code code;
        struct llm_error err;
        struct graph_source s = emit(graphs[i], i % 2 ? 128256 : 5);
        if (graph_code_get(s.text, s.bytes, arch, NULL, &code, &err))
            fail_msg("%s: %s", names[i], err.message);
        if (strncmp(arch, "sm_", 3) == 0)
            assert_memory_equal(code.cubin, "\177ELF", 4);
        else
            assert_non_null(strstr(code.cubin, ".entry " GRAPH_KERNEL_NAME));
        mem_free(code.cubin);
        graph_source_free(&s);
    }
}

static void compiles_for_ampere(void **state)
{
    (void)state;
    compile_some("sm_80", n_graphs);
}

static void compiles_for_hopper(void **state)
{
    (void)state;
    compile_some("sm_90a", n_graphs);
}

static void compiles_to_ptx(void **state)
{
    (void)state;
    compile_some("compute_80", 1);
}

static void says_what_it_cannot_compile(void **state)
{
    (void)state;
    struct graph_code code;
    struct llm_error err;
    if (no_compiler()) skip();
    assert_int_equal(graph_code_get("int x = y;", 10, "sm_80", NULL, &code, &err), LLM_EFAILED);
    assert_non_null(strstr(err.message, "\"y\" is undefined"));
    assert_int_equal(graph_code_get("int x;", 6, "sm_10", NULL, &code, &err), LLM_EUNSUP);
}

/* The second time it comes from the disk; a damaged file is none, and is made anew. */
static void keeps_code_on_disk(void **state)
{
    (void)state;
    char dir[] = "/tmp/graph-cache-XXXXXX", path[512];
    static const char source[] = "extern \"C\" __global__ void f(int *x) { *x = 1; }";
    static const char *const damages[] = {"r+", "a", "w"}; /* a byte, one more, none */
    struct graph_code code[2];
    struct llm_error err;
    if (no_compiler()) skip();
    assert_non_null(mkdtemp(dir));
    for (int i = -1; i < 3; i++) {
        for (int k = 0; k < 2; k++) {
            assert_int_equal(graph_code_get(source, sizeof source - 1, "sm_80", dir, &code[k], &err), LLM_OK);
            assert_int_equal(code[k].was_cached, k);
        }
        assert_int_equal(code[0].bytes, code[1].bytes);
        assert_memory_equal(code[0].cubin, code[1].cubin, code[0].bytes);
        mem_free(code[0].cubin);
        mem_free(code[1].cubin);
        struct dirent **files;
        int n = scandir(dir, &files, NULL, alphasort);
        assert_int_equal(n, 3); /* with . and .. */
        snprintf(path, sizeof path, "%s/%s", dir, files[2]->d_name);
        for (int k = 0; k < n; k++) free(files[k]);
        free(files);
        if (i == 2) break;
        FILE *f = fopen(path, damages[i + 1]);
        if (i == -1) fseek(f, 1000, SEEK_SET);
        if (i < 1) fputc(77, f);
        fclose(f);
    }
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_graph_has_one_source),
        cmocka_unit_test(lists_become_bits),
        cmocka_unit_test(what_devices_cannot_do_is_refused),
        cmocka_unit_test(allocations_may_fail),
        cmocka_unit_test(compiles_for_ampere),
        cmocka_unit_test(compiles_for_hopper),
        cmocka_unit_test(compiles_to_ptx),
        cmocka_unit_test(says_what_it_cannot_compile),
        cmocka_unit_test(keeps_code_on_disk),
    };
    return cmocka_run_group_tests(tests, load_graphs, free_graphs);
}
