/* NEON with dot products (Armv8.2-A DotProd): Cortex-A76, A78AE (Jetson Orin), Neoverse, Apple M1 and later. */

#include "product.h"

#if defined(__aarch64__)

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#if defined(__clang__)
#define TARGET __attribute__((target("dotprod")))
#else
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#endif
#define LANES 4
#define MOST_ROWS 4
#define COLUMNS 4
#define IS_SIGNED 1
#define OP TARGET static inline __attribute__((always_inline))

typedef int32x4_t vint;
typedef float32x4_t vfloat;

OP vint int_load(const void *p) { return vreinterpretq_s32_u8(vld1q_u8(p)); }
OP vint int_all(int32_t x) { return vdupq_n_s32(x); }
OP vint int_all_quads(const void *p) {
    int32_t quad;
    __builtin_memcpy(&quad, p, sizeof quad);
    return vdupq_n_s32(quad);
}
OP vint int_of_bytes(const void *p) {
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
}
OP vint int_minus(vint a, vint b) { return vsubq_s32(a, b); }
OP vint int_times(vint a, vint b) { return vmulq_s32(a, b); }
OP vint lower_halves(vint x) {
    return vreinterpretq_s32_u8(vandq_u8(vreinterpretq_u8_s32(x), vdupq_n_u8(15)));
}
OP vint upper_halves(vint x) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(x), 4)); }
OP vint dot(vint sums, vint levels, vint inputs) {
    return vdotq_s32(sums, vreinterpretq_s8_s32(levels), vreinterpretq_s8_s32(inputs));
}
OP vfloat float_all(float x) { return vdupq_n_f32(x); }
OP vfloat float_load(const void *p) { return vld1q_f32(p); }
OP vfloat float_load_short(const void *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
OP void float_store(float *p, vfloat x) { vst1q_f32(p, x); }
OP vfloat float_of(vint x) { return vcvtq_f32_s32(x); }
OP vfloat float_times(vfloat a, vfloat b) { return vmulq_f32(a, b); }
OP vfloat float_plus_times(vfloat sum, vfloat a, vfloat b) { return vfmaq_f32(sum, a, b); }
OP vfloat float_plus(vfloat a, vfloat b) { return vaddq_f32(a, b); }
OP vfloat float_larger(vfloat a, vfloat b) { return vmaxq_f32(a, b); }
OP float float_largest(vfloat x) { return vmaxvq_f32(x); }
OP vfloat float_power(vfloat x) {
    return vreinterpretq_f32_s32(vaddq_s32(vshlq_n_s32(vreinterpretq_s32_f32(x), 23), vdupq_n_s32(0x3f800000)));
}
OP vfloat float_unless_below(vfloat y, vfloat x, float least) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(y), vcltq_f32(x, vdupq_n_f32(least))));
}

#include "tiles.h"

#include "attend.h"

#include "sums.h"

static int supported(void) {
#if defined(__linux__)
    const unsigned long dot_product = 1ul << 20; /* HWCAP_ASIMDDP */
    return (getauxval(AT_HWCAP) & dot_product) != 0;
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return !sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, NULL, 0) && has;
#else
    return 0;
#endif
}

const fgr_way fgr_neondot = {"neondot", supported, WIDTH, IS_SIGNED, prepare, multiply, collect, attend, log_sum};

#endif
