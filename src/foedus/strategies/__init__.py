"""F3: papers, as compositions of pure parts."""
