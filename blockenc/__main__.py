"""`python -m blockenc`: the command line."""

from blockenc.cli import main

if __name__ == "__main__":
    main()
