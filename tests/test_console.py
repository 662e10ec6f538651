"""Progress bars in a terminal, and lines in a log file."""

import io

from anomaly_toolbox import console
from anomaly_toolbox.console import plain_console


def output_of_bar(**options) -> str:
    output = io.StringIO()
    with console.ProgressBar(plain_console(file=output, **options)) as bar:
        task = bar.add_task("scoring test images", total=2000)
        for _ in range(2000):
            bar.advance(task)
    return output.getvalue()


def test_a_log_file_gets_a_line_from_time_to_time(monkeypatch):
    assert output_of_bar() == ""  # the work takes less time than the first line
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1)
    lines = output_of_bar().splitlines()
    assert len(lines) == 2000
    assert lines[999] == "scoring test images: 1,000 of 2,000"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1)
    assert "1,000 of 2,000" not in output_of_bar(force_terminal=True)
