"""Jupyter widgets: the stage, and the theatre that `vmlab.show` displays."""

from __future__ import annotations

from vmlab.widgets.stage import Stage
from vmlab.widgets.theatre import Theatre, show

__all__ = ["Stage", "Theatre", "show"]
