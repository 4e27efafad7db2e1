"""Jupyter widgets: the stage and the theatre (`vmlab.show`), the page walk (`vmlab.show_walk`), the VMCS (`vmlab.show_vmcs`), console, debugger."""

from __future__ import annotations

from vmlab.widgets.console import Console, console
from vmlab.widgets.debugger import DebuggerView, debug
from vmlab.widgets.layer_explorer import LayerExplorer, show_layers
from vmlab.widgets.stage import Stage
from vmlab.widgets.theatre import Theatre, show
from vmlab.widgets.vmcs_inspector import VmcsInspector, show_vmcs
from vmlab.widgets.walk_theatre import WalkTheatre, show_walk

__all__ = [
    "Console", "DebuggerView", "LayerExplorer", "Stage", "Theatre", "VmcsInspector", "WalkTheatre", "console", "debug", "show", "show_layers", "show_vmcs", "show_walk",
]  # fmt: skip
