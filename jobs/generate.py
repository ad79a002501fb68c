"""phaseray generate as a job."""

import sys

from phaseray.cli import main

main(["generate", *sys.argv[1:]])
