"""The root of a checkout at run time, and the names under which the guides import RLAgent and the vector environments."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("background_training") is None:  # a checkout that was never installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
