"""The parts of revision 0002, by subject."""
