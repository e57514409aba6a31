import json
import subprocess
import sys

import numpy as np
import pytest

from jaxai.experiments.translation import attention_pictures, scores
from jaxai.experiments.translation.attention_pictures import Alignment
from jaxai.report import write_report


def weights(target, source):
    values = np.random.default_rng(0).random((target, source))
    return values / values.sum(1, keepdims=True)


@pytest.fixture
def figures(monkeypatch):
    saved = []
    monkeypatch.setattr(attention_pictures, "save", lambda figure, path: saved.append(figure))
    return saved


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_heat_map_is_a_png(tmp_path):
    path = attention_pictures.heat_map(
        weights(3, 2), ["ein", "Hund"], ["a", "dog", "<end>"], tmp_path / "new" / "a.png"
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_rows_are_the_target_columns_the_source_and_each_cell_its_weight(figures, tmp_path):
    given = weights(3, 2)
    attention_pictures.heat_map(given, ["ein", "Hund"], ["a", "dog", "<end>"], tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert labels(axes.xaxis) == ["ein", "Hund"]
    assert labels(axes.yaxis) == ["a", "dog", "<end>"]
    np.testing.assert_array_equal(axes.images[0].get_array(), given)
    assert axes.images[0].get_clim() == (0, 1)


def test_page_of_several_sentences_keeps_cells_of_one_size(figures, tmp_path):
    both = [Alignment(weights(3, 2), "ab", "abc", "first"), Alignment(weights(9, 12), "x" * 12, "y" * 9)]
    attention_pictures.heat_maps([*both, both[0]], tmp_path / "a.png")
    cells = []
    for axes, each in zip(figures[0].axes, [*both, both[0]], strict=True):
        box = axes.get_position()
        assert 0 <= box.x0 < box.x1 <= 1
        assert 0 <= box.y0 < box.y1 <= 1
        width, height = figures[0].get_size_inches()
        cells += [box.width * width / len(each.source_tokens), box.height * height / len(each.target_tokens)]
    np.testing.assert_allclose(cells, cells[0])
    assert "first" in [text.get_text() for text in figures[0].texts]


def test_text_of_any_script_is_drawn_without_a_warning_and_never_as_a_formula(tmp_path):
    # The last one is of a private area: no font has it.
    tokens = [
        "$x_{1}$",
        "^\\frac",
        "\u043f\u0440\u0438",
        "\u65e5\u672c",
        "\u0645\u0631",
        " ",
        "\n",
        "\U0010fffd",
        "\U0001f600",
    ]
    path = attention_pictures.heat_map(weights(9, 9), tokens, tokens, tmp_path / "a.png")
    assert path.stat().st_size > 1000
    attention_pictures.heat_maps([Alignment(weights(9, 9), tokens, tokens, "".join(tokens))], path)


def test_character_without_a_font_is_a_box_that_is_explained_and_white_space_is_seen(figures, tmp_path):
    attention_pictures.heat_map(weights(2, 3), ["a", " ", "\U0010fffd"], ["$y$", "b" * 40], tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert labels(axes.xaxis) == ["a", "\u2423", "\u25a1"]
    shown = labels(axes.yaxis)
    assert shown[0] == "$y$"
    assert shown[1].endswith("b\u2026")
    assert len(shown[1]) == attention_pictures.LONGEST
    assert "no font of this machine" in figures[0].texts[-1].get_text()


def test_bars_have_the_score_and_the_count_of_each_range(figures, tmp_path):
    rows = [{"length": "1-5", "count": 1200, "bleu": 31.25}, {"length": "over 5", "count": 7, "bleu": 20.0}]
    attention_pictures.scores_by_length(rows, tmp_path / "a.png", unit="words")
    (axes,) = figures[0].axes
    assert [bar.get_height() for bar in axes.patches] == [31.25, 20.0]
    assert labels(axes.xaxis) == ["1-5", "over 5"]
    assert [text.get_text() for text in axes.texts] == ["31.2\n1,200", "20\n7"]
    assert "words" in axes.get_xlabel()
    assert axes.get_ylabel() == "BLEU"


def test_bars_of_real_scores_are_a_png(tmp_path):
    rows = scores.by_length("transformation", ["a", "b"], ["a", "c"], ["x", "x" * 50])
    assert attention_pictures.scores_by_length(rows, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda path: attention_pictures.heat_map(weights(3, 4), "abc", "abc", path), r"\[3, 4\], expected \[3, 3\]"),
        (lambda path: attention_pictures.heat_map(np.zeros((0, 2)), "ab", "", path), "empty sentences"),
        (lambda path: attention_pictures.heat_maps([], path), "no sentence"),
        (lambda path: attention_pictures.scores_by_length([], path), "one score"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(draw, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        draw(tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_matplotlib_is_imported_with_the_first_picture():
    code = "import sys, jaxai.experiments.translation.attention_pictures, jaxai.experiments.translation.scores as s; "
    code += "assert not {'matplotlib', 'sacrebleu', 'rapidfuzz', 'jiwer'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def write_tables(run, **tables):
    (run / "tables").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "result.json").write_text(json.dumps({"bleu": 33.4, "bleu_low": 32.0, "bleu_high": 34.5}))
    for name, table in tables.items():
        (run / "tables" / f"{name}.json").write_text(table if isinstance(table, str) else json.dumps(table))
    return write_report([run], run / "report.html").read_text()


def test_report_shows_the_tables_of_a_run_with_their_text_escaped(tmp_path):
    evil = "<script>alert('&')</script>"
    rows = [{"source": evil, "hypothesis": "a < b & c", "chrf": 41.25, "count": 1200}]
    table = scores.as_table(f"Examples {evil}", rows, note=f"note {evil}")
    page = write_tables(tmp_path / "run", examples=table | {"columns": [evil, *table["columns"][1:]]})
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;") == 4
    assert "a &lt; b &amp; c" in page
    assert ">41.25<" in page
    assert ">1,200<" in page
    assert "Hypothesis" in page


def test_report_shows_the_score_of_a_translation_first(tmp_path):
    page = write_tables(tmp_path / "run")
    tiles = page[page.index('class="tiles"') :]
    assert "33.4" in tiles[: tiles.index("</div></div>")]
    assert "95 %: 32 to 34.5" in tiles


def test_report_cuts_long_tables_and_names_the_file_with_the_rest(tmp_path):
    table = {"title": "Long", "columns": ["n"], "rows": [[f"row {at};"] for at in range(1000)]}
    wide = {"title": "Wide", "columns": ["text"], "rows": [["x" * 9_000]] * 100}
    page = write_tables(tmp_path / "run", a=table, b=wide)
    assert "row 199;" in page
    assert "row 200;" not in page
    assert "200 of 1,000 rows; all are in tables/a.json." in page
    assert "of 100 rows; all are in tables/b.json." in page
    assert len(page) < 500_000


@pytest.mark.parametrize("broken", ["{", "[]", '{"title": "A", "columns": ["a"], "rows": [[1, 2]]}', '{"title": 1}'])
def test_table_that_cannot_be_read_is_reported_and_the_page_written(tmp_path, broken):
    assert "my_table.json could not be read" in write_tables(tmp_path / "run", my_table=broken)
