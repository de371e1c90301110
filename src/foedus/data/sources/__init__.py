"""Where data come from: one module for each kind of source, loaded when a run names it."""
