"""Crystals from any source to a catalogue.

Takes the options of `phaseray ingest`, on the cluster that the job was submitted to.
"""

import sys

from phaseray.cli import main

if __name__ == "__main__":
    main(["ingest", *sys.argv[1:]])
