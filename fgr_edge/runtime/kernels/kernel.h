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

/* A tensor; `data` is NULL where the node leaves it out. */
typedef struct {
    void *data;
    int64_t dimensions[FGR_MOST_DIMENSIONS];
    size_t rank;
} fgr_tensor;

extern ort_table fgr_ort;
extern const fgr_way *fgr_own_way;

extern const ort_operator fgr_mat_mul_n_bits, fgr_group_query_attention, fgr_multi_head_attention;

/* For nodes that ask for what is not written here: the session is then opened without this library. */
ort_status *fgr_refused(const char *why);

ort_status *fgr_failed(const char *why);

/* Whether a node has the input, when its kernel is made. */
ort_status *fgr_has_input(const ort_info *info, size_t index, int *has);

/* In a call. */
ort_status *fgr_input(ort_context *context, size_t index, fgr_tensor *tensor);
ort_status *fgr_output(ort_context *context, size_t index, const int64_t *dimensions, size_t rank, void **data);

/* What all operators here say of themselves: they run on the CPU, and give float32. */
const char *fgr_provider(const ort_operator *op);
int fgr_output_type(const ort_operator *op, size_t i);
int fgr_is_required(const ort_operator *op, size_t i);
int fgr_memory(const ort_operator *op, size_t i);
int fgr_one(const ort_operator *op);

#define FGR_OPERATOR(own_name, own_inputs, own_input_type, own_optional, own_outputs, own_create, own_destroy, own_compute) \
    { \
        .version = ORT_OPERATOR_VERSION, .name = own_name, .provider = fgr_provider, .inputs = own_inputs, \
        .input_type = own_input_type, .input_is_optional = own_optional, .outputs = own_outputs, \
        .output_type = fgr_output_type, .output_is_optional = fgr_is_required, .memory = fgr_memory, \
        .least_inputs = fgr_one, .inputs_alike = fgr_one, .least_outputs = fgr_one, .outputs_alike = fgr_one, \
        .create = own_create, .destroy = own_destroy, .compute = own_compute, \
    }

#endif
