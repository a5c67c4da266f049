/* A picture or a camera's frame, resampled as Pillow does it and cut into patches: what the parts of it share. */

#ifndef FGR_EDGE_PICTURE_H
#define FGR_EDGE_PICTURE_H

#include <stddef.h>
#include <stdint.h>

#define FGR_EXPORT __attribute__((visibility("default")))

enum {
    WEIGHT_BITS = 22,  /* a weight of 1 is 2^22: sums of products with bytes fit into 32 bits */
    ROWS_AT_ONCE = 4,  /* that `across` sums with a weight that it has loaded */
    TAPS_MULTIPLE = 4, /* of its weights of a pixel */
    MOST_LANES = 16,
};

/* Either rows of pixels or the planes of a frame in NV12. Python fills it in, in this order. */
typedef struct {
    const uint8_t *const *rows;    /* [height] rows of four bytes a pixel: R, G, B and one that nobody reads; or NULL */
    const uint8_t *y;              /* [height, width] */
    const uint8_t *colours;        /* [height / 2, width]: Cb and Cr in turns */
    ptrdiff_t y_stride, colours_stride;
    const float *matrix;           /* [3, 4]: what R, G and B are of Y, Cb, Cr and 1 */
    int32_t width, height;
    int32_t first, last;           /* rows [first, last) are there; others have no weight in what is asked for */
} fgr_picture;

/* What each of some results is a weighted sum of. */
typedef struct {
    int taps;         /* weights of a result: as many for each, some of them 0 */
    int padded;       /* pixels that there must be: the picture's, or `taps` where it has fewer */
    int32_t *first;   /* [results] the pixel of the first weight; `first + taps` is at most `padded` */
    int32_t *weights; /* [results, taps, copies] */
} fgr_weights;

/* Pillow's bicubic weights of results [from, until), where `pixels` are resampled to `results`: each `copies` times,
   their number a multiple of `multiple`. -1 where there is no memory. */
int fgr_make_weights(int pixels, int results, int from, int until, int copies, int multiple, fgr_weights *made);
void fgr_free_weights(fgr_weights *weights);

/* The passes of one instruction set. They compute the same on all. */
typedef struct {
    const char *name;
    int (*supported)(void); /* on the processor that this runs on */
    /* Pixels [0, count) of ROWS_AT_ONCE rows: weights [count, taps, 4], first [count]. */
    void (*across)(const uint8_t *const *rows, const int32_t *weights, const int32_t *first, int taps, int count,
                   uint8_t *const *results);
    /* The sum of `taps` rows of `bytes` bytes, at least MOST_LANES: weights [taps]. */
    void (*down)(const uint8_t *const *rows, const int32_t *weights, int taps, size_t bytes, uint8_t *result);
    /* A row of a frame as pixels of four bytes. */
    void (*row_of_frame)(const uint8_t *y, const uint8_t *colours, const float *matrix, int width, uint8_t *result);
} fgr_passes;

extern const fgr_passes *const fgr_instruction_sets[]; /* best first; NULL behind the last */

/* The best that this processor supports. */
const fgr_passes *fgr_best_passes(void);

#endif
