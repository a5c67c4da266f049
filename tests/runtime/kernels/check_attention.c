/* Attention of random queries, and sums of exponentials, by every way that this processor supports, beside doubles.

   Keys and values are appended to a cache, where a token sees what is before it, or all there, where it sees all; heads
   share keys or do not; with a bias that hides slots, and without. Tokens that come one after another must give what
   they give together, to the last bit; a slot that nobody sees may hold anything, and nothing else of y and of the
   cache may be written.

   Out: a line for each way that is supported: its name, how many values were compared, and the largest error as a share
   of what is allowed. 1 where a value is wrong, 2 where there is no memory. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "product.h"
#include "random_bits.h"

enum { GUARD = 64 };

typedef struct {
    size_t before, tokens, heads, kv_heads, size, rotated;
    int has_bias, appends, has_positions;
} setting;

typedef struct {
    float *q, *new_keys, *new_values, *keys, *values, *cos, *sin, *bias, *y;
    int64_t *positions;
    size_t slots, cache_floats, y_floats, cos_rows;
} arrays;

static void *take(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!memory) exit(2);
    return memory;
}

static float uniform(void) { return (float)any() / 2147483648.0f - 1; }

static float *drawn(size_t count, float size) {
    float *floats = take(count * sizeof *floats);
    for (size_t i = 0; i < count; i++) floats[i] = uniform() * size;
    return floats;
}

static float *copied(const float *from, size_t count) { return memcpy(take(count * sizeof *from), from, count * sizeof *from); }

static arrays draw(const setting *s) {
    arrays a;
    const size_t total = s->before + s->tokens;
    a.slots = total + 5; /* behind the last one lies what is no number */
    a.cache_floats = s->kv_heads * a.slots * s->size;
    a.y_floats = s->tokens * s->heads * s->size;
    a.cos_rows = total + 9;
    a.q = drawn(s->tokens * s->heads * s->size, 3);
    a.new_keys = drawn(s->tokens * s->kv_heads * s->size, 1);
    a.new_values = drawn(s->tokens * s->kv_heads * s->size, 1);
    a.keys = drawn(a.cache_floats, 1);
    a.values = drawn(a.cache_floats, 1);
    for (size_t g = 0; g < s->kv_heads; g++)
        for (size_t slot = s->appends ? s->before : total; slot < a.slots; slot++)
            for (size_t d = 0; d < s->size; d++) {
                const size_t at = (g * a.slots + slot) * s->size + d;
                a.keys[at] = a.values[at] = NAN;
            }
    a.cos = drawn(a.cos_rows * (s->rotated / 2 + 1), 1);
    a.sin = drawn(a.cos_rows * (s->rotated / 2 + 1), 1);
    a.positions = take(s->tokens * sizeof *a.positions);
    for (size_t t = 0; t < s->tokens; t++)
        a.positions[t] = s->has_positions ? (int64_t)(any() % a.cos_rows) : (int64_t)(s->before + t);
    a.bias = drawn(s->tokens * total, 1);
    for (size_t i = 0; i < s->tokens * total; i++)
        if (any() % 3 == 0 && i % total) a.bias[i] = -1e9f; /* the first slot is always seen */
    a.y = take((a.y_floats + GUARD) * sizeof *a.y);
    memset(a.y, 0xff, (a.y_floats + GUARD) * sizeof *a.y);
    return a;
}

static void free_arrays(arrays *a) {
    free(a->q), free(a->new_keys), free(a->new_values), free(a->keys), free(a->values), free(a->cos), free(a->sin);
    free(a->bias), free(a->positions), free(a->y);
}

