/* Random bits for checks, the same in each run: Marsaglia's xorshift of 32 bits. */

#ifndef FGR_EDGE_RANDOM_BITS_H
#define FGR_EDGE_RANDOM_BITS_H

#include <stdint.h>

static uint32_t state = 2463534242u;

static uint32_t any(void) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

#endif
