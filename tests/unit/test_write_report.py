"""The report: complete, self-contained, and deaf to mark-up in what it is given."""

from __future__ import annotations

import base64
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoscale.errors import OutputError
from cryoscale.write.report import ClassScore, Outlines, Report, render, write_report
from cryoscale.write.seams import SeamScore
from cryoscale.write.sheet import Plate

VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Collects text and sources, and sees that every element is closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def glaciers(count: int) -> Outlines:
    table = pd.DataFrame(
        {
            "glac_id": [f"G{number:06d}E28000N" for number in range(count)],
            "area_km2": np.linspace(0.01, 5, count),
            "debris_fraction": 0.25,
            "src_date": pd.to_datetime(["2018-10-15"] * (count - 1) + [None]),
            "confidence": math.nan,
        }
    )
    return Outlines(count, float(table["area_km2"].sum()), table.iloc[::-1].head(50))


def full() -> Report:
    return Report(
        title="Khumbu <script>alert(1)</script>",
        simulated=True,
        map_png=b"\x89PNG picture",
        map_caption="Made of noise & ice",
        summary={"Blocks": "23 of 24"},
        timings_s={"read": 12.0, "predict": 4000.0, "write": 61.0},
        seams={"blocks of 512 px": SeamScore(1.0034, 0.0101, 14)},
        scores={
            "cryonet": [ClassScore("clean_ice", 0.9, 0.95, 0.94), ClassScore("water", 0.0, 0.0, math.nan)]
        },
        truth="the simulator's truth",
        outlines={2018: glaciers(60)},
        scenes_read=["S2A_1", "S2B_2"],
        scenes_failed=[("S2C_3", "truncated <file>")],
        blocks_set_aside=[("2018/32645/r1_c2", "no memory")],
        modalities={"optical": 1.0, "insar": 0.0},
        model={"name": "cryonet", "mean": [0.5] * 30, "licence": "", "metrics": {"iou": 0.9}},
        citation="Cite it so.",
        made="cryoscale 1, today",
    )


def test_everything_given_is_told_and_nothing_is_fetched_from_elsewhere() -> None:
    reader = read(render(full()))
    for words in (
        "Simulated imagery.", "Made of noise & ice", "23 of 24", "1.003 ± 0.010", "clean ice", "0.950",
        "60 outlines", "The largest 50", "5.00", "2018-10-15", "25 %", "12.0 s", "1 h 06 min", "1 min 01 s",
        "S2B_2", "truncated <file>", "no memory", "Absent everywhere: insar", "30 numbers", "Cite it so.",
    ):  # fmt: skip
        assert words in reader.text, words
    (source,) = reader.sources
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG picture"


def test_text_from_outside_cannot_become_markup() -> None:
    reader = read(render(full()))
    assert reader.tags.count("script") == 1  # the page's own, which sorts
    assert "Khumbu <script>alert(1)</script>" in reader.text


def test_a_table_of_outlines_sorts_by_the_heading_that_is_clicked(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium (Debian: chromium)")
    table = pd.DataFrame(
        {
            "glac_id": ["G1", "G2", "G3", "G4"],
            "area_km2": [12.0, 3.0, 1.0, 0.5],
            "src_date": pd.to_datetime(["2018-10-15", "2018-10-05", None, "2018-10-25"]),
        }
    )
    page = render(replace(full(), outlines={2018: Outlines(4, 16.5, table)}))

    def order(*clicks: int) -> str:
        script = "".join(f"document.querySelectorAll('th[aria-sort]')[{n}].click();" for n in clicks)
        path = tmp_path / "page.html"
        path.write_text(page.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return " ".join(re.findall(r">(G\d)<", done.stdout))

    assert order(1, 1) == "G4 G3 G2 G1"  # by area as numbers, the smallest first: 12 is more than 3
    assert order(2) == "G4 G1 G2 G3"  # the latest first, what has no date last
    assert order(2, 2) == "G2 G1 G4 G3"  # and so the other way round


def test_a_picture_behind_the_map_is_shown_with_what_it_is() -> None:
    plate = Plate("Confidence", "Dark is <doubtful>.", b"RIFF picture")
    reader = read(render(replace(full(), plates=[plate])))
    assert "Dark is <doubtful>." in reader.text
    assert base64.b64decode(reader.sources[1].removeprefix("data:image/webp;base64,")) == b"RIFF picture"


def test_a_report_of_little_says_little_and_no_banner_stands_over_real_imagery() -> None:
    text = read(render(Report(title="bare"))).text
    assert "Nothing: every scene could be read" in text
    for heading in ("Simulated", "Summary", "Scores", "Outlines", "Scenes used", "How to cite", "None"):
        assert heading not in text


def test_a_modality_that_was_absent_in_part_is_missing_too_and_only_none_and_all_are_told_as_such() -> None:
    shares = {"optical": 1.0, "thermal": 0.004, "insar": 0.0, "velocity": 0.9996}
    in_part, whole = (
        Report(title="bare", modalities={"thermal": 0.86}),
        Report("bare", modalities={"dem": 1.0}),
    )
    assert "Nothing: every scene" not in render(in_part)
    assert "Nothing: every scene" in render(whole)
    text = " ".join(read(render(Report(title="bare", modalities=shares))).text.split())
    assert "Absent everywhere: insar." in text
    assert "Absent in part of the region: thermal, velocity." in text
    for told in ("optical100 %", "thermalunder 1 %", "insar0 %", "velocityover 99 %"):
        assert f"{told} of the region" in text, told


def test_the_mean_score_leaves_out_a_class_that_truth_has_not() -> None:
    assert "mean0.900" in read(render(full())).text.replace("\n", "")


def test_where_only_the_first_are_listed_the_report_says_how_many_there_are_and_where() -> None:
    counts = {"scenes_read": 70, "scenes_failed": 1, "blocks_set_aside": 30}
    text = " ".join(read(render(replace(full(), counts=counts))).text.split())
    assert "70 scenes" in text
    assert "The first 2 of 70; the markers in ledger/done name all" in text
    assert "The first 1 of 30; cryoscale status --json names all" in text
    assert text.count("The first") == 2


def test_the_file_lies_in_the_run_and_a_bad_place_is_an_output_error(tmp_path: Path) -> None:
    target = write_report(tmp_path / "run", full())
    assert Path(target) == tmp_path / "run" / "report.html"
    assert Path(target).read_text(encoding="utf-8") == render(full())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.html"]
    with pytest.raises(OutputError):
        write_report(target, full())
