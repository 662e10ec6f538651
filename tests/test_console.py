"""Where a bar cannot be drawn, lines tell how far the work is."""

import io

from anomaly_toolbox import console
from anomaly_toolbox.console import plain_console


def shown(**options) -> str:
    output = io.StringIO()
    with console.ProgressBar(plain_console(file=output, **options)) as bar:
        task = bar.add_task("scoring test images", total=2000)
        for _ in range(2000):
            bar.advance(task)
    return output.getvalue()


def test_a_log_file_gets_a_line_from_time_to_time(monkeypatch):
    assert shown() == ""  # over before there was anything to say
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1)
    lines = shown().splitlines()
    assert len(lines) == 2000
    assert lines[999] == "scoring test images: 1,000 of 2,000"


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", -1)
    assert "1,000 of 2,000" not in shown(force_terminal=True)