/* Tokens [from, until) of a setting, as one call; `keys`, `values` and `y` are those of all. */
static void compute(
    const fgr_way *way, const setting *s, const arrays *a, float *keys, float *values, float *y, size_t from, size_t until
) {
    fgr_attention call = {0};
    call.tokens = until - from;
    call.heads = s->heads;
    call.kv_heads = s->kv_heads;
    call.size = s->size;
    call.total = s->appends ? s->before + until : s->before + s->tokens;
    call.causal = s->appends;
    call.scale = 0.3f;
    call.q = a->q + from * s->heads * s->size;
    call.q_stride = s->heads * s->size;
    if (s->appends) {
        call.new_keys = a->new_keys + from * s->kv_heads * s->size;
        call.new_values = a->new_values + from * s->kv_heads * s->size;
        call.new_stride = s->kv_heads * s->size;
    }
    call.keys = keys;
    call.values = values;
    call.slot_stride = s->size;
    call.head_stride = a->slots * s->size;
    if (s->rotated) {
        call.cos = a->cos;
        call.sin = a->sin;
        call.rotated = s->rotated;
        call.positions = s->has_positions ? a->positions + from : NULL;
    }
    if (s->has_bias) {
        call.bias = a->bias + from * (s->before + s->tokens);
        call.bias_token_stride = s->before + s->tokens;
    }
    call.y = y + from * s->heads * s->size;
    call.scratch = take(fgr_attention_scratch(&call));
    for (size_t part = fgr_collecting_parts(&call); part-- > 0;) way->collect(&call, part);
    for (size_t part = fgr_attending_parts(&call); part-- > 0;) way->attend(&call, part);
    free(call.scratch);
}

static void turned(const setting *s, const arrays *a, size_t token, const float *in, double *out) {
    const size_t half = s->rotated / 2, row = (size_t)a->positions[token] * half;
    for (size_t d = 0; d < s->size; d++) out[d] = in[d];
    for (size_t d = 0; d < half; d++) {
        const double c = a->cos[row + d], i = a->sin[row + d];
        out[d] = in[d] * c - in[half + d] * i;
        out[half + d] = in[d] * i + in[half + d] * c;
    }
}

/* The largest error of one token's head as a share of what is allowed. */
static double error_of(const setting *s, const arrays *a, size_t token, size_t head) {
    const size_t total = s->before + s->tokens, g = head / (s->heads / s->kv_heads);
    const size_t seen = s->appends ? s->before + token + 1 : total;
    double *q = take(s->size * sizeof *q), *key = take(s->size * sizeof *key), *y = take(s->size * sizeof *y);
    double *shares = take(total * sizeof *shares), largest = -INFINITY, sum = 0, worst = 0;
    turned(s, a, token, a->q + (token * s->heads + head) * s->size, q);
    for (size_t slot = 0; slot < seen; slot++) {
        if (s->appends && slot >= s->before)
            turned(s, a, slot - s->before, a->new_keys + ((slot - s->before) * s->kv_heads + g) * s->size, key);
        else
            for (size_t d = 0; d < s->size; d++) key[d] = a->keys[(g * a->slots + slot) * s->size + d];
        shares[slot] = s->has_bias ? a->bias[token * total + slot] : 0;
        for (size_t d = 0; d < s->size; d++) shares[slot] += 0.3f * q[d] * key[d];
        largest = fmax(largest, shares[slot]);
    }
    for (size_t d = 0; d < s->size; d++) y[d] = 0;
    for (size_t slot = 0; slot < seen; slot++) {
        const double share = exp(shares[slot] - largest);
        const float *value = s->appends && slot >= s->before
                                 ? a->new_values + ((slot - s->before) * s->kv_heads + g) * s->size
                                 : a->values + (g * a->slots + slot) * s->size;
        sum += share;
        for (size_t d = 0; d < s->size; d++) y[d] += share * value[d];
    }
    for (size_t d = 0; d < s->size; d++) {
        /* scores of a few tens have errors of some 1e-6, and values are below 1 */
        const double error = fabs(a->y[(token * s->heads + head) * s->size + d] - y[d] / sum) / 2e-5;
        worst = isnan(error) ? INFINITY : fmax(worst, error);
    }
    free(q), free(key), free(y), free(shares);
    return worst;
}

/* Whether tokens that come `apart` at a time give the same, and the cache only what was appended. */
static int is_same(const fgr_way *way, const setting *s, const arrays *a, const float *keys, const float *values, size_t apart) {
    float *own_keys = copied(a->keys, a->cache_floats), *own_values = copied(a->values, a->cache_floats);
    float *y = take((a->y_floats + GUARD) * sizeof *y);
    memset(y, 0xff, (a->y_floats + GUARD) * sizeof *y);
    for (size_t from = 0; from < s->tokens; from += apart)
        compute(way, s, a, own_keys, own_values, y, from, from + apart < s->tokens ? from + apart : s->tokens);
    const int same = !memcmp(y, a->y, (a->y_floats + GUARD) * sizeof *y) &&
                     !memcmp(own_keys, keys, a->cache_floats * sizeof *keys) &&
                     !memcmp(own_values, values, a->cache_floats * sizeof *values);
    free(own_keys), free(own_values), free(y);
    return same;
}

