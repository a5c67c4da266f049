/* ONNX Runtime's MatMulNBits on the CPU, by the products here instead of its own.

   A kernel that a library registers comes before ONNX Runtime's of the same name, so that graphs stay as they are. */

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "onnxruntime_abi.h"
#include "product.h"

#define EXPORT __attribute__((visibility("default")))
#define TRY(call) \
    do { \
        ort_status *status_ = (call); \
        if (status_) return status_; \
    } while (0)

enum {
    X, LEVELS, SCALES, ZERO_POINTS, GROUPS, BIAS, INPUTS, /* of the operator */
    MOST_DIMENSIONS = 8,
    SLAB = 256,              /* rows of x that are rounded at a time */
    ROUNDED_ALONE = 16,      /* rows that one thread rounds sooner than several */
    SERIAL_BYTES = 96 << 10, /* of weights that one thread multiplies sooner than several */
    PACKED_ALONE = 1 << 20,  /* bytes */
};

static ort_table ort;
static const fgr_way *way;

EXPORT const char *fgr_products_way(void) {
    const fgr_way *best = fgr_best_way();
    return best ? best->name : NULL;
}

static ort_status *refused(const char *why) { return ORT_CREATE_STATUS(ort)(ORT_NOT_IMPLEMENTED, why); }

/* The data of a constant input; NULL where the node leaves it out. */
static ort_status *constant(const ort_info *info, size_t count, size_t index, const void **data) {
    *data = NULL;
    int is_constant = 0;
    const ort_value *value = NULL;
    size_t name_size = 0; /* with the zero behind it */
    if (index >= count) return NULL;
    TRY(ORT_INPUT_NAME(ort)(info, index, NULL, &name_size));
    if (name_size <= 1) return NULL;
    TRY(ORT_CONSTANT(ort)(info, index, &is_constant, &value));
    if (!is_constant || !value) return refused("fgr-edge multiplies constant weights alone");
    return ORT_DATA(ort)((ort_value *)value, (void **)data);
}

static ort_status *create(const ort_operator *op, ort_table table, const ort_info *info, void **kernel) {
    (void)op, (void)table;
    int64_t rows, columns, bits, block, level;
    size_t count;
    TRY(ORT_ATTRIBUTE(ort)(info, "N", &rows));
    TRY(ORT_ATTRIBUTE(ort)(info, "K", &columns));
    TRY(ORT_ATTRIBUTE(ort)(info, "bits", &bits));
    TRY(ORT_ATTRIBUTE(ort)(info, "block_size", &block));
    TRY(ORT_ATTRIBUTE(ort)(info, "accuracy_level", &level));
    TRY(ORT_INPUTS(ort)(info, &count));
    const void *data[INPUTS];
    for (size_t i = LEVELS; i < INPUTS; i++) TRY(constant(info, count, i, data + i));
    if (!data[LEVELS] || !data[SCALES]) return refused("fgr-edge multiplies weights with scales alone");
    if (level != 4) return refused("fgr-edge rounds inputs to int8, which this node does not ask for");
    if (data[GROUPS]) return refused("fgr-edge multiplies inputs in the order in which they come");
    if ((bits != 4 && bits != 8) || block < 8 || block % 8) return refused("fgr-edge multiplies levels of 4 and 8 bits");
    const fgr_weight w = {data[LEVELS], data[SCALES], data[ZERO_POINTS], data[BIAS],
                          (size_t)rows, (size_t)columns, (size_t)block, (int)bits};
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const int alone = cores < 2 || rows * columns * bits / 8 < PACKED_ALONE;
    *kernel = fgr_pack(way, &w, alone ? 1 : (size_t)cores);
    return *kernel ? NULL : ORT_CREATE_STATUS(ort)(ORT_FAIL, "fgr-edge found no memory for weights");
}

static void destroy(void *kernel) { fgr_free_packed(kernel); }

typedef struct {
    const fgr_packed *w;
    const float *x;
    float *y;
    char *prepared;
    size_t count;
} work;

static void prepare_some(void *data, size_t i) {
    const work *j = data;
    const size_t from = i * ROUNDED_ALONE, until = from + ROUNDED_ALONE;
    way->prepare(j->w, j->x, from, until < j->count ? until : j->count, j->prepared);
}

static void multiply_strip(void *data, size_t i) {
    const work *j = data;
    way->multiply(j->w, j->prepared, j->count, i, i + 1, j->y);
}

