"""Cards read without colour and escape what they show."""

from html.parser import HTMLParser

from nbutils.environment.card import SYMBOLS, Row, mark, render_card, render_text

ROWS = [
    Row("fail", "labels < classes", [("expected", "< 10"), ("actual", "11 & more")]),
    Row("pass", "shapes", [("actual", "(B, 3)\n(B,)")], folded=True),
    Row("skip", "no GPU", folded=True),
]


class Tags(HTMLParser):
    """Collects opened and closed tags and the text between them."""

    def __init__(self):
        super().__init__()
        self.opened, self.closed, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.opened.append(tag)

    def handle_endtag(self, tag):
        self.closed.append(tag)

    def handle_data(self, data):
        self.text.append(data)


def parse(html):
    tags = Tags()
    tags.feed(html)
    return tags


def test_card_rows_show_symbol_and_word():
    text = " ".join(parse(render_card("Preflight", "fail", "1 failed", ROWS)).text)
    for status in ("fail", "pass", "skip"):
        assert f"{SYMBOLS[status]} {status}" in text


def test_card_every_tag_is_closed():
    tags = parse(render_card("Preflight", "fail", "1 failed", ROWS))
    assert sorted(tags.opened) == sorted(tags.closed)


def test_card_hostile_text_is_escaped():
    evil = "<script>alert(1)</script>"
    html = render_card(evil, "pass", evil, [Row("info", evil, [(evil, evil)])])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 6  # aria-label, title, subtitle, row, pair


def test_card_folds_only_rows_with_pairs():
    assert parse(render_card("x", "fail", "", ROWS)).opened.count("details") == 1


def test_card_styles_are_scoped():
    style = render_card("x", "pass", "", []).split("<style>")[1].split("</style>")[0]
    rules = [rule.split("{")[0] for rule in style.replace("\n", "").split("}")]
    selectors = [part for rule in rules for part in rule.split(",") if part]
    assert all(".nbu-" in part or part.startswith("@media") for part in selectors)


def test_text_pairs_are_aligned_and_folds_left_out():
    text = render_text("Preflight", "fail", "1 failed", ROWS)
    assert text.splitlines() == [
        "✗ fail  Preflight: 1 failed",
        "  ✗ fail  labels < classes",
        "          expected  < 10",
        "          actual    11 & more",
        "  ✓ pass  shapes",
        "  – skip  no GPU",
    ]


def test_text_unfolded_shows_every_line_in_its_column():
    lines = render_text("x", "pass", "", ROWS, unfold=True).splitlines()
    assert "          actual  (B, 3)" in lines
    assert "                  (B,)" in lines


def test_mark_names_every_status():
    assert [mark(s).split()[1] for s in SYMBOLS] == list(SYMBOLS)


def test_card_shown_pairs_are_never_folded():
    shown = [("expected", "(B, 3)"), ("actual", "(4, 3)")]
    row = Row("pass", "shapes", [("took", "1 s")], folded=True, shown_pairs=shown)
    html = render_card("x", "pass", "", [row])
    summary = html.split("<summary")[1].split("</summary>")[0]
    assert "(B, 3)" in summary
    assert "(4, 3)" in summary
    assert "took" not in summary
    assert render_text("x", "pass", "", [row]).splitlines()[2:] == [
        "          expected  (B, 3)",
        "          actual    (4, 3)",
    ]


def test_card_uses_no_elements_that_notebooks_restyle():
    opened = parse(render_card("x", "fail", "", ROWS)).opened
    assert not {"dl", "dt", "dd", "table", "td", "ul"} & set(opened)


def test_card_group_holds_rows_that_open_one_by_one():
    inner = [Row("pass", "a < b", [("took", "1 s")], folded=True), Row("pass", "c")]
    rows = [Row("pass", "2 passed", folded=True, rows=inner)]
    html = render_card("x", "pass", "", rows)
    tags = parse(html)
    assert tags.opened.count("details") == 2
    assert sorted(tags.opened) == sorted(tags.closed)
    assert "a &lt; b" in html
    assert "a &lt; b" not in html.split("<summary")[1].split("</summary>")[0]
    assert render_text("x", "pass", "", rows).splitlines()[1:] == ["  ✓ pass  2 passed"]
    assert render_text("x", "pass", "", rows, unfold=True).splitlines()[1:] == [
        "  ✓ pass  2 passed",
        "    ✓ pass  a < b",
        "            took  1 s",
        "    ✓ pass  c",
    ]
