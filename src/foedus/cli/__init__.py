"""F7: the command line, one module per noun. It stands on the floors below and decides nothing itself."""