static ort_status *multiply(ort_context *context, work *j) {
    const fgr_packed *w = j->w;
    if (j->count <= ROUNDED_ALONE)
        way->prepare(w, j->x, 0, j->count, j->prepared);
    else
        TRY(ORT_PARALLEL(ort)(context, prepare_some, (j->count + ROUNDED_ALONE - 1) / ROUNDED_ALONE, 0, j));
    if (w->strips * w->strip_bytes * (j->count + 3) / 4 >= SERIAL_BYTES)
        return ORT_PARALLEL(ort)(context, multiply_strip, w->strips, 0, j);
    way->multiply(w, j->prepared, j->count, 0, w->strips, j->y);
    return NULL;
}

static ort_status *dimensions_of(const ort_value *value, int64_t *dimensions, size_t *rank) {
    ort_shape *shape;
    TRY(ORT_SHAPE(ort)(value, &shape));
    ort_status *status = ORT_RANK(ort)(shape, rank);
    if (!status && (*rank < 1 || *rank > MOST_DIMENSIONS)) status = refused("fgr-edge multiplies 1 to 8 dimensions");
    if (!status) status = ORT_DIMENSIONS(ort)(shape, dimensions, *rank);
    ORT_RELEASE_SHAPE(ort)(shape);
    return status;
}

static ort_status *compute(void *kernel, ort_context *context) {
    const fgr_packed *w = kernel;
    const ort_value *in;
    ort_value *out;
    int64_t dimensions[MOST_DIMENSIONS];
    size_t rank, count = 1;
    void *x, *y;
    TRY(ORT_INPUT(ort)(context, X, &in));
    TRY(dimensions_of(in, dimensions, &rank));
    for (size_t i = 0; i + 1 < rank; i++) count *= (size_t)dimensions[i];
    dimensions[rank - 1] = (int64_t)w->rows;
    TRY(ORT_OUTPUT(ort)(context, 0, dimensions, rank, &out));
    TRY(ORT_DATA(ort)((ort_value *)in, &x));
    TRY(ORT_DATA(ort)(out, &y));
    if (!count) return NULL;
    void *prepared;
    if (posix_memalign(&prepared, 64, (count < SLAB ? count : SLAB) * fgr_prepared_size(w)))
        return ORT_CREATE_STATUS(ort)(ORT_FAIL, "fgr-edge found no memory for inputs");
    ort_status *status = NULL;
    for (size_t m = 0; m < count && !status; m += SLAB) {
        work j = {w, (float *)x + m * w->columns, (float *)y + m * w->rows, prepared, count - m};
        if (j.count > SLAB) j.count = SLAB;
        status = multiply(context, &j);
    }
    free(prepared);
    return status;
}

static const char *name(const ort_operator *op) { return (void)op, "MatMulNBits"; }
static const char *provider(const ort_operator *op) { return (void)op, "CPUExecutionProvider"; }
static size_t inputs(const ort_operator *op) { return (void)op, INPUTS; }
static size_t outputs(const ort_operator *op) { return (void)op, 1; }
static int input_type(const ort_operator *op, size_t i) {
    return (void)op, i == LEVELS || i == ZERO_POINTS ? ORT_UINT8 : i == GROUPS ? ORT_INT32 : ORT_FLOAT;
}
static int output_type(const ort_operator *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
static int input_is_optional(const ort_operator *op, size_t i) { return (void)op, i > SCALES; }
static int output_is_optional(const ort_operator *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
static int memory(const ort_operator *op, size_t i) { return (void)op, (void)i, 0; }
static int one(const ort_operator *op) { return (void)op, 1; }

static const ort_operator mat_mul_n_bits = {
    .version = ORT_OPERATOR_VERSION,
    .name = name,
    .provider = provider,
    .input_type = input_type,
    .inputs = inputs,
    .output_type = output_type,
    .outputs = outputs,
    .destroy = destroy,
    .input_is_optional = input_is_optional,
    .output_is_optional = output_is_optional,
    .memory = memory,
    .least_inputs = one,
    .inputs_alike = one,
    .least_outputs = one,
    .outputs_alike = one,
    .create = create,
    .compute = compute,
};

/* What ONNX Runtime calls when a session's options name this library. On a processor without products, or by a version
   before 1.17, nothing is registered. */
EXPORT ort_status *RegisterCustomOps(ort_options *options, const ort_base *base) {
    way = fgr_best_way();
    ort = base->table(ORT_VERSION);
    if (!way || !ort) return NULL;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static ort_domain *domain; /* lives as long as the library: sessions hold on to it */
    ort_status *status = NULL;
    pthread_mutex_lock(&lock);
    if (!domain) {
        ort_domain *made = NULL;
        status = ORT_CREATE_DOMAIN(ort)("com.microsoft", &made);
        if (!status) status = ORT_DOMAIN_ADD(ort)(made, &mat_mul_n_bits);
        if (!status) domain = made;
    }
    pthread_mutex_unlock(&lock);
    return status ? status : ORT_ADD_DOMAIN(ort)(options, domain);
}
