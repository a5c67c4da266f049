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

EXPORT const char *fgr_products_way(void) {
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

ort_status *fgr_dimensions_of(const ort_value *value, int64_t *dimensions, size_t *rank) {
    ort_shape *shape;
    TRY(ORT_SHAPE(fgr_ort)(value, &shape));
    ort_status *status = ORT_RANK(fgr_ort)(shape, rank);
    if (!status && (*rank < 1 || *rank > FGR_MOST_DIMENSIONS)) status = fgr_refused("fgr-edge takes 1 to 8 dimensions");
    if (!status) status = ORT_DIMENSIONS(fgr_ort)(shape, dimensions, *rank);
    ORT_RELEASE_SHAPE(fgr_ort)(shape);
    return status;
}

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
