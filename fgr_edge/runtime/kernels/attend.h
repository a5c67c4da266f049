/* Attention with one instruction set. Whoever includes this has included tiles.h, and defines also

     COLUMNS           vectors of sums for one row at once, of FGR_QUERIES rows: all of them, COLUMNS vectors more and one
                       are to fit into registers

   and the operations on vectors that are used below. */

#include <math.h>

#include "attention.h"

enum { BAND = 8 * FGR_QUERIES, TILE_VECTORS = FGR_SLOTS / LANES };

/* Each lane's power of e, for x <= 0: within 2 units in the last place (the polynomial is that of Cephes' expf); 0 where
   it is smaller than any ordinary number; no number for what is none. */
INLINE vfloat exponential(vfloat x) {
    const vfloat shift = float_all(12582912); /* 1.5 * 2^23: the integer stands in the lowest bits */
    const vfloat shifted = float_plus_times(shift, x, float_all(1.44269504f));
    const vfloat n = float_plus(shifted, float_all(-12582912));
    vfloat r = float_plus_times(x, n, float_all(-0.693359375f));
    r = float_plus_times(r, n, float_all(2.12194440e-4f));
    vfloat p = float_plus_times(float_all(1.3981999507e-3f), r, float_all(1.9875691500e-4f));
    p = float_plus_times(float_all(8.3334519073e-3f), r, p);
    p = float_plus_times(float_all(4.1665795894e-2f), r, p);
    p = float_plus_times(float_all(1.6666665459e-1f), r, p);
    p = float_plus_times(float_all(5.0000001201e-1f), r, p);
    p = float_plus_times(float_plus(r, float_all(1)), float_times(r, r), p);
    return float_unless_below(float_times(p, float_power(shifted)), x, -87.3f);
}

/* c[i][.] += sum of a[i][k] b[k][.], k in order; without `more`, of nothing before. The last three are known here. */
INLINE void sums_of(
    const float *a, size_t a_stride, const float *b, size_t b_stride, size_t depth, float *c, size_t c_stride,
    const int mr, const int columns, const int more
) {
    vfloat sums[FGR_QUERIES][COLUMNS];
    EACH(i, mr) EACH(v, columns) sums[i][v] = more ? float_load(c + (size_t)i * c_stride + v * LANES) : float_all(0);
    for (size_t k = 0; k < depth; k++, b += b_stride) {
        vfloat row[COLUMNS];
        EACH(v, columns) row[v] = float_load(b + v * LANES);
        EACH(i, mr) {
            const vfloat value = float_all(a[(size_t)i * a_stride + k]);
            EACH(v, columns) sums[i][v] = float_plus_times(sums[i][v], value, row[v]);
        }
    }
    EACH(i, mr) EACH(v, columns) float_store(c + (size_t)i * c_stride + v * LANES, sums[i][v]);
}

#define ROWS_OF(mr, columns) \
    case mr: sums_of(a, a_stride, b, b_stride, depth, c, c_stride, mr, columns, more); break
#define COLUMNS_OF(columns) \
    switch (rows) { \
        ROWS_OF(1, columns); \
        ROWS_OF(2, columns); \
        ROWS_OF(3, columns); \
        ROWS_OF(4, columns); \
        ROWS_OF(5, columns); \
        ROWS_OF(6, columns); \
    }

/* c [rows, width] (+)= a [rows, depth] b [depth, width]: at most FGR_QUERIES rows, a width of whole vectors. */
INLINE void multiply_floats(
    const float *a, size_t a_stride, const float *b, size_t b_stride, size_t depth, float *c, size_t c_stride,
    size_t rows, size_t width, const int more
) {
    for (; width >= COLUMNS * LANES; width -= COLUMNS * LANES, b += COLUMNS * LANES, c += COLUMNS * LANES)
        COLUMNS_OF(COLUMNS)
    for (; width; width -= LANES, b += LANES, c += LANES) COLUMNS_OF(1)
}

TARGET static void scores_of(const float *q, size_t size, const float *keys, float *scores, size_t rows) {
    multiply_floats(q, size, keys, FGR_SLOTS, size, scores, FGR_SLOTS, rows, FGR_SLOTS, 0);
}

TARGET static void add_values(
    const float *shares, const float *values, size_t stride, size_t count, float *y, size_t y_stride, size_t rows,
    size_t width
) {
    multiply_floats(shares, FGR_SLOTS, values, stride, count, y, y_stride, rows, width, 1);
}

/* What is known of a row's softmax after some tiles: the largest score, and the sum of exponentials, lane by lane. */
typedef struct {
    float largest;
    vfloat sum;
} running;

