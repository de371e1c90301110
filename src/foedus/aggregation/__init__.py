"""F1: how contributions become one aggregate."""
