/* The passes of every instruction set that this processor supports, on random pictures, compared number by number with
   sums in 64 bits (and, for colours, with float32 taken one at a time). Nothing else may be written. Then whole pictures,
   by the best set: a frame is resampled as its RGB pixels are, and in parts as in one call. That the values are Pillow's
   is for test_compiled.py.

   Out: a line for each set: its name, and how many bytes were compared. 1 where one is wrong, 2 where there is no memory. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "picture.h"
#include "random_bits.h"

enum { ROUNDS = 300, GUARD = 64, MOST = 200 };

static int up_to(int most) { return (int)(any() % (uint32_t)most); }

/* Random bytes, of which the last is the last of its allocation: sanitizers see what is read behind it. */
static uint8_t *bytes(size_t count) {
    uint8_t *made = malloc(count ? count : 1);
    if (!made) exit(2);
    for (size_t i = 0; i < count; i++) made[i] = any() % 8 ? (uint8_t)any() : any() % 2 ? 255 : 0;
    return made;
}

static int32_t weight(void) { return (int32_t)(any() % (3 << (WEIGHT_BITS - 2))) - (1 << (WEIGHT_BITS - 3)); }

static uint8_t rounded(int64_t sum) {
    const int64_t value = (sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

static void fail(const fgr_passes *set, const char *pass, int at) {
    printf("%s: %s is wrong at %d\n", set->name, pass, at);
    exit(1);
}

static long check_across(const fgr_passes *set) {
    const int taps = TAPS_MULTIPLE * (1 + up_to(12)), width = taps + up_to(MOST), count = 1 + up_to(MOST);
    int32_t *weights = malloc(4 * sizeof *weights * (size_t)(taps * count)), *first = malloc(sizeof *first * (size_t)count);
    uint8_t *rows[ROWS_AT_ONCE], *results[ROWS_AT_ONCE];
    if (!weights || !first) exit(2);
    for (int x = 0; x < count; x++) {
        first[x] = up_to(width - taps + 1);
        for (int tap = 0; tap < taps; tap++) {
            const int32_t one = weight() / taps * 2;
            for (int copy = 0; copy < 4; copy++) weights[4 * (x * taps + tap) + copy] = one;
        }
    }
    for (int row = 0; row < ROWS_AT_ONCE; row++) {
        rows[row] = bytes(4 * (size_t)width);
        results[row] = bytes(4 * (size_t)count + GUARD);
        memset(results[row] + 4 * count, 77, GUARD);
    }
    set->across((const uint8_t *const *)rows, weights, first, taps, count, results);
    for (int row = 0; row < ROWS_AT_ONCE; row++) {
        for (int i = 0; i < 4 * count; i++) {
            int64_t sum = 0;
            for (int tap = 0; tap < taps; tap++)
                sum += (int64_t)weights[4 * (i / 4 * taps + tap)] * rows[row][4 * (first[i / 4] + tap) + i % 4];
            if (i % 4 < 3 && results[row][i] != rounded(sum)) fail(set, "across", i);
        }
        for (int i = 0; i < GUARD; i++)
            if (results[row][4 * count + i] != 77) fail(set, "what lies behind across", i);
        free(rows[row]);
        free(results[row]);
    }
    free(weights);
    free(first);
    return 3L * ROWS_AT_ONCE * count;
}

static long check_down(const fgr_passes *set) {
    const int taps = 1 + up_to(40), count = MOST_LANES + up_to(4 * MOST);
    const uint8_t **rows = malloc(sizeof *rows * (size_t)taps);
    int32_t *weights = malloc(sizeof *weights * (size_t)taps);
    uint8_t *result = bytes((size_t)count + GUARD);
    if (!rows || !weights) exit(2);
    memset(result + count, 77, GUARD);
    for (int tap = 0; tap < taps; tap++) {
        rows[tap] = bytes((size_t)count);
        weights[tap] = weight() / taps * 2;
    }
    set->down(rows, weights, taps, (size_t)count, result);
    for (int i = 0; i < count; i++) {
        int64_t sum = 0;
        for (int tap = 0; tap < taps; tap++) sum += (int64_t)weights[tap] * rows[tap][i];
        if (result[i] != rounded(sum)) fail(set, "down", i);
    }
    for (int i = 0; i < GUARD; i++)
        if (result[count + i] != 77) fail(set, "what lies behind down", i);
    for (int tap = 0; tap < taps; tap++) free((void *)rows[tap]);
    free(rows);
    free(weights);
    free(result);
    return count;
}

static long check_row_of_frame(const fgr_passes *set) {
    /* BT.709 in limited range, and something else of that size. */
    float matrix[12] = {1.1643836f, 0, 1.7927411f, -248.1f, 1.1643836f, -0.2132486f, -0.5329093f, 76.9f,
                        1.1643836f, 2.1124018f, 0, -289.0f};
    if (any() % 2)
        for (int i = 0; i < 12; i++) matrix[i] *= 0.5f + (float)up_to(1000) / 1000;
    const int width = 2 * (1 + up_to(MOST));
    uint8_t *y = bytes((size_t)width), *colours = bytes((size_t)width), *result = bytes(4 * (size_t)width + GUARD);
    memset(result + 4 * width, 77, GUARD);
    set->row_of_frame(y, colours, matrix, width, result);
    for (int x = 0; x < width; x++)
        for (int i = 0; i < 3; i++) {
            const float *row = matrix + 4 * i;
            float sum = row[0] * y[x];
            sum += row[1] * colours[x & ~1];
            sum += row[2] * colours[x | 1];
            sum += row[3];
            sum += 0.5f;
            const int value = (int)sum;
            if (result[4 * x + i] != (value < 0 ? 0 : value > 255 ? 255 : value)) fail(set, "row_of_frame", x);
        }
    for (int i = 0; i < GUARD; i++)
        if (result[4 * width + i] != 77) fail(set, "what lies behind row_of_frame", i);
    free(y);
    free(colours);
    free(result);
    return 3L * width;
}

int fgr_resample(const fgr_picture *, int32_t, int32_t, int32_t, int32_t, int32_t, uint8_t *);
void fgr_frame_rows(const fgr_picture *, int32_t, int32_t, uint8_t *);

static void check_pictures(const fgr_passes *set) {
    const float matrix[12] = {1, 0, 1.402f, -179.456f, 1, -0.344136f, -0.714136f, 135.458816f, 1, 1.772f, 0, -226.816f};
    const int width = 2 * (1 + up_to(60)), height = 2 * (1 + up_to(60)), columns_first = up_to(2);
    const int to_width = 1 + up_to(90), to_height = 1 + up_to(90), middle = up_to(to_height + 1);
    uint8_t *y = bytes((size_t)(width * height)), *colours = bytes((size_t)(width * height / 2));
    const size_t size = 3 * (size_t)(to_width * to_height);
    uint8_t *of_frame = bytes(size), *of_rows = bytes(size);
    const uint8_t **rows = malloc(sizeof *rows * (size_t)height);
    if (!rows) exit(2);
    const fgr_picture frame = {NULL, y, colours, width, width, matrix, width, height, 0, height};
    for (int row = 0; row < height; row++) {
        uint8_t *pixels = bytes(4 * (size_t)width);
        fgr_frame_rows(&frame, row, row + 1, pixels);
        rows[row] = pixels;
    }
    if (fgr_resample(&frame, to_width, to_height, 0, to_height, columns_first, of_frame)) exit(2);
    const int until[2] = {middle, to_height};
    for (int part = 0, from = 0; part < 2; from = until[part++]) {
        if (from == until[part]) continue;
        /* The rows that the kernel reaches are there, and the others may not be looked at. */
        const double scale = (double)height / to_height, reach = 2 * (scale < 1 ? 1 : scale) + 1;
        const int first = (int)(from * scale - reach), last = (int)(until[part] * scale + reach) + 1;
        const fgr_picture picture = {rows,  NULL,   NULL, 0, 0, NULL, width, height, first < 0 ? 0 : first,
                                     last > height ? height : last};
        const uint8_t *hidden[240];
        for (int row = 0; row < height; row++) {
            hidden[row] = rows[row];
            if (row < picture.first || row >= picture.last) rows[row] = NULL;
        }
        uint8_t *result = of_rows + 3 * (size_t)(to_width * from);
        if (fgr_resample(&picture, to_width, to_height, from, until[part], columns_first, result)) exit(2);
        memcpy(rows, hidden, sizeof *rows * (size_t)height);
    }
    if (memcmp(of_frame, of_rows, size)) fail(set, "a picture in parts", middle);
    for (int row = 0; row < height; row++) free((void *)rows[row]);
    free(rows);
    free(y);
    free(colours);
    free(of_frame);
    free(of_rows);
}

int main(void) {
    for (int round = 0; round < ROUNDS; round++) check_pictures(fgr_best_passes());
    for (const fgr_passes *const *set = fgr_instruction_sets; *set; set++) {
        if (!(*set)->supported()) continue;
        long compared = 0;
        for (int round = 0; round < ROUNDS; round++)
            compared += check_across(*set) + check_down(*set) + check_row_of_frame(*set);
        printf("%s: %ld bytes\n", (*set)->name, compared);
    }
    return 0;
}
