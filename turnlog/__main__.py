"""``python -m turnlog`` is ``turnlog``."""

from turnlog.cli import main

if __name__ == "__main__":
    main()
