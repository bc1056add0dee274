"""Editors: methods that turn a batch of edits into changes of weights. `EDITORS` lists them."""

from patches.editors.editor import Editor, Facts, Prepared, Request, Result, parse_assignments
from patches.editors.ultraedit_editor import UltraEditEditor
from patches.editors.wise_editor import WiseEditor

EDITORS: dict[str, type[Editor]] = {
    editor.method: editor for editor in (UltraEditEditor, WiseEditor)
}

__all__ = ["EDITORS", "Editor", "Facts", "Prepared", "Request", "Result", "parse_assignments"]
