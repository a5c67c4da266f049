"""Our own products of rows with quantized weights, in C: sources, and the library built of them where a compiler is."""
