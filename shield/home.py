"""The user's data folder: what is kept on a machine is here, never in a checkout or an installed package.

HOME/thresholds/                thresholds that `diffshield calibrate` made, found before the shipped ones
HOME/galleries/NAME/            galleries that are asked for by name
HOME/models/                    models that `diffshield models get` fetched
HOME/weights/                   a testbed that `diffshield testbed train --out HOME/weights` wrote
"""

import os
from pathlib import Path

import platformdirs

ENVIRONMENT = "DIFFSHIELD_HOME"


def home() -> Path:
    """$DIFFSHIELD_HOME, else the user's data folder as the operating system has it; it needn't exist yet."""
    named = os.environ.get(ENVIRONMENT)
    return Path(named).expanduser() if named else platformdirs.user_data_path("diffshield", appauthor=False)


def gallery_folder(name: Path | str) -> Path:
    """A gallery's folder: the one at that path, else, for a name alone, the user's own gallery of that name."""
    path = Path(name).expanduser()
    return path if path.exists() or len(path.parts) != 1 else home() / "galleries" / path
