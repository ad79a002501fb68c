"""The folder a command writes: whose it is, and what stands in it at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from phaseray.config import ConfigError, to_yaml
from phaseray.pipeline.storage import is_aside, read_json, write_json, write_text


def open_folder(path: Path, identity: dict[str, Any], config: BaseModel) -> None:
    """Make or re-enter an output folder.

    `identity` is what the contents depend on (digests, versions). A folder of the same identity
    is gone on with; one of another identity is never mixed with or overwritten.

    Raises
    ------
    ConfigError
        The folder belongs to a run with another configuration, or is no folder of ours.
    """
    mark = path / "run.json"
    if mark.exists():
        found = read_json(mark)
        if found != identity:
            differs = sorted(k for k in {*found, *identity} if found.get(k) != identity.get(k))
            raise ConfigError(
                f"{path} holds another run (its {', '.join(differs)} differ): "
                "choose another --out, or delete that folder"
            )
    elif path.exists() and not all(is_aside(p) for p in path.iterdir()):
        raise ConfigError(f"{path} is not empty and was not made by this command: choose another --out")
    # the mark first: a folder whose maker was killed in between is still known as his
    write_json(mark, identity)
    write_text(path / "config.yaml", to_yaml(config))
