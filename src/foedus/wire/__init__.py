"""F1: what is said between processes: typed, versioned messages and their signatures."""
