"""How foreign code is held: a process that sees little, may do little, and takes no more than it was given."""
