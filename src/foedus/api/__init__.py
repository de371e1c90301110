"""F7: what Python programs and notebooks call. `foedus/__init__` offers its names."""