/* Scores [FGR_SLOTS], `count` of them seen -> shares of the softmax so far; what earlier shares are to be multiplied by. */
INLINE float take_scores(float *scores, size_t count, const float *bias, running *r) {
    if (bias) {
        float own[FGR_SLOTS];
        if (count < FGR_SLOTS) bias = memcpy(own, bias, count * sizeof *bias); /* nothing may lie behind it */
        EACH(v, TILE_VECTORS) {
            float *at = scores + v * LANES;
            float_store(at, float_plus(float_load(at), float_load(bias + v * LANES)));
        }
    }
    for (size_t j = count; j < FGR_SLOTS; j++) scores[j] = -INFINITY;
    vfloat largest = float_all(r->largest);
    EACH(v, TILE_VECTORS) largest = float_larger(largest, float_load(scores + v * LANES));
    const float next = float_largest(largest);
    float factor[LANES] = {1};
    if (next != r->largest) { /* seldom, after the first tiles: what follows is begun before it is known */
        float_store(factor, exponential(float_all(r->largest - next)));
        r->sum = float_times(r->sum, float_all(factor[0]));
        r->largest = next;
    }
    const vfloat minus = float_all(-r->largest);
    vfloat sum = r->sum;
    EACH(v, TILE_VECTORS) {
        const vfloat share = exponential(float_plus(float_load(scores + v * LANES), minus));
        float_store(scores + v * LANES, share);
        sum = float_plus(sum, share);
    }
    r->sum = sum;
    return factor[0];
}

INLINE float sum_of_lanes(vfloat x) {
    float lanes[LANES], sum = 0;
    float_store(lanes, x);
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

/* Rows [first, first + count) of kv head g, at most BAND of them. */
TARGET static void attend_band(const fgr_attention *a, const fgr_attention_plan *p, size_t g, size_t first, size_t count) {
    float scores[BAND * FGR_SLOTS] __attribute__((aligned(64))), y[BAND * FGR_MOST_SIZE] __attribute__((aligned(64)));
    running state[BAND];
    size_t seen[BAND], most = 0;
    const float *bias[BAND];
    const float *queries = p->queries + (g * p->rows + first) * a->size;
    for (size_t i = 0; i < count; i++) {
        const size_t token = (first + i) / p->group, head = g * p->group + (first + i) % p->group;
        seen[i] = a->causal ? a->total - a->tokens + token + 1 : a->total;
        most = seen[i] > most ? seen[i] : most;
        state[i].largest = -INFINITY;
        state[i].sum = float_all(0);
        bias[i] = a->bias ? a->bias + head * a->bias_head_stride + token * a->bias_token_stride : NULL;
    }
    memset(y, 0, count * p->padded * sizeof *y);
    for (size_t slot = 0; slot < most; slot += FGR_SLOTS) {
        const size_t tile = g * p->tiles + slot / FGR_SLOTS;
        const size_t slots = a->total - slot < FGR_SLOTS ? a->total - slot : FGR_SLOTS;
        const float *keys = p->keys + tile * a->size * FGR_SLOTS;
        const float *values = p->values_floats ? p->values + tile * FGR_SLOTS * p->padded
                                               : a->values + g * a->head_stride + slot * a->slot_stride;
        for (size_t m = 0; m < count; m += FGR_QUERIES) {
            const size_t rows = count - m < FGR_QUERIES ? count - m : FGR_QUERIES;
            float *own = scores + m * FGR_SLOTS;
            scores_of(queries + m * a->size, a->size, keys, own, rows);
            for (size_t i = 0; i < rows; i++) {
                const size_t left = seen[m + i] > slot ? seen[m + i] - slot : 0;
                if (!left) {
                    memset(own + i * FGR_SLOTS, 0, FGR_SLOTS * sizeof *own);
                    continue;
                }
                const float factor = take_scores(
                    own + i * FGR_SLOTS, left < FGR_SLOTS ? left : FGR_SLOTS, bias[m + i] ? bias[m + i] + slot : NULL,
                    state + m + i
                );
                if (factor == 1) continue;
                float *row = y + (m + i) * p->padded;
                for (size_t d = 0; d < p->padded; d += LANES)
                    float_store(row + d, float_times(float_load(row + d), float_all(factor)));
            }
            add_values(
                own, values, p->values_floats ? p->padded : a->slot_stride, slots, y + m * p->padded, p->padded, rows, p->padded
            );
        }
    }
    for (size_t i = 0; i < count; i++) {
        const size_t token = (first + i) / p->group, head = g * p->group + (first + i) % p->group;
        const float inverse = 1 / sum_of_lanes(state[i].sum);
        float *to = a->y + (token * a->heads + head) * a->size;
        for (size_t d = 0; d < a->size; d++) to[d] = y[i * p->padded + d] * inverse;
    }
}

TARGET static void attend(const fgr_attention *a, size_t part) {
    const fgr_attention_plan p = fgr_plan_attention(a);
    const size_t g = part / p.parts_a_head, first = part % p.parts_a_head * p.rows_a_part;
    const size_t last = first + p.rows_a_part < p.rows ? first + p.rows_a_part : p.rows;
    for (size_t row = first; row < last; row += BAND)
        attend_band(a, &p, g, row, last - row < BAND ? last - row : BAND);
}

/* A head with its first values turned by the angle of a position. */
INLINE void turn(const fgr_attention *a, size_t token, const float *in, float *out, float scale) {
    const size_t slot = a->total - a->tokens + token, half = a->cos ? a->rotated / 2 : 0;
    const size_t position = a->positions ? (size_t)a->positions[token] : slot;
    const float *cos = a->cos + position * half, *sin = a->sin + position * half;
    for (size_t d = 0; d < half; d++) {
        const float x = in[d], y = in[half + d];
        out[d] = (x * cos[d] - y * sin[d]) * scale;
        out[half + d] = (x * sin[d] + y * cos[d]) * scale;
    }
    for (size_t d = 2 * half; d < a->size; d++) out[d] = in[d] * scale;
}

#if defined(__clang__)
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t four_places __attribute__((vector_size(16)));
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (four_places){__VA_ARGS__})
#endif
typedef float four_floats __attribute__((vector_size(16), aligned(4)));

