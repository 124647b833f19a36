"""The sentence pairs: parsing, joining, filtering, splitting; invented text, no network."""

import stat

import pytest

from zopro.tasks import debian

ENGLISH = """Package: apple-press
Description-md5: aa
Description-en: presses apples into juice
 Apple press squeezes fruit and
 tells how much juice came out.
 .
  * a verbatim line
 .
 It stops by itself when done.

Package: libpear2-dev
Description-md5: bb
Description-en: pear counting library (development files)
 Counts pears.

Package: plum
Description-md5: cc
Description-en: plum

Package: quince
Description-md5: dd
Description-en: presses apples into juice
"""
GERMAN = """Package: apple-press
Description-md5: aa
Description-de: presst Äpfel zu Saft
 Die Apfelpresse quetscht Obst und
 sagt, wie viel Saft herauskam.
 .
  * eine wörtliche Zeile
 .
 Sie hält von selbst an, wenn sie fertig ist.

Package: libpear2-dev
Description-md5: bb
Description-de: Bibliothek zum Zählen von Birnen (Entwicklerdateien)
 Zählt Birnen.
 .
 Ein Absatz mehr als im Original.

Package: plum
Description-md5: cc
Description-de: Pflaume

Package: quince
Description-md5: dd
Description-de: presst Äpfel zu Saft
"""


@pytest.fixture
def indexes(tmp_path):
    (tmp_path / "en").write_text(ENGLISH, encoding="utf-8")
    (tmp_path / "de").write_text(GERMAN, encoding="utf-8")
    return tmp_path / "en", tmp_path / "de"


def test_parse_joins_lines_and_leaves_verbatim_lines_out(indexes):
    package, texts = debian.parse_translations(indexes[0], "en")["aa"]
    assert package == "apple-press"
    assert texts == [
        "presses apples into juice",
        "Apple press squeezes fruit and tells how much juice came out.",
        "It stops by itself when done.",
    ]


def test_align_joins_on_the_sum_and_drops_what_is_no_pair(indexes):
    english = debian.parse_translations(indexes[0], "en")
    german = debian.parse_translations(indexes[1], "de")
    rows = list(debian.align(english, german))
    assert [(r["package"], r["part"]) for r in rows] == [
        ("apple-press", "synopsis"),
        ("apple-press", "paragraph"),
        ("apple-press", "paragraph"),
        ("libpear2-dev", "synopsis"),  # one paragraph more in German: only the synopsis pairs
    ]  # plum is one word, quince repeats apple-press's source
    assert rows[1]["target"] == "Die Apfelpresse quetscht Obst und sagt, wie viel Saft herauskam."


@pytest.mark.parametrize(
    "source, target, verdict",
    [
        ("counts pears and plums", "zählt Birnen und Pflaumen", True),
        ("counts pears and plums", "Counts pears and plums", False),
        ("counts pears", "zählt Birnen", False),
        ("counts pears and plums", "ja, nun", False),
        ("see https://a.example/b now", "siehe https://a.example/b jetzt", False),
        ("a b c", "1.2.3 4.5 == != ++ --", False),
    ],
)
def test_is_pair(source, target, verdict):
    assert debian.is_pair(source, target) is verdict


def test_siblings_share_a_split():
    assert {debian.family(p) for p in ("libpear2-dev", "pear-doc", "pear", "pear3.1")} == {"pear"}
    assert debian.split_of("libpear2-dev") == debian.split_of("pear-data")
    letters = "abcdefghijklmnopqrstuvwxyz"
    counts = [debian.split_of(f"name{a}{b}") for a in letters for b in letters]
    assert 0.75 < counts.count("train") / len(counts) < 0.85
    assert set(counts) == set(debian.SPLITS)


@pytest.fixture
def built(tmp_path, monkeypatch, indexes):
    """A cache built from the fixture, the three packages forced into three splits."""
    splits = {"apple-press": "train", "libpear2-dev": "test", "quince": "validation"}
    english, german = indexes
    german.write_text(GERMAN.replace("presst Äpfel zu Saft", "presst Äpfel aus", 1), "utf-8")
    changed = ENGLISH.replace("presses apples into juice", "presses apples out", 1)
    english.write_text(changed, "utf-8")
    monkeypatch.setattr(debian, "fetch_index", lambda folder: ([english], [german]))
    monkeypatch.setattr(debian, "split_of", splits.__getitem__)
    return tmp_path / "cache"


def test_translation_pairs_has_the_plain_prompt_format(built, monkeypatch):
    rows = debian.translation_pairs("test", built)
    assert rows.column_names == ["prompt", "reference", "source", "package"]
    assert rows[0]["prompt"] == "English: pear counting library (development files)\nGerman:"
    assert rows[0]["reference"].startswith("Bibliothek")
    monkeypatch.setattr(debian, "fetch_index", lambda folder: pytest.fail("the cache was not used"))
    assert len(debian.translation_pairs("train", built, part="paragraph")) == 2
    assert debian.translation_pairs("test", built, template="<{source}>")[0]["prompt"][0] == "<"
    assert sorted(p.name for p in built.iterdir()) == [f"debian-en-de-{debian._VERSION}"]


@pytest.mark.parametrize(
    "arguments, named",
    [({"split": "dev"}, "split"), ({"part": "title"}, "part"), ({"template": "x"}, "template")],
)
def test_bad_arguments_are_named(arguments, named, tmp_path):
    with pytest.raises(ValueError, match=f"^{named} is "):
        debian.translation_pairs(**{"split": "train", "cache_dir": tmp_path, **arguments})


def test_without_apt_get_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="apt-get is not on this machine"):
        debian.translation_pairs("train", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []  # nothing half done


def test_without_a_reachable_index_it_repeats_apts_reason(tmp_path, monkeypatch):
    fake = tmp_path / "apt-get"
    fake.write_text("#!/bin/sh\necho 'W: Failed to fetch the list: no route.' >&2\n")
    fake.chmod(fake.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RuntimeError, match="apt said: Failed to fetch the list: no route"):
        debian.fetch_index(tmp_path / "index")
