/* The products of one instruction set. Whoever includes this defines

     TARGET            attribute of functions: the instruction set
     LANES             of 32 bits in a vector
     MOST_ROWS         of inputs at once: 4 vectors of sums each, and 4 of levels, are to fit into registers
     IS_SIGNED         whether `dot` takes signed levels
     vint, vfloat      vectors of LANES int32 and float32

   and the operations on them that are used below. */

#include <string.h>

#include "product.h"

#define INLINE TARGET static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < (count); i++)

enum { VECTORS = 4, WIDTH = VECTORS * LANES, BYTES = 4 * LANES, AHEAD = 4096 };

/* A rounded row: int8 inputs[blocks * block], then for each block int32 start, int32 total, float scale. */
typedef struct {
    size_t starts, totals, scales, stride;
} row_layout;

INLINE row_layout layout_of(const fgr_packed *w) {
    row_layout l;
    l.starts = w->blocks * w->block;
    l.totals = l.starts + w->blocks * sizeof(int32_t);
    l.scales = l.totals + w->blocks * sizeof(int32_t);
    l.stride = fgr_prepared_size(w);
    return l;
}

/* Round to the nearest, ties to even; the scale. Inputs that are no numbers, or infinite, give a scale that is none. */
TARGET static float round_block(const float *in, size_t count, int8_t *levels, int32_t *total) {
    uint32_t largest_bits = 0; /* positive floats are in the order of their bits */
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, in + i, sizeof bits);
        bits &= 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    const float scale = largest / 127, inverse = scale > 0 ? 1 / scale : 0;
    int32_t sum = 0;
    for (size_t i = 0; i < count; i++) {
        const float shifted = in[i] * inverse + 12582912; /* 1.5 * 2^23: the integer stands in the lowest bits */
        int32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        const int8_t level = (int8_t)(bits & 0xff);
        levels[i] = level;
        sum += level;
    }
    *total = sum;
    return scale;
}

TARGET static void prepare(const fgr_packed *w, const float *x, size_t from, size_t until, void *prepared) {
    const row_layout l = layout_of(w);
    for (size_t m = from; m < until; m++) {
        char *row = (char *)prepared + m * l.stride;
        int8_t *levels = (int8_t *)row;
        int32_t *starts = (int32_t *)(row + l.starts), *totals = (int32_t *)(row + l.totals);
        float *scales = (float *)(row + l.scales);
        for (size_t b = 0; b < w->blocks; b++) {
            const size_t start = b * w->block, left = w->columns - start, count = left < w->block ? left : w->block;
            scales[b] = round_block(x + m * w->columns + start, count, levels + start, totals + b);
            starts[b] = -w->lowered * totals[b];
            if (count < w->block) memset(levels + start + count, 0, w->block - count);
        }
    }
}

/* Zero points of vector `v` of a strip's columns. */
INLINE vint points_of(const char *points, int v, const int bits) {
    if (bits == 8) return int_of_bytes(points + v * LANES);
    const vint both = int_of_bytes(points + v % (VECTORS / 2) * LANES);
    return v < VECTORS / 2 ? lower_halves(both) : upper_halves(both);
}

