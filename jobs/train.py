"""phaseray train as a job."""

import sys

from phaseray.cli import main

main(["train", *sys.argv[1:]])