/* out[d][slot] = in[slot][d], four by four; `size` a multiple of 4. */
INLINE void transpose_four(const float *in, size_t in_stride, float *out, size_t size) {
    for (size_t d = 0; d < size; d += 4) {
        const four_floats a = *(const four_floats *)(in + d), b = *(const four_floats *)(in + in_stride + d);
        const four_floats c = *(const four_floats *)(in + 2 * in_stride + d);
        const four_floats e = *(const four_floats *)(in + 3 * in_stride + d);
        const four_floats ab = SHUFFLED(a, b, 0, 4, 1, 5), ab_later = SHUFFLED(a, b, 2, 6, 3, 7);
        const four_floats ce = SHUFFLED(c, e, 0, 4, 1, 5), ce_later = SHUFFLED(c, e, 2, 6, 3, 7);
        *(four_floats *)(out + d * FGR_SLOTS) = SHUFFLED(ab, ce, 0, 1, 4, 5);
        *(four_floats *)(out + (d + 1) * FGR_SLOTS) = SHUFFLED(ab, ce, 2, 3, 6, 7);
        *(four_floats *)(out + (d + 2) * FGR_SLOTS) = SHUFFLED(ab_later, ce_later, 0, 1, 4, 5);
        *(four_floats *)(out + (d + 3) * FGR_SLOTS) = SHUFFLED(ab_later, ce_later, 2, 3, 6, 7);
    }
}

/* One tile of a kv head: new keys and values into their slots, then all of its keys side by side. */
TARGET static void collect_tile(const fgr_attention *a, const fgr_attention_plan *p, size_t g, size_t tile) {
    const size_t from = tile * FGR_SLOTS, until = from + FGR_SLOTS < a->total ? from + FGR_SLOTS : a->total;
    const size_t old = a->new_keys ? a->total - a->tokens : a->total;
    float *keys = a->keys + g * a->head_stride, *values = a->values + g * a->head_stride;
    for (size_t slot = from > old ? from : old; slot < until; slot++) {
        const size_t token = slot - old, at = token * a->new_stride + g * a->size;
        turn(a, token, a->new_keys + at, keys + slot * a->slot_stride, 1);
        memcpy(values + slot * a->slot_stride, a->new_values + at, a->size * sizeof *values);
    }
    float *side_by_side = p->keys + (g * p->tiles + tile) * a->size * FGR_SLOTS;
    if (until - from < FGR_SLOTS) memset(side_by_side, 0, a->size * FGR_SLOTS * sizeof *side_by_side);
    size_t slot = from;
    if (a->size % 4 == 0)
        for (; slot + 4 <= until; slot += 4)
            transpose_four(keys + slot * a->slot_stride, a->slot_stride, side_by_side + (slot - from), a->size);
    for (; slot < until; slot++)
        for (size_t d = 0; d < a->size; d++)
            side_by_side[d * FGR_SLOTS + (slot - from)] = keys[slot * a->slot_stride + d];
    if (!p->values_floats) return;
    float *padded = p->values + (g * p->tiles + tile) * FGR_SLOTS * p->padded;
    memset(padded, 0, FGR_SLOTS * p->padded * sizeof *padded);
    for (slot = from; slot < until; slot++)
        memcpy(padded + (slot - from) * p->padded, values + slot * a->slot_stride, a->size * sizeof *padded);
}

TARGET static void collect(const fgr_attention *a, size_t part) {
    const fgr_attention_plan p = fgr_plan_attention(a);
    const size_t tiles = a->kv_heads * p.tiles;
    if (part < tiles) {
        collect_tile(a, &p, part / p.tiles, part % p.tiles);
        return;
    }
    const size_t first = (part - tiles) * FGR_TOKENS_A_PART;
    const size_t last = first + FGR_TOKENS_A_PART < a->tokens ? first + FGR_TOKENS_A_PART : a->tokens;
    for (size_t token = first; token < last; token++)
        for (size_t head = 0; head < a->heads; head++)
            turn(
                a, token, a->q + token * a->q_stride + head * a->size,
                p.queries + (head / p.group * p.rows + token * p.group + head % p.group) * a->size, a->scale
            );
}
