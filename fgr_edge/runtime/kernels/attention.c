/* How attention is parted, and where its intermediate values lie. */

#include "attention.h"

enum {
    MOST_ROWS = 96, /* of a part */
    FEW_ROWS = 3,   /* of a part, where there are so few that threads would be left over */
    PARTS = 4,      /* of a kv head, for threads */
    LANES = 16,     /* of the widest vectors */
};

static size_t parts_of(size_t n, size_t part) { return (n + part - 1) / part; }

static size_t rows_of_a_part(size_t rows) {
    const size_t even = rows / PARTS / FGR_QUERIES * FGR_QUERIES;
    return even < FGR_QUERIES ? FEW_ROWS : even < MOST_ROWS ? even : MOST_ROWS;
}

fgr_attention_plan fgr_plan_attention(const fgr_attention *a) {
    fgr_attention_plan p;
    p.tiles = parts_of(a->total, FGR_SLOTS);
    p.group = a->heads / a->kv_heads;
    p.padded = parts_of(a->size, LANES) * LANES;
    p.rows = a->tokens * p.group;
    p.rows_a_part = rows_of_a_part(p.rows);
    p.parts_a_head = parts_of(p.rows, p.rows_a_part);
    p.token_parts = parts_of(a->tokens, FGR_TOKENS_A_PART);
    p.keys_floats = a->kv_heads * p.tiles * a->size * FGR_SLOTS;
    p.values_floats = p.padded == a->size ? 0 : a->kv_heads * p.tiles * FGR_SLOTS * p.padded;
    p.queries_floats = a->tokens * a->heads * a->size;
    p.keys = a->scratch;
    p.values = p.keys ? p.keys + p.keys_floats : NULL;
    p.queries = p.keys ? p.values + p.values_floats : NULL;
    return p;
}

size_t fgr_collecting_parts(const fgr_attention *a) {
    const fgr_attention_plan p = fgr_plan_attention(a);
    return a->kv_heads * p.tiles + p.token_parts;
}

size_t fgr_attending_parts(const fgr_attention *a) {
    const fgr_attention_plan p = fgr_plan_attention(a);
    return a->kv_heads * p.parts_a_head;
}

size_t fgr_attention_scratch(const fgr_attention *a) {
    const fgr_attention_plan p = fgr_plan_attention(a);
    return parts_of((p.keys_floats + p.values_floats + p.queries_floats) * sizeof(float), 64) * 64;
}
