"""`python -m minivid` is the command `minivid`."""

import atexit
import gc
import sys

from minivid.cli import main

# Python looks through every object once more when it ends, which takes half a second where torch was loaded. The system
# takes the memory back without that.
atexit.register(gc.freeze)

if __name__ == "__main__":
    sys.exit(main())
