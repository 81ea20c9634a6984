"""`python -m minivid` is the command `minivid`."""

import sys

from minivid.cli import main

if __name__ == "__main__":
    sys.exit(main())
