"""Everything MLflow: runs that can be compared, and nothing that leaves the machine.

Names are the same for every model: train/loss, val/loss, val/map_cc, time/epoch_s, best/val_loss, val/sections.
Losses are those of `phaseray.training.loop`: dimensionless, 1 is the error of a flat map.

The database and the experiment are made once, by `prepare` on the driver (first connections in
parallel race MLflow's migrations); a `Run` is then a small value that may be sent to workers. What
a server that is away cannot take waits in the run's outbox.
"""

from phaseray.tracking.names import GIT_SHA, flat_params, git_sha, run_name
from phaseray.tracking.outbox import send_waiting
from phaseray.tracking.registry import fetch_model, is_model_uri, registered_name
from phaseray.tracking.run import Run
from phaseray.tracking.store import Store, prepare

__all__ = [
    "GIT_SHA", "Run", "Store", "fetch_model", "flat_params", "git_sha", "is_model_uri", "prepare", "registered_name",
    "run_name", "send_waiting",
]  # fmt: skip
