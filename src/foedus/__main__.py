"""``python -m foedus`` is the same program as the ``foedus`` script."""

from foedus.cli.main import main

if __name__ == "__main__":
    main()
