/* Finds and loads the CUDA plug-in, so that one program runs with and without a GPU. */

#define _GNU_SOURCE
#include "kernels/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char plugin_name[] = "libllmlua_cuda.so";

typedef llm_status open_fn(const struct cuda_options *options, struct backend **out, struct llm_error *err);
typedef const char *describe_fn(const struct backend *be);

static struct {
    open_fn *open;
    describe_fn *describe;
} plugin;

static void *load_from(const char *dir, size_t n, char *reason, size_t room)
{
    char path[1024];
    if (snprintf(path, sizeof path, "%.*s%s%s", (int)n, dir, n ? "/" : "", plugin_name) >= (int)sizeof path)
        return NULL;
    void *handle = access(path, F_OK) == 0 ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    if (!handle && access(path, F_OK) == 0) snprintf(reason, room, "%s", dlerror());
    return handle;
}

/* LLMLUA_PLUGINS alone if it is set; else the directory of this code's program or library, and ../lib from
 * there. */
static void *load(char *reason, size_t room)
{
    const char *dir = getenv("LLMLUA_PLUGINS");
    if (dir) return load_from(dir, strlen(dir), reason, room);
    Dl_info self;
    if (!dladdr((void *)plugin_name, &self) || !self.dli_fname) return NULL;
    char lib[1024];
    const char *slash = strrchr(self.dli_fname, '/');
    size_t n = slash ? (size_t)(slash - self.dli_fname) : 0;
    void *handle = load_from(n ? self.dli_fname : ".", n ? n : 1, reason, room);
    if (!handle && n && snprintf(lib, sizeof lib, "%.*s/../lib", (int)n, self.dli_fname) < (int)sizeof lib)
        handle = load_from(lib, strlen(lib), reason, room);
    return handle;
}

llm_status cuda_backend_open(const struct cuda_options *options, struct backend **out, struct llm_error *err)
{
    char reason[300] = "";
    if (!plugin.open) {
        /* Asked first, as it costs nothing where there is no GPU: the plug-in's libraries are large. */
        if (!dlopen("libcuda.so.1", RTLD_LAZY))
            return llm_fail(err, LLM_EUNSUP,
                            "no CUDA device: the NVIDIA driver's library libcuda.so.1 is not installed");
        void *handle = load(reason, sizeof reason);
        if (!handle)
            return llm_fail(
                err, LLM_EUNSUP, "no CUDA backend: %s%s", reason[0] ? "the plug-in cannot be loaded: " : "",
                reason[0] ? reason
                          : "libllmlua_cuda.so is neither beside the program nor in ../lib; build "
                            "llmlua where nvcc is installed, or set LLMLUA_PLUGINS to its directory");
        plugin.describe = (describe_fn *)dlsym(handle, "cuda_plugin_describe");
        plugin.open = (open_fn *)dlsym(handle, "cuda_plugin_open");
        if (!plugin.open || !plugin.describe) {
            plugin.open = NULL;
            dlclose(handle);
            return llm_fail(err, LLM_EUNSUP, "%s is of another version of llmlua", plugin_name);
        }
    }
    return plugin.open(options, out, err);
}

const char *cuda_backend_describe(const struct backend *be)
{
    return plugin.describe(be);
}
