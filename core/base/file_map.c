#define _GNU_SOURCE
#include "base/file_map.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

llm_status file_map_open(const char *path, struct file_map *out, struct llm_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return llm_fail(err, errno == ENOENT ? LLM_ENOENT : LLM_EIO, "cannot open %s: %s", path,
                        strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return llm_fail(err, LLM_EIO, "cannot read %s: it is not a regular file", path);
    }
    struct file_map map = {NULL, (size_t)st.st_size};
    if (map.size > 0) {
        void *p = mmap(NULL, map.size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            int reason = errno;
            close(fd);
            return llm_fail(err, reason == ENOMEM ? LLM_ENOMEM : LLM_EIO, "cannot map %s: %s", path,
                            strerror(reason));
        }
        map.data = p;
    }
    close(fd);
    *out = map;
    return LLM_OK;
}

void file_map_close(struct file_map *map)
{
    if (map->data) munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){NULL, 0};
}

void file_map_drop(const void *p, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)p + page - 1) & ~(page - 1), end = ((uintptr_t)p + bytes) & ~(page - 1);
    if (end > begin) madvise((void *)begin, end - begin, MADV_DONTNEED);
}
