"""The colours of heat maps, in the terminal and as PNG."""

__all__ = ["COLOURS"]

COLOURS = ("#161a30", "#233e6a", "#22708a", "#2ca08c", "#7acc6c", "#fae65c")
"""From no attention to the most: dark to light, so that lightness alone tells the order."""
