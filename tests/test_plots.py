"""Charts: that they can be read, are the same every time, and show what the overviews say."""

import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from ledger.plots import KINDS, described, draw
from ledger.plots.canvas import in_style
from ledger.plots.cells import AMOUNT, QUALITY, Shades
from ledger.plots.labels import drawable, share
from ledger.plots.palette import DARK, LIGHT, METHODS, THEMES, Theme, contrast, method_colours
from ledger.plots.weights import short_names
from patches.errors import SettingError
from tests.overviews import (
    CONTENTS,
    HOLES,
    UNSCORED,
    changes,
    eventful,
    layers,
    long_history,
    point,
    rollback,
    timeline,
    triangle,
)

SVG = "{http://www.w3.org/2000/svg}"
STARTS = {"svg": b"<svg ", "png": b"\x89PNG", "pdf": b"%PDF"}
HOSTILE = "$x_1$ <script>\n日本 \u202eabc 🙂 & \"'"

CASES = [(kind, name) for kind, some in CONTENTS.items() for name in some]
USUAL = [
    ("timeline", "eventful"),
    ("scores", "eventful"),
    ("retention", "ten"),
    ("weights", "eight"),
]
LAID_OUT = [
    *((*case, 3.5) for case in CASES),
    *((*case, 8.0) for case in USUAL),
    ("timeline", "far", 5.0),
    ("retention", "ten", 5.0),
]


@cache
def made(kind: str, name: str) -> str:
    """The SVG of a content."""
    return draw(kind, CONTENTS[kind][name]).decode()


@cache
def figure_of(kind: str, name: str, width: float) -> Figure:
    return laid_out(kind, CONTENTS[kind][name], width=width)


def laid_out(kind: str, content: Any, *, width: float = 8.0) -> Figure:
    """The figure as it is before it becomes a file, with every text at its place."""
    chart = KINDS[kind].chart()
    with in_style(LIGHT):
        figure = Figure(figsize=(width, chart.height(content, width)), layout="constrained")
        FigureCanvasAgg(figure)
        chart.draw(figure, content, LIGHT)
        figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> list[Text]:
    """Those that are to be seen; matplotlib keeps labels of ticks that are outside the axes."""
    found = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    hidden = {
        id(label)
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        for tick in axis.get_major_ticks()
        for label in (tick.label1, tick.label2)
        if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
    }
    shown = (text for text in found if text.get_visible() and id(text) not in hidden)
    return [text for text in shown if text.get_text()]


def test_the_table_has_every_kind_under_its_name() -> None:
    assert list(KINDS) == list(CONTENTS)
    assert all(name == kind.name and kind.sentence for name, kind in KINDS.items())


# What is drawn


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_content_becomes_a_chart(kind: str, name: str) -> None:
    assert ElementTree.fromstring(made(kind, name)).tag == f"{SVG}svg"
    assert described(kind, CONTENTS[kind][name]).endswith(".")


@pytest.mark.parametrize(("kind", "name"), USUAL)
def test_a_chart_that_is_asked_to_be_too_low_is_as_low_as_it_can_be(kind: str, name: str) -> None:
    root = ElementTree.fromstring(draw(kind, CONTENTS[kind][name], width=3, height=1))
    assert root.get("width") == "216pt"
    assert root.get("height") != "72pt"


