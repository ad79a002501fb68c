"""phaseray evaluate as a job."""

import sys

from phaseray.cli import main

main(["evaluate", *sys.argv[1:]])
