"""Scores of trained networks on a held-out split, and a report.

Takes the options of `phaseray evaluate`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
