/* The part of ONNX Runtime's C interface that is used here: version 17, of ONNX Runtime 1.17.

   Its table of functions and its description of an operator grow at their ends alone, so that later versions have all of
   this at the same places. Handles are pointers that nobody here looks behind; a status is NULL where all is well. */

#ifndef FGR_EDGE_ONNXRUNTIME_ABI_H
#define FGR_EDGE_ONNXRUNTIME_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef struct ort_status ort_status;
typedef struct ort_value ort_value;
typedef struct ort_shape ort_shape;
typedef struct ort_info ort_info;       /* of a node, while its kernel is made */
typedef struct ort_context ort_context; /* of one call of a kernel */
typedef struct ort_domain ort_domain;
typedef struct ort_options ort_options;

typedef void *const *ort_table;

typedef struct {
    ort_table (*table)(uint32_t version); /* NULL for versions that are not known */
    const char *(*version)(void);
} ort_base;

enum { ORT_VERSION = 17, ORT_FAIL = 1, ORT_NOT_IMPLEMENTED = 9 };
enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT32 = 6, ORT_INT64 = 7 };
enum { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

#define ORT_CREATE_STATUS(t) ((ort_status * (*)(int, const char *))(t)[0])
#define ORT_CREATE_DOMAIN(t) ((ort_status * (*)(const char *, ort_domain **))(t)[26])
#define ORT_DOMAIN_ADD(t) ((ort_status * (*)(ort_domain *, const struct ort_operator *))(t)[27])
#define ORT_ADD_DOMAIN(t) ((ort_status * (*)(ort_options *, ort_domain *))(t)[28])
#define ORT_DATA(t) ((ort_status * (*)(ort_value *, void **))(t)[51])
#define ORT_RANK(t) ((ort_status * (*)(const ort_shape *, size_t *))(t)[61])
#define ORT_DIMENSIONS(t) ((ort_status * (*)(const ort_shape *, int64_t *, size_t))(t)[62])
#define ORT_SHAPE(t) ((ort_status * (*)(const ort_value *, ort_shape **))(t)[65])
#define ORT_FLOAT_ATTRIBUTE(t) ((ort_status * (*)(const ort_info *, const char *, float *))(t)[85])
#define ORT_ATTRIBUTE(t) ((ort_status * (*)(const ort_info *, const char *, int64_t *))(t)[86])
#define ORT_INPUT(t) ((ort_status * (*)(const ort_context *, size_t, const ort_value **))(t)[90])
#define ORT_OUTPUT(t) ((ort_status * (*)(ort_context *, size_t, const int64_t *, size_t, ort_value **))(t)[91])
#define ORT_RELEASE_STATUS(t) ((void (*)(ort_status *))(t)[93])
#define ORT_RELEASE_SHAPE(t) ((void (*)(ort_shape *))(t)[99])
#define ORT_INPUTS(t) ((ort_status * (*)(const ort_info *, size_t *))(t)[230])
#define ORT_INPUT_NAME(t) ((ort_status * (*)(const ort_info *, size_t, char *, size_t *))(t)[232])
#define ORT_CONSTANT(t) ((ort_status * (*)(const ort_info *, size_t, int *, const ort_value **))(t)[249])
#define ORT_PARALLEL(t) \
    ((ort_status * (*)(const ort_context *, void (*)(void *, size_t), size_t, size_t, void *))(t)[274])

/* How an operator is described; those of version 16 that are not used are NULL. */
typedef struct ort_operator {
    uint32_t version;
    void *(*create_void)(const struct ort_operator *, ort_table, const ort_info *);
    const char *(*name)(const struct ort_operator *);
    const char *(*provider)(const struct ort_operator *);
    int (*input_type)(const struct ort_operator *, size_t);
    size_t (*inputs)(const struct ort_operator *);
    int (*output_type)(const struct ort_operator *, size_t);
    size_t (*outputs)(const struct ort_operator *);
    void (*compute_void)(void *, ort_context *);
    void (*destroy)(void *);
    int (*input_is_optional)(const struct ort_operator *, size_t);
    int (*output_is_optional)(const struct ort_operator *, size_t);
    int (*memory)(const struct ort_operator *, size_t);
    int (*least_inputs)(const struct ort_operator *);
    int (*inputs_alike)(const struct ort_operator *);
    int (*least_outputs)(const struct ort_operator *);
    int (*outputs_alike)(const struct ort_operator *);
    ort_status *(*create)(const struct ort_operator *, ort_table, const ort_info *, void **);
    ort_status *(*compute)(void *, ort_context *);
} ort_operator;

enum { ORT_OPERATOR_VERSION = 16 };

#endif
