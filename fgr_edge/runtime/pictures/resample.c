/* Some rows of a resampled picture: callers run one call a thread. No call keeps anything.

   Pillow resamples along one axis, rounds to bytes, then along the other. Which comes first shows in the values; the
   caller says it. */

#include "picture.h"

#include <stdlib.h>
#include <string.h>

/* What a call works with. */
typedef struct {
    const fgr_picture *picture;
    const fgr_passes *passes;
    fgr_weights horizontal, vertical; /* of all columns; of the rows that are asked for */
    int first, last;                  /* rows of the picture that they have weights for, some of them 0 */
    int width, count;                 /* of the result */
} fgr_work;

/* Rows of pixels: the picture's own, or copies. */
typedef struct {
    const uint8_t **rows;
    uint8_t *copies;
} fgr_rows;

static void close_rows(fgr_rows *rows) {
    free(rows->rows);
    free(rows->copies);
    memset(rows, 0, sizeof *rows);
}

/* `count` rows from `first` on, each at least `width` pixels long. For one that is not there: the nearest that is. */
static int open_rows(const fgr_work *work, int first, int count, int width, fgr_rows *opened) {
    const fgr_picture *picture = work->picture;
    const int own = picture->rows && width == picture->width;
    const size_t bytes = 4 * (size_t)width;
    opened->rows = malloc((size_t)count * sizeof *opened->rows);
    opened->copies = own ? NULL : calloc((size_t)count, bytes);
    if (!opened->rows || (!own && !opened->copies)) return -1;
    for (int i = 0; i < count; i++) {
        const ptrdiff_t wanted = first + i, most = picture->last - 1;
        const ptrdiff_t row = wanted < picture->first ? picture->first : wanted > most ? most : wanted;
        uint8_t *copy = own ? NULL : opened->copies + (size_t)i * bytes;
        opened->rows[i] = own ? picture->rows[row] : copy;
        if (!picture->rows)
            work->passes->row_of_frame(picture->y + row * picture->y_stride,
                                       picture->colours + row / 2 * picture->colours_stride, picture->matrix,
                                       picture->width, copy);
        else if (!own)
            memcpy(copy, picture->rows[row], 4 * (size_t)picture->width);
    }
    return 0;
}

/* Pixels of four bytes to three. */
static void pack(const uint8_t *pixels, int count, uint8_t *result) {
    for (int x = 0; x < count; x++, pixels += 4, result += 3) {
        result[0] = pixels[0];
        result[1] = pixels[1];
        result[2] = pixels[2];
    }
}

/* All pixels of `count` rows. The last group of rows begins earlier, so that it is whole: some are made twice. */
static void across_rows(const fgr_work *work, const uint8_t *const *rows, int count, uint8_t *const *results) {
    for (int group = 0; group < count; group += ROWS_AT_ONCE) {
        const int start = group + ROWS_AT_ONCE <= count || count < ROWS_AT_ONCE ? group : count - ROWS_AT_ONCE;
        const uint8_t *from[ROWS_AT_ONCE];
        uint8_t *to[ROWS_AT_ONCE];
        for (int i = 0; i < ROWS_AT_ONCE; i++) {
            const int row = start + i < count ? start + i : count - 1;
            from[i] = rows[row];
            to[i] = results[row];
        }
        const fgr_weights *weights = &work->horizontal;
        work->passes->across(from, weights->weights, weights->first, weights->taps, work->width, to);
    }
}

/* Row `row` of the result, of rows that begin with `work->first`. */
static void down_row(const fgr_work *work, const uint8_t *const *rows, int row, size_t bytes, uint8_t *result) {
    const fgr_weights *weights = &work->vertical;
    work->passes->down(rows + (weights->first[row] - work->first),
                       weights->weights + (size_t)row * (size_t)weights->taps, weights->taps, bytes, result);
}

static int at_least(int width) { return width < MOST_LANES / 4 ? MOST_LANES / 4 : width; }

