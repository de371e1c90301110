"""F2: what happens to an update on its way."""
