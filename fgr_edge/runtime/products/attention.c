/* How attention is parted, and where its intermediate values lie. */

#include "attention.h"

enum {
    MANY_ROWS = 96, /* of a part, where there are many */
    FEW_ROWS = 3,   /* where there are so few that threads would be left over */
    LANES = 16,     /* of the widest vectors */
};

static size_t parts_of(size_t n, size_t part) { return (n + part - 1) / part; }

fgr_attention_plan fgr_plan_attention(const fgr_attention *a) {
    fgr_attention_plan p;
    p.tiles = parts_of(a->total, FGR_SLOTS);
    p.group = a->heads / a->kv_heads;
    p.padded = parts_of(a->size, LANES) * LANES;
    p.rows = a->tokens * p.group;
    p.rows_a_part = p.rows > MANY_ROWS ? MANY_ROWS : FEW_ROWS;
    p.parts_a_head = parts_of(p.rows, p.rows_a_part);
    p.token_parts = parts_of(a->tokens, FGR_TOKENS_A_PART);
    p.keys = (float *)a->scratch;
    p.values = p.keys + a->kv_heads * p.tiles * a->size * FGR_SLOTS;
    p.queries = p.values;
    if (p.padded == a->size)
        p.values = NULL;
    else
        p.queries += a->kv_heads * p.tiles * FGR_SLOTS * p.padded;
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
    const size_t floats = (size_t)(p.queries - (float *)a->scratch) + a->tokens * a->heads * a->size;
    return parts_of(floats * sizeof(float), 64) * 64;
}
