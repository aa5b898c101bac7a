"""The report: one set of facts, three files that agree, a page that needs nothing but itself."""

from __future__ import annotations

import base64
import copy
import html.parser
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from metrics import Difference
from metrics.facts import DifferenceFacts
from metrics.report import documents as report
from metrics.report.curve import curve_chart, interval_bars

HOSTILE = '<script>alert(1)</script><img src=x onerror=alert(2)> | `a` "q" \'&amp;'


def difference(metric: str, before: float, after: float, error: float) -> DifferenceFacts:
    change = after - before
    made = Difference(metric, before, after, error, change - 2 * error, change + 2 * error, 5000)
    return made.facts()


@pytest.fixture
def facts() -> dict:
    return {
        "title": "gan.pkl refined by diff-instruct",
        "comparison": {
            "num_images": 5000,
            "seed": 0,
            "groups": 20,
            "label": None,
            "noise_mode": "random",
            "seconds": 12.3,
            "differences": [
                difference("frechet_distance", 15.312, 7.904, 0.21),
                difference("inception_score", 7.31, 8.02, 0.05),
                difference("recall", 0.62, 0.61, 0.013),
            ],
            "null": difference("frechet_distance", 15.312, 15.26, 0.27),
            "space": {
                "name": "digits (64-d)",
                "dim": 64,
                "sha256": "ab" * 32,
                "is_inception": False,
            },
            "reference": {"source": "f.npz", "num_images": 60000, "sha256": "cd" * 32},
        },
        "curve": [
            {"kimg": k, "frechet_distance": d, "num_images": 1000}
            for k, d in ((0, 16.0), (10, 9.5), (20, 8.25))
        ],
        "health": [{"sigma": 0.05, "share": 0.45}, {"sigma": 12, "share": 1.02}],
        "settings": {"kimg": 20, "method": "diff-instruct", "resume": None},
        "provenance": {"command": "refine.py gan --kimg 20"},
    }


class Page(html.parser.HTMLParser):
    """Everything of a page that could fetch or run something, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_the_three_files_are_written_and_json_holds_the_facts(tmp_path, facts):
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    paths = report.write_report(tmp_path, facts, grids={"before": picture, "after": picture})
    assert [p.name for p in paths] == ["report.json", "report.md", "report.html"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    assert json.loads(paths[0].read_text("utf-8")) == {"schema": 1, **facts}


def test_markdown_and_page_are_pure_functions_of_the_json(tmp_path, facts):
    want = copy.deepcopy(facts)
    json_path, md_path, html_path = report.write_report(tmp_path, facts)
    assert facts == want
    again = json.loads(json_path.read_text("utf-8"))
    assert report.render_markdown(again) == md_path.read_text("utf-8")
    assert report.render_html(again, {}) == html_path.read_text("utf-8")


def test_the_headline_says_verdict_numbers_and_interval(facts):
    want = (
        "Better. Fréchet distance 15.31 → 7.90 (\N{MINUS SIGN}48.4 %); the 95 % interval of the "
        "change is \N{MINUS SIGN}7.83 to \N{MINUS SIGN}6.99. Recall 0.620 → 0.610 (not resolved)."
    )
    assert report.headline(facts) == want


def test_recall_that_fell_and_classes_are_part_of_the_verdict(facts):
    differences = facts["comparison"]["differences"]
    for i, difference in enumerate(differences):
        if difference["metric"] == "recall":
            differences[i] = {**difference, "verdict": "worse"}
    first = differences[0]
    classes = [{**first, "name": str(k), "verdict": v} for k, v in enumerate(["worse", "better"])]
    facts["comparison"]["classes"] = [*classes, {**classes[1], "name": "2"}]
    told = report.headline(facts)
    assert told.startswith("Better, but less varied. ")
    assert told.endswith("(worse). Of 3 classes: 2 better, 1 worse.")


def test_what_became_of_kept_images_is_said_and_whether_the_mapping_moved(facts):
    way = {"way": "saved w", "median": 0.12, "p90": 0.31, "large": 0.02, "num_images": 200}
    for moved, words in ((0.0, "did not move"), (0.034, "moved by 3.4 % of its weights")):
        told = report.render_markdown({**facts, "drift": [way], "mapping_moved": moved})
        assert "Saved w: the median image moved by 12 % of the distance between two" in told
        assert f"The mapping network {words}" in told or f"w_avg {words}" in told
    assert report.headline({"comparison": None}).startswith("Nothing was measured")


def test_the_tables_of_the_text_are_these_lines(facts):
    minus = "\N{MINUS SIGN}"
    want = """
