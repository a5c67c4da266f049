/* Products of float rows with quantized weights, y = x W^T + b: what decoding waits for.

   Weights come as ONNX Runtime's MatMulNBits has them, and are packed once into strips: the columns of a strip lie side
   by side in the lanes of vectors, so that a call reads memory from one end to the other and adds up nothing across
   lanes. Inputs are rounded to int8, one scale a row and block, as MatMulNBits does at accuracy level 4. Products within
   a block are summed as integers, exactly; blocks are added in float32 one after the other. No other row, thread or tile
   enters into it: a row of y is the same to the last bit, however many rows are computed with it. */

#ifndef FGR_EDGE_PRODUCT_H
#define FGR_EDGE_PRODUCT_H

#include <stddef.h>
#include <stdint.h>

#include "attention.h"

/* W [N, K] as it is stored. */
typedef struct {
    const uint8_t *levels;      /* [N, blocks, block * bits / 8]; with 4 bits the first of two in the lower half */
    const float *scales;        /* [N, blocks] */
    const uint8_t *zero_points; /* [N, blocks], with 4 bits two a byte; or NULL: the middle level, 8 or 128 */
    const float *bias;          /* [N], or NULL */
    size_t rows, columns;       /* N, K */
    size_t block;               /* inputs that share a scale: a multiple of 8 */
    int bits;                   /* 4 or 8 */
} fgr_weight;

/* W as it is multiplied: strips one behind the other, each of

     float bias[width]
     for each block of inputs:
       float scales[width]                or bfloat16, where all of W's are
       uint8 zero_points[width]           where there are any; with 4 bits [width / 2], the later half in the upper halves
       uint8 levels[block / q][width][4]  q = 4: four inputs side by side; with 4 bits q = 8, the later four in the
                                          upper halves of the bytes

   With 8 bits on instruction sets that multiply signed bytes alone, levels are less 128. */
typedef struct {
    size_t rows, columns, block, blocks;
    int bits, zero_points, short_scales;
    int32_t lowered;    /* what levels are still to be lowered by, beside their zero points */
    size_t width;       /* of a strip, in columns of y */
    size_t strips;
    size_t strip_bytes;
    char *memory;
} fgr_packed;

/* The products of one instruction set. */
typedef struct {
    const char *name;
    int (*supported)(void); /* on the processor that this runs on */
    size_t width;           /* of a strip */
    int is_signed;          /* whether bytes of levels are */
    /* Round rows [from, until) of x [., K] into `prepared`: fgr_prepared_size bytes, aligned to 64. */
    void (*prepare)(const fgr_packed *w, const float *x, size_t from, size_t until, void *prepared);
    /* Columns of strips [first, last) of y [count, N]. */
    void (*multiply)(const fgr_packed *w, const void *prepared, size_t count, size_t first, size_t last, float *y);
    /* One part each; see attention.h. */
    void (*collect)(const fgr_attention *a, size_t part);
    void (*attend)(const fgr_attention *a, size_t part);
    double (*log_sum)(const float *x, size_t count); /* the logarithm of the sum of exponentials */
} fgr_way;

/* GCC knows these instructions since version 11. */
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 11)
#define HAS_AVXVNNI 1
#else
#define HAS_AVXVNNI 0
#endif

extern const fgr_way *const fgr_ways[]; /* best first; NULL behind the last */

/* The best way that this processor supports, or NULL. */
const fgr_way *fgr_best_way(void);

/* On up to `threads` threads; NULL where there is no memory. */
fgr_packed *fgr_pack(const fgr_way *way, const fgr_weight *w, size_t threads);
void fgr_free_packed(fgr_packed *w);

/* Bytes that a row of inputs takes when it is rounded; a multiple of 64. */
size_t fgr_prepared_size(const fgr_packed *w);

#endif
