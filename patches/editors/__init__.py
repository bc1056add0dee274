"""Editors: methods that turn a batch of edits into changes of weights. `EDITORS` lists them."""

from patches.editors.editor import Editor, Prepared, Result, parse_assignments
from patches.editors.ultraedit_editor import UltraEditEditor

EDITORS: dict[str, type[Editor]] = {editor.method: editor for editor in (UltraEditEditor,)}

__all__ = ["EDITORS", "Editor", "Prepared", "Result", "parse_assignments"]
