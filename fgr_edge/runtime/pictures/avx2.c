/* AVX2: Haswell, Zen and later. */

#include "picture.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))
#define LANES 8

typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

TARGET static inline __attribute__((always_inline)) Ints widened(const uint8_t *bytes) {
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
}

#include "passes.h"

static int supported(void) { return __builtin_cpu_supports("avx2"); }

const fgr_passes fgr_avx2_passes = {"avx2", supported, across, down, row_of_frame};

#endif
