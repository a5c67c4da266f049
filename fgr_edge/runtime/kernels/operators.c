/* The library as ONNX Runtime sees it. A kernel that a library registers comes before ONNX Runtime's of the same name, so
   that graphs stay as they are. */

#include <pthread.h>

#include "kernel.h"

#define EXPORT __attribute__((visibility("default")))

ort_table fgr_ort;
const fgr_way *fgr_own_way;

static const ort_operator *const operators[] = {
    &fgr_mat_mul_n_bits,
    &fgr_group_query_attention,
    &fgr_multi_head_attention,
};

EXPORT const char *fgr_kernels_way(void) {
    const fgr_way *best = fgr_best_way();
    return best ? best->name : NULL;
}

/* For each row of x [rows, count] the logarithm of the sum of its exponentials; whether this processor can. */
EXPORT int fgr_log_sums(const float *x, size_t rows, size_t count, double *sums) {
    const fgr_way *best = fgr_best_way();
    if (!best) return 0;
    for (size_t row = 0; row < rows; row++) sums[row] = best->log_sum(x + row * count, count);
    return 1;
}

ort_status *fgr_refused(const char *why) { return ORT_CREATE_STATUS(fgr_ort)(ORT_NOT_IMPLEMENTED, why); }

ort_status *fgr_failed(const char *why) { return ORT_CREATE_STATUS(fgr_ort)(ORT_FAIL, why); }

ort_status *fgr_has_input(const ort_info *info, size_t index, int *has) {
    size_t count, name_size = 0; /* with the zero behind it */
    TRY(ORT_INPUTS(fgr_ort)(info, &count));
    if (index < count) TRY(ORT_INPUT_NAME(fgr_ort)(info, index, NULL, &name_size));
    *has = name_size > 1;
    return NULL;
}

static ort_status *dimensions_of(const ort_value *value, fgr_tensor *tensor) {
    ort_shape *shape;
    TRY(ORT_SHAPE(fgr_ort)(value, &shape));
    ort_status *status = ORT_RANK(fgr_ort)(shape, &tensor->rank);
    if (!status && (tensor->rank < 1 || tensor->rank > FGR_MOST_DIMENSIONS))
        status = fgr_refused("fgr-edge takes 1 to 8 dimensions");
    if (!status) status = ORT_DIMENSIONS(fgr_ort)(shape, tensor->dimensions, tensor->rank);
    ORT_RELEASE_SHAPE(fgr_ort)(shape);
    return status;
}

ort_status *fgr_input(ort_context *context, size_t index, fgr_tensor *tensor) {
    const ort_value *value = NULL;
    tensor->data = NULL;
    tensor->rank = 0;
    TRY(ORT_INPUT(fgr_ort)(context, index, &value));
    if (!value) return NULL;
    TRY(dimensions_of(value, tensor));
    return ORT_DATA(fgr_ort)((ort_value *)value, &tensor->data);
}

ort_status *fgr_output(ort_context *context, size_t index, const int64_t *dimensions, size_t rank, void **data) {
    ort_value *value;
    TRY(ORT_OUTPUT(fgr_ort)(context, index, dimensions, rank, &value));
    return ORT_DATA(fgr_ort)(value, data);
}

const char *fgr_provider(const ort_operator *op) { return (void)op, "CPUExecutionProvider"; }
int fgr_output_type(const ort_operator *op, size_t i) { return (void)op, (void)i, ORT_FLOAT; }
int fgr_is_required(const ort_operator *op, size_t i) { return (void)op, (void)i, ORT_REQUIRED; }
int fgr_memory(const ort_operator *op, size_t i) { return (void)op, (void)i, 0; }
int fgr_one(const ort_operator *op) { return (void)op, 1; }

/* What ONNX Runtime calls when a session's options name this library. On a processor without products, or by a version
   before 1.17, nothing is registered. */
EXPORT ort_status *RegisterCustomOps(ort_options *options, const ort_base *base) {
    fgr_own_way = fgr_best_way();
    fgr_ort = base->table(ORT_VERSION);
    if (!fgr_own_way || !fgr_ort) return NULL;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static ort_domain *domain; /* lives as long as the library: sessions hold on to it */
    ort_status *status = NULL;
    pthread_mutex_lock(&lock);
    if (!domain) {
        ort_domain *made = NULL;
        status = ORT_CREATE_DOMAIN(fgr_ort)("com.microsoft", &made);
        for (size_t i = 0; i < sizeof operators / sizeof *operators && !status; i++)
            status = ORT_DOMAIN_ADD(fgr_ort)(made, operators[i]);
        if (!status) domain = made;
    }
    pthread_mutex_unlock(&lock);
    return status ? status : ORT_ADD_DOMAIN(fgr_ort)(options, domain);
}
