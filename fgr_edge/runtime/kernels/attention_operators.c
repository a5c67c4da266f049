/* ONNX Runtime's GroupQueryAttention and MultiHeadAttention on the CPU, by the attention here instead of its own: those
   forms of them that our graphs have. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

enum { QUERY, KEY, VALUE, PAST_KEY, PAST_VALUE, LENGTH, TOTAL, COS, SIN, POSITIONS, BIAS, INPUTS }; /* grouped */
enum { QKV_BIAS = VALUE + 1, MASK, PLAIN_INPUTS }; /* the first three are those above */
enum { OUTPUT, PRESENT_KEY, PRESENT_VALUE, OUTPUTS };
enum { SERIAL_PRODUCTS = 1 << 18 }; /* that one thread multiplies sooner than several */

static const float HIDDEN = -1e9f; /* added to the score of what a mask hides */

typedef struct {
    int64_t heads, kv_heads;
    int turns;
    float scale; /* 0: one over the root of a head's size */
} attributes;

/* Of an attribute that was asked for: whether the node has it. */
static int is_there(ort_status *status) {
    if (status) ORT_RELEASE_STATUS(fgr_ort)(status);
    return !status;
}

static int64_t integer_or(const ort_info *info, const char *name, int64_t missing) {
    int64_t value;
    return is_there(ORT_ATTRIBUTE(fgr_ort)(info, name, &value)) ? value : missing;
}

static float float_or(const ort_info *info, const char *name, float missing) {
    float value;
    return is_there(ORT_FLOAT_ATTRIBUTE(fgr_ort)(info, name, &value)) ? value : missing;
}

static ort_status *keep(attributes found, void **kernel) {
    if (found.heads < 1 || found.kv_heads < 1 || found.heads % found.kv_heads)
        return fgr_refused("fgr-edge attends with heads that share keys evenly");
    attributes *kept = malloc(sizeof *kept);
    if (!kept) return fgr_failed("fgr-edge found no memory");
    *kept = found;
    *kernel = kept;
    return NULL;
}

static ort_status *create_grouped(const ort_operator *op, ort_table table, const ort_info *info, void **kernel) {
    (void)op, (void)table;
    if (integer_or(info, "local_window_size", -1) > 0 || integer_or(info, "smooth_softmax", 0) > 0 ||
        integer_or(info, "rotary_interleaved", 0) || integer_or(info, "qk_output", 0) || float_or(info, "softcap", 0) != 0)
        return fgr_refused("fgr-edge attends without windows, caps and interleaved angles");
    const attributes found = {
        integer_or(info, "num_heads", 0), integer_or(info, "kv_num_heads", 0), integer_or(info, "do_rotary", 0) != 0,
        float_or(info, "scale", 0),
    };
    return keep(found, kernel);
}

static ort_status *create_plain(const ort_operator *op, ort_table table, const ort_info *info, void **kernel) {
    (void)op, (void)table;
    int has_bias, has_more;
    TRY(fgr_has_input(info, QKV_BIAS, &has_bias));
    TRY(fgr_has_input(info, PLAIN_INPUTS, &has_more));
    if (integer_or(info, "unidirectional", 0) || has_bias || has_more)
        return fgr_refused("fgr-edge attends to all of what has no cache, or to what a mask leaves");
    const int64_t heads = integer_or(info, "num_heads", 0);
    const attributes found = {heads, heads, 0, float_or(info, "scale", 0)};
    return keep(found, kernel);
}

static void destroy(void *kernel) { free(kernel); }

static int is_shape(const fgr_tensor *t, size_t rank, const int64_t *wanted) {
    if (!t->data || t->rank != rank) return 0;
    for (size_t i = 0; i < rank; i++)
        if (t->dimensions[i] != wanted[i]) return 0;
    return 1;
}

static void collect_part(void *a, size_t part) { fgr_own_way->collect(a, part); }

static void attend_part(void *a, size_t part) { fgr_own_way->attend(a, part); }

static ort_status *in_parts(ort_context *context, fgr_attention *a, size_t parts, void (*one)(void *, size_t)) {
    if (2 * a->tokens * a->heads * a->size * a->total >= SERIAL_PRODUCTS)
        return ORT_PARALLEL(fgr_ort)(context, one, parts, 0, a);
    for (size_t part = 0; part < parts; part++) one(a, part);
    return NULL;
}

static ort_status *attend(ort_context *context, fgr_attention *a) {
    if (a->size < 1 || a->size > FGR_MOST_SIZE) return fgr_failed("fgr-edge attends with heads of at most 256 values");
    a->scratch = NULL;
    if (posix_memalign(&a->scratch, 64, fgr_attention_scratch(a))) return fgr_failed("fgr-edge found no memory to attend");
    ort_status *status = in_parts(context, a, fgr_collecting_parts(a), collect_part);
    if (!status) status = in_parts(context, a, fgr_attending_parts(a), attend_part);
    free(a->scratch);
    return status;
}

