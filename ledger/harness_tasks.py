"""Tasks of lm-evaluation-harness: found, loaded, and refused where they would run foreign code."""

import difflib
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ledger.hub import scrubbed
from patches.errors import DatasetError, SettingError

LIBRARY = "lm_eval"
_LONGEST_REASON = 300
_GROUP = re.compile(r"^group\s*:", re.MULTILINE)

Tasks = dict[str, dict[str, Any]]
"""As the harness hands them over: ``tasks``, ``groups`` and ``group_map``, each by name."""


def load_tasks(names: Sequence[str], path: Path | None) -> Tasks:
    """The tasks with these names, or in these YAML files, and their data.

    path: a folder with tasks of one's own, which go before the harness's. Raises SettingError for
    one that is unknown or not to be run, DatasetError for one that cannot be loaded.
    """
    managers = _Managers(path)
    loaded: Tasks = {"tasks": {}, "groups": {}, "group_map": {}}
    for name in dict.fromkeys(names):
        found = _load(name, managers.of(name))
        for kind, known in loaded.items():
            known.update(found.get(kind, {}))
    return loaded


class _Managers:
    """Who knows a task. The harness's own tasks are so many that they are read only if needed."""

    def __init__(self, path: Path | None) -> None:
        from lm_eval.tasks import TaskManager

        self._made = TaskManager
        self._path = None if path is None else str(path)
        self._own = TaskManager(include_path=self._path, include_defaults=False)
        self._all: Any = None

    def of(self, name: str) -> Any:
        file = Path(name).expanduser()
        if file.suffix in (".yaml", ".yml") and not file.is_file():
            raise SettingError(f"--lm-eval {name}: there is no such file")
        if file.is_file():
            # A group may have tasks of the harness in it.
            alone = not _GROUP.search(file.read_text(encoding="utf-8", errors="replace"))
        else:
            alone = self._is_own(name)
        if alone:
            return self._own
        if self._all is None:
            self._all = self._made(include_path=self._path)
        if not file.is_file():
            _check_known(name, self._all)
        return self._all

    def _is_own(self, name: object) -> bool:
        """Whether it is a task in the folder, or a group of none but these."""
        entry = self._own.task_index.get(name) if isinstance(name, str) else None
        if entry is None or entry.cfg is None:
            return False
        members = entry.cfg.get("task")
        return all(map(self._is_own, members)) if isinstance(members, list) else True


def _check_known(name: str, manager: Any) -> None:
    if name not in manager.task_index:
        similar = difflib.get_close_matches(name, manager.all_tasks, n=3)
        meant = f"; did you mean {' or '.join(similar)}?" if similar else ""
        raise SettingError(
            f"lm-evaluation-harness {version(LIBRARY)} has no task {name!r}{meant} Its tasks: "
            "lm_eval ls tasks; your own: --lm-eval-path DIR, or the YAML file itself"
        )
    # Before it is loaded: even that may run code.
    if (manager.task_index[name].cfg or {}).get("unsafe_code"):
        raise _unsafe(name)


def _load(name: str, manager: Any) -> Mapping[str, Mapping[str, Any]]:
    try:
        found: Mapping[str, Mapping[str, Any]] = manager.load([name])
    # A task is a program: templates, functions, and a library that reads its data.
    except Exception as error:
        raise DatasetError(f"task {name} cannot be loaded: {_reason(error)}") from None
    for task_name, task in found["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise _unsafe(task_name)
        if getattr(task, "MULTIMODAL", False):
            raise SettingError(f"task {task_name} shows more than text, which the model cannot see")
    return found


def _unsafe(name: str) -> SettingError:
    return SettingError(
        f"task {name} runs the code that the model writes, on this machine, which this command "
        "does not do; write the model with: ledger apply, and run lm_eval on it in a sandbox"
    )


def _reason(error: Exception) -> str:
    """What went wrong and what to do."""
    said = told(error)
    if isinstance(error, ImportError):
        return f"{said}; install what it needs"
    if isinstance(error, ConnectionError):
        return f"{said}; check the network, or load its data into the cache while there is one"
    if isinstance(error, OSError):
        return f"{said}; check dataset_path, and data_files, in its YAML"
    return f"{said}; check its YAML"


def told(error: Exception) -> str:
    """The error of a library in one line, without secrets."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return scrubbed(text)[:_LONGEST_REASON].rstrip(".;")
