"""F4: where things are kept: rows in SQL, blobs in a folder, and the hooks that prove both survive a kill."""
