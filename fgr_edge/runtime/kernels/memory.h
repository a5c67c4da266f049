/* Memory for weights, on huge pages where the system has them: small weights share them.

   In: sizes. Out: areas of zeros, aligned to 64 bytes, that are given back in any order. */

#ifndef FGR_EDGE_MEMORY_H
#define FGR_EDGE_MEMORY_H

#include <stddef.h>

void *fgr_take_memory(size_t bytes); /* NULL where there is none */
void fgr_give_memory(void *memory);

#endif
