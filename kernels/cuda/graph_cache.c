#include "kernels/cuda/graph_cache.h"

#include "base/mem.h"
#include "kernels/cuda/graph_emit.h"
#include "kernels/cuda/graph_nvrtc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#define XXH_INLINE_ALL /* the plug-in depends on no library for it */
#include <xxhash.h>

enum { PATH_ROOM = 640 };

/* Before the cubin in a file. */
struct mark {
    char magic[8];
    uint64_t bytes, hash; /* of the cubin */
};
static const char magic[8] = "llmcubin";

static uint64_t hash_of(const char *source, size_t bytes, const char *arch, int version)
{
    uint64_t h = XXH3_64bits_withSeed(source, bytes, (uint64_t)version);
    h = XXH3_64bits_withSeed(arch, strlen(arch), h);
    for (const struct graph_header *header = graph_headers; header->name; header++)
        h = XXH3_64bits_withSeed(header->text, header->bytes, h);
    return h;
}

static int load(const char *path, struct graph_code *out)
{
    struct mark m;
    char extra;
    FILE *f = fopen(path, "rb");
    if (!f) return 0;
    int good = fread(&m, sizeof m, 1, f) == 1 && memcmp(m.magic, magic, sizeof magic) == 0 && m.bytes > 0 &&
               m.bytes < (1u << 30);
    char *cubin = good ? mem_alloc(m.bytes) : NULL;
    good = cubin && fread(cubin, 1, m.bytes, f) == m.bytes && fread(&extra, 1, 1, f) == 0 &&
           XXH3_64bits(cubin, m.bytes) == m.hash;
    fclose(f);
    if (!good) {
        mem_free(cubin);
        return 0;
    }
    *out = (struct graph_code){cubin, m.bytes, 1};
    return 1;
}

/* Under another name first: who reads sees all of it or nothing. */
static void save(const char *path, const struct graph_code *code)
{
    static int32_t n;
    char temporary[PATH_ROOM + 64];
    struct mark m = {.bytes = code->bytes, .hash = XXH3_64bits(code->cubin, code->bytes)};
    memcpy(m.magic, magic, sizeof magic);
    snprintf(temporary, sizeof temporary, "%s.%ld.%d", path, (long)getpid(),
             __atomic_fetch_add(&n, 1, __ATOMIC_RELAXED));
    FILE *f = fopen(temporary, "wb");
    if (!f) return;
    int good = fwrite(&m, sizeof m, 1, f) == 1 && fwrite(code->cubin, 1, code->bytes, f) == code->bytes;
    good = fclose(f) == 0 && good;
    if (!good || rename(temporary, path) != 0) unlink(temporary);
}

static void show(uint64_t hash, const char *source, size_t bytes)
{
    const char *dir = getenv("LLMLUA_GRAPH_SOURCE");
    char path[PATH_ROOM];
    if (!dir ||
        snprintf(path, sizeof path, "%s/graph-%016llx.cu", dir, (unsigned long long)hash) >= PATH_ROOM)
        return;
    FILE *f = fopen(path, "w");
    if (!f) return;
    fwrite(source, 1, bytes, f);
    fclose(f);
}

llm_status graph_code_get(const char *source, size_t bytes, const char *arch, const char *dir,
                          struct graph_code *out, struct llm_error *err)
{
    int version = 0;
    char path[PATH_ROOM];
    llm_status status = nvrtc_version(&version, err);
    if (status != LLM_OK) return status;
    const uint64_t hash = hash_of(source, bytes, arch, version);
    show(hash, source, bytes);
    int cached =
        dir && dir[0] &&
        snprintf(path, sizeof path, "%s/graph-%016llx.cubin", dir, (unsigned long long)hash) < PATH_ROOM;
    if (cached && load(path, out)) return LLM_OK;
    *out = (struct graph_code){0};
    status = nvrtc_compile(source, arch, &out->cubin, &out->bytes, err);
    if (status == LLM_OK && cached) save(path, out);
    return status;
}
