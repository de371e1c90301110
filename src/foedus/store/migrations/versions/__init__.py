"""Every revision, one file each; they never change once they were released."""
