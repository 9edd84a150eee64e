"""The page of runs: what it holds, and in a browser which curves it draws."""

import json
import re

import pytest

from experimentator.cli import main
from experimentator.commands.curves import charts_of
from tests.browser import browsed, in_a_browser, text_of

NAN = None  # as a history holds it


def write_run(folder, losses, *, status="finished", **overrides):
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(json.dumps({"status": status}))
    (folder / "environment.json").write_text(json.dumps({"started": "2026-01-02T03:04:05", "overrides": overrides}))
    rows = [
        {"epoch": epoch, "training_loss": 2.0, "validation_loss": loss, "validation_accuracy": 0.5, "epoch_time": 1.5}
        for epoch, loss in enumerate(losses, start=1)
    ]
    (folder / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def runs(tmp_path):
    write_run(tmp_path / "runs" / "task" / "slow", [0.8, 0.7, 0.6], rate=0.001)
    write_run(tmp_path / "runs" / "task" / "fast", [0.5, 0.25, NAN], rate=0.1, status="failed")
    return tmp_path / "runs"


def page_of(folder, *options):
    path = folder.parent / "page.html"
    assert main(["runs", str(folder), "-o", str(path), *options]) == 0
    return path.read_text()


def data_of(text):
    return json.loads(re.search(r"const DATA = (.*);  //", text)[1])


def test_a_page_holds_the_rows_and_the_histories_of_the_runs(runs):
    fast, slow = data_of(page_of(runs))["runs"]

    assert fast["row"] == {
        "run": "task/fast", "status": "failed", "epochs": 3, "validation_loss": 0.25, "in epoch": 2,
        "started": "2026-01-02T03:04", "rate": 0.1,
    }  # fmt: skip
    assert fast["history"]["validation_loss"] == [0.5, 0.25, None]
    assert fast["seconds"] == [1.5, 3.0, 4.5]
    assert (slow["best"], slow["measure"]) == (3, "validation_loss")


def test_runs_are_narrowed_and_sorted_as_in_the_table(runs):
    def names(*options):
        return [run["row"]["run"] for run in data_of(page_of(runs, *options))["runs"]]

    assert names("--filter", "status=finished") == ["task/slow"]
    assert names("--sort", "rate") == ["task/slow", "task/fast"]
    assert names("--descending") == names()[::-1]


def test_measures_of_several_subsets_share_a_chart_and_parts_of_a_loss_have_one_of_their_own():
    names = "epoch learning_rate training_loss training_box_loss hard_loss hard_box_loss hard_accuracy epoch_time"

    charts = {chart["title"]: chart["series"] for chart in charts_of(names.split())}

    assert charts == {
        "loss": [["training", "training_loss"], ["hard", "hard_loss"]],
        "learning_rate": [["learning_rate", "learning_rate"]],
        "box_loss": [["training", "training_box_loss"], ["hard", "hard_box_loss"]],
        "accuracy": [["hard", "hard_accuracy"]],
    }


def test_a_long_history_is_thinned_to_its_best_and_its_last_epoch(tmp_path):
    write_run(tmp_path / "runs" / "task" / "long", [abs(2000 - epoch) for epoch in range(1, 2501)])

    (run,) = data_of(page_of(tmp_path / "runs"))["runs"]

    epochs = run["history"]["epoch"]
    assert len(epochs) == len(run["history"]["validation_loss"]) == 835
    assert 2000 in epochs
    assert epochs[-1] == run["row"]["epochs"] == 2500
    assert run["seconds"][-1] == 3750


def test_a_run_that_cannot_be_read_is_in_the_table(runs, capsys):
    (runs / "task" / "slow" / "history.jsonl").write_text("no JSON\n{}\n")

    assert main(["runs", str(runs), "-o", str(runs.parent / "page.html")]) == 5

    statuses = {
        run["row"]["run"]: run["row"]["status"] for run in data_of((runs.parent / "page.html").read_text())["runs"]
    }
    assert statuses == {"task/fast": "failed", "task/slow": "damaged"}
    assert "history.jsonl is damaged in line 1" in capsys.readouterr().err


def test_another_suffix_is_refused_before_anything_is_read(tmp_path, capsys):
    assert main(["runs", str(tmp_path / "nowhere"), "-o", "runs.svg"]) == 2
    assert "Write a name that ends in .html" in capsys.readouterr().err


def test_a_suffix_may_be_written_in_capitals(runs):
    assert main(["runs", str(runs), "-o", str(runs.parent / "RUNS.HTML")]) == 0
    assert (runs.parent / "RUNS.HTML").is_file()


def test_json_is_not_opened(runs, capsys):
    assert main(["runs", str(runs), "--json", "--open"]) == 2
    assert "Write one of them" in capsys.readouterr().err


def test_open_writes_a_page_and_opens_it(runs, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)

    assert main(["runs", str(runs), "--open"]) == 0

    (address,) = opened
    assert address.endswith(f"{capsys.readouterr().out.strip()}")
    assert address.endswith("runs.html")


def test_no_browser_to_open_a_page_is_told(runs, monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda address: False)

    assert main(["runs", str(runs), "--open"]) == 0

    path, told = capsys.readouterr()
    assert told == f"No browser could be started here. Open it in yours: {path}"


def test_values_of_runs_never_become_markup(tmp_path):
    write_run(tmp_path / "runs" / "task" / "odd", [1.0], name="</script><script>document.title = 'taken'</script>")

    text = page_of(tmp_path / "runs")

    assert text.count("<script") == text.count("</script>") == 1


@in_a_browser
def test_each_measure_of_each_run_is_a_curve_and_a_filter_takes_them_away(runs):
    text = page_of(runs)

    everything, narrowed = (browsed(text, at, runs.parent) for at in ("", "find=rate=0.1"))

    assert everything.count('class="curve"') == 6
    assert narrowed.count('class="curve"') == 3
    assert "task/slow" not in text_of(narrowed, "<tbody", "</tbody>")
    assert re.findall("<figcaption><b>(.*?)</b>", everything) == ["loss", "accuracy"]


@in_a_browser
def test_a_scale_has_round_numbers_also_where_it_is_logarithmic(tmp_path):
    write_run(tmp_path / "runs" / "task" / "one", [10.0, 1.0, 0.1, 0.01])

    text = page_of(tmp_path / "runs")

    plain, log = (re.findall(r'text-anchor="end">(.*?)<', browsed(text, at, tmp_path)) for at in ("", "log"))
    assert plain[:6] == ["2", "4", "6", "8", "10", *plain[5:6]]
    assert {"0.01", "0.1", "1", "10"} <= set(log)


@in_a_browser
@pytest.mark.parametrize("name", ["constructor", "toString"])
def test_a_measure_may_have_any_name_also_where_other_runs_lack_it(runs, name):
    write_run(runs / "task" / "odd", [0.5, 0.4], **{name: 3})
    (runs / "task" / "odd" / "history.jsonl").write_text(json.dumps({"epoch": 1, name: 2.5}))

    shown = browsed(page_of(runs), "", runs.parent)

    assert shown.count('class="curve"') == 6
    assert f"<b>{name}</b>" in shown
    assert "native code" not in text_of(shown, "<tbody", "</tbody>")


def test_whole_numbers_of_any_size_can_be_drawn_and_are_told_as_they_are(tmp_path):
    write_run(tmp_path / "runs" / "task" / "large", [10**17, 10**17 + 16, 10**400], seed=2**63, limit=10**400)

    (run,) = data_of(page_of(tmp_path / "runs"))["runs"]

    assert run["history"]["validation_loss"] == [1e17, 1e17, None]
    assert (run["row"]["seed"], run["row"]["limit"]) == (str(2**63), str(10**400))


@in_a_browser
def test_whole_numbers_and_near_marks_are_told_in_full(tmp_path):
    write_run(tmp_path / "runs" / "task" / "one", [1234.5, 1234.7, 1234.9], seed=20260102)
    rows = [{"epoch": epoch, "validation_loss": 1234.5 + epoch / 10} for epoch in range(12340, 12345)]
    (tmp_path / "runs" / "task" / "one" / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    shown = browsed(page_of(tmp_path / "runs"), "", tmp_path)

    marks = re.findall(r'text-anchor="(\w+)">(.*?)<', shown)
    assert {"12340", "12341", "12342", "12343", "12344"} <= {mark for side, mark in marks if side == "middle"}
    assert len(set(marks)) == len(marks)
    assert "20260102" in text_of(shown, "<tbody", "</tbody>")


@in_a_browser
def test_the_best_epoch_is_marked_also_where_an_earlier_one_looks_the_same(tmp_path):
    write_run(tmp_path / "runs" / "task" / "one", [0.50000002, 0.9, 0.50000001])

    shown = browsed(page_of(tmp_path / "runs"), "", tmp_path)

    (curve,) = re.findall(
        r'class="curve" d="M([^"]*)" stroke="[^"]*" stroke-dasharray="" data-run="0"></path><circle', shown
    )
    assert f'cx="{float(curve.split("L")[-1].split()[0]):g}"' in shown


@in_a_browser
def test_marks_of_a_scale_fit_beside_it(tmp_path):
    write_run(tmp_path / "runs" / "task" / "one", [1e-30, 1.0, 1e30, 2e30])

    text = page_of(tmp_path / "runs")

    for at in ("", "log"):
        marks = re.findall(r'text-anchor="end">(.*?)<', browsed(text, at, tmp_path))
        assert max(map(len, marks)) <= 8


def test_a_measure_may_be_called_seconds_and_an_epoch_without_its_time_has_none(tmp_path):
    write_run(tmp_path / "runs" / "task" / "one", [])
    rows = [{"epoch": 1, "epoch_time": 2.0, "seconds": 7.5}, {"epoch": 2, "seconds": 8.5}]
    (tmp_path / "runs" / "task" / "one" / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    (run,) = data_of(page_of(tmp_path / "runs"))["runs"]

    assert run["history"]["seconds"] == [7.5, 8.5]
    assert run["seconds"] == [2.0, None]


@in_a_browser
@pytest.mark.parametrize(
    "at, told",
    [("find=nowhere", "no run is chosen"), ("log", "what is above zero"), ("over=nothing", "accuracy")],
)
def test_what_hides_all_curves_is_told(tmp_path, at, told):
    write_run(tmp_path / "runs" / "task" / "one", [])
    (tmp_path / "runs" / "task" / "one" / "history.jsonl").write_text('{"epoch": 1, "accuracy": -0.5}\n')

    shown = browsed(page_of(tmp_path / "runs"), at, tmp_path)

    assert told in text_of(shown, '<main id="charts"', "</main>")


@in_a_browser
def test_each_run_and_each_column_is_a_button(runs):
    shown = browsed(page_of(runs), "", runs.parent)

    assert re.findall('<button aria-pressed="true"[^>]*>(.*?)</button>', shown) == ["task/fast", "task/slow"]
    heads = text_of(shown, "<thead", "</thead>").split()
    assert {"run", "status", "epochs", "validation_loss", "started", "rate"} <= set(heads)