/* Queries, and new keys and values: in one tensor or in three. */
static ort_status *heads_of(ort_context *context, const attributes *own, fgr_attention *a) {
    fgr_tensor q, k, v;
    TRY(fgr_input(context, QUERY, &q));
    TRY(fgr_input(context, KEY, &k));
    TRY(fgr_input(context, VALUE, &v));
    if (!q.data || q.rank != 3 || q.dimensions[0] != 1) return fgr_failed("fgr-edge attends to one sequence, [1, S, .]");
    const int64_t tokens = q.dimensions[1], width = q.dimensions[2];
    const int64_t heads = k.data ? own->heads : own->heads + 2 * own->kv_heads, size = width / heads;
    const int64_t new_dimensions[] = {1, tokens, own->kv_heads * size};
    if (width != heads * size) return fgr_failed("the queries' width is no multiple of the number of heads");
    if (k.data && !(is_shape(&k, 3, new_dimensions) && is_shape(&v, 3, new_dimensions)))
        return fgr_failed("keys and values do not fit the queries");
    a->tokens = (size_t)tokens;
    a->heads = (size_t)own->heads;
    a->kv_heads = (size_t)own->kv_heads;
    a->size = (size_t)size;
    a->scale = own->scale != 0 ? own->scale : 1 / sqrtf((float)size);
    a->q = q.data;
    a->q_stride = (size_t)width;
    a->new_keys = k.data ? k.data : a->q + own->heads * size;
    a->new_values = k.data ? v.data : a->new_keys + own->kv_heads * size;
    a->new_stride = (size_t)(k.data ? own->kv_heads * size : width);
    return NULL;
}

/* What was in the cache stays where it is if the caller bound one memory for both; else it is copied. */
static ort_status *cache_of(ort_context *context, fgr_attention *a) {
    fgr_tensor past[2], length;
    void *present[2];
    TRY(fgr_input(context, LENGTH, &length));
    if (!length.data) return fgr_failed("the cache's length is not given");
    const int64_t total = (int64_t) * (const int32_t *)length.data + 1;
    for (size_t i = 0; i < 2; i++) {
        TRY(fgr_input(context, PAST_KEY + i, past + i));
        const int64_t slots = past[i].data && past[i].rank == 4 ? past[i].dimensions[2] : -1;
        const int64_t wanted[] = {1, (int64_t)a->kv_heads, slots, (int64_t)a->size};
        if (!is_shape(past + i, 4, wanted) || slots != past[0].dimensions[2])
            return fgr_failed("the cache's shape does not fit the heads");
        if (total < (int64_t)a->tokens || total > slots) {
            char why[96];
            snprintf(why, sizeof why, "a cache of %lld slots cannot hold %lld tokens", (long long)slots, (long long)total);
            return fgr_failed(why);
        }
        TRY(fgr_output(context, PRESENT_KEY + i, wanted, 4, present + i));
    }
    a->total = (size_t)total;
    a->keys = present[0];
    a->values = present[1];
    a->slot_stride = a->size;
    a->head_stride = (size_t)past[0].dimensions[2] * a->size;
    for (size_t i = 0; i < 2; i++)
        for (size_t g = 0; present[i] != past[i].data && g < a->kv_heads; g++) {
            const size_t at = g * a->head_stride, count = (a->total - a->tokens) * a->size;
            memcpy((float *)present[i] + at, (const float *)past[i].data + at, count * sizeof(float));
        }
    return NULL;
}

static ort_status *angles_of(ort_context *context, fgr_attention *a) {
    fgr_tensor cos, sin, positions;
    TRY(fgr_input(context, COS, &cos));
    TRY(fgr_input(context, SIN, &sin));
    TRY(fgr_input(context, POSITIONS, &positions));
    if (!cos.data || cos.rank != 2 || !is_shape(&sin, 2, cos.dimensions)) return fgr_failed("angles come as two tables");
    const int64_t wanted[] = {1, (int64_t)a->tokens}, rows = cos.dimensions[0];
    if (positions.data && !is_shape(&positions, 2, wanted)) return fgr_failed("there is not one position a token");
    a->cos = cos.data;
    a->sin = sin.data;
    a->rotated = 2 * (size_t)cos.dimensions[1];
    a->positions = positions.data;
    if (a->rotated > a->size) return fgr_failed("the angles are wider than a head");
    for (size_t t = 0; t < a->tokens; t++) {
        const int64_t at = a->positions ? a->positions[t] : (int64_t)(a->total - a->tokens + t);
        if (at < 0 || at >= rows) return fgr_failed("a position lies beyond the table of angles");
    }
    return NULL;
}

static ort_status *bias_of(ort_context *context, fgr_attention *a) {
    fgr_tensor bias;
    TRY(fgr_input(context, BIAS, &bias));
    if (!bias.data) return NULL;
    const int64_t *d = bias.dimensions;
    if (bias.rank != 4 || d[0] != 1 || (d[1] != 1 && d[1] != (int64_t)a->heads) || d[2] != (int64_t)a->tokens ||
        d[3] < (int64_t)a->total)
        return fgr_failed("the bias does not fit tokens and cache");
    a->bias = bias.data;
    a->bias_token_stride = (size_t)d[3];
    a->bias_head_stride = d[1] == 1 ? 0 : (size_t)(d[2] * d[3]);
    return NULL;
}

