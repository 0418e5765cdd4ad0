"""Progress bars: one inside another, and totals that were guessed."""

import io

import pytest
from rich.console import Console

from litestage import progress
from litestage.cli.output import print_table


@pytest.fixture
def screen(monkeypatch):
    """What stands on the standard error of a terminal."""
    written = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=written, force_terminal=True, width=100))
    return written


def tasks():
    return [(task.description, task.completed, task.total) for task in progress._shown.tasks]


def test_a_bar_in_a_bar_stands_below_it_and_goes_when_it_is_done(screen):
    with progress.bar("outer", 2) as advance:
        with progress.bar("inner", 5) as inner:
            inner(5)
            assert tasks() == [("outer", 0, 2), ("inner", 5, 5)]
        advance(1)
        assert tasks() == [("outer", 1, 2)]
    assert "inner" in screen.getvalue()
    with progress.bar("next", 1):
        assert tasks() == [("next", 0, 1)]


def test_brackets_in_a_name_are_no_markup(screen, capsys):
    with progress.bar("a[/b]: accuracy", 1):
        pass
    assert "a[/b]: accuracy" in screen.getvalue()
    print_table(["[draft]"], [["a[/b]"]], title="[bold]tiny")
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("[draft]", "a[/b]", "[bold]tiny"))


def test_a_bar_that_an_error_ends_leaves_room_for_the_next(screen):
    with pytest.raises(ValueError, match="of the work"), progress.bar("outer", 1), progress.bar("inner", 1):
        raise ValueError("of the work")
    with progress.bar("next", 1):
        assert tasks() == [("next", 0, 1)]


def test_a_guessed_total_gives_way_in_both_directions(screen):
    with progress.bar("few", 2, guessed=True) as advance:
        for _ in range(4):
            advance(1)
            assert tasks()[0][2] > tasks()[0][1]  # not done before it is done
    assert "4/4" in screen.getvalue()
    with progress.bar("many", 9, guessed=True) as advance:
        advance(3)
    assert "3/3" in screen.getvalue()
