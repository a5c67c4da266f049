/* Random rows times random weights, by every way that this processor supports, compared with a plain product in doubles.

   Inputs that are int8 levels times a power of two are rounded to themselves: there only float32 sums may be off, by
   what one ulp for each block explains. Ordinary inputs may be off by half a level each, too. A row must be the same to
   the last bit whoever is computed with it and strip by strip, and nothing else of y may be written.

   Out: a line for each way that is supported: its name, how many values were compared, and the largest error as a share
   of what is allowed. 1 where a value is wrong, 2 where there is no memory. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "product.h"
#include "random_bits.h"

enum { ROWS = 13, GUARD = 64 };

typedef struct {
    size_t rows, columns, block;
    int bits, has_zero_points, has_bias, is_exact, has_short_scales;
    size_t threads;
} setting;

typedef struct {
    double value, allowed;
} expected;

static float uniform(void) { return (float)any() / 2147483648.0f - 1; }

static void *take(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(2);
    return memory;
}

static uint8_t *any_bytes(size_t count) {
    uint8_t *bytes = take(count);
    for (size_t i = 0; i < count; i++) bytes[i] = (uint8_t)(any() >> 11);
    return bytes;
}

/* `least` <= |value| < 1, for scales that are worth something. */
static float *any_floats(size_t count, float least) {
    float *floats = take(count * sizeof *floats);
    for (size_t i = 0; i < count; i++) {
        const float x = uniform();
        floats[i] = x < 0 ? x * (1 - least) - least : x * (1 - least) + least;
    }
    return floats;
}

static size_t blocks_of(const setting *s) { return (s->columns + s->block - 1) / s->block; }

/* One block in eight is zero; magnitudes differ from block to block. */
static void draw_block(const setting *s, float *x, size_t count) {
    if (any() % 8 == 0) {
        memset(x, 0, count * sizeof *x);
        return;
    }
    const float unit = ldexpf(1, (int)(any() % 17) - 8);
    for (size_t i = 0; i < count; i++) x[i] = s->is_exact ? (float)(any() % 255) - 127 : uniform();
    if (s->is_exact) x[any() % count] = any() % 2 ? 127 : -127; /* the largest is what the scale comes from */
    for (size_t i = 0; i < count; i++) x[i] *= unit;
}

static float *draw_inputs(const setting *s) {
    float *x = take(ROWS * s->columns * sizeof *x);
    for (size_t m = 0; m < ROWS; m++)
        for (size_t k = 0; k < s->columns; k += s->block) {
            const size_t left = s->columns - k;
            draw_block(s, x + m * s->columns + k, left < s->block ? left : s->block);
        }
    return x;
}

static fgr_weight draw_weight(const setting *s) {
    const size_t blocks = blocks_of(s), block_bytes = s->block * (size_t)s->bits / 8;
    fgr_weight w = {0};
    w.levels = any_bytes(s->rows * blocks * block_bytes); /* also behind the last column: its inputs are zero */
    w.scales = any_floats(s->rows * blocks, 0.25f);
    for (size_t i = 0; s->has_short_scales && i < s->rows * blocks; i++) { /* bfloat16, which are packed as such */
        uint32_t bits;
        memcpy(&bits, w.scales + i, sizeof bits);
        bits &= 0xffff0000;
        memcpy((float *)w.scales + i, &bits, sizeof bits);
    }
    w.zero_points = s->has_zero_points ? any_bytes(s->rows * ((blocks * (size_t)s->bits + 7) / 8)) : NULL;
    w.bias = s->has_bias ? any_floats(s->rows, 0.25f) : NULL;
    w.rows = s->rows;
    w.columns = s->columns;
    w.block = s->block;
    w.bits = s->bits;
    return w;
}

static void free_weight(fgr_weight *w) {
    free((void *)w->levels);
    free((void *)w->scales);
    free((void *)w->zero_points);
    free((void *)w->bias);
}

static int level(const uint8_t *row, size_t i, int bits) { return bits == 8 ? row[i] : row[i / 2] >> (i % 2 * 4) & 15; }

/* y[n] for the inputs x of one row, and how far off it may be. */
static expected expect(const setting *s, const fgr_weight *w, const float *x, size_t n) {
    const size_t blocks = blocks_of(s);
    const uint8_t *levels = w->levels + n * blocks * (s->block * (size_t)s->bits / 8);
    const uint8_t *points = w->zero_points ? w->zero_points + n * ((blocks * (size_t)s->bits + 7) / 8) : NULL;
    double value = w->bias ? w->bias[n] : 0, size = fabs(value), rounding = 0;
    for (size_t b = 0; b < blocks; b++) {
        const double scale = w->scales[n * blocks + b];
        const int point = points ? level(points, b, s->bits) : 1 << (s->bits - 1);
        double dot = 0, largest = 0, weights = 0;
        for (size_t k = b * s->block; k < s->columns && k < (b + 1) * s->block; k++) {
            const double weight = scale * (level(levels, k, s->bits) - point);
            dot += weight * x[k];
            weights += fabs(weight);
            largest = fmax(largest, fabs(x[k]));
        }
        value += dot;
        size += fabs(dot);
        rounding += weights * largest / 127 * 0.5001;
    }
    rounding = s->is_exact ? 0 : rounding;
    return (expected){value, rounding + (size + rounding) * ldexp((double)blocks + 4, -24)};
}

