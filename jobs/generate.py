"""A catalogue to shards: amplitudes and densities on grids.

Takes the options of `phaseray generate`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["generate", *sys.argv[1:]])
