"""All stages in order: ingest, generate, tune (with pipeline.tune=true), train, evaluate.

Takes the options of `phaseray pipeline`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["pipeline", *sys.argv[1:]])
