"""The files of a report: what is in them, how it is escaped, and that they are only written when necessary."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.pictures import KeptPicture, Why
from pytest_comfyload.history.store import Store
from pytest_comfyload.report.html.content import Content
from pytest_comfyload.report.html.write import write_single, write_site
from tests.benchmarks.histories import record
from tests.history.repository import Repository
from tests.report.html.conftest import Reports
from tests.report.html.stores import COMMITS, small_store

VOID = {"meta", "link", "br", "hr", "input", "img"}


class Document(HTMLParser):
    """Tags with their attributes, and texts; `open` is empty after a document in which all tags are closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _document(path: Path) -> Document:
    return Document(path.read_text(encoding="utf-8"))


def _data(path: Path, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', path.read_text(), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _policy(path: Path) -> str:
    (meta,) = [each for each in _document(path).all("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    return meta["content"] or ""


def test_every_tag_is_closed_and_every_id_is_one_of_a_kind(reports: Reports) -> None:
    for path in reports.pages:
        document = _document(path)
        assert document.open == []
        ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), path


def test_a_page_of_the_folder_has_no_script_of_its_own(reports: Reports) -> None:
    for path in reports.pages[:-1]:
        document = _document(path)
        for attributes in document.all("script"):
            assert "src" in attributes or attributes.get("type") == "application/json"
        for _, attributes in document.tags:
            assert not [name for name in attributes if name.startswith("on")]


def test_the_policy_allows_our_scripts_and_nothing_else(reports: Reports) -> None:
    for path in reports.pages:
        policy = _policy(path)
        assert policy.startswith("default-src 'none'; script-src '")
        assert "unsafe-eval" not in policy
        assert "unsafe-inline" not in policy.partition("style-src")[0]


def test_each_link_within_the_single_file_leads_somewhere(reports: Reports) -> None:
    text = reports.single.read_text(encoding="utf-8")
    targets = set(re.findall(r'href="#([^"=]+)"', text))
    assert {each for each in targets if each.startswith("commit-")}
    assert targets <= set(re.findall(r' id="([^"]+)"', text))
    assert text.count('<div id="commit-') == COMMITS - 1


def test_the_policy_of_the_single_file_knows_its_scripts_by_their_hashes(reports: Reports) -> None:
    text = reports.single.read_text(encoding="utf-8")
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']+)'", _policy(reports.single)) == hashes
    assert len(scripts) == 6


def test_nothing_is_linked_but_files_of_the_folder(reports: Reports) -> None:
    for path in reports.pages:
        document = _document(path)
        sources = [each["src"] for each in document.all("script") if "src" in each]
        sources += [each["href"] for each in document.all("link") if each.get("rel") == "stylesheet"]
        for source in sources:
            assert source is not None
            assert (path.parent / source).is_file()
    assert not [each for each in _document(reports.single).all("script") if "src" in each]


def test_pages_link_to_pages_that_are_there(reports: Reports) -> None:
    for path in reports.pages[:-1]:
        for attributes in _document(path).all("a"):
            target = (attributes["href"] or "").partition("#")[0]
            if target and not target.startswith("https://example.org/"):
                assert target.startswith("http://gpu1:8188/view?") or (path.parent / target).is_file(), target


def test_controls_have_labels_and_a_page_one_title(reports: Reports) -> None:
    for path in reports.pages:
        text = path.read_text(encoding="utf-8")
        assert len(re.findall(r"<label[^>]*>[^<]+<select", text)) == text.count("<select")
        assert path == reports.single or text.count("<h1") == 1


def test_the_trend_has_every_run_of_a_line_and_never_two_environments_in_one(reports: Reports) -> None:
    data = _data(reports.folder / "index.html", "trend-data")
    lines = {(line["test"].rpartition("/")[2], line["environment"].partition(" ·")[0]): line for line in data["lines"]}
    assert set(lines) == {
        ("test_txt2img.py::test_slo", "RTX 4090"),
        ("test_img2img.py::test_slo", "RTX 4090"),
        ("test_img2img.py::test_slo", "H100 80GB HBM3"),
        ("test_inpainting.py::test_slo", "RTX 4090"),
    }
    assert len(lines["test_img2img.py::test_slo", "H100 80GB HBM3"]["time"]) == COMMITS // 2
    line = lines["test_txt2img.py::test_slo", "RTX 4090"]
    assert len(line["time"]) == len(line["commit"]) == len(line["figures"]["generation_time.p50"]) == COMMITS
    assert line["bounds"]["generation_time.p95"] == {"<": [[0, 6]]}
    assert data["main"] == "main"
    assert len(data["commits"]["id"]) == COMMITS


def test_a_percentile_among_failures_is_infinite_and_not_drawn_as_a_number(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(17, prompts=6))  # one of six fails
    write_site(Content(store, tmp_path), tmp_path / "site")
    (line,) = _data(tmp_path / "site" / "index.html", "trend-data")["lines"]
    assert line["figures"]["total_time.p99"] == ["∞"]
    assert line["figures"]["oom"] == [1]


def test_scenarios_come_first_and_the_worst_of_them_first(reports: Reports) -> None:
    text = (reports.folder / "index.html").read_text(encoding="utf-8")
    statuses = re.findall(r'<details class="scenario (\w+)"', text)
    assert statuses == ["suspected", "missing", "fine", "fine"]
    assert text.index('id="headline"') < text.index('id="scenarios"') < text.index('id="history-title"')
    assert "in one run, beyond the limit of" in text
    assert "KSampler" in text[text.index('class="scenario suspected"') : text.index('class="scenario missing"')]


def test_a_scenario_that_did_not_run_is_missing_and_its_last_run_is_told(reports: Reports) -> None:
    text = (reports.folder / "index.html").read_text(encoding="utf-8")
    missing = text[text.index('class="scenario missing"') :]
    assert re.search(r"No run at \w+, the newest commit. The last, at \w+: ", missing)


def test_what_changed_between_two_runs_is_told_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in (198, 199, 200, 201):
        store.add(record(number))
    for _ in range(2):  # read from the files, then from the cache
        content = Content(store, tmp_path, cache=tmp_path)
        (line,) = content.trend(())["lines"]
        assert line["changes"] == {"2": ["ComfyUI 0.3.64 → 0.3.75"]}


def test_history_is_ordered_by_ancestry_and_not_by_the_authors_dates(repository: Repository, tmp_path: Path) -> None:
    """A commit that was written long before the others, and rebased onto them, is the newest."""
    commits = [repository.commit(f"commit {number}") for number in range(4)]
    store = Store.open(tmp_path / "store")
    for number, commit in enumerate(commits):
        store.add(record(10 - number, come={"commit": commit, "date": 1e9 - number, "committed": 1e9 - number}))
    trend = Content(store, repository.path).trend(())
    assert trend["commits"]["name"] == [commit[:10] for commit in commits]


def test_a_change_is_told_against_the_same_branch(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number, branch in enumerate(("main", "feature", "main", "feature")):
        subject = {"KSampler.steps": 30 if branch == "feature" else 20}
        store.add(record(number, come={"branch": branch, "base": "main"}, facts={"subject": subject}))
    (line,) = Content(store, tmp_path).trend(())["lines"]
    assert line["changes"] == {"1": ["KSampler.steps 20 → 30"]}


def test_change_points_are_marked_and_can_be_accepted_or_rejected(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for number in range(30):
        store.add(record(number, level=2.0 if number < 15 else 3.0, come={"branch": "main"}))
    commit = record(15).provenance.commit

    def marks() -> Any:
        (line,) = Content(store, tmp_path).trend(())["lines"]
        return line["marks"]

    (mark,) = marks()
    assert (mark["at"], mark["accepted"]) == (15, None)
    assert mark["after"] / mark["before"] > 1.3
    decision = f'[[change]]\ncommit = "{commit}"\nreason = "a better picture"\n'
    (tmp_path / "comfyload-accepted.toml").write_text(decision)
    assert marks()[0]["accepted"] == "a better picture"
    (tmp_path / "comfyload-accepted.toml").write_text(decision + 'decision = "rejected"\n')
    assert marks() == []


def test_the_page_of_a_commit_shows_slos_phases_and_origin(reports: Reports) -> None:
    text = reports.pages[2].read_text(encoding="utf-8")
    for word in (
        "generation_time.p95 &lt; 6 s",
        "+5",
        "KSampler",
        "Barbara",
        "example.org/studio",
        "RTX 4090",
        "valid",
    ):
        assert word in text
    run = json.loads(re.findall(r'class="run-data">(.*?)</script>', text, re.DOTALL)[0])
    assert set(run["segments"]) >= {"queue", "model load", "sampling", "decode", "save", "delivery", "fetch"}
    assert run["prompts"] == len(run["drawn"]) == 6
    begins, ends = run["segments"]["sampling"][1:]
    assert all(end > begin for begin, end in zip(begins, ends, strict=True))


def test_a_run_without_gpu_samples_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(1, facts={"gpu_usage": (), "gpu_sources": ("http://gpu1:8188 reports no GPU",)}))
    write_site(Content(store, tmp_path), tmp_path / "site")
    (page,) = (tmp_path / "site" / "commits").glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "No GPU samples were taken in this run (http://gpu1:8188 reports no GPU)." in text
    assert 'class="plot gpu"' not in text


def test_simulated_runs_are_called_that(tmp_path: Path, reports: Reports) -> None:
    assert "<strong>SIMULATED</strong>" not in (reports.folder / "index.html").read_text()
    store = Store.open(tmp_path / "store")
    store.add(record(1, facts={"time_scale": 20.0}))
    write_site(Content(store, tmp_path), tmp_path / "site")
    for page in (tmp_path / "site").rglob("*.html"):
        assert "<strong>SIMULATED</strong>" in page.read_text(encoding="utf-8")


def test_pages_that_would_be_the_same_are_not_written_again(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    site = tmp_path / "site"

    def write() -> dict[str, int]:
        write_site(Content(store, tmp_path, cache=site), site, most=5)
        return {path.stem: path.stat().st_mtime_ns for path in (site / "commits").glob("*.html")}

    first, second = write(), write()
    assert len(first) == 5
    assert first == second
    store.add(record(COMMITS - 2, 2))
    changed = [name for name, time in write().items() if time != first.get(name)]
    assert changed == [f"{COMMITS - 2:08x}c0ff"]
    store.add(record(COMMITS, 0))
    assert len(write()) == 6  # pages of older commits stay


def test_branch_and_limit_choose_runs(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    assert len(Content(store, tmp_path, limit=3).commits) == 3
    assert {row.branch for row in Content(store, tmp_path, branch="feature/faster").rows} == {"feature/faster"}
    with pytest.raises(UsageError, match="no runs of branch 'nowhere'"):
        Content(store, tmp_path, branch="nowhere")
    with pytest.raises(UsageError, match="no runs in"):
        Content(Store.open(tmp_path / "empty"), tmp_path)


def test_hostile_texts_are_text(hostile_reports: Reports) -> None:
    for path in [*hostile_reports.folder.rglob("*.html"), hostile_reports.single]:
        document = _document(path)
        assert document.open == []
        tags = [tag for tag, _ in document.tags]
        assert "iframe" not in tags
        assert "img" not in tags
        assert tags.count("title") == 1
        for tag, attributes in document.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            for link in (attributes.get("href"), attributes.get("src")):
                assert not (link or "").lower().strip().startswith("javascript:")


def test_passwords_in_addresses_are_left_out(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(1, come={"repository": "https://me:secret@example.org/studio"}))
    write_site(Content(store, tmp_path), tmp_path / "site")
    write_single(Content(store, tmp_path), tmp_path / "one.html")
    for page in tmp_path.rglob("*.html"):
        assert "secret" not in page.read_text(encoding="utf-8")


def test_a_page_is_named_by_its_commit_whatever_that_is(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    store.add(record(1, come={"commit": None}))
    store.add(record(2, come={"commit": "evil"}))
    content = Content(store, tmp_path)
    write_site(content, tmp_path / "site")
    names = [path.stem for path in (tmp_path / "site" / "commits").iterdir()]
    assert len(names) == 2
    assert all(re.fullmatch("[0-9a-f]{12}", name) for name in names)


def test_kept_pictures_are_shown_with_why_and_a_blank_one_stands_out(tmp_path: Path) -> None:
    """A thumbnail is in the page itself: it is not requested from a server."""
    reasons: list[Why] = ["slowest", "bad"]
    kept = [KeptPicture(f"{why}-prompt", why, "image/webp", b"RIFF", 64, 48) for why in reasons]
    store = Store.open(tmp_path / "store")
    store.add(msgspec.structs.replace(record(0), pictures=tuple(kept)))
    write_site(Content(store, tmp_path, cache=tmp_path), tmp_path / "site")
    (page,) = (tmp_path / "site" / "commits").glob("*.html")
    pictures = [
        each for each in _document(page).all("img") if (each["src"] or "").startswith("data:image/webp;base64,")
    ]
    assert [each["alt"] for each in pictures] == ["Picture of prompt slowest-", "Picture of prompt bad-prom"]
    assert "bad picture" in page.read_text(encoding="utf-8")
