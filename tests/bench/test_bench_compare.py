"""What `bench/compare` makes of results: rows, ratios, what it refuses to quote, goals, the chart."""

import json
import re
import xml.etree.ElementTree as ET
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from measure import chart, goals, table

MDBOX, MAILDIR = "dovecot-mdbox", "dovecot-maildir"
ABOUT: dict[str, object] = {"machine": "a machine", "command": "bench/compare"}


def result(peer: str, case: str, value: float, *, unit: str = "msg/s", **more: object) -> table.Result:
    made: dict[str, Any] = {"peer": peer, "group": "group", "case": case, "unit": unit, "value": value, "n": 1000}
    made |= {"p50_ms": 1.0, "p99_ms": 2.0, "wall_s": 1.0, "client_cpu_s": 0.2, "server_cpu_s": 0.5}
    made |= {"server_cpu_error_s": 0.0, "server_pss_mb": 50.0, "server_rss_mb": 80.0, "is_rest": True}
    return made | more


def row(*results: table.Result) -> table.Row:
    (made,) = table.rows(results)
    return made


def text(*results: table.Result) -> str:
    file = StringIO()
    table.show(results, Console(file=file, width=250), "a machine")
    return file.getvalue()


def test_rates_are_medians_and_set_beside_the_best_peer() -> None:
    values = {table.OURS: (90, 100, 500), MDBOX: (40, 50, 60), MAILDIR: (10, 20, 30)}
    made = row(*(result(peer, "imap-append-4k-c1", value) for peer, given in values.items() for value in given))
    assert [made.sides[peer].value for peer in (table.OURS, MDBOX, MAILDIR)] == [100, 50, 20]
    assert made.best["value"] == MDBOX
    assert made.ratios["value"] == 2.0


@pytest.mark.parametrize("unit", table.LESS_IS_BETTER)
def test_of_times_and_memory_less_is_better(unit: str) -> None:
    made = row(result(table.OURS, "a", 2.0, unit=unit), result(MDBOX, "a", 8.0, unit=unit))
    assert made.ratios["value"] == 4.0


def test_the_best_peer_for_cpu_may_be_another() -> None:
    made = row(
        result(table.OURS, "a", 100, server_cpu_s=0.1),
        result(MDBOX, "a", 50, server_cpu_s=0.5),
        result(MAILDIR, "a", 20, server_cpu_s=0.3),
    )
    assert made.best == {"value": MDBOX, "cpu": MAILDIR}
    assert made.ratios["cpu"] == pytest.approx(3.0)
    assert made.sides[table.OURS].cpu_us == pytest.approx(100.0)


def test_mail_counts_once_it_can_be_seen() -> None:
    assert row(result(table.OURS, "smtp-in-4k-manyper-c10", 300, delivered_per_s=200)).sides[table.OURS].value == 200


def test_the_rate_with_the_index_counts_until_it_has_caught_up() -> None:
    made = row(result(table.OURS, "fill-tiny-100k", 1000, index_s=3.0), result(MDBOX, "fill-tiny-100k", 500))
    assert made.sides[table.OURS].indexed == 250  # 1000 messages in 1 + 3 seconds
    assert made.ratios["indexed"] == 0.5


@pytest.mark.parametrize("busy", [table.OURS, MDBOX])
def test_a_case_in_which_the_client_was_the_limit_is_not_quoted(busy: str) -> None:
    made = row(
        *(result(peer, "a", 100, client_cpu_s=0.85 if peer == busy else 0.2) for peer in (table.OURS, MDBOX)),
    )
    assert "value" not in made.ratios
    assert made.refused == (f"the client was the limit of {table.short(busy)}",)
    assert made.ratios["cpu"] == 1.0


@pytest.mark.parametrize(
    ("ours", "why"),
    [
        pytest.param({"server_cpu_s": 0.04, "server_cpu_error_s": 0.01}, "too little to tell", id="ticks"),
        pytest.param({"server_cpu_s": 0.0004}, "too little to tell", id="nothing"),
        pytest.param({"is_rest": False}, "never came to rest", id="restless"),
    ],
)
def test_cpu_that_cannot_be_told_is_not_quoted(ours: dict[str, Any], why: str) -> None:
    made = row(result(table.OURS, "a", 100, **ours), result(MDBOX, "a", 50))
    assert "cpu" not in made.ratios
    assert why in made.refused[0]
    assert made.ratios["value"] == 2.0
    assert why in text(result(table.OURS, "a", 100, **ours), result(MDBOX, "a", 50))


