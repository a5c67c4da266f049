"""Our own products of rows with quantized weights and our own attention, in C: sources, and the library built of them
where a compiler is."""
