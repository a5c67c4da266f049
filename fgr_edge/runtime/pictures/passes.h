/* The passes of one instruction set. Whoever includes this defines

     TARGET    attribute of functions: the instruction set
     LANES     of 32 bits in a vector: 4, 8 or 16
     widened   a function: LANES bytes at an address as Ints

   The rest is written with the vector types of GCC and Clang. */

#include <string.h>

#include "picture.h"

#define INLINE TARGET static inline __attribute__((always_inline))
#define EACH(i, count) _Pragma("GCC unroll 4") for (int i = 0; i < (count); i++)

enum { TAPS = LANES / 4, VECTORS = 4 };

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Pixel __attribute__((vector_size(16)));
typedef uint16_t Shorts __attribute__((vector_size(2 * LANES)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

/* Sums of products as bytes: to the nearest, below 0 to 0, above 255 to 255. */
#define ROUNDED(type, sums)                                                    \
    ({                                                                         \
        type shifted = ((sums) + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS;     \
        shifted &= ~(shifted < 0);                                             \
        (shifted & ~(shifted > 255)) | (255 & (shifted > 255));                \
    })

TARGET static void across(const uint8_t *const *rows, const int32_t *weights, const int32_t *first, int taps, int count,
                          uint8_t *const *results) {
    for (int x = 0; x < count; x++, weights += 4 * taps) {
        Ints sums[ROWS_AT_ONCE] = {{0}};
        for (int tap = 0; tap < taps; tap += TAPS) {
            Ints weight;
            memcpy(&weight, weights + 4 * tap, sizeof weight);
            EACH(row, ROWS_AT_ONCE) sums[row] += widened(rows[row] + 4 * (first[x] + tap)) * weight;
        }
        EACH(row, ROWS_AT_ONCE) {
            Pixel parts[TAPS], sum = {0};
            memcpy(parts, &sums[row], sizeof parts);
            EACH(part, TAPS) sum += parts[part];
            const Pixel made = ROUNDED(Pixel, sum);
            const uint32_t pixel = (uint32_t)made[0] | (uint32_t)made[1] << 8 | (uint32_t)made[2] << 16;
            memcpy(results[row] + 4 * x, &pixel, sizeof pixel);
        }
    }
}

INLINE void sum_rows(const uint8_t *const *rows, const int32_t *weights, int taps, size_t from, const int vectors,
                     uint8_t *result) {
    Ints sums[VECTORS] = {{0}};
    for (int tap = 0; tap < taps; tap++)
        EACH(i, vectors) sums[i] += widened(rows[tap] + from + LANES * i) * weights[tap];
    EACH(i, vectors) {
        /* Two steps: in one, GCC 12 goes number by number. */
        const Bytes made = __builtin_convertvector(__builtin_convertvector(ROUNDED(Ints, sums[i]), Shorts), Bytes);
        memcpy(result + from + LANES * i, &made, sizeof made);
    }
}

TARGET static void down(const uint8_t *const *rows, const int32_t *weights, int taps, size_t bytes, uint8_t *result) {
    size_t done = 0;
    for (; done + VECTORS * LANES <= bytes; done += VECTORS * LANES)
        sum_rows(rows, weights, taps, done, VECTORS, result);
    for (; done + LANES <= bytes; done += LANES) sum_rows(rows, weights, taps, done, 1, result);
    if (done < bytes) sum_rows(rows, weights, taps, bytes - LANES, 1, result); /* some for the second time */
}

/* One of R, G and B: products in float32, added from left to right, to the nearest. */
#define CHANNEL(row) \
    __builtin_convertvector((row)[0] * y + (row)[1] * cb + (row)[2] * cr + (row)[3] + 0.5f, Ints)

/* LANES pixels. */
INLINE void convert(const uint8_t *y_bytes, const uint8_t *colours, const float *matrix, uint8_t *result) {
    uint8_t twice[2][LANES]; /* Cb and Cr of each pixel */
    EACH(pair, LANES / 2) {
        memset(twice[0] + 2 * pair, colours[2 * pair], 2);
        memset(twice[1] + 2 * pair, colours[2 * pair + 1], 2);
    }
    const Floats y = __builtin_convertvector(widened(y_bytes), Floats);
    const Floats cb = __builtin_convertvector(widened(twice[0]), Floats);
    const Floats cr = __builtin_convertvector(widened(twice[1]), Floats);
    Ints channels[3] = {CHANNEL(matrix), CHANNEL(matrix + 4), CHANNEL(matrix + 8)};
    EACH(i, 3) {
        channels[i] &= ~(channels[i] < 0);
        channels[i] = (channels[i] & ~(channels[i] > 255)) | (255 & (channels[i] > 255));
    }
    /* The first byte is the lowest: the machines that this is built for are little-endian. */
    const Ints pixels = channels[0] | channels[1] << 8 | channels[2] << 16;
    memcpy(result, &pixels, sizeof pixels);
}

TARGET static void row_of_frame(const uint8_t *y, const uint8_t *colours, const float *matrix, int width,
                                uint8_t *result) {
    int x = 0;
    for (; x + LANES <= width; x += LANES) convert(y + x, colours + x, matrix, result + 4 * x);
    if (x == width) return;
    uint8_t last_y[LANES] = {0}, last_colours[LANES] = {0}, made[4 * LANES];
    memcpy(last_y, y + x, (size_t)(width - x));
    memcpy(last_colours, colours + x, (size_t)(width - x));
    convert(last_y, last_colours, matrix, made);
    memcpy(result + 4 * x, made, 4 * (size_t)(width - x));
}
