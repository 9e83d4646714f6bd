"""The command line, as ``python -m shrinkage.cli``."""

from shrinkage.cli import main

if __name__ == "__main__":
    main()