/* What is there already, and the slots behind the last, are as they were. */
static int is_untouched(const setting *s, const arrays *a, const float *now, const float *before) {
    for (size_t g = 0; g < s->kv_heads; g++)
        for (size_t slot = 0; slot < a->slots; slot++) {
            const size_t at = (g * a->slots + slot) * s->size;
            const int is_new = s->appends && slot >= s->before && slot < s->before + s->tokens;
            if (!is_new && memcmp(now + at, before + at, s->size * sizeof *now)) return 0;
        }
    return 1;
}

static int check(const fgr_way *way, const setting *s, double *worst) {
    arrays a = draw(s);
    float *keys = copied(a.keys, a.cache_floats), *values = copied(a.values, a.cache_floats);
    compute(way, s, &a, keys, values, a.y, 0, s->tokens);
    double error = 0;
    for (size_t token = 0; token < s->tokens; token++)
        for (size_t head = 0; head < s->heads; head++) error = fmax(error, error_of(s, &a, token, head));
    int same = is_untouched(s, &a, keys, a.keys) && is_untouched(s, &a, values, a.values);
    for (size_t apart = 1; apart < 9; apart += 1 + apart / 2) same &= is_same(way, s, &a, keys, values, apart);
    if (error > 1 || !same)
        printf(
            "%s: %zu tokens after %zu, %zu heads on %zu of %zu values, %zu turned, bias %d, appends %d, "
            "positions %d: error %g of 1, %s\n",
            way->name, s->tokens, s->before, s->heads, s->kv_heads, s->size, s->rotated, s->has_bias,
            s->appends, s->has_positions, error, same ? "always the same" : "not always the same"
        );
    *worst = fmax(*worst, error);
    free(keys), free(values);
    free_arrays(&a);
    return error <= 1 && same;
}

/* Logarithms of sums of exponentials, of rows that end where their memory ends. */
static int check_sums(const fgr_way *way) {
    static const size_t counts[] = {1, 2, 15, 16, 63, 64, 65, 4095, 4096, 4097, 9999};
    int right = 1;
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        float *x = malloc(counts[c] * sizeof *x), largest = -INFINITY;
        if (!x) exit(2);
        double sum = 0;
        for (size_t i = 0; i < counts[c]; i++) x[i] = any() % 9 ? uniform() * 60 : any() % 2 ? -INFINITY : -3e38f;
        x[any() % counts[c]] = 300; /* whose exponential float32 does not hold */
        for (size_t i = 0; i < counts[c]; i++) largest = x[i] > largest ? x[i] : largest;
        for (size_t i = 0; i < counts[c]; i++) sum += exp((double)x[i] - largest);
        const double error = fabs(way->log_sum(x, counts[c]) - (largest + log(sum)));
        x[any() % counts[c]] = NAN;
        const int is_right = error < 2e-6 && isnan(way->log_sum(x, counts[c]));
        if (!is_right) printf("%s: the sum of %zu exponentials is %g off\n", way->name, counts[c], error);
        right &= is_right;
        free(x);
    }
    return right;
}

static int check_way(const fgr_way *way) {
    static const size_t sizes[] = {20, 32, 64, 72, 80, 128, 7, 256}, tokens[] = {1, 2, 37, 70}, before[] = {0, 1, 63, 200};
    double worst = 0;
    size_t compared = 0;
    int right = 1;
    for (size_t d = 0; d < sizeof sizes / sizeof *sizes; d++)
        for (size_t t = 0; t < 4; t++)
            for (int choice = 0; choice < 12; choice++) {
                const size_t kv_heads = 1 + any() % 2, group = 1 + any() % 8;
                const int appends = choice % 3 != 2;
                const setting s = {
                    before[(t + (size_t)choice) % 4], tokens[t], kv_heads * group, kv_heads, sizes[d],
                    choice % 2 ? sizes[d] / 2 * 2 : choice % 4 ? sizes[d] / 4 * 2 : 0,
                    choice % 4 > 1, appends, !appends || choice % 5 == 1,
                };
                right &= check(way, &s, &worst);
                compared += s.tokens * s.heads * s.size;
            }
    printf("%s: %zu values, errors up to %.3f of what is allowed\n", way->name, compared, worst);
    return right;
}

int main(void) {
    int right = 1;
    for (const fgr_way *const *way = fgr_ways; *way; way++)
        if ((*way)->supported()) right &= check_way(*way) & check_sums(*way);
    return !right;
}