static int rows_first(const fgr_work *work, uint8_t *result) {
    enum { SOME = 2 * ROWS_AT_ONCE }; /* rows that are opened together: a frame's stay in the cache */
    const int between = work->last - work->first;
    const size_t bytes = 4 * (size_t)at_least(work->width);
    uint8_t *made = calloc((size_t)between + 1, bytes), **narrow = malloc((size_t)between * sizeof *narrow);
    int status = made && narrow ? 0 : -1;
    for (int row = 0; !status && row < between; row++) narrow[row] = made + (size_t)row * bytes;
    for (int row = 0; !status && row < between; row += SOME) {
        const int some = between - row < SOME ? between - row : SOME;
        fgr_rows opened = {0};
        status = open_rows(work, work->first + row, some, work->horizontal.padded, &opened);
        if (!status) across_rows(work, opened.rows, some, narrow + row);
        close_rows(&opened);
    }
    for (int row = 0; !status && row < work->count; row++) {
        uint8_t *line = made + (size_t)between * bytes;
        down_row(work, (const uint8_t *const *)narrow, row, bytes, line);
        pack(line, work->width, result + 3 * (size_t)work->width * (size_t)row);
    }
    free(made);
    free(narrow);
    return status;
}

static int columns_first(const fgr_work *work, uint8_t *result) {
    const int wide = at_least(work->horizontal.padded);
    const size_t bytes = 4 * (size_t)wide, narrow_bytes = 4 * (size_t)work->width;
    uint8_t *made = malloc(ROWS_AT_ONCE * (bytes + narrow_bytes));
    fgr_rows opened = {0};
    int status = made ? open_rows(work, work->first, work->last - work->first, wide, &opened) : -1;
    for (int row = 0; !status && row < work->count; row += ROWS_AT_ONCE) {
        const int some = work->count - row < ROWS_AT_ONCE ? work->count - row : ROWS_AT_ONCE;
        const uint8_t *lines[ROWS_AT_ONCE];
        uint8_t *narrow[ROWS_AT_ONCE];
        for (int i = 0; i < some; i++) {
            uint8_t *line = made + (size_t)i * bytes;
            down_row(work, opened.rows, row + i, bytes, line);
            lines[i] = line;
            narrow[i] = made + ROWS_AT_ONCE * bytes + (size_t)i * narrow_bytes;
        }
        across_rows(work, lines, some, narrow);
        for (int i = 0; i < some; i++)
            pack(narrow[i], work->width, result + 3 * (size_t)work->width * (size_t)(row + i));
    }
    close_rows(&opened);
    free(made);
    return status;
}

/* Rows [from, until) of a picture resampled to width x height: result [until - from, width, 3]. 0, or -1 where there is
   no memory. */
FGR_EXPORT int fgr_resample(const fgr_picture *picture, int32_t width, int32_t height, int32_t from, int32_t until,
                            int32_t columns_come_first, uint8_t *result) {
    fgr_work work = {.picture = picture, .passes = fgr_best_passes(), .width = width, .count = until - from};
    int status = fgr_make_weights(picture->width, width, 0, width, 4, TAPS_MULTIPLE, &work.horizontal);
    if (!status) status = fgr_make_weights(picture->height, height, from, until, 1, 1, &work.vertical);
    if (!status) {
        work.first = work.vertical.first[0];
        work.last = work.vertical.first[work.count - 1] + work.vertical.taps;
        status = columns_come_first ? columns_first(&work, result) : rows_first(&work, result);
    }
    fgr_free_weights(&work.horizontal);
    fgr_free_weights(&work.vertical);
    return status;
}

/* Rows [from, until) of a frame as they are: result [until - from, width, 4]. */
FGR_EXPORT void fgr_frame_rows(const fgr_picture *frame, int32_t from, int32_t until, uint8_t *result) {
    const fgr_passes *passes = fgr_best_passes();
    for (ptrdiff_t row = from; row < until; row++, result += 4 * (size_t)frame->width)
        passes->row_of_frame(frame->y + row * frame->y_stride, frame->colours + row / 2 * frame->colours_stride,
                             frame->matrix, frame->width, result);
}
