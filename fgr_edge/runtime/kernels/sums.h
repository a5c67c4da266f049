/* The logarithm of a sum of exponentials with one instruction set. Whoever includes this has included attend.h. */

enum { SUMMED = 4096 }; /* values whose exponentials float32 adds up, 64 or more sums side by side */

/* log(sum of e^x) of `count` values; no number where one is none or all are infinite. */
TARGET static double log_sum(const float *x, size_t count) {
    const size_t whole = count / (4 * LANES) * (4 * LANES);
    vfloat most[4];
    EACH(v, 4) most[v] = float_all(-INFINITY);
    for (size_t i = 0; i < whole; i += 4 * LANES)
        EACH(v, 4) most[v] = float_larger(most[v], float_load(x + i + v * LANES));
    float largest = float_largest(float_larger(float_larger(most[0], most[1]), float_larger(most[2], most[3])));
    for (size_t i = whole; i < count; i++) largest = x[i] > largest ? x[i] : largest;
    const vfloat minus = float_all(-largest);
    double sum = 0;
    for (size_t i = 0; i < count;) {
        const size_t end = count - i < SUMMED ? count : i + SUMMED;
        vfloat sums[4];
        EACH(v, 4) sums[v] = float_all(0);
        for (; i + 4 * LANES <= end; i += 4 * LANES)
            EACH(v, 4) sums[v] = float_plus(sums[v], exponential(float_plus(float_load(x + i + v * LANES), minus)));
        if (i < end) { /* fewer than four vectors are left of all */
            float rest[4 * LANES];
            for (size_t j = 0; j < 4 * LANES; j++) rest[j] = i + j < end ? x[i + j] : -INFINITY;
            EACH(v, 4) sums[v] = float_plus(sums[v], exponential(float_plus(float_load(rest + v * LANES), minus)));
            i = end;
        }
        EACH(v, 4) sum += sum_of_lanes(sums[v]);
    }
    return largest + log(sum);
}
