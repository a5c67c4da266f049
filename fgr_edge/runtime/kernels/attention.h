/* Attention of float32 queries to the keys and values of a cache, y = softmax(scale q K^T + bias) V.

   Slots are taken 64 at a time, and the softmax goes along (Milakov and Gimelshein, "Online normalizer calculation for
   softmax", 2018), so that nothing of the size [tokens, slots] is written. Where a tile of slots begins does not depend on
   who asks: a row of y is the same to the last bit, however many tokens are computed with it. */

#ifndef FGR_EDGE_ATTENTION_H
#define FGR_EDGE_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

enum { FGR_SLOTS = 64, FGR_MOST_SIZE = 256, FGR_QUERIES = 6 }; /* queries that are computed together */

typedef struct {
    size_t tokens, heads, kv_heads;
    size_t size;  /* of a head: at most FGR_MOST_SIZE */
    size_t total; /* slots, those of these tokens last where they have any */
    int causal;   /* whether a token sees no slot behind its own */
    float scale;

    const float *q;                              /* [tokens, heads, size] */
    const float *new_keys, *new_values;          /* [tokens, kv_heads, size] for the last slots, or NULL: all are there */
    size_t q_stride, new_stride;                 /* from token to token, in floats, as all strides */
    float *keys, *values;                        /* [kv_heads, total, size] */
    size_t slot_stride, head_stride;             /* of both */
    const float *cos, *sin;                      /* [positions, rotated / 2], or NULL */
    size_t rotated;                              /* of a head's first values, the first half with the second */
    const int64_t *positions;                    /* [tokens], or NULL: a token's slot */
    const float *bias;                           /* [heads, tokens, total], or NULL */
    size_t bias_head_stride, bias_token_stride;

    float *y; /* [tokens, heads, size] */

    void *scratch; /* fgr_attention_scratch bytes, aligned to 64 */
} fgr_attention;

/* Both are done part by part, in any order and by any threads: first all parts that collect, then all that attend. */
size_t fgr_collecting_parts(const fgr_attention *a);
size_t fgr_attending_parts(const fgr_attention *a);
size_t fgr_attention_scratch(const fgr_attention *a);

/* How it is parted, and what lies in the scratch memory, one behind the other. */
typedef struct {
    size_t tiles;                           /* of FGR_SLOTS slots */
    size_t group;                           /* heads that share a kv head */
    size_t padded;                          /* size, up to whole vectors */
    size_t rows, rows_a_part, parts_a_head; /* rows: tokens times group */
    size_t token_parts;
    size_t keys_floats;    /* [kv_heads, tiles, size, FGR_SLOTS] */
    size_t values_floats;  /* [kv_heads, tiles, FGR_SLOTS, padded]; 0 where they are read in place */
    size_t queries_floats; /* [kv_heads, tokens, group, size], turned and scaled */
    float *keys, *values, *queries;
} fgr_attention_plan;

fgr_attention_plan fgr_plan_attention(const fgr_attention *a);

enum { FGR_TOKENS_A_PART = 16 }; /* whose queries one part collects */

#endif
