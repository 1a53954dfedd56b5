"""The programs of bench/ are no package that is installed: their folder is looked in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bench"))
