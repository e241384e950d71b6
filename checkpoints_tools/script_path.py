"""Puts the repository root on sys.path in the place of this directory.

`python checkpoints_tools/verify.py` starts with this directory on the path, where inspect.py hides
the standard library's module of that name. Every program imports this module before all others.
"""

import os
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path) != _HERE]
sys.path.insert(0, os.path.dirname(_HERE))
