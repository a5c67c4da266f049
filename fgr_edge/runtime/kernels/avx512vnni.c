/* AVX-512 with VNNI: Cascade Lake, Ice Lake, Zen 4 and later. */

#include "product.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma")))
#define LANES 16
#define MOST_ROWS 4
#define COLUMNS 4
#define IS_SIGNED 0
#define OP TARGET static inline __attribute__((always_inline))

typedef __m512i vint;
typedef __m512 vfloat;

OP vint int_load(const void *p) { return _mm512_loadu_si512(p); }
OP vint int_all(int32_t x) { return _mm512_set1_epi32(x); }
OP vint int_all_quads(const void *p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return _mm512_set1_epi32(quad);
}
OP vint int_of_bytes(const void *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128(p)); }
OP vint int_minus(vint a, vint b) { return _mm512_sub_epi32(a, b); }
OP vint int_times(vint a, vint b) { return _mm512_mullo_epi32(a, b); }
OP vint lower_halves(vint x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
OP vint upper_halves(vint x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }
/* _mm512_dpbusd_epi32, whose sums GCC 12 copies from register to register and onto the stack: 0.6 times as fast. */
OP vint dot(vint sums, vint levels, vint inputs) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(levels), "v"(inputs));
    return sums;
}
OP vfloat float_all(float x) { return _mm512_set1_ps(x); }
OP vfloat float_load(const void *p) { return _mm512_loadu_ps(p); }
OP vfloat float_load_short(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
OP void float_store(float *p, vfloat x) { _mm512_storeu_ps(p, x); }
OP vfloat float_of(vint x) { return _mm512_cvtepi32_ps(x); }
OP vfloat float_times(vfloat a, vfloat b) { return _mm512_mul_ps(a, b); }
OP vfloat float_plus_times(vfloat sum, vfloat a, vfloat b) { return _mm512_fmadd_ps(a, b, sum); }
OP vfloat float_plus(vfloat a, vfloat b) { return _mm512_add_ps(a, b); }
OP vfloat float_larger(vfloat a, vfloat b) { return _mm512_max_ps(a, b); }
OP float float_largest(vfloat x) { return _mm512_reduce_max_ps(x); }
OP vfloat float_power(vfloat x) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_slli_epi32(_mm512_castps_si512(x), 23), _mm512_set1_epi32(0x3f800000))
    );
}
OP vfloat float_unless_below(vfloat y, vfloat x, float least) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_NLT_UQ), y);
}

#include "tiles.h"

#include "attend.h"

#include "sums.h"

static int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}

const fgr_way fgr_avx512vnni = {"avx512vnni", supported, WIDTH, IS_SIGNED, prepare, multiply, collect, attend, log_sum};

#endif
