"""The tables in a terminal, read as text."""

import io

import pytest

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.report import tables
from tests.report.test_comparison import make_ensemble, make_run, set_false_alarms


@pytest.fixture
def show(monkeypatch):
    """Returns what is printed for some runs, as lines without blanks at their ends."""

    def show(runs, width=80):
        monkeypatch.setenv("COLUMNS", str(width))
        output = io.StringIO()
        tables.show(plain_console(file=output, width=width), runs, [])
        return [line.rstrip() for line in output.getvalue().splitlines()]

    return show


def after(lines, title):
    """The words of each line of the table with this title."""
    table = []
    for line in lines[lines.index(title) + 1 :]:
        if not line:
            break
        table.append(line.split())
    return table


def test_auroc_has_a_table_of_its_own_below_auprc(show):
    lines = show([make_run(label=label, paper=label / 10) for label in (3, 5)])
    auprc, auroc = "AUPRC on the test images of Digits", "AUROC on the test images of Digits, chance level 0.5"
    assert lines.index(auprc) < lines.index(auroc)
    assert after(lines, auprc)[1:] == [["GANomaly", "0.300", "0.500", "0.400"], ["prevalence", *["0.100"] * 3]]
    assert after(lines, auroc)[:2] == [["method", "3", "5", "mean"], ["GANomaly", *["0.500"] * 3]]


def test_found_at_1_percent_is_shown_if_it_is_known(show):
    old, new = make_run(paper=0.2), make_run(paper=0.2)
    set_false_alarms(new, {"0.001": None, "0.01": (0.25, 0.012), "0.05": (0.5, 0.06)})
    of_old, of_new = show([old]), show([new], width=120)
    assert not [line for line in of_old if "found at 1%" in line]
    assert of_new[2].split("  ")[-3].strip() == "found at 1%"
    values = of_new[3].split()
    assert values[2:7] == ["0.200", "0.190-0.210", "0.500", "0.100", "25.0%"]
    assert [line for line in of_new if line.startswith("found at 1%: the share of anomalies")]


def test_every_score_has_auprc_and_auroc_in_each_part_of_a_table(show):
    """At 40 columns each method has a part of its own, without the scores that it lacks."""
    runs = [make_run("GANomaly", paper=0.1, residual=0.2, latent_neighbours=0.3)]
    runs += [make_run("EGBAD", paper=0.4, residual=0.5, pathway=0.6)]
    lines = show(runs, width=40)
    title = "AUPRC and AUROC of every score"
    assert lines.count(title) == 2
    first = after(lines, title)
    second = after(lines[lines.index(title) + 1 :], title)
    assert first[1:] == [
        ["score", "AUPRC", "AUROC"],
        ["paper", "0.400", "0.500"],
        ["residual", "0.500", "0.500"],
        ["pathway", "0.600", "0.500"],
    ]
    assert second[2:5] == [
        ["paper", "0.100", "0.500"],
        ["residual", "0.200", "0.500"],
        ["latent_neighbours", "0.300", "0.500"],
    ]


@pytest.mark.parametrize("labels", [[3], [3, 5]])
def test_the_members_of_an_ensemble_are_below_its_row(show, labels):
    lines = show([make_ensemble(label, mean=0.6) for label in labels])
    first = next(number for number, line in enumerate(lines) if line.startswith("Ensemble of GANomaly + KNN  "))
    assert lines[first].split()[5:8] == (["3", "0.600", "0.590-0.610"] if len(labels) == 1 else ["0.600"] * 3)
    mean, best = (line.split() for line in lines[first + 1 : first + 3])
    assert mean == ["mean", "member", *(["3", "0.350", "0.750"] if len(labels) == 1 else ["0.350"] * 3)]
    assert best == ["best", "member", *(["3", "0.500", "0.600"] if len(labels) == 1 else ["0.500"] * 3)]
    assert [line for line in lines if line.startswith("best member: ") and "in hindsight, by test images" in line]
    assert not [line for line in show([make_run(paper=0.6)]) if "hindsight" in line]


def test_the_table_of_every_score_has_no_ensembles(show):
    runs = [make_run(paper=0.1, residual=0.2, pathway=0.3), make_ensemble(mean=0.6, fisher=0.5, maximum=0.4)]
    lines = show(runs, width=120)
    table = after(lines, "AUPRC and AUROC of every score")
    assert table[0] == ["GANomaly"]
    assert [fields[0] for fields in table[1:]][:4] == ["score", "paper", "residual", "pathway"]
    assert not [fields for fields in table if fields[0] in ("mean", "fisher", "maximum")]
    assert "AUPRC and AUROC of every score" not in show([make_run(paper=0.1, residual=0.2), runs[1]], width=120)
