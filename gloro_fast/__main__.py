"""``python -m gloro_fast`` is ``gloro-fast``."""

from gloro_fast.cli import main

if __name__ == "__main__":
    main()
