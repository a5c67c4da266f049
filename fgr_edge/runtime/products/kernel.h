/* What the operators here share: the engine's functions, the instructions that they use, and how they say no. */

#ifndef FGR_EDGE_KERNEL_H
#define FGR_EDGE_KERNEL_H

#include "onnxruntime_abi.h"
#include "product.h"

#define TRY(call) \
    do { \
        ort_status *status_ = (call); \
        if (status_) return status_; \
    } while (0)

enum { FGR_MOST_DIMENSIONS = 8 };

extern ort_table fgr_ort;
extern const fgr_way *fgr_own_way;

extern const ort_operator fgr_mat_mul_n_bits, fgr_group_query_attention, fgr_multi_head_attention;

/* For nodes that ask for what is not written here: the session is then opened without this library. */
ort_status *fgr_refused(const char *why);

ort_status *fgr_failed(const char *why);

ort_status *fgr_dimensions_of(const ort_value *value, int64_t *dimensions, size_t *rank);

#endif
