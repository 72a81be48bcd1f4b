#ifndef LLM_BASE_MEM_H
#define LLM_BASE_MEM_H

/* Every allocation of the library goes through here, so that tests can count them (steady-state steps
 * allocate nothing) and make the n-th one fail. Thread-safe. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* As malloc, calloc, realloc, strdup, free; null when there is no memory. mem_array and mem_grow check the
 * product count * size for overflow. */
void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_array(size_t count, size_t size); /* zeroed */
void *mem_grow(void *old, size_t count, size_t size);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
void mem_free(void *p);

/* Page-aligned, zeroed, backed lazily by the kernel: what is never touched costs nothing. For weights, KV
 * pages and other large buffers; huge pages are asked for. Freed with the same size. */
void *mem_map(size_t bytes);
void mem_unmap(void *p, size_t bytes);

/* For tests. Number of successful calls of the first group and of mem_map so far, in all threads. */
uint64_t mem_count(void);
/* For tests. The n-th allocation from now on (1 = the next) fails, once; 0 switches this off. */
void mem_fail_at(uint64_t n);

#ifdef __cplusplus
}
#endif
#endif
