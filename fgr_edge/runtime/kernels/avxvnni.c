/* AVX-VNNI, 256 bits: Alder Lake and later without AVX-512. */

#include "product.h"

#if HAS_AVXVNNI

#include <cpuid.h>
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,avxvnni,fma")))
#define LANES 8
#define MOST_ROWS 2
#define COLUMNS 2
#define IS_SIGNED 0
#define OP TARGET static inline __attribute__((always_inline))

typedef __m256i vint;
typedef __m256 vfloat;

OP vint int_load(const void *p) { return _mm256_loadu_si256(p); }
OP vint int_all(int32_t x) { return _mm256_set1_epi32(x); }
OP vint int_all_quads(const void *p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return _mm256_set1_epi32(quad);
}
OP vint int_of_bytes(const void *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p)); }
OP vint int_minus(vint a, vint b) { return _mm256_sub_epi32(a, b); }
OP vint int_times(vint a, vint b) { return _mm256_mullo_epi32(a, b); }
OP vint lower_halves(vint x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
OP vint upper_halves(vint x) { return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15)); }
/* _mm256_dpbusd_avx_epi32, as in avx512vnni.c: the sums stay where they are. */
OP vint dot(vint sums, vint levels, vint inputs) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(levels), "x"(inputs));
    return sums;
}
OP vfloat float_all(float x) { return _mm256_set1_ps(x); }
OP vfloat float_load(const void *p) { return _mm256_loadu_ps(p); }
OP vfloat float_load_short(const void *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
OP void float_store(float *p, vfloat x) { _mm256_storeu_ps(p, x); }
OP vfloat float_of(vint x) { return _mm256_cvtepi32_ps(x); }
OP vfloat float_times(vfloat a, vfloat b) { return _mm256_mul_ps(a, b); }
OP vfloat float_plus_times(vfloat sum, vfloat a, vfloat b) { return _mm256_fmadd_ps(a, b, sum); }
OP vfloat float_plus(vfloat a, vfloat b) { return _mm256_add_ps(a, b); }
OP vfloat float_larger(vfloat a, vfloat b) { return _mm256_max_ps(a, b); }
OP float float_largest(vfloat x) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
OP vfloat float_power(vfloat x) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_slli_epi32(_mm256_castps_si256(x), 23), _mm256_set1_epi32(0x3f800000))
    );
}
OP vfloat float_unless_below(vfloat y, vfloat x, float least) {
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(least), _CMP_LT_OQ), y);
}

#include "tiles.h"

#include "attend.h"

#include "sums.h"

/* Not every compiler's __builtin_cpu_supports knows the name. */
static int supported(void) {
    unsigned a, b, c, d;
    const unsigned avx_vnni = 1u << 4; /* of EAX */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
           (a & avx_vnni) != 0;
}

const fgr_way fgr_avxvnni = {"avxvnni", supported, WIDTH, IS_SIGNED, prepare, multiply, collect, attend, log_sum};

#endif
