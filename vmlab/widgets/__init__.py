"""Jupyter widgets: the stage and the theatre of `vmlab.show`, the console of `vmlab.console`."""

from __future__ import annotations

from vmlab.widgets.console import Console, console
from vmlab.widgets.stage import Stage
from vmlab.widgets.theatre import Theatre, show

__all__ = ["Console", "Stage", "Theatre", "console", "show"]
