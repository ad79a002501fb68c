"""phaseray ingest as a job."""

import sys

from phaseray.cli import main

main(["ingest", *sys.argv[1:]])