/* `mr` rows of inputs times one strip. The last four arguments are known when this is compiled. */
INLINE void tile(
    const fgr_packed *w, const row_layout *l, const char *rows, const char *strip, size_t ahead, float *y,
    size_t columns, const int mr, const int bits, const int zero_points, const int short_scales
) {
    const char *in[MOST_ROWS], *at = strip + WIDTH * sizeof(float);
    vfloat sums[MOST_ROWS][VECTORS];
    EACH(i, mr) {
        in[i] = rows + (size_t)i * l->stride;
        EACH(v, VECTORS) sums[i][v] = float_load(strip + v * BYTES); /* the bias */
    }
    size_t k = 0;
    for (size_t b = 0; b < w->blocks; b++) {
        vfloat scales[VECTORS];
        EACH(v, VECTORS)
            scales[v] = short_scales ? float_load_short(at + v * LANES * 2) : float_load(at + v * LANES * 4);
        at += WIDTH * (short_scales ? 2 : 4);
        vint dots[MOST_ROWS][VECTORS];
        EACH(i, mr) {
            const vint start = int_all(((const int32_t *)(in[i] + l->starts))[b]);
            EACH(v, VECTORS) dots[i][v] = start;
        }
        if (zero_points) {
            EACH(i, mr) {
                const vint total = int_all(((const int32_t *)(in[i] + l->totals))[b]);
                EACH(v, VECTORS) dots[i][v] = int_minus(dots[i][v], int_times(points_of(at, v, bits), total));
            }
            at += WIDTH * bits / 8;
        }
        for (const size_t end = k + w->block; k < end; k += 32 / (size_t)bits, at += VECTORS * BYTES) {
            vint levels[VECTORS];
            EACH(v, VECTORS) {
                levels[v] = int_load(at + v * BYTES);
                __builtin_prefetch(at + ahead + v * BYTES);
            }
            EACH(i, mr) {
                const vint inputs = int_all_quads(in[i] + k);
                EACH(v, VECTORS) dots[i][v] = dot(dots[i][v], bits == 8 ? levels[v] : lower_halves(levels[v]), inputs);
            }
            if (bits == 4) {
                EACH(i, mr) {
                    const vint inputs = int_all_quads(in[i] + k + 4);
                    EACH(v, VECTORS) dots[i][v] = dot(dots[i][v], upper_halves(levels[v]), inputs);
                }
            }
        }
        EACH(i, mr) {
            const vfloat scale = float_all(((const float *)(in[i] + l->scales))[b]);
            EACH(v, VECTORS) {
                sums[i][v] = float_plus_times(sums[i][v], float_of(dots[i][v]), float_times(scales[v], scale));
            }
        }
    }
    EACH(i, mr) {
        float *to = y + (size_t)i * w->rows, part[WIDTH], *out = columns == WIDTH ? to : part;
        EACH(v, VECTORS) float_store(out + v * LANES, sums[i][v]);
        if (columns < WIDTH) memcpy(to, part, columns * sizeof(float));
    }
}

#define TILE(mr) tile(w, &l, rows, strip, ahead, to, columns, mr, bits, zero_points, short_scales)

INLINE void strips(
    const fgr_packed *w, const char *prepared, size_t count, size_t first, size_t last, float *y, const int bits,
    const int zero_points, const int short_scales
) {
    const row_layout l = layout_of(w);
    for (size_t s = first; s < last; s++) {
        const char *strip = w->memory + s * w->strip_bytes;
        const size_t columns = w->rows - s * WIDTH < WIDTH ? w->rows - s * WIDTH : WIDTH;
        for (size_t m = 0; m < count;) {
            const size_t left = count - m, mr = left < MOST_ROWS ? left : MOST_ROWS;
            const size_t ahead = m ? 0 : AHEAD; /* the first time the strip comes from memory, later from the cache */
            const char *rows = prepared + m * l.stride;
            float *to = y + m * w->rows + s * WIDTH;
            switch (mr) {
#if MOST_ROWS == 4
            case 4: TILE(4); break;
            case 3: TILE(3); break;
#endif
            case 2: TILE(2); break;
            default: TILE(1);
            }
            m += mr;
        }
    }
}

TARGET static void multiply(
    const fgr_packed *w, const void *prepared, size_t count, size_t first, size_t last, float *y
) {
#define STRIPS(bits, zero_points, short_scales) \
    case (bits) * 4 + (zero_points) * 2 + (short_scales): \
        strips(w, prepared, count, first, last, y, bits, zero_points, short_scales); \
        break

    switch (w->bits * 4 + w->zero_points * 2 + w->short_scales) {
        STRIPS(8, 0, 0);
        STRIPS(8, 0, 1);
        STRIPS(8, 1, 0);
        STRIPS(8, 1, 1);
        STRIPS(4, 0, 0);
        STRIPS(4, 0, 1);
        STRIPS(4, 1, 0);
        STRIPS(4, 1, 1);
    }
}
