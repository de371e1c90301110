"""Other frameworks on the same jobs: an environment for each under ``.bench/``, and a runner that imports only it."""
