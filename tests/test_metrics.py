import pytest

from jaxai import cnn, dqn, gan, population, seq2seq
from jaxai.experiments.generation.metrics import METRICS as GENERATION
from jaxai.experiments.qlearning.metrics import METRICS as QLEARNING
from jaxai.metrics import Declarations, Meanings, Metric, check

DECLARED = {
    "loss": Metric("cross-entropy", "nats", better="lower", group="Fit"),
    "hits": Metric("hit rate", "%", better="higher", floor="noise", shown=True),
    "bend_loss": Metric("bending loss"),
    "chr": Metric("chrF"),
}


@pytest.mark.parametrize(
    ("name", "label", "better"),
    [
        ("loss", "cross-entropy", "lower"),
        ("test_loss", "test cross-entropy", "lower"),
        ("best_held_out_loss", "best held out cross-entropy", "lower"),
        ("hits_iqm", "hit rate, interquartile mean", "higher"),
        ("best_test_hits_std", "best test hit rate, standard deviation", None),
        ("bend_loss", "bending loss", None),
        ("test_bend_loss", "test bending loss", None),
        ("noise", "hit rate, floor", None),
        ("test_noise", "test hit rate, floor", None),
        ("never_declared", "never declared", None),
        ("std", "std", None),
    ],
)
def test_a_name_made_from_a_metric_has_its_meaning(name, label, better):
    meanings = Meanings(DECLARED)
    assert (meanings.label(name), meanings.better(name)) == (label, better)


def test_undeclared_names_go_with_splits_and_statistics_too():
    meanings = Meanings({}, ["loss", "test_loss", "grad_norm"])
    assert meanings.parse("test_loss_std").metric == "loss"
    assert meanings.parse("test_loss_std").split == "test"
    assert meanings.parse("grad_norm").split == ""


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("loss", 0.123456, "0.1235 nats"),
        ("hits", 0.5, "50.00 %"),
        ("hits_std", 0.0123, "1.23 %"),
        ("hits", 3, "3"),
        ("hits", 1.0, "100.00 %"),
        ("hits_per_seed", [0.5, None], "50.00 %, none"),
        ("run_seconds", 112.4, "1 min 52 s"),
        ("run_seconds", 7262.0, "2 h 01 min"),
        ("other", 122570, "122,570"),
        ("other", float("nan"), "nan"),
        ("other", "text", "text"),
    ],
)
def test_values_have_their_unit(name, value, text):
    assert Meanings(DECLARED).text(name, value) == text


def test_the_terminal_shows_shares_as_the_files_have_them():
    assert Meanings(DECLARED).text("hits", 0.985, percent=False) == "0.9850"


def test_headings_begin_with_a_capital_but_for_names_that_have_one_inside():
    meanings = Meanings(DECLARED)
    assert [meanings.heading(name) for name in ("loss", "chr", "test_chr")] == ["Cross-entropy", "chrF", "Test chrF"]


def test_progress_shows_what_is_declared_as_shown_and_else_the_first_four():
    assert Meanings(DECLARED).shown(["loss", "hits", "x"]) == ["hits"]
    assert Meanings(DECLARED).shown(["loss", "x"]) == ["loss", "x"]
    assert Meanings({}).shown("abcde") == list("abcd")


def test_declarations_come_back_from_json_and_unknown_fields_are_left_out():
    declared = Declarations(DECLARED, {"mfu": Metric("MFU", "%")}, "test_loss", "frames", ("frames",))
    values = declared.to_dict()
    assert Declarations.of_dict(values) == declared
    values["metrics"]["loss"]["of_the_future"] = 1
    assert Declarations.of_dict(values | {"new": 0}) == declared


@pytest.mark.parametrize(
    ("metric", "match"),
    [
        ("loss", r"metrics\['x'\] is 'loss', expected a declaration"),
        (Metric("x", better="down"), "better='down', expected 'higher', 'lower' or None"),
        (Metric(""), "label ''"),
        (Metric("x", unit=1), "unit=1"),
        (Metric("x", floor=[1]), "floor="),
    ],
)
def test_what_is_no_declaration_is_refused_in_one_line(metric, match):
    with pytest.raises(ValueError, match=match) as error:
        check({"x": metric})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "declared",
    [cnn.METRICS, gan.METRICS, seq2seq.METRICS, dqn.METRICS, population.METRICS, GENERATION, QLEARNING],
)
def test_declarations_of_the_workloads_are_valid(declared):
    check(declared)
    floors = {metric.floor for metric in declared.values() if isinstance(metric.floor, str)}
    assert all(Meanings(declared).label(floor) for floor in floors)
