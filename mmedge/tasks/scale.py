"""On which scale a figure is looked at, where its interval is taken."""

from __future__ import annotations

from typing import Literal

# A ``share`` lies between 0 and 1, ``unexplained`` is 1 less an error (R2), an ``error`` is 0 or more and less of it is
# better, a ``correlation`` lies between -1 and 1, a ``difference`` has no edge.
Scale = Literal["share", "unexplained", "error", "correlation", "difference"]
