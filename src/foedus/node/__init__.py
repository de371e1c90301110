"""F6: a node: a process beside private data that hosts clients and only ever dials out."""
