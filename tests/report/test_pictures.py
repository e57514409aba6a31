import subprocess
import sys

import numpy as np
import pytest

from jaxai.report import curves, pictures, write_report
from tests.report.folders import write_run

RATES, DISCOUNTS = [1e-4, 1e-3, 1e-2], [0.9, 0.99]


def test_pictures_are_png_files(tmp_path):
    line = curves.Curve("training", np.arange(5), np.arange(5.0))
    names = [f"class {index}" for index in range(30)]
    images = np.zeros((5, 8, 12, 3), np.uint8)
    for path in (
        curves.curves([line], tmp_path / "a.png", title="Loss", log=False),
        pictures.confusion_matrix(np.eye(3, dtype=int) * 9, "abc", tmp_path / "b.png"),
        pictures.confusion_matrix(np.zeros((30, 30), int), names, tmp_path / "new" / "c.png"),
        pictures.image_grid(images, list("abcde"), tmp_path / "d.png", columns=3),
        pictures.image_grid(images[:0], [], tmp_path / "e.png"),
    ):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_pictures_refuse_what_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        pictures.confusion_matrix(np.zeros((2, 3), int), ["a", "b"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="float32"):
        pictures.image_grid(np.zeros((2, 8, 8, 1), np.float32), ["", ""], tmp_path / "a.png")
    with pytest.raises(ValueError, match="1 captions for 2 images"):
        pictures.image_grid(np.zeros((2, 8, 8, 1), np.uint8), [""], tmp_path / "a.png")


def saved_figures(monkeypatch):
    figures = []
    monkeypatch.setattr(pictures, "save", lambda figure, path: figures.append(figure))
    return figures


def test_sweep_of_one_parameter_is_a_line_with_its_band(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.random.default_rng(0).normal(size=(3, 1, 5)) + np.array([1.0, 30, 20])[:, None, None]
    scores[2, 0, 1] = np.nan
    pictures.grid_search({"rate": RATES, "discount": [0.99]}, scores, tmp_path, score="return")
    (panel,) = figures[0].axes
    assert panel.get_xscale() == "log"
    np.testing.assert_allclose(panel.lines[0].get_xydata(), np.stack([RATES, np.nanmean(scores[:, 0], 1)], 1))
    assert len(panel.collections) == 1
    assert [text.get_text() for text in panel.texts] == ["1/5\ndiverged"]
    assert "rate 0.001" in figures[0].get_suptitle()


def test_sweep_of_two_parameters_is_a_map_that_frames_the_best_without_divergence(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.arange(6.0).reshape(3, 2)[..., None] + np.array([-0.5, 0.5])
    scores[2, 1, 0] = np.nan  # the highest, but for its divergence
    scores[0, 0] = np.nan
    pictures.grid_search({"rate": RATES, "discount": DISCOUNTS}, scores, tmp_path)
    (panel,) = figures[0].axes
    shown = [text.get_text() for text in panel.texts]
    assert shown == ["diverged", "1", "2", "3", "4", "5.5\n1 diverged"]
    assert panel.patches[0].get_xy() == (-0.5, 1.5)
    assert "best score 4 at rate 0.01, discount 0.9" in " ".join(figures[0].get_suptitle().split())


def test_sweep_of_more_parameters_has_a_panel_for_each(monkeypatch, tmp_path):
    figures = saved_figures(monkeypatch)
    scores = np.random.default_rng(0).normal(size=(3, 2, 2, 4))
    pictures.grid_search({"rate": RATES, "discount": DISCOUNTS, "epsilon": [0.05, 0.01]}, scores, tmp_path)
    panels = figures[0].axes
    assert [panel.get_xlabel() for panel in panels] == ["rate", "discount", "epsilon"]
    for axis, panel in enumerate(panels):
        best, mean = (line.get_ydata() for line in panel.lines)
        others = tuple({0, 1, 2} - {axis})
        order = slice(None, None, -1 if axis == 2 else 1)  # epsilon was given from high to low
        np.testing.assert_allclose(mean, scores.mean((*others, 3))[order])
        np.testing.assert_allclose(best, scores.mean(3).max(others)[order])


@pytest.mark.parametrize("grid", [(3,), (3, 2), (3, 2, 2), (1,)])
def test_sweep_is_drawn_even_where_every_run_diverged(tmp_path, grid):
    parameters = {f"parameter_{axis}": list(range(count)) for axis, count in enumerate(grid)}
    for scores in (np.full((*grid, 2), np.nan), np.zeros((*grid, 1))):
        assert pictures.grid_search(parameters, scores, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_sweep_refuses_scores_that_do_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"\[2, 3\], expected \[3\] for rate") as error:
        pictures.grid_search({"rate": RATES}, np.zeros((2, 3)), tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_missing_matplotlib_is_one_line_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run = write_run(tmp_path / "run")
    for draw in (
        lambda: write_report([run], tmp_path / "report.html"),
        lambda: pictures.confusion_matrix(np.eye(2, dtype=int), "ab", tmp_path / "a.png"),
        lambda: pictures.image_grid(np.zeros((1, 2, 2, 1), np.uint8), ["a"], tmp_path / "a.png"),
    ):
        with pytest.raises(ImportError, match=r"needs matplotlib, which is not installed; .*\.\[demo\]") as error:
            draw()
        assert "\n" not in str(error.value)


def test_matplotlib_is_imported_late_and_never_through_pyplot(tmp_path):
    code = """
import sys
from jaxai.report import pictures, page
assert "matplotlib" not in sys.modules
import numpy as np, pathlib
pictures.confusion_matrix(np.eye(2, dtype=int), "ab", pathlib.Path(sys.argv[1]))
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=True, timeout=60)
