/* ONNX Runtime's MatMulNBits on the CPU, by the products here instead of its own. */

#include <stdlib.h>
#include <unistd.h>

#include "kernel.h"

enum {
    X, LEVELS, SCALES, ZERO_POINTS, GROUPS, BIAS, INPUTS, /* of the operator */
    SLAB = 256,              /* rows of x that are rounded at a time */
    ROUNDED_ALONE = 16,      /* rows that one thread rounds sooner than several */
    SERIAL_BYTES = 96 << 10, /* of weights that one thread multiplies sooner than several */
    PACKED_ALONE = 1 << 20,  /* bytes */
};

/* The data of a constant input; NULL where the node leaves it out. */
static ort_status *constant(const ort_info *info, size_t index, const void **data) {
    *data = NULL;
    int is_there, is_constant = 0;
    const ort_value *value = NULL;
    TRY(fgr_has_input(info, index, &is_there));
    if (!is_there) return NULL;
    TRY(ORT_CONSTANT(fgr_ort)(info, index, &is_constant, &value));
    if (!is_constant || !value) return fgr_refused("fgr-edge multiplies constant weights alone");
    return ORT_DATA(fgr_ort)((ort_value *)value, (void **)data);
}

static ort_status *create(const ort_operator *op, ort_table table, const ort_info *info, void **kernel) {
    (void)op, (void)table;
    int64_t rows, columns, bits, block, level;
    TRY(ORT_ATTRIBUTE(fgr_ort)(info, "N", &rows));
    TRY(ORT_ATTRIBUTE(fgr_ort)(info, "K", &columns));
    TRY(ORT_ATTRIBUTE(fgr_ort)(info, "bits", &bits));
    TRY(ORT_ATTRIBUTE(fgr_ort)(info, "block_size", &block));
    TRY(ORT_ATTRIBUTE(fgr_ort)(info, "accuracy_level", &level));
    const void *data[INPUTS];
    for (size_t i = LEVELS; i < INPUTS; i++) TRY(constant(info, i, data + i));
    if (!data[LEVELS] || !data[SCALES]) return fgr_refused("fgr-edge multiplies weights with scales alone");
    if (level != 4) return fgr_refused("fgr-edge rounds inputs to int8, which this node does not ask for");
    if (data[GROUPS]) return fgr_refused("fgr-edge multiplies inputs in the order in which they come");
    if ((bits != 4 && bits != 8) || block < 8 || block % 8) return fgr_refused("fgr-edge multiplies levels of 4 and 8 bits");
    const fgr_weight w = {data[LEVELS], data[SCALES], data[ZERO_POINTS], data[BIAS],
                          (size_t)rows, (size_t)columns, (size_t)block, (int)bits};
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    const int alone = cores < 2 || rows * columns * bits / 8 < PACKED_ALONE;
    *kernel = fgr_pack(fgr_own_way, &w, alone ? 1 : (size_t)cores);
    return *kernel ? NULL : fgr_failed("fgr-edge found no memory for weights");
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
    fgr_own_way->prepare(j->w, j->x, from, until < j->count ? until : j->count, j->prepared);
}

static void multiply_strip(void *data, size_t i) {
    const work *j = data;
    fgr_own_way->multiply(j->w, j->prepared, j->count, i, i + 1, j->y);
}

static ort_status *multiply(ort_context *context, work *j) {
    const fgr_packed *w = j->w;
    if (j->count <= ROUNDED_ALONE)
        fgr_own_way->prepare(w, j->x, 0, j->count, j->prepared);
    else
        TRY(ORT_PARALLEL(fgr_ort)(context, prepare_some, (j->count + ROUNDED_ALONE - 1) / ROUNDED_ALONE, 0, j));
    if (w->strips * w->strip_bytes * (j->count + 3) / 4 >= SERIAL_BYTES)
        return ORT_PARALLEL(fgr_ort)(context, multiply_strip, w->strips, 0, j);
    fgr_own_way->multiply(w, j->prepared, j->count, 0, w->strips, j->y);
    return NULL;
}

static ort_status *compute(void *kernel, ort_context *context) {
    const fgr_packed *w = kernel;
    fgr_tensor x;
    size_t count = 1;
    void *y;
    TRY(fgr_input(context, X, &x));
    for (size_t i = 0; i + 1 < x.rank; i++) count *= (size_t)x.dimensions[i];
    x.dimensions[x.rank - 1] = (int64_t)w->rows;
    TRY(fgr_output(context, 0, x.dimensions, x.rank, &y));
    if (!count) return NULL;
    void *prepared;
    if (posix_memalign(&prepared, 64, (count < SLAB ? count : SLAB) * fgr_prepared_size(w)))
        return fgr_failed("fgr-edge found no memory for inputs");
    ort_status *status = NULL;
    for (size_t m = 0; m < count && !status; m += SLAB) {
        work j = {w, (float *)x.data + m * w->columns, (float *)y + m * w->rows, prepared, count - m};
        if (j.count > SLAB) j.count = SLAB;
        status = multiply(context, &j);
    }
    free(prepared);
    return status;
}

static const char *name(const ort_operator *op) { return (void)op, "MatMulNBits"; }
static size_t inputs(const ort_operator *op) { return (void)op, INPUTS; }
static int input_type(const ort_operator *op, size_t i) {
    return (void)op, i == LEVELS || i == ZERO_POINTS ? ORT_UINT8 : i == GROUPS ? ORT_INT32 : ORT_FLOAT;
}
static int input_is_optional(const ort_operator *op, size_t i) { return (void)op, i > SCALES; }
static size_t outputs(const ort_operator *op) { return (void)op, 1; }

const ort_operator fgr_mat_mul_n_bits =
    FGR_OPERATOR(name, inputs, input_type, input_is_optional, outputs, create, destroy, compute);
