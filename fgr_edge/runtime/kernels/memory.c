#include "memory.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Pieces are cut from the front of a mapping, which goes when its last piece does. What is never cut is never touched
   and takes no memory, but for the rest of a huge page: mappings are large, so that there are few such rests. */
typedef struct mapping {
    struct mapping *next;
    char *start;          /* of the mapping */
    size_t size, used;    /* bytes; `used` counts from `start` */
    size_t pieces;
} mapping;

enum { HUGE = 2 << 20, LEAST = 512 << 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mapping *mappings; /* the newest first */

static char *area(size_t bytes) {
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

static mapping *map(size_t bytes) {
    mapping *m = malloc(sizeof *m);
    if (!m) return NULL;
    m->size = (bytes > LEAST ? bytes : LEAST) + HUGE;
    m->start = area(m->size);
    if (m->start == MAP_FAILED) { /* where a system promises no more than it has */
        m->size = bytes + HUGE;
        m->start = area(m->size);
    }
    if (m->start == MAP_FAILED) {
        free(m);
        return NULL;
    }
#if defined(MADV_HUGEPAGE)
    madvise(m->start, m->size, MADV_HUGEPAGE); /* a wish: small pages do as well */
#endif
    m->used = (size_t)(-(uintptr_t)m->start % HUGE);
    m->pieces = 0;
    m->next = mappings;
    mappings = m;
    return m;
}

void *fgr_take_memory(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    pthread_mutex_lock(&lock);
    mapping *m = mappings;
    if (!m || m->size - m->used < bytes) m = map(bytes);
    char *piece = NULL;
    if (m) {
        piece = m->start + m->used;
        m->used += bytes;
        m->pieces++;
    }
    pthread_mutex_unlock(&lock);
    return piece;
}

void fgr_give_memory(void *memory) {
    if (!memory) return;
    pthread_mutex_lock(&lock);
    for (mapping **m = &mappings; *m; m = &(*m)->next) {
        mapping *found = *m;
        const uintptr_t from = (uintptr_t)found->start, at = (uintptr_t)memory;
        if (at < from || at >= from + found->size) continue;
        if (!--found->pieces) {
            *m = found->next;
            munmap(found->start, found->size);
            free(found);
        }
        break;
    }
    pthread_mutex_unlock(&lock);
}