static float *new_outputs(const setting *s) {
    float *y = take((ROWS * s->rows + GUARD) * sizeof *y);
    memset(y, 0xff, (ROWS * s->rows + GUARD) * sizeof *y);
    return y;
}

/* The largest error as a share of what is allowed; infinite where a value is no number. */
static double worst_error(const setting *s, const fgr_weight *w, const float *x, const float *y) {
    double worst = 0;
    for (size_t m = 0; m < ROWS; m++)
        for (size_t n = 0; n < s->rows; n++) {
            const expected e = expect(s, w, x + m * s->columns, n);
            const double error = fabs(y[m * s->rows + n] - e.value);
            worst = error <= e.allowed ? fmax(worst, e.allowed > 0 ? error / e.allowed : 0) : isnan(error) ? INFINITY : fmax(worst, error / e.allowed);
        }
    return worst;
}

/* Whether `count` rows at a time, strip after strip from the last one, give what all at once gave, and no more. */
static int is_same(const fgr_way *way, const fgr_packed *p, const setting *s, const char *prepared, size_t count, const float *y) {
    float *again = new_outputs(s);
    const size_t stride = fgr_prepared_size(p);
    for (size_t m = 0; m < ROWS; m += count) {
        const size_t now = ROWS - m < count ? ROWS - m : count;
        for (size_t strip = p->strips; strip-- > 0;)
            way->multiply(p, prepared + m * stride, now, strip, strip + 1, again + m * s->rows);
    }
    const int same = !memcmp(again, y, (ROWS * s->rows + GUARD) * sizeof *y);
    free(again);
    return same;
}

static int check(const fgr_way *way, const setting *s, double *worst) {
    fgr_weight w = draw_weight(s);
    float *x = draw_inputs(s), *y = new_outputs(s);
    fgr_packed *p = fgr_pack(way, &w, s->threads);
    if (!p) exit(2);
    char *prepared = take(ROWS * fgr_prepared_size(p));
    way->prepare(p, x, ROWS / 2, ROWS, prepared); /* in two parts, as two threads do */
    way->prepare(p, x, 0, ROWS / 2, prepared);
    way->multiply(p, prepared, ROWS, 0, p->strips, y);
    const double error = worst_error(s, &w, x, y);
    int same = 1;
    for (size_t count = 1; count <= 8; count++) same &= is_same(way, p, s, prepared, count, y);
    if (error > 1 || !same)
        printf(
            "%s: [%zu, %zu], blocks of %zu, %d bits, zero points %d, bias %d, exact inputs %d, short scales %d: error %g of 1, %s\n",
            way->name, s->rows, s->columns, s->block, s->bits, s->has_zero_points, s->has_bias, s->is_exact,
            s->has_short_scales, error,
            same ? "always the same" : "not always the same"
        );
    *worst = fmax(*worst, error);
    free(prepared);
    fgr_free_packed(p);
    free(x);
    free(y);
    free_weight(&w);
    return error <= 1 && same;
}

static int check_way(const fgr_way *way) {
    static const size_t rows[] = {1, 17, 64, 131}, blocks[] = {8, 16, 32, 128};
    double worst = 0;
    size_t compared = 0;
    int right = 1;
    for (size_t r = 0; r < 4; r++)
        for (size_t b = 0; b < 4; b++)
            for (int choice = 0; choice < 32; choice++) {
                const size_t columns = choice % 2 ? 3 * blocks[b] : 2 * blocks[b] + 5; /* 5: the last block is cut */
                const setting s = {
                    rows[r], columns, blocks[b], choice & 2 ? 4 : 8, choice >> 2 & 1, any() % 2, choice >> 3 & 1,
                    choice >> 4, 1 + any() % 3
                };
                right &= check(way, &s, &worst);
                compared += ROWS * rows[r];
            }
    printf("%s: %zu values, largest error %.3f of what is allowed\n", way->name, compared, worst);
    return right;
}

int main(void) {
    int right = 1;
    for (const fgr_way *const *way = fgr_ways; *way; way++)
        if ((*way)->supported()) right &= check_way(*way);
    return !right;
}