| metric | before | after | change | 95 % interval | verdict | images | features |
|---|---:|---:|---:|---:|---|---:|---|
| Fréchet distance ↓ | 15.31 | 7.90 | -7.41 (-48.4 %) | -7.83 to -6.99 | better | 5,000 | digits |
| Inception Score ↑ | 7.310 | 8.020 | +0.710 (+9.7 %) | +0.610 to +0.810 | better | 5,000 | digits |
| Recall ↑ | 0.620 | 0.610 | -0.010 (-1.6 %) | -0.036 to +0.016 | not resolved | 5,000 | digits |
| Fréchet distance, nothing changed but the latents | 15.31 | 15.26 | -0.05 (-0.3 %) | \
-0.59 to +0.49 | not resolved | 5,000 | digits |

The intervals are of paired differences: both sides use the same latents, labels and noise. \
The last row is the exception.

## Fréchet distance over the run

Of 1,000 images in the same feature space; kimg 0 is the network before.

| kimg | Fréchet distance |
|---:|---:|
| 0 | 16.00 |
| 10 | 9.50 |
| 20 | 8.25 |

## Does the auxiliary network know the student?
"""
    facts["comparison"]["space"]["name"] = "digits"
    text = report.render_markdown(facts).replace(minus, "-")
    assert want in text
    assert "\n## How it was measured\n\n| | |\n|---|---|\n| Images on each side | 5,000" in text


def test_every_row_has_its_count_of_images_and_its_feature_space(facts):
    rows = [row for row in report.render_markdown(facts).splitlines() if "digits (64-d) |" in row]
    assert len(rows) == 4  # Three metrics and the null row.
    assert all("| 5,000 |" in row for row in rows)
    page = Page(report.render_html(facts, {}))
    assert page.text.count("5,000") >= 4
    assert page.text.count("digits (64-d)") >= 4


def test_a_number_that_is_not_fid_says_so_and_one_that_is_names_its_count(facts):
    for render in (report.render_markdown, lambda f: Page(report.render_html(f, {})).text):
        assert "This is not FID" in render(facts)
    facts["comparison"]["space"]["is_inception"] = True
    text = report.render_markdown(facts)
    assert "not FID" not in text
    assert "cannot be compared with them" in text
    facts["comparison"]["num_images"] = 50_000
    assert "as published FIDs are" in report.render_markdown(facts)


def test_the_page_fetches_nothing_and_runs_nothing(facts):
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    source = report.render_html(facts, {"before": report._png(picture)})
    page = Page(source)
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert value.startswith("data:")
    assert "://" not in source
    assert not re.search(r"@import|url\(", source)


def test_markup_in_any_text_of_the_facts_is_shown_as_text(facts):
    hostile = copy.deepcopy(facts)
    hostile["title"] = HOSTILE
    hostile["notes"] = [HOSTILE]
    hostile["settings"] = {HOSTILE: HOSTILE}
    hostile["provenance"] = {"command": [HOSTILE]}
    hostile["comparison"]["space"]["name"] = HOSTILE
    hostile["comparison"]["reference"]["source"] = HOSTILE
    hostile["comparison"]["noise_mode"] = HOSTILE
    png = report._png(np.zeros((4, 4), dtype=np.uint8))
    page = Page(report.render_html(hostile, {HOSTILE: png}))
    assert "script" not in page.tags
    assert page.tags.count("img") == 1
    assert not any(name == "onerror" for name, _ in page.attributes)
    assert page.text.count(HOSTILE) >= 6
    assert "<" not in report.render_markdown(hostile)


def test_markdown_tables_keep_their_columns_whatever_the_text(facts):
    facts["settings"] = {"a|b": "c|d\ne"}
    text = report.render_markdown(facts)
    assert "| a\\|b | c\\|d e |" in text
    columns = {len(re.findall(r"(?<!\\)\|", row)) for row in text.splitlines() if row[:1] == "|"}
    assert columns == {3, 9}


def test_pictures_are_in_the_page_pixel_by_pixel_in_the_order_given(facts):
    rng = np.random.default_rng(0)
    grey, colour = (rng.integers(0, 256, s, dtype=np.uint8) for s in ((6, 8), (6, 8, 3)))
    source = report.render_html(facts, {"before": report._png(grey), "after": report._png(colour)})
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', source)
    shown = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]
    assert np.array_equal(shown[0], grey)
    assert np.array_equal(shown[1], colour)


@pytest.mark.parametrize("missing", ["comparison", "curve", "health", "settings", "provenance"])
def test_a_report_needs_no_part_but_shows_the_others(facts, missing):
    facts[missing] = None
    page = Page(report.render_html(facts, {})).text
    headings = {
        "comparison": "Numbers",
        "curve": "over the run",
        "health": "auxiliary network",
        "settings": "Settings",
        "provenance": "Provenance",
    }
    for part, heading in headings.items():
        assert (heading in page) == (part != missing)
    assert report.render_markdown(facts)


def test_two_digits_of_the_error_decide_how_many_decimals_are_shown(facts):
    rows = [report._row(difference("frechet_distance", 123.4567, 100.0, e)) for e in (0.012, 34.0)]
    assert [row["before"] for row in rows] == ["123.457", "123"]
    assert report._row(difference("frechet_distance", 1234.5678, 1.0, 0.0))["before"] == "1,235"
    assert report._row(difference("frechet_distance", 0.0, 0.0, 0.0))["before"] == "0.0"
    tiny = report._row(difference("kernel_distance", 1.5e-8, 1.25e-8, 1e-9))
    assert tiny["after"] == "1.25e\N{MINUS SIGN}08"


def test_facts_that_are_not_json_leave_the_folder_as_it_was(tmp_path, facts):
    (tmp_path / "report.json").write_text("old")
    facts["curve"][1]["frechet_distance"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write_report(tmp_path, facts)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.json", "old")]


@pytest.mark.parametrize(
    "picture", [b"GIF89a", np.zeros((4, 4)), np.zeros((4, 4, 4), dtype=np.uint8)]
)
def test_what_is_no_picture_is_refused(tmp_path, facts, picture):
    with pytest.raises(ValueError, match=r"no PNG|uint8 \[h, w\]"):
        report.write_report(tmp_path, facts, grids={"before": picture})
    assert not list(tmp_path.iterdir())


def test_a_curve_places_points_in_proportion_and_starts_at_zero():
    chart = curve_chart([(10, 4.0), (0, 8.0), (20, 2.0)])
    assert chart is not None
    x, y = zip(*((point["x"], point["y"]) for point in chart["points"]), strict=True)
    assert x[0] == chart["left"]
    assert x[2] == chart["right"]
    assert x[1] == pytest.approx((x[0] + x[2]) / 2, abs=0.1)
    heights = [chart["bottom"] - value for value in y]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert heights[0] == pytest.approx(4 * heights[2], abs=0.3)
    assert [label for _, label in chart["y_ticks"]] == ["0", "2", "4", "6", "8"]
    assert chart["y_ticks"][0][0] == chart["bottom"]
    assert chart["y_ticks"][-1][0] == chart["top"]


def test_a_curve_of_one_point_is_none_and_of_zeros_is_flat():
    assert curve_chart([(0, 1.0)]) is None
    chart = curve_chart([(0, 0.0), (5, 0.0)])
    assert chart is not None
    assert {point["y"] for point in chart["points"]} == {chart["bottom"]}


def test_bars_point_to_the_right_where_the_change_is_for_the_better():
    fall, rise, nothing = (
        difference("frechet_distance", 5, 4, 0.1),
        difference("inception_score", 5, 4, 0.1),
        difference("recall", 1, 1, 0.0),
    )
    right, left, none = interval_bars([fall, rise, nothing])
    assert right is not None
    assert left is not None
    assert none is None
    assert 50 < right["low"] < right["middle"] < right["high"] <= 98
    assert 2 <= left["low"] < left["middle"] < left["high"] < 50
