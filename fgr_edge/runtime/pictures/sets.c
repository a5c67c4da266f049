/* Which instruction sets there are. */

#include "picture.h"

extern const fgr_passes fgr_avx512_passes, fgr_avx2_passes, fgr_plain_passes;

const fgr_passes *const fgr_instruction_sets[] = {
#if defined(__x86_64__)
    &fgr_avx512_passes,
    &fgr_avx2_passes,
#endif
    &fgr_plain_passes,
    NULL,
};

const fgr_passes *fgr_best_passes(void) {
    const fgr_passes *const *set = fgr_instruction_sets;
    while (!(*set)->supported()) set++; /* the last is supported everywhere */
    return *set;
}
