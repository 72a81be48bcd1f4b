#define _GNU_SOURCE
#include "kernels/cuda/graph_nvrtc.h"

#include "base/mem.h"
#include "kernels/cuda/graph_emit.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { MOST_HEADERS = 32 };

typedef void *program; /* nvrtcProgram */

/* As nvrtc.h declares them; every one but error_text gives 0 or an error. */
static struct {
    int (*version)(int *major, int *minor);
    int (*create)(program *p, const char *source, const char *name, int n, const char *const *headers,
                  const char *const *names);
    int (*compile)(program p, int n, const char *const *options);
    int (*log_size)(program p, size_t *bytes);
    int (*log)(program p, char *text);
    int (*cubin_size)(program p, size_t *bytes);
    int (*cubin)(program p, char *code);
    int (*ptx_size)(program p, size_t *bytes);
    int (*ptx)(program p, char *code);
    int (*destroy)(program *p);
    const char *(*error_text)(int error);
} nvrtc;

static int loaded;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void *open_library(void)
{
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"};
    static const char *const places[] = {"", "/usr/local/cuda/lib64/"};
    for (size_t place = 0; place < 2; place++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char path[64];
            snprintf(path, sizeof path, "%s%s", places[place], names[i]);
            void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
            if (handle) return handle;
        }
    }
    return NULL;
}

static void load(void)
{
    void *handle = open_library();
    if (!handle) return;
    const struct {
        void *function;
        const char *name;
    } table[] = {{&nvrtc.version, "nvrtcVersion"},          {&nvrtc.create, "nvrtcCreateProgram"},
                 {&nvrtc.compile, "nvrtcCompileProgram"},   {&nvrtc.log_size, "nvrtcGetProgramLogSize"},
                 {&nvrtc.log, "nvrtcGetProgramLog"},        {&nvrtc.cubin_size, "nvrtcGetCUBINSize"},
                 {&nvrtc.ptx_size, "nvrtcGetPTXSize"},      {&nvrtc.ptx, "nvrtcGetPTX"},
                 {&nvrtc.cubin, "nvrtcGetCUBIN"},           {&nvrtc.destroy, "nvrtcDestroyProgram"},
                 {&nvrtc.error_text, "nvrtcGetErrorString"}};
    loaded = 1;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        void *symbol = dlsym(handle, table[i].name);
        memcpy(table[i].function, &symbol, sizeof symbol);
        loaded &= symbol != NULL;
    }
}

static llm_status find(struct llm_error *err)
{
    pthread_once(&once, load);
    if (loaded) return LLM_OK;
    return llm_fail(
        err, LLM_EUNSUP,
        "no compiler for graphs: libnvrtc.so of CUDA 13 or 12 is not installed where libraries are "
        "looked for");
}

llm_status nvrtc_version(int *version, struct llm_error *err)
{
    int major = 0, minor = 0;
    llm_status status = find(err);
    if (status != LLM_OK) return status;
    nvrtc.version(&major, &minor);
    *version = 1000 * major + minor;
    return LLM_OK;
}

static const char *header_name(const char *path)
{
    return strncmp(path, "core/", 5) == 0 ? path + 5 : path;
}

/* The headers of the source: graph_libc.h under the names of those it stands for, the others under theirs. */
static int list_headers(const char **texts, const char **names)
{
    static const char *const libc[] = {"stdint.h", "stddef.h", "float.h", "math.h"};
    int n = 0;
    for (const struct graph_header *h = graph_headers; h->name && n + 4 <= MOST_HEADERS; h++) {
        int stands = strstr(h->name, "graph_libc.h") != NULL;
        for (int i = 0; i < (stands ? 4 : 1); i++) {
            texts[n] = h->text;
            names[n++] = stands ? libc[i] : header_name(h->name);
        }
    }
    return n;
}

/* The compiler's first complaint, in one line. */
static llm_status complain(program p, int error, const char *arch, struct llm_error *err)
{
    enum { NVRTC_ERROR_INVALID_OPTION = 5 };
    size_t bytes = 0;
    if (error == NVRTC_ERROR_INVALID_OPTION)
        return llm_fail(err, LLM_EUNSUP, "this NVRTC does not compile for %s", arch);
    char *text = nvrtc.log_size(p, &bytes) == 0 && bytes > 0 ? mem_zalloc(bytes + 1) : NULL;
    if (text && nvrtc.log(p, text) == 0) {
        char *line = strstr(text, "error");
        while (line && line > text && line[-1] != '\n') line--;
        line = line ? line : text;
        line[strcspn(line, "\n")] = 0;
        llm_fail(err, LLM_EFAILED, "NVRTC: %s: %s", nvrtc.error_text(error), line);
    } else {
        llm_fail(err, LLM_EFAILED, "NVRTC: %s", nvrtc.error_text(error));
    }
    mem_free(text);
    return LLM_EFAILED;
}

llm_status nvrtc_compile(const char *source, const char *arch, char **out, size_t *bytes,
                         struct llm_error *err)
{
    llm_status status = find(err);
    if (status != LLM_OK) return status;
    const char *texts[MOST_HEADERS], *names[MOST_HEADERS];
    const int n = list_headers(texts, names);
    char target[64];
    snprintf(target, sizeof target, "--gpu-architecture=%s", arch);
    const char *const options[] = {
        target,        "--std=c++17",     "--fmad=false",    "--device-as-default-execution-space",
        "--ftz=false", "--prec-div=true", "--prec-sqrt=true"};
    program p = NULL;
    int e = nvrtc.create(&p, source, "graph.cu", n, texts, names);
    if (e) return llm_fail(err, LLM_ENOMEM, "NVRTC: %s", nvrtc.error_text(e));
    e = nvrtc.compile(p, (int)(sizeof options / sizeof *options), options);
    if (e) {
        status = complain(p, e, arch, err);
        goto done;
    }
    const int virtual = strncmp(arch, "compute_", 8) == 0;
    e = virtual ? nvrtc.ptx_size(p, bytes) : nvrtc.cubin_size(p, bytes);
    char *code = e ? NULL : mem_alloc(*bytes);
    if (code) e = virtual ? nvrtc.ptx(p, code) : nvrtc.cubin(p, code);
    if (!code || e) {
        mem_free(code);
        status = llm_fail(err, LLM_ENOMEM, "NVRTC: no memory for the code of a graph");
        goto done;
    }
    *out = code;
done:
    nvrtc.destroy(&p);
    return status;
}
