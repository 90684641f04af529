"""Tables: all numbers are present, columns are aligned, control characters and markup in names are replaced."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.report import tables


def columns(text):
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def test_the_caption_names_all_hardware_that_the_rows_were_computed_on(results):
    both = {**results, "computed_on": ["bfloat16 on x86_64 AMX", "float32 on x86_64 AVX2"]}
    assert tables.caption(both).endswith("classes, computed in bfloat16 on x86_64 AMX and float32 on x86_64 AVX2")


def test_plain_table_holds_every_row_in_groups(results):
    table = tables.plain_table(results)
    for row in results["rows"]:
        (line,) = [line for line in table.splitlines() if line.strip().startswith(f"{row['name']}  ")]
        for shot in row["shots"].values():
            assert f"{100 * shot['mean']:.1f} ± {100 * shot['interval']:.1f}" in line
        assert str(600 * len(row["seeds"])) in line.split()
    order = ["Trained without data", "bell", "distillation", "Baselines", "pixels", "Oracles, trained on real data", "real-data oracle"]
    assert [table.index(f"{name}") for name in order] == sorted(table.index(name) for name in order)
    assert (
        table.splitlines()[0]
        == "5-way accuracy in % on the test classes, computed in float32 on x86_64 AVX2, mean ± half-width of the 95 % interval"
    )
    assert table.endswith("\n")


def test_plain_table_lines_up(results):
    results["rows"][0]["name"] = "教師なし"  # wide letters
    results["rows"][1]["name"] = "be\u0301ll"  # a combining accent
    lines = tables.plain_table(results).splitlines()
    rows = [line for line in lines if "±" in line and line.startswith("  ")]
    assert len(rows) == len(results["rows"])
    assert len({columns(line) for line in [lines[2], *rows]}) == 1
    # Right-aligned columns: each cell ends under the end of its heading.
    end = lines[2].index("parameters") + len("parameters")
    for line in rows:
        cut = 0
        while columns(line[:cut]) < end:
            cut += 1
        assert line[cut - 1] != " "
        assert line[cut : cut + 2] == "  "


def test_a_missing_shot_is_a_dash(results):
    del results["rows"][2]["shots"]["5"]
    (line,) = [line for line in tables.plain_table(results).splitlines() if "pixels" in line]
    assert line.endswith("–")
    assert "33.1 ± 0.8" in line


def test_control_characters_are_replaced(results):
    results["rows"][1]["name"] = "evil\x1b[2J\nname"
    table = tables.plain_table(results)
    assert "\x1b" not in table
    assert "evil?[2J?name" in table


def test_markdown_has_one_cell_per_column(results):
    results["rows"][1]["name"] = "a|b*<script>_c_"
    lines = tables.markdown_table(results).splitlines()[2:]
    cells = [line.replace("\\|", "").count("|") for line in lines]
    assert len(lines) == 2 + 3 + len(results["rows"])
    assert set(cells) == {8}
    assert "| a\\|b\\*\\<script\\>\\_c\\_ | 1 | 113 k | 3 | 1800 | 64.8 ± 0.8 | 86.3 ± 0.6 |" in lines
    assert lines[1].startswith("| --- | ---: |")


def test_summary_names_the_best_arm_and_the_reference_rows(results):
    assert tables.summary_sentences(results) == [
        "With 5 images per class the best arm is distillation: 91.1 ± 0.6 %, the highest of 2 arms on these classes.",
        "1.6 percentage points above the best baseline with one network: best teacher, 89.5 ± 0.6 %.",
        "3.8 percentage points below the best baseline of any kind (16 networks): all teachers, 94.9 ± 0.6 %.",
        "5.3 percentage points below the best oracle, trained on real data: real-data oracle, 96.4 ± 0.6 %.",
    ]


def test_summary_names_pixels_when_they_are_the_best_baseline(results):
    results["rows"][2]["shots"]["5"]["mean"] = 0.95
    sentences = tables.summary_sentences(results)
    assert "3.9 percentage points below the best baseline of any kind (no network): pixels, 95.0 ± 0.6 %." in sentences


def test_summary_leaves_out_missing_kinds(results):
    results["rows"] = [row for row in results["rows"] if row["name"] == "bell"]
    assert tables.summary_sentences(results) == ["With 5 images per class the best arm is bell: 86.3 ± 0.6 %."]
    results["rows"][0]["kind"] = "baseline"
    assert tables.summary_sentences(results) == []


def test_shots_are_ordered_as_numbers(results):
    results["rows"][0]["shots"]["10"] = results["rows"][0]["shots"]["1"]
    assert tables.shots(results) == ["1", "5", "10"]


def test_episodes_of_shots_that_differ(results):
    row = results["rows"][0]
    assert tables.episodes(row) == "600"
    row["shots"]["5"]["n"] = 900
    assert tables.episodes(row) == "600–900"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"), (999, "999"), (999.6, "1.00 k"), (1000, "1.00 k"), (9994, "9.99 k"), (9996, "10.0 k"), (113088, "113 k"),
        (999_499, "999 k"), (999_500, "1.00 M"), (4_980_000, "4.98 M"), (2.5e9, "2.50 G"), (None, "–"),
    ],
)  # fmt: skip
def test_magnitude(count, text):
    assert tables.magnitude(count) == text


@given(st.integers(1000, 10**11))
def test_magnitude_keeps_three_digits(count):
    number, unit = tables.magnitude(count).split()
    assert float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit] == pytest.approx(count, rel=0.0051)
    assert len(number.replace(".", "")) == 3


def test_the_agreement_of_gradients_is_the_seeds_mean_at_the_first_and_last_measurement():
    curves = {
        "bell": [
            [{"step": 1, "gradient_cosine": 0.1}, {"step": 2}, {"step": 3, "gradient_cosine": 0.5}],
            [{"step": 1, "gradient_cosine": 0.3}, {"step": 3, "gradient_cosine": 0.7}, {"step": 4}],
        ],
        "dro": [[{"step": 1, "loss": 1.0}]],
    }
    assert tables.gradient_agreement(curves) == {"bell": (pytest.approx(0.2), pytest.approx(0.6))}
    assert tables.gradient_agreement({}) == {}


def test_domains_have_their_own_table(results):
    assert tables.domain_table(results) == []
    assert "by domain" not in tables.plain_table(results)
    for row in results["rows"]:
        row["domains"] = {"maps": row["shots"], "photos": {shot: {**value, "mean": 0.25} for shot, value in row["shots"].items()}}
    header, *lines = tables.domain_table(results)
    assert header == ["by domain", "maps 1-shot", "maps 5-shot", "photos 1-shot", "photos 5-shot"]
    assert [line[0] for line in lines] == [row["name"] for _, rows in tables.groups(results) for row in rows]
    assert lines[0][1:] == ["64.8 ± 0.8", "86.3 ± 0.6", "25.0 ± 0.8", "25.0 ± 0.6"]
    plain = tables.plain_table(results).splitlines()
    table = plain[next(place for place, line in enumerate(plain) if line.startswith("by domain")) :]
    assert len(table) == 1 + len(lines)
    assert len({columns(line) for line in table}) == 1


def network(name, kind, members, accuracy, macs):
    shots = {shot: {"mean": accuracy, "interval": 0.01, "n": 600} for shot in ("5", "1")}
    return {"name": name, "kind": kind, "members": members, "parameters": 1000, "macs": macs, "latency": 1.234, "shots": shots}


NETWORKS = [
    network("2 teachers", "teachers", ["a", "b"], 0.5, 6e6),
    network("bell", "learner", ["bell"], 0.48, 3e6),
    network("a\x1b[31m", "teacher", ["a"], 0.4, 3e6),
]


def test_networks_to_use_are_listed_with_their_cost_and_the_default_is_named():
    text = tables.networks_table(NETWORKS)
    lines = text.splitlines()
    assert lines[2].split() == ["kind", "networks", "parameters", "multiply-adds", "ms", "1-shot", "5-shot"]
    assert lines[3].split() == ["2", "teachers", "teachers", "2", "1.00", "k", "6.00", "M", "1.23", "50.0", "±", "1.0", "50.0", "±", "1.0"]
    assert len({columns(line) for line in lines[2:6]}) == 1
    assert "\x1b" not in text
    assert lines[-1] == (
        "Of the single networks, bell is the most accurate; datafree adapt uses it by default. 2 teachers side by side are 2.0 percentage "
        "points more accurate with 2 times the multiply-adds: --backbone '2 teachers'."
    )
    close = [NETWORKS[0], network("bell", "learner", ["bell"], 0.495, 3e6)]
    assert "are 0.5 percentage points more accurate, which is within the intervals, with 2 times" in tables.network_sentence(close)
    assert tables.network_sentence(NETWORKS[1:]) == "Of the single networks, bell is the most accurate; datafree adapt uses it by default."


def test_the_table_names_the_best_teacher_of_each_number_of_shots(results):
    assert tables.best_teachers(results) == "best teacher: <small> at 1 shot, large at 5 shots"
    assert "\nbest teacher: <small> at 1 shot, large at 5 shots\n" in tables.plain_table(results)
    del results["rows"][4]
    assert tables.best_teachers(results) == ""
    assert "best teacher" not in tables.plain_table(results)
