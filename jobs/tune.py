"""The best of many trainings, with Ray Tune.

Takes the options of `phaseray tune`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
