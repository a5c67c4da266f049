/* An RGB picture's patches, as the vision graph reads them: normalized, merge block by merge block. */

#include "picture.h"

#include <string.h>

/* Patches of rows [from, until) of merge blocks: callers run one call a thread.

   picture  [H, W, 3] bytes; W is a multiple of patch * merge
   values   [3, 256] what each byte of each channel becomes
   result   [patches, 3, frames, patch, patch], of which the first is the first patch of row `from` */
FGR_EXPORT void fgr_patches(const uint8_t *picture, int32_t width, int32_t patch, int32_t merge, int32_t frames,
                            const float *values, int32_t from, int32_t until, float *result) {
    const ptrdiff_t row_bytes = 3 * (ptrdiff_t)width, area = (ptrdiff_t)patch * patch;
    const ptrdiff_t blocks = width / (patch * merge), in_block = (ptrdiff_t)merge * merge;
    for (ptrdiff_t at = from * blocks * in_block; at < until * blocks * in_block; at++) {
        const ptrdiff_t block = at / in_block, within = at % in_block;
        const ptrdiff_t top = (block / blocks * merge + within / merge) * patch;
        const ptrdiff_t left = (block % blocks * merge + within % merge) * patch;
        for (int channel = 0; channel < 3; channel++) {
            const uint8_t *pixels = picture + top * row_bytes + 3 * left + channel;
            const float *of_channel = values + 256 * channel;
            const float *first = result;
            for (int32_t y = 0; y < patch; y++, pixels += row_bytes)
                for (int32_t x = 0; x < patch; x++) *result++ = of_channel[pixels[3 * x]];
            for (int32_t frame = 1; frame < frames; frame++, result += area)
                memcpy(result, first, (size_t)area * sizeof *result);
        }
    }
}
