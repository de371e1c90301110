"""F2: what a client does with a plan, a broadcast and its data."""
