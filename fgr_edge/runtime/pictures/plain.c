/* What every processor has: NEON on aarch64, SSE2 on x86-64. */

#include "picture.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <string.h>
#endif

#define TARGET
#define LANES 4

typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

static inline __attribute__((always_inline)) Ints widened(const uint8_t *bytes) {
#if defined(__aarch64__)
    uint32_t four;
    __builtin_memcpy(&four, bytes, sizeof four);
    return (Ints)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
#else
    uint8_t four[LANES];
    memcpy(four, bytes, sizeof four);
    return (Ints){four[0], four[1], four[2], four[3]};
#endif
}

#include "passes.h"

static int supported(void) { return 1; }

const fgr_passes fgr_plain_passes = {"plain", supported, across, down, row_of_frame};
