"""The command line of `polyhead bench` without a server, and its plots."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_samples import samples

from polyhead import cli
from polyhead.bench.report import plot
from polyhead.bench.search.bisection import SearchResult, Step
from polyhead.bench.search.max_rate import Objective


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "9..4"], "argument --tokens: expected lengths from 1"),
        (["--rate", "0"], "argument --rate: expected a number above 0; got '0'"),
        (["--rate", "nan"], "expected a number above 0"),
        (["--rate", "9", "--concurrency", "2"], "not allowed with argument"),
        (["--duration", "9", "--requests", "2"], "not allowed with argument"),
        (["--warmup", "-1"], "argument --warmup: expected a number from 0"),
        (["--requests", "1.5"], "argument --requests: expected a whole number from 1"),
        (["--seed", "-1"], "argument --seed: expected a whole number from 0"),
        (["--heads", "a"], "argument --heads: expected numbers such as 0,2"),
        (["--slo-p99", "50"], "argument --slo-p99: expected a time such as 50ms or 0.2s"),
        (["--slo-p99", "0ms"], "argument --slo-p99: expected a time"),
        (["--precision", "0"], "argument --precision: expected a percentage from 0.1 to 50"),
        (["--find-max"], "--find-max and --slo-p99 belong together"),
        (["--slo-p99", "50ms"], "--find-max and --slo-p99 belong together"),
        (["--find-max", "--slo-p99", "50ms", "--requests", "9"], "leave out --requests"),
        (["--arrivals", "constant"], "--arrivals and --max-in-flight belong to an open loop: add"),
        (["--max-in-flight", "1024", "--requests", "3"], "belong to an open loop: add --rate or"),
        (["--precision", "5", "--rate", "9"], "--precision belongs to --find-max"),
        (["--concurrency", "2", "--processes", "3"], "--concurrency is 2, shared among"),
        (["--rate", "9", "--max-in-flight", "2", "--processes", "3"], "--max-in-flight is 2"),
        (["--plot", "a.jpg"], "--plot is a.jpg; expected a name that ends in .png"),
        (["--plot", "no/a.png"], "there is no folder no"),
    ],
)
def test_invalid_command_lines_are_refused_with_a_message(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("POLYHEAD_SERVER", "127.0.0.1:1")  # no server is needed
    try:
        status = cli.main(["bench", *arguments])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_plot_without_matplotlib_names_the_extra(capsys, monkeypatch):
    monkeypatch.setattr("polyhead.bench.command.find_spec", lambda name: None)
    assert cli.main(["bench", "--plot", "a.png"]) == 1
    assert "pip install 'polyhead[viz]'" in capsys.readouterr().err


def test_help_has_examples_and_imports_nothing_heavy():
    program = (
        "import sys; from polyhead import cli\n"
        "try: cli.main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'grpc', 'rich', 'matplotlib', 'multiprocessing', 'asyncio'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stderr == ""
    assert run.returncode == 0
    assert "  polyhead bench --model bert --find-max --slo-p99 50ms" in run.stdout


def test_the_guides_program_measures_the_generator():
    """The program in docs/bench.md prints the cost of each loop."""
    text = (Path(__file__).parents[3] / "docs" / "bench.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stderr == ""
    costs = re.findall(r"(\w+) loop: (\d+\.\d) us a request", run.stdout)
    assert [name for name, _ in costs] == ["closed", "open"]
    assert all(0.5 < float(cost) < 1000 for _, cost in costs)


PNG = b"\x89PNG"


def png_size(path):
    content = path.read_bytes()
    assert content.startswith(PNG)
    return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])


@pytest.mark.parametrize("count", [1, 2, 150, 30_000])
def test_latencies_are_drawn(count, tmp_path):
    latencies = np.random.default_rng(0).exponential(10, count)
    figure = plot.draw_latencies(samples(latencies), ["a title with $ and _"])
    figure.savefig(tmp_path / "a.png")
    assert png_size(tmp_path / "a.png")[0] > 1000
    left, _ = figure.axes
    curve = left.lines[0].get_xydata()
    # the tail ends at the slowest answer, which is one in `count`
    assert curve[-1] == pytest.approx([count, latencies.max()])
    assert (np.diff(curve, axis=0) >= 0).all()
    labels = [text.get_text() for text in left.get_xticklabels()]
    assert ("p99.9" in labels) == (count >= 1000)


def test_a_run_without_answers_is_drawn(tmp_path):
    figure = plot.draw_latencies(
        samples(failures=np.array([[0.5, 0.1, 0]])), ["failures", "open loop"]
    )
    assert figure.get_suptitle() == "failures\nopen loop"
    figure.savefig(tmp_path / "a.png")
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[0.5, 100.0]]


def test_a_search_is_drawn(tmp_path):
    steps = tuple(
        Step(
            rate=rate,
            p99_ms=p99_ms,
            failed=failed,
            is_within=p99_ms is not None and p99_ms < 50,
            is_cut_short=False,
            purpose="doubling",
            reason=reason,
        )
        for rate, p99_ms, failed, reason in (
            (50.0, 9.0, 0, ""),
            (100.0, 80.0, 0, "p99 above 50 ms"),
            (200.0, None, 0, "nothing was answered"),
            (300.0, 60.0, 2, "2 failed, QUEUE_FULL"),
        )
    )
    figure = plot.draw_search(
        SearchResult(rate=50.0, steps=steps, is_complete=True),
        Objective(slo_p99_s=0.05, precision=0.05),
        ["a search"],
    )
    figure.savefig(tmp_path / "a.png")
    assert png_size(tmp_path / "a.png")[0] > 500
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines[1:]}
    assert lines == {
        "found: 50 requests/s": [[50, 0], [50, 1]],
        "within": [[50, 9]],
        "beyond: too slow": [[100, 80]],
        "beyond: no answers": [[200, 50]],
        "beyond: requests failed, QUEUE_FULL": [[300, 60]],
    }