def test_first_cold_and_warm_stand_together() -> None:
    cases = ["b-first", "a-first", "b-cold", "a-cold", "b-warm", "a-warm", "alone"]
    made = table.rows([result(table.OURS, case, 1) for case in cases])
    assert [one.case for one in made] == ["b-first", "b-cold", "b-warm", "a-first", "a-cold", "a-warm", "alone"]


@pytest.mark.parametrize(
    ("case", "figures", "words"),
    [
        ("imap-append-4k-c1", {"value": 2.0}, ["ok"]),
        ("imap-append-4k-c1", {"value": 1.9}, ["MISS"]),
        ("imap-append-4k-c1", {}, ["untold"]),
        ("imap-append-50k-c1", {"value": 1.1}, ["ok"]),
        ("imap-append-50k-c1", {"value": 0.9}, ["MISS"]),
        ("smtp-in-4k-manyper-c50", {"value": 9.5, "indexed": 5.0, "cpu": 5.0}, ["ok", "MISS", "ok"]),
        ("imap-idle-1000-notify-smtp", {"p50_ms": 3.0, "p99_ms": 20.5}, ["ok", "MISS"]),
        ("fill-tiny-100k", {"value": 0.5, "index_s": 90.0}, ["ok", "ok"]),
    ],
)
def test_goals(case: str, figures: dict[str, float | None], words: list[str]) -> None:
    assert [one.word for one in goals.judge(case, figures)] == words


def test_the_text_tells_misses_and_late_loops() -> None:
    shown = text(
        result(table.OURS, "imap-append-4k-c1", 100, lag_ms=12.0, lag_breaches=2, lag_since_start_ms=12.0),
        result(MDBOX, "imap-append-4k-c1", 90),
    )
    assert "value >= 2x MISS" in shown
    assert re.search(r"group\W+12\W+2\W+MISS", shown)


def test_a_document_can_be_read_again(tmp_path: Path) -> None:
    given = [result(table.OURS, "a", 100), result(MDBOX, "a", 50)]
    path = tmp_path / "run.json"
    path.write_text(table.document(given, ABOUT))
    lines = tmp_path / "run.jsonl"
    lines.write_text("# a remark\n" + "".join(json.dumps(one) + "\n" for one in given))
    assert table.read(path) == given
    assert table.about([lines, path]) == ABOUT
    made = json.loads(path.read_text())
    assert made["machine"] == "a machine"
    assert made["rows"][0]["ratios"]["value"] == 2.0
    assert table.read(lines) == given


def test_peers_have_short_names() -> None:
    assert [table.short(one) for one in (table.OURS, "dovecot-mdbox-perflogin-sha512")] == ["pochta", "mdbox"]


def test_results_of_an_earlier_program_are_shown_too() -> None:
    old = {"case": "a", "unit": "msg/s", "value": 5, "n": 10, "wall_s": 1, "client_cpu_s": 0.1, "server_cpu_s": 0.01}
    assert "~1000" in text({**old, "peer": table.OURS})


def test_the_chart_is_well_formed_and_shows_each_quoted_case() -> None:
    given = [
        result(peer, case, value)
        for case in ("imap-append-4k-c1", "<odd>")
        for peer, value in ((table.OURS, 300), (MDBOX, 100))
    ]
    drawn = chart.svg(table.rows(given), "title & more", ["caption", "x" * 500])
    texts = [one.text for one in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]
    assert {"imap-append-4k-c1", "<odd>", "title & more", "3.00x"} <= set(texts)


@pytest.mark.parametrize(
    ("ratio", "goal", "color"),
    [(9.0, 9.0, chart.AHEAD), (8.0, 9.0, chart.SHORT), (0.9, None, chart.BEHIND), (0.5, 0.4, chart.AHEAD)],
)
def test_colors_of_the_chart(ratio: float, goal: float | None, color: str) -> None:
    assert chart.Bar("a", ratio, None, goal, None).color == color
