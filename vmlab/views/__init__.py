"""Views: pure functions from a machine's state or trace to a graph, a figure, a table, a text or a scene.

Nothing here keeps state or knows widgets; one theme gives colours and glyphs. plotly is imported when a figure is
drawn.
"""

from __future__ import annotations

from vmlab.views.compare_figure import comparison_figure
from vmlab.views.compare_table import comparison_table
from vmlab.views.cycles import cycles_figure, cycles_table
from vmlab.views.figure import layers_figure
from vmlab.views.kind_graph import kind_graph, kind_rows
from vmlab.views.kind_svg import kind_svg
from vmlab.views.kinds_figure import kinds_figure
from vmlab.views.layers import describe, layers, rows
from vmlab.views.memory_map import MemoryMap, memory_map
from vmlab.views.nanobenchmarks import nanobenchmarks_figure
from vmlab.views.page_tables import describe_page_tables, page_table_rows, page_tables, shadow_entries
from vmlab.views.page_tables_figure import page_tables_figure
from vmlab.views.page_walk import PageWalk, walk
from vmlab.views.scene import SceneWriter
from vmlab.views.svg import describe_scene, scene_svg
from vmlab.views.timeline import Timeline, timeline

__all__ = [
    "MemoryMap", "PageWalk", "SceneWriter", "Timeline", "comparison_figure", "comparison_table", "cycles_figure", "cycles_table", "describe", "describe_page_tables",
    "describe_scene", "kind_graph", "kind_rows", "kind_svg", "kinds_figure", "layers", "layers_figure", "memory_map", "nanobenchmarks_figure", "page_table_rows", "page_tables", "page_tables_figure", "rows",
    "scene_svg", "shadow_entries", "timeline", "walk",
]  # fmt: skip
