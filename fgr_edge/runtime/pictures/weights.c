/* Weights as Pillow computes them: in double, then rounded to whole numbers.

   The kernel is Keys' cubic with a = -1/2, stretched where a picture shrinks (antialiasing). The operations are Pillow's,
   in Pillow's order: the same doubles give the same whole numbers. */

#include "picture.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double cubic(double x) {
    const double a = -0.5;
    if (x < 0) x = -x;
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

static int32_t whole(double weight) {
    const double scaled = weight * (1 << WEIGHT_BITS);
    return (int32_t)(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

int fgr_make_weights(int pixels, int results, int from, int until, int copies, int multiple, fgr_weights *made) {
    const double scale = (double)pixels / results, stretch = scale < 1 ? 1 : scale, reach = 2 * stretch;
    const int most = (int)ceil(reach) * 2 + 1, taps = (most + multiple - 1) / multiple * multiple;
    const size_t count = (size_t)(until - from), stride = (size_t)taps * (size_t)copies;
    made->taps = taps;
    made->padded = pixels < taps ? taps : pixels;
    made->first = malloc(count * sizeof *made->first);
    made->weights = calloc(count * stride, sizeof *made->weights);
    double *exact = malloc((size_t)most * sizeof *exact);
    const int failed = !made->first || !made->weights || !exact;
    for (int i = 0; !failed && i < until - from; i++) {
        const double middle = (from + i + 0.5) * scale, per_pixel = 1 / stretch;
        int low = (int)(middle - reach + 0.5), high = (int)(middle + reach + 0.5);
        if (low < 0) low = 0;
        if (high > pixels) high = pixels;
        double sum = 0;
        for (int x = low; x < high; x++) sum += exact[x - low] = cubic((x - middle + 0.5) * per_pixel);
        const int first = low + taps <= made->padded ? low : made->padded - taps; /* nothing is read behind the end */
        made->first[i] = first;
        for (int x = low; x < high; x++) {
            const int32_t weight = whole(sum != 0 ? exact[x - low] / sum : exact[x - low]);
            for (int copy = 0; copy < copies; copy++)
                made->weights[(size_t)i * stride + (size_t)((x - first) * copies + copy)] = weight;
        }
    }
    free(exact);
    return failed ? -1 : 0;
}

void fgr_free_weights(fgr_weights *weights) {
    free(weights->first);
    free(weights->weights);
    memset(weights, 0, sizeof *weights);
}
