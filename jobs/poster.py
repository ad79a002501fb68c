"""The poster's experiment, and one remedy at a time.

Takes the options of `phaseray poster`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["poster", *sys.argv[1:]])
