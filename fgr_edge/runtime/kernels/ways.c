/* Which instruction sets there are, and weights in the order that one of them wants. */

#include "product.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "memory.h"

enum { MOST_THREADS = 16 };

extern const fgr_way fgr_avx512vnni, fgr_avxvnni, fgr_neondot;

const fgr_way *const fgr_ways[] = {
#if defined(__x86_64__)
    &fgr_avx512vnni,
#if HAS_AVXVNNI
    &fgr_avxvnni,
#endif
#elif defined(__aarch64__)
    &fgr_neondot,
#endif
    NULL,
};

static const fgr_way *best;

static void find_best(void) {
    const fgr_way *const *way = fgr_ways;
    while (*way && !(*way)->supported()) way++;
    best = *way;
}

const fgr_way *fgr_best_way(void) { /* asked at every call of some: a virtual machine may take long to tell */
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_best);
    return best;
}

static size_t up(size_t n, size_t to) { return (n + to - 1) / to * to; }

size_t fgr_prepared_size(const fgr_packed *w) {
    return up(w->blocks * (w->block + 2 * sizeof(int32_t) + sizeof(float)), 64);
}

/* Eight levels of 4 bits, pairs (0, 1), (2, 3), ... in a byte each -> (0, 4), (1, 5), (2, 6), (3, 7). */
static uint32_t four_apart(uint32_t x) {
    uint32_t first = x & 0xffff, later = x >> 16;
    first = (first | first << 8) & 0x00ff00ff;
    later = (later | later << 8) & 0x00ff00ff;
    first = (first | first << 4) & 0x0f0f0f0f;
    later = (later | later << 4) & 0x0f0f0f0f;
    return first | later << 4;
}

static size_t scale_bytes(const fgr_packed *p) { return p->short_scales ? sizeof(uint16_t) : sizeof(float); }

/* Whether all scales are bfloat16, the upper half of a float. */
static int are_short(const float *scales, size_t count) {
    uint32_t lower = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t scale;
        memcpy(&scale, scales + i, sizeof scale);
        lower |= scale & 0xffff;
    }
    return !lower;
}

static void pack_strip(const fgr_weight *w, const fgr_packed *p, uint32_t flip, size_t strip) {
    const size_t first = strip * p->width, left = p->rows - first, columns = left < p->width ? left : p->width;
    const size_t block_bytes = p->block * (size_t)p->bits / 8, row_bytes = p->blocks * block_bytes;
    const size_t point_bytes = (p->blocks * (size_t)p->bits + 7) / 8;
    char *at = p->memory + strip * p->strip_bytes;
    if (w->bias) memcpy(at, w->bias + first, columns * sizeof(float));
    at += p->width * sizeof(float);
    for (size_t b = 0; b < p->blocks; b++) {
        for (size_t c = 0; c < columns; c++) {
            uint32_t scale;
            memcpy(&scale, w->scales + (first + c) * p->blocks + b, sizeof scale);
            const uint16_t upper = (uint16_t)(scale >> 16);
            if (p->short_scales)
                memcpy(at + c * sizeof upper, &upper, sizeof upper);
            else
                memcpy(at + c * sizeof scale, &scale, sizeof scale);
        }
        at += p->width * scale_bytes(p);
        if (w->zero_points) {
            for (size_t c = 0; c < columns; c++) {
                const uint8_t *points = w->zero_points + (first + c) * point_bytes;
                const size_t half = p->width / 2;
                if (p->bits == 8)
                    at[c] = (char)points[b];
                else
                    at[c % half] |= (char)((points[b / 2] >> (b % 2 * 4) & 15) << (c / half * 4));
            }
            at += p->width * (size_t)p->bits / 8;
        }
        const uint8_t *from = w->levels + first * row_bytes + b * block_bytes;
        for (size_t i = 0; i < block_bytes; i += 4, at += 4 * p->width)
            for (size_t c = 0; c < columns; c++) {
                uint32_t four;
                memcpy(&four, from + c * row_bytes + i, sizeof four);
                four = p->bits == 8 ? four ^ flip : four_apart(four);
                memcpy(at + 4 * c, &four, sizeof four);
            }
    }
}

typedef struct {
    const fgr_weight *w;
    const fgr_packed *p;
    uint32_t flip;
    size_t first, last;
} share;

static void *pack_share(void *data) {
    const share *s = data;
    for (size_t strip = s->first; strip < s->last; strip++) pack_strip(s->w, s->p, s->flip, strip);
    return NULL;
}

fgr_packed *fgr_pack(const fgr_way *way, const fgr_weight *w, size_t threads) {
    fgr_packed *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    const int flipped = way->is_signed && w->bits == 8;
    p->rows = w->rows;
    p->columns = w->columns;
    p->block = w->block;
    p->blocks = (w->columns + w->block - 1) / w->block;
    p->bits = w->bits;
    p->zero_points = w->zero_points != NULL;
    p->lowered = (p->zero_points ? 0 : w->bits == 8 ? 128 : 8) - (flipped ? 128 : 0);
    p->width = way->width;
    p->strips = (p->rows + p->width - 1) / p->width;
    p->short_scales = are_short(w->scales, p->rows * p->blocks);
    const size_t points = p->zero_points ? 1 : 0;
    const size_t block_bytes = p->width * (p->block + points) * (size_t)p->bits / 8 + p->width * scale_bytes(p);
    p->strip_bytes = p->width * sizeof(float) + p->blocks * block_bytes;
    p->memory = fgr_take_memory(p->strips * p->strip_bytes);
    if (!p->memory) {
        free(p);
        return NULL;
    }
    share shares[MOST_THREADS];
    pthread_t started[MOST_THREADS];
    int is_started[MOST_THREADS] = {0};
    threads = threads > MOST_THREADS ? MOST_THREADS : threads < 1 ? 1 : threads;
    for (size_t t = 0; t < threads; t++) {
        const share mine = {w, p, flipped ? 0x80808080 : 0, p->strips * t / threads, p->strips * (t + 1) / threads};
        shares[t] = mine;
        is_started[t] = t + 1 < threads && !pthread_create(started + t, NULL, pack_share, shares + t);
        if (!is_started[t]) pack_share(shares + t);
    }
    for (size_t t = 0; t < threads; t++)
        if (is_started[t]) pthread_join(started[t], NULL);
    return p;
}

void fgr_free_packed(fgr_packed *p) {
    if (!p) return;
    fgr_give_memory(p->memory);
    free(p);
}