static ort_status *compute_grouped(void *kernel, ort_context *context) {
    const attributes *own = kernel;
    fgr_attention a = {.causal = 1};
    TRY(heads_of(context, own, &a));
    TRY(cache_of(context, &a));
    if (own->turns) TRY(angles_of(context, &a));
    TRY(bias_of(context, &a));
    const int64_t dimensions[] = {1, (int64_t)a.tokens, (int64_t)(a.heads * a.size)};
    TRY(fgr_output(context, OUTPUT, dimensions, 3, (void **)&a.y));
    return a.tokens ? attend(context, &a) : NULL;
}

/* Of one sequence, what a mask of its slots [slots] adds to every score: it hides where the mask is 0. */
static void hide(const int32_t *mask, size_t slots, float *bias) {
    for (size_t i = 0; i < slots; i++) bias[i] = mask[i] ? 0 : HIDDEN;
}

static ort_status *compute_plain(void *kernel, ort_context *context) {
    const attributes *own = kernel;
    fgr_tensor q, k, v, mask;
    void *y;
    TRY(fgr_input(context, QUERY, &q));
    TRY(fgr_input(context, KEY, &k));
    TRY(fgr_input(context, VALUE, &v));
    TRY(fgr_input(context, MASK, &mask));
    if (!q.data || q.rank != 3 || q.dimensions[2] % own->heads) return fgr_failed("queries are [B, S, heads * size]");
    const int64_t wanted[] = {q.dimensions[0], k.rank == 3 ? k.dimensions[1] : -1, q.dimensions[2]};
    if (!is_shape(&k, 3, wanted) || !is_shape(&v, 3, wanted)) return fgr_failed("keys and values do not fit the queries");
    if (mask.data && !is_shape(&mask, 2, wanted)) return fgr_failed("the mask does not fit the keys");
    TRY(fgr_output(context, OUTPUT, q.dimensions, 3, &y));
    const size_t width = (size_t)wanted[2];
    fgr_attention a = {.tokens = (size_t)q.dimensions[1], .total = (size_t)wanted[1]};
    a.heads = a.kv_heads = (size_t)own->heads;
    a.size = a.head_stride = width / a.heads;
    a.q_stride = a.slot_stride = width;
    a.scale = own->scale != 0 ? own->scale : 1 / sqrtf((float)a.size);
    if (!a.tokens) return NULL;
    if (!a.total) return fgr_failed("there is nothing to attend to");
    float *bias = mask.data ? malloc(a.total * sizeof *bias) : NULL;
    if (mask.data && !bias) return fgr_failed("fgr-edge found no memory for a mask");
    a.bias = bias;
    ort_status *status = NULL;
    for (size_t b = 0; b < (size_t)wanted[0] && !status; b++) {
        if (bias) hide((const int32_t *)mask.data + b * a.total, a.total, bias);
        a.q = (const float *)q.data + b * a.tokens * width;
        a.keys = (float *)k.data + b * a.total * width;
        a.values = (float *)v.data + b * a.total * width;
        a.y = (float *)y + b * a.tokens * width;
        status = attend(context, &a);
    }
    free(bias);
    return status;
}

static const char *grouped_name(const ort_operator *op) { return (void)op, "GroupQueryAttention"; }
static const char *plain_name(const ort_operator *op) { return (void)op, "MultiHeadAttention"; }
static size_t grouped_inputs(const ort_operator *op) { return (void)op, INPUTS; }
static size_t plain_inputs(const ort_operator *op) { return (void)op, PLAIN_INPUTS; }
static size_t grouped_outputs(const ort_operator *op) { return (void)op, OUTPUTS; }
static size_t plain_outputs(const ort_operator *op) { return (void)op, 1; }
static int plain_input_type(const ort_operator *op, size_t i) { return (void)op, i == MASK ? ORT_INT32 : ORT_FLOAT; }
static int grouped_input_type(const ort_operator *op, size_t i) {
    return (void)op, i == LENGTH || i == TOTAL ? ORT_INT32 : i == POSITIONS ? ORT_INT64 : ORT_FLOAT;
}
static int grouped_input_is_optional(const ort_operator *op, size_t i) {
    return (void)op, i == KEY || i == VALUE || i >= COS;
}
static int plain_input_is_optional(const ort_operator *op, size_t i) { return (void)op, i > VALUE; }

const ort_operator fgr_group_query_attention = FGR_OPERATOR(
    grouped_name, grouped_inputs, grouped_input_type, grouped_input_is_optional, grouped_outputs, create_grouped, destroy,
    compute_grouped
);
const ort_operator fgr_multi_head_attention = FGR_OPERATOR(
    plain_name, plain_inputs, plain_input_type, plain_input_is_optional, plain_outputs, create_plain, destroy,
    compute_plain
);
