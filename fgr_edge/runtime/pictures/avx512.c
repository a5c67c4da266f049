/* AVX-512: Skylake-X, Zen 4 and later. */

#include "picture.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define LANES 16

typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

TARGET static inline __attribute__((always_inline)) Ints widened(const uint8_t *bytes) {
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)bytes));
}

#include "passes.h"

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const fgr_passes fgr_avx512_passes = {"avx512", supported, across, down, row_of_frame};

#endif
