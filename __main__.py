"""`python -m caan`: the command `caan`."""

from .cli import main

if __name__ == "__main__":
    main()
