"""HTML page: all numbers are present, nothing is loaded from outside, all values are escaped."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from datafree.report.page import Architecture, Study, render

ALIGNED = {"joint": [[{"step": 1, "gradient_cosine": 0.25}, {"step": 2}, {"step": 3, "gradient_cosine": -0.5}]] * 3}
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(1)>'{{ 7 * 7 }}"
VOID = {"meta", "img", "br", "hr", "line", "circle", "polyline"}


class Reader(HTMLParser):
    """Text, tags and attributes; fails on tags that do not nest."""

    def __init__(self, page):
        super().__init__()
        self.open, self.words, self.tags, self.attributes = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def measured(mean, interval=0.01, n=16):
    return {"mean": mean, "interval": interval, "n": n}


@pytest.fixture
def study(results):
    quality = {
        "teachers": 16,
        "rows": [
            {"method": "real", "metrics": {"transfer_accuracy": measured(0.912), "teacher_confidence": measured(0.871)}},
            {
                "method": "five",
                "metrics": {
                    "transfer_accuracy": measured(0.803),
                    "teacher_confidence": measured(0.984),
                    "within_class_ratio": measured(0.16, 0.02),
                    "new_measure": measured(0.12345, 0.001),
                },
            },
        ],
    }
    card = {
        "name": "latin-03", "architecture": {"name": "conv4", "width": 32}, "classes": ["a", "b", "c"], "source": "https://example.org/t.pt",
        "licence": "CC0-1.0", "accuracy": {"mean": 0.976, "n": 128},
    }  # fmt: skip
    facts = {
        "algorithm": "spos",
        "genotype": "|skip~0|+|none~0|",
        "macs": 4_980_000,
        "parameters": 94122,
        "agreement": 0.87,
        "candidates_scored": 2,
    }
    candidates = [{"step": 1, "macs": 4.98e6, "agreement": 0.87}, {"step": 2, "macs": 2e6, "agreement": 0.5}]
    return Study(
        config={"seed": 0, "nas": {"algorithms": {"spos": {"max_macs": 5_000_000}}}},
        few_shot=results,
        quality=quality,
        cards=[card, {**card, "name": "greek-00", "accuracy": None, "licence": "MIT"}],
        learner_curves={"bell": [[{"step": 1, "episode": 1.5}, {"step": 2, "episode": 0.5}]] * 3, **ALIGNED},
        generator_curve=[{"step": 1, "batch_norm": 1.5}, {"step": 2, "batch_norm": 0.5}],
        architectures=[Architecture(facts, b"cell", candidates, {"agreement": 0.812, "held_out_images": 1536.0})],
        sheets={name: {"five": f"{name} sheet".encode()} for name in ("latin-03", "greek-00", "third")},
        real_sheet=b"real",
        data_sheet=b"data",
    )


def test_domains_are_shown(study, results):
    for row in results["rows"]:
        row["domains"] = {"maps": row["shots"]}
    assert "maps 5-shot" in Reader(render(replace(study, few_shot=results))).text


def test_the_networks_to_use_are_shown_with_every_teacher(study):
    shots = {"1": {"mean": 0.5, "interval": 0.01, "n": 600}}
    rows = [
        {"name": f"<t{number}>", "kind": "teacher", "members": ["x"], "parameters": 9, "macs": 9, "latency": 1.0, "shots": shots}
        for number in range(8)
    ]
    html = render(replace(study, networks=rows))
    assert "Which network to use" in html
    assert "The other 3 teachers" in html
    assert all(f"&lt;t{number}&gt;" in html for number in range(8))
    assert "Which network to use" not in render(study)


def test_every_number_is_there(study, results):
    text = Reader(render(study)).text
    for row in results["rows"]:
        assert row["name"] in text
        assert row["description"] in text
        for value in row["shots"].values():
            assert f"{100 * value['mean']:.1f} ± {100 * value['interval']:.1f}" in text
    assert "64.8 ± 1.2" in text  # of one seed
    for expected in (
        "2 teachers, 3 distinct classes · 2 learners, 3 seeds each · 1 architecture search · 5-way episodes on the test classes",
        "over 600 episodes per seed. With several seeds",
        "gets 1 or 5 labelled images per class (the support images) and classifies 15 further images",
        "chance level, 20 %",
        "Best teacher is chosen",
        *("98.4 ± 1.0", "0.16 ± 0.02", "new measure", "0.123 ± 0.001", "do not measure quality"),
        *("|skip~0|+|none~0|", "4.98 M", "94.1 k", "87.0 %", "81.2 % of 1536 held-out images"),
        *("joint0.250-0.500", "BatchNorm distance", "episode loss", "One line per seed (3 seeds)"),
        *("latin-03", "conv4, width 32", "97.6 n = 128", "https://example.org/t.pt", "CC0-1.0; MIT", "max_macs: 5000000"),
    ):
        assert expected in text


def test_the_best_arm_alone_is_bold(study):
    page = render(study)
    table = page[page.index('<table class="results">') : page.index("</table>")]
    assert re.findall(r"<b>(.*?)</b>", table) == ["76.6 ± 0.8", "91.1 ± 0.6"]


def test_pictures_are_inside_and_nothing_comes_from_outside(study):
    page = render(study)
    reader = Reader(page)
    sources = [value for name, value in reader.attributes if name == "src"]
    assert len(sources) == 3 + 1 + 1 + 1
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href")
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    assert "url(" not in page
    assert "@import" not in page


def test_same_study_same_bytes(study):
    assert render(study) == render(study)


def test_names_are_escaped_everywhere(study, results):
    honest = Reader(render(study))
    for row in results["rows"]:
        row |= {"name": HOSTILE + row["name"], "description": HOSTILE}
    for row in study.quality["rows"]:
        row["method"] = HOSTILE
        row["metrics"][HOSTILE] = measured(0.5)
    facts = {**study.architectures[0].facts, "algorithm": HOSTILE, "genotype": HOSTILE}
    hostile = replace(
        study,
        config={HOSTILE: HOSTILE},
        cards=[{**card, "name": HOSTILE, "source": HOSTILE, "licence": HOSTILE, "classes": [HOSTILE]} for card in study.cards],
        learner_curves={HOSTILE: [[{"step": 1, HOSTILE: 1.0}]]},
        architectures=[replace(study.architectures[0], facts=facts)],
        sheets={HOSTILE: {HOSTILE: b"sheet"}},
    )
    page = render(hostile)
    reader = Reader(page)
    assert "script" not in reader.tags
    assert not [name for name, _ in reader.attributes if name.startswith("on")]
    assert set(reader.tags) <= set(honest.tags)
    assert "49" not in reader.text.split()  # names are not evaluated as templates
    assert reader.text.count("{{ 7 * 7 }}") > 10


def test_an_empty_study_names_the_missing_parts():
    reader = Reader(render(Study(config={})))
    for missing in ("few-shot results", "quality measurements", "recovered images", "architecture", "training curves", "teachers"):
        assert f"No {missing} in this study." in reader.text
    assert "img" not in reader.tags
    assert "svg" not in reader.tags


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ({"few_shot": None}, "few-shot results"),
        ({"quality": None}, "quality measurements"),
        ({"sheets": {}}, "recovered images"),
        ({"architectures": ()}, "architecture"),
        ({"learner_curves": {}, "generator_curve": ()}, "training curves"),
        ({"cards": ()}, "teachers"),
    ],
)
def test_one_missing_part_does_not_affect_the_others(study, part, missing):
    text = Reader(render(replace(study, **part))).text
    assert text.count("in this study. To compute what the configuration names") == 1
    assert f"No {missing} in this study." in text


def test_an_architecture_without_picture_candidates_or_retraining(study):
    facts = {"algorithm": "spos", "genotype": "g", "macs": 10, "parameters": 20}
    reader = Reader(render(Study(config={}, architectures=[Architecture(facts)])))
    assert "agreement after retraining" not in reader.text
    assert "svg" not in reader.tags
    assert "multiply-adds, one image10 parameters20" in reader.text


def test_a_zero_cost_search_shows_the_proxy_and_a_degenerate_result_is_marked(study):
    facts = {**study.architectures[0].facts, "algorithm": "flow", "score": 12.345, "space": "darts", "degenerate": True}
    del facts["agreement"]
    candidates = [{"step": 1, "macs": 4.98e6, "score": 12.345}, {"step": 2, "macs": 2e6, "score": 3.0}]
    config = {"nas": {"algorithms": {"flow": {"proxy": "synflow"}}}}
    changed = replace(study, config=config, architectures=[Architecture(facts, None, candidates)])
    page = render(changed)
    text = Reader(page).text
    assert "synflow against multiply-adds, all candidates" in page
    for expected in ("12.3", "darts", "Degenerate: no operation between input and output"):
        assert expected in text
    assert "Degenerate" not in Reader(render(study)).text
    assert "against latency" not in page


def test_a_search_with_a_prior_shows_the_mean_rank(study):
    facts = {**study.architectures[0].facts, "algorithm": "spos", "score": 0.75}
    candidates = [{"step": 1, "macs": 4.98e6, "agreement": 0.5, "score": 0.75}]
    config = {"nas": {"algorithms": {"spos": {"prior": "zen"}}}}
    page = render(replace(study, config=config, architectures=[Architecture(facts, None, candidates)]))
    assert "mean rank of supernet and zen against multiply-adds, all candidates" in page


def test_measured_latency_has_its_own_plot(study):
    facts = {**study.architectures[0].facts, "latency": 1.25}
    candidates = [
        {"step": 1, "macs": 4.98e6, "latency": 1.25, "agreement": 0.5},
        {"step": 2, "macs": 2e6, "latency": 0.75, "agreement": 0.25},
    ]
    config = {"nas": {"algorithms": {facts["algorithm"]: {"max_macs": None, "max_latency": 2.0}}}}
    page = render(replace(study, config=config, architectures=[Architecture(facts, None, candidates)]))
    for expected in ("against multiply-adds, all", "against latency, all", "search result: 1.25 ms", ">limit<"):
        assert page.count(expected) == 1
