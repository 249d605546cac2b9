"""What commands tell of their progress where there is no terminal."""

import io

from rich.console import Console

from data_pipelines import progress


def shown(monkeypatch, every, **settings):
    monkeypatch.setattr(progress, "TELL_EVERY", every)
    out = io.StringIO()
    with progress.progress_bar(Console(file=out), **settings) as bars:
        bar = bars.add_task("1/2 train", total=2000)
        for _ in range(3):
            bars.advance(bar, 500)
    return out.getvalue().split("\n")


def test_a_line_comes_now_and_then(monkeypatch):
    assert [line for line in shown(monkeypatch, 0.0) if line] == [
        f"1/2 train: {done} of 2,000" for done in ("500", "1,000", "1,500")
    ]
    assert not any(shown(monkeypatch, 60.0))
    assert not any(shown(monkeypatch, 0.0, disable=True))
