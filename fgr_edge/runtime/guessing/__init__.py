"""Several tokens a decoder call: what comes next is guessed, and one call checks it."""
