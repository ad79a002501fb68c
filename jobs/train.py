"""A network from shards, with Ray Train.

Takes the options of `phaseray train`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
