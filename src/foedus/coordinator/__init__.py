"""F6: the server that runs rounds. It never sees data and never imports a plan."""