@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, "svg") for kind in KINDS), ("scores", "png"), ("weights", "pdf")]
)
def test_equal_content_gives_equal_bytes_whatever_a_user_has_set(
    kind: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = CONTENTS[kind]["one"]
    first = made(kind, "one").encode() if form == "svg" else draw(kind, content, format=form)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert draw(kind, content, format=form) == first
    assert mpl.rcParams["font.size"] == 30


def test_charts_drawn_at_the_same_time_do_not_get_each_other_s_colours() -> None:
    content = CONTENTS["retention"]["one"]
    wanted = {name: draw("retention", content, theme=name) for name in THEMES}
    found: list[tuple[str, bytes]] = []

    def work(theme: str) -> None:
        found.append((theme, draw("retention", content, theme=theme)))

    threads = [threading.Thread(target=work, args=(name,)) for name in [*THEMES] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(chart == wanted[theme] for theme, chart in found)


@pytest.mark.parametrize(("kind", "name", "width"), LAID_OUT)
def test_no_text_is_too_small_or_on_another(kind: str, name: str, width: float) -> None:
    figure = figure_of(kind, name, width)
    for text in texts(figure):
        assert float(text.get_fontsize()) >= 9
        box = text.get_window_extent()
        assert -2 <= box.x0 < box.x1 <= figure.bbox.x1 + 2, text.get_text()
        assert -2 <= box.y0 < box.y1 <= figure.bbox.y1 + 2, text.get_text()
    for axes in figure.axes:
        for labels, side in ((axes.get_xticklabels(), 0), (axes.get_yticklabels(), 1)):
            assert_apart(labels, side)


def assert_apart(labels: Sequence[Text], side: int) -> None:
    """Labels of ticks, along x (side 0) or y, do not lie on each other."""
    shown = [label for label in labels if label.get_visible() and label.get_text()]
    boxes = [label.get_window_extent() for label in shown]
    spans = sorted((box.min[side], box.max[side]) for box in boxes)
    for (_, end), (start, _) in pairwise(spans):
        assert start >= end - 1, [label.get_text() for label in shown]


@pytest.mark.parametrize(("kind", "name", "width"), LAID_OUT)
def test_a_legend_covers_no_data(kind: str, name: str, width: float) -> None:
    figure = figure_of(kind, name, width)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
        assert figure.bbox.contains(box.x1 - 1, box.y1 - 1), "it is cut off"


def test_cells_keep_their_numbers_inside() -> None:
    for width, name in ((3.9, "ten"), (8.0, "ten"), (3.5, "one")):
        content = CONTENTS["retention"][name]
        axes = figure_of("retention", name, width).axes[0]
        numbers = axes.texts
        assert len(numbers) == len(content.cells) + len(content.base)
        left, right = axes.transData.transform([(0, 0), (1, 0)])[:, 0]
        assert max(text.get_window_extent().width for text in numbers) < right - left


def test_a_long_history_is_thinned_out() -> None:
    few = draw("timeline", long_history(200)).decode()
    assert made("timeline", "long").count("<") < 2 * few.count("<")
    assert len(made("scores", "long")) < 500_000
    assert len(made("weights", "many")) < 300_000


def test_a_timeline_marks_what_was_taken_back_and_by_what() -> None:
    figure = laid_out("timeline", eventful())
    held, recorded, below = figure.axes
    [legend] = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [
        *("ultraedit", "wise", "lora", "memit"),
        *("rolled back", "rollback", "merge", "import", "failed its gate"),
    ]
    assert held.get_title(loc="left") + held.get_title() == "edits in force, now 155"
    assert [text.get_text() for text in recorded.texts] == ["40", "40", "20", "40", "40", "55"]
    hatched = [bars for bars in recorded.collections if bars.get_hatch()]
    assert [len(bars.get_paths()) for bars in hatched] == [2]
    assert len(below.patches) == 3, "two rollbacks and a merge reach back"


def test_a_rollback_of_many_turns_is_one_arc() -> None:
    history = timeline(
        [*(point(turn, in_force=False) for turn in range(1, 9)), rollback(9, *range(1, 9))]
    )
    assert len(laid_out("timeline", history).axes[2].patches) == 1


def test_scores_show_the_base_and_all_edits_in_force() -> None:
    figure = laid_out("scores", eventful())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        *("edit success", "generalisation", "stability", "earlier edits"),
        *("edit success of the base", "all edits in force", "rolled back since"),
    ]
    lines = figure.axes[0].lines
    rings = [np.asarray(line.get_ydata()) for line in lines if line.get_markersize() > 10]
    assert [ring.tolist() for ring in rings if len(ring)] == [[0.93, 0.91], [0.8, 0.8]]


def test_a_score_that_is_no_number_is_left_out() -> None:
    assert described("scores", HOLES) == (
        "The base's .10 to .12, newest .10; generalisation 7.0; earlier edits after turn 3 .97."
    )


# Colours


@pytest.mark.parametrize("theme", THEMES.values(), ids=THEMES)
def test_colours_stand_out_from_the_background(theme: Theme) -> None:
    assert min(contrast(one, theme.background) for one in (theme.text, theme.muted)) >= 4.5
    assert min(contrast(one, theme.background) for one in theme.series.values()) >= 3
    assert set(theme.series) == set(LIGHT.series)
    assert len(set(theme.series.values())) == len(theme.series)


@pytest.mark.parametrize("colours", [QUALITY, AMOUNT])
def test_a_number_can_be_read_on_every_colour(colours: str) -> None:
    shades = Shades(colours, 0, 1)
    for step in range(101):
        value = step / 100
        assert contrast(shades.ink(value), shades.colour(value)) >= 4.5


def test_a_method_has_its_colour_in_every_chart() -> None:
    alone, among = (method_colours(some, DARK) for some in (["wise"], ["memit", "rome", "wise"]))
    assert alone["wise"] == among["wise"] == DARK.series[METHODS["wise"]]
    assert len(set(among.values())) == 3
    assert set(method_colours((str(n) for n in range(9)), LIGHT)) == {str(n) for n in range(9)}


# Texts


def test_names_are_drawn_as_they_are_or_as_escapes() -> None:
    assert drawable("żółć Ω $x$") == "żółć Ω $x$"
    assert drawable("日\n🙂\u202e") == "\\u65e5\\n\\U0001f642\\u202e"
    assert drawable("a" * 30 + "b" * 30, longest=9) == "aaaa…bbbb"


def test_a_share_that_is_not_all_is_not_told_as_all() -> None:
    told = [share(value) for value in (0, 0.001, 0.5, 0.996, 1)]
    assert told == ["0.0", ".01", ".50", ".99", "1.0"]


def test_modules_are_named_by_what_they_do_not_share() -> None:
    assert short_names(layers(8, 10)) == (
        "model.layers.*.mlp.down_proj.weight",
        ["8", "9", "10"],
    )
    assert short_names(["h.0.a.weight", "h.0.b.weight", "h.1.a.weight"]) == (
        "h.*.weight",
        ["0.a", "0.b", "1.a"],
    )
    assert short_names(["a", "b"]) == ("", ["a", "b"])
    assert short_names(["a.b", "a"]) == ("", ["a.b", "a"])
    assert short_names(["a.a", "a.a.a"]) == ("a.*", ["a", "a.a"])
    assert short_names(["lone.weight"]) == ("", ["lone.weight"])
    assert short_names([]) == ("", [])


def test_names_of_any_origin_are_texts() -> None:
    history = timeline([point(1, method=HOSTILE), point(2, kind=HOSTILE)])
    history = replace(history, branch=HOSTILE)
    tensors = changes(2, [HOSTILE, f"{HOSTILE}.weight", "日本.0.weight"])
    for kind, content in (("timeline", history), ("weights", tensors)):
        root = ElementTree.fromstring(draw(kind, content))
        assert not list(root.iter(f"{SVG}script"))
        assert root.findtext(f"{SVG}title") == described(kind, content)
        assert "\u202e" not in described(kind, content)
    assert draw("timeline", history, format="pdf").startswith(STARTS["pdf"])


def test_what_a_chart_shows_is_told_in_words() -> None:
    assert described("timeline", eventful()) == (
        "10 turns on branch main: 6 edit turns, 2 rollbacks, 1 import, 1 merge (ultraedit, wise, "
        "lora and 1 more). 235 edits recorded, 155 in force now; rolled back: turns 2, 5."
    )
    assert described("scores", eventful()) == (
        "Edit success of 6 turns on their own edits: .95 to .99, newest .98; the base's .10 to "
        ".12, newest .10; generalisation .80 to .88, newest .88; stability .97; earlier edits "
        "after turn 9 .99; all edits in force after turn 10 .91."
    )
    assert described("retention", triangle(3)) == (
        "Edit success of the edits of 3 turns in the states after 3 turns: right after they were "
        "made 1.0, in the newest state recorded .91 to 1.0, in the base .06 to .08. Lowest now: "
        "the edits of turn 2 with .91 after turn 3."
    )
    assert described("weights", changes(2, layers(3, 4))) == (
        "Change of 2 tensors by 2 turns, as a share of the base's norm: 2 % to 6 %. The largest "
        "is that of model.layers.4.mlp.down_proj.weight by turn 2."
    )


def test_what_is_not_there_is_told_in_words() -> None:
    told = [described(kind, CONTENTS[kind]["none"]) for kind in KINDS]
    assert told == [
        "Branch main: no turns yet.",
        "Scores: no turns yet.",
        "Retention: no scores of earlier edits are recorded.",
        "Weights: no turn changes weights.",
    ]
    assert described("scores", UNSCORED) == "Scores: no turn was scored."
    [text] = texts(laid_out("timeline", timeline([])))
    assert text.get_text() == "no turns yet"


# SVG in pages


def test_an_svg_needs_no_style_and_loads_nothing() -> None:
    for kind, name in CASES:
        text = made(kind, name)
        assert not re.search(r"style|<script|<!|<\?|<metadata|@import", text), (kind, name)
        links = re.findall(r'href="([^"]*)"', text)
        # The one exception: an image of more cells than can be drawn one by one.
        assert all(re.match("#|data:image/png", link) for link in links), (kind, name)
        assert "data:" not in text or (kind, name) == ("weights", "many")


def test_charts_of_all_kinds_can_be_on_one_page() -> None:
    ids: Counter[str] = Counter()
    for kind, some in CONTENTS.items():
        text = made(kind, list(some)[-1])
        own = re.findall(r'\sid="([^"]*)"', text)
        ids.update(own)
        assert set(re.findall(r'(?:href="|url\()#([^")]*)', text)) <= set(own)
    assert max(ids.values()) == 1


def test_a_chart_s_background_is_clear_in_pages_and_filled_elsewhere() -> None:
    clear = ElementTree.fromstring(made("timeline", "none"))
    assert next(clear.iter(f"{SVG}path")).get("fill") == "none"
    for theme in THEMES.values():
        filled = draw("timeline", timeline([]), theme=theme.name, format="png", dpi=30)
        assert to_hex(imread(BytesIO(filled))[0, 0]) == theme.background


# Refusals


def test_what_there_is_not_is_refused_with_what_there_is() -> None:
    for refused, known in (
        ({"kind": "pie"}, "timeline, scores"),
        ({"theme": "blue"}, "light, dark"),
        ({"format": "gif"}, "svg, png, pdf"),
        ({"format": "png", "dpi": 20_000}, "too large"),
    ):
        options: dict[str, Any] = {"kind": "scores", **refused}
        with pytest.raises(SettingError, match=known):
            draw(content=eventful(), **options)


def test_naming_the_kinds_does_not_load_matplotlib() -> None:
    code = "import sys, cli.reporting, ledger.plots.palette; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
