"""Jupyter widgets: the stage and the theatre (`vmlab.show`), the console (`vmlab.console`), the debugger (`vmlab.debug`)."""

from __future__ import annotations

from vmlab.widgets.console import Console, console
from vmlab.widgets.debugger import DebuggerView, debug
from vmlab.widgets.stage import Stage
from vmlab.widgets.theatre import Theatre, show

__all__ = ["Console", "DebuggerView", "Stage", "Theatre", "console", "debug", "show"]
