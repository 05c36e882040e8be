"""Pages: whole, closed in themselves, deaf to hostile names, and readable in a browser."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

import browser
import launch
from transreid_ssl import UserError
from transreid_ssl.data import FilesPool, LabelledImages, open_pool, open_reid
from transreid_ssl.models import build_backbone, save_backbone
from transreid_ssl.report import ClusterRow, findings
from transreid_ssl.report.__main__ import Page, make_page
from transreid_ssl.report.charts import Charts
from transreid_ssl.report.compare import write_comparison
from transreid_ssl.report.names import decimal, digits, in_lines, keep_options, shorten
from transreid_ssl.report.page import data_uri, who
from transreid_ssl.report.result_pages import write_clusters, write_search, write_selection
from transreid_ssl.report.run_page import facts, write_run_page
from transreid_ssl.report.runs import Run
from transreid_ssl.retrieval import PairCounts
from transreid_ssl.training.ownership import take

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'{{ 7 * 7 }}&lt;$x^2$"
VOID = {"meta", "img", "input", "br", "wbr", "link", "hr"}


class Checked(HTMLParser):
    """Follows the tags of a page and notes what a page of ours must not have."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.ids, self.faults, self.tags = [], [], [], []
        self.targets, self.text = [], ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(found["id"])
        for name, value in attrs:
            if name.startswith("on"):
                self.faults.append(f"{tag} {name}={value}")
            if name in ("src", "href", "data", "action", "poster", "srcset"):
                if value.startswith("#"):
                    self.targets.append(value[1:])
                elif not value.startswith("data:image/"):
                    self.faults.append(f"{tag} {name}={value}")
        if tag == "img" and "alt" not in found:
            self.faults.append("an image without alt")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text += data


def check(path):
    """Look a page through; its parser, with its tags and text."""
    page = Checked(path)
    assert page.faults == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.targets) <= set(page.ids)
    assert page.tags.count("script") == 1
    assert page.tags.count("h1") == page.tags.count("main") == 1
    return page


def fill(folder, lr=0.1, name=HOSTILE, steps=30, found=None, noise=0.0):
    """A run folder as a finished run leaves it; its loss jumps up and down by ``noise``."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"# python 3, {HOSTILE}\n"
        + json.dumps({"run": {"epochs": 2}, "optim": {"lr": lr}, name: {name: name}})
    )
    lines = [
        {"step": step, "loss": 9 / step + noise * (step * 7919 % 101) / 101, "lr": 0.1,
         "step_seconds": 0.5, "data_wait": 0.1, "images_per_second": 16,
         f"{name}_norm": 1.0}
        for step in range(1, steps + 1)
    ]  # fmt: skip
    for step in (0, steps):
        probe = {"mAP": 10 + step, "rank1": 20 + step}
        probe |= {f"{key}_{of}": 50.0 for key in ("mAP", "rank1") for of in ("histogram", "chance")}
        lines.append({"step": step} | {f"probe/{key}": value for key, value in probe.items()})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if found is not None:
        (folder / "report.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All that a page shows, of a network with random weights; names of images are hostile."""
    torch.manual_seed(0)
    protocol = open_reid("demo:identities=3,images=4,test=8,height=32,width=16")
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16)).eval()
    weights = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_backbone(weights, model)
    query, gallery = (torch.randn(len(part), 8) for part in (protocol.query, protocol.gallery))
    retrieval = findings.of_retrieval(query, gallery, protocol)
    for row in retrieval["gallery"]:
        row["query"]["name"] = row["found"][0]["name"] = HOSTILE
    labels = np.arange(len(protocol.gallery)) % 3
    labels[0] = -1
    return {
        "made": {"method": HOSTILE, "memory": {"machine": 2**30}, "images": HOSTILE},
        "retrieval": retrieval,
        "attention": findings.of_attention(weights, protocol.gallery),
        "clusters": findings.of_clusters(labels, protocol.gallery),
    }


@pytest.fixture(scope="module")
def clusters_page(tmp_path_factory):
    """Of 3,000 images whose names are long, in clusters of all sizes."""
    pool = open_pool("demo:identities=300,images=10,height=128,width=64")
    pool.names = [f"{'warehouse_north/' * 9}cam{n % 4}_{n:08d}.jpg" for n in range(3000)]
    labels = np.sort(np.random.default_rng(0).geometric(0.03, 3000)) - 2
    rows = [ClusterRow(n, np.flatnonzero(labels == n)[:11], [0.5] * 11) for n in range(12)]
    found = findings.of_clusters(labels, pool, rows)
    facts = {"Images": "here", "eps": "0.500"}
    path = tmp_path_factory.mktemp("clusters") / "clusters.html"
    return write_clusters(path, found, facts, [HOSTILE], {"eps": None, HOSTILE: HOSTILE})


def test_the_page_of_clusters_is_small_and_tells_sizes_and_warnings(clusters_page):
    page = check(clusters_page)
    assert clusters_page.stat().st_size < 1e6
    assert f"Warning: {HOSTILE}." in page.text
    assert "clusters of 3,000 images" in page.text
    assert "(above 60 counted as 60)" in page.text
    assert clusters_page.read_text().count(">middle<") == 12
    assert page.text.count("0.50") >= 12 * 10


@pytest.fixture(scope="module")
def run_page(found, tmp_path_factory):
    return write_run_page(fill(tmp_path_factory.mktemp("runs") / "run", found=found))


def test_the_page_of_a_run_shows_all_chapters_and_is_closed_in_itself(run_page):
    page = check(run_page)
    for chapter in ("figures", "curves", "gallery", "rates", "attention", "map", "clusters",
                    "speed", "settings"):  # fmt: skip
        assert chapter in page.ids
    assert page.text.count(HOSTILE) > 5, "as text, and in full"
    assert "49" not in page.text.split("Method")[1][:200], "names are no templates"
    assert "1.00 GiB" in page.text
    assert run_page.stat().st_size < 2e6


def test_a_run_without_a_probe_or_an_end_has_a_page_too(tmp_path):
    folder = fill(tmp_path / "run")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    page = check(write_run_page(folder))
    assert {"curves", "settings"} <= set(page.ids)
    assert "gallery" not in page.ids
    assert "not yet" in page.text


def progress(folder, epoch=10, left=None, epochs=60, checkpoint=None, begun=None):
    """That of a run of so many steps an epoch, which was logged up to step 120."""
    folder.mkdir()
    settings = {"run": {"epochs": epochs, "extend_to": None}}
    (folder / "config.yaml").write_text(json.dumps(settings))
    (folder / "run.lock").write_text("process 1 on a machine\n")
    lines = [
        {"step": step, "epoch": step / epoch} if epoch else {"step": step} for step in (7, 120)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if left:
        (folder / left).write_bytes(b"")
    if begun:
        (folder / "begun.json").write_text(json.dumps({"steps_per_epoch": begun}))
    if checkpoint:
        (folder / "checkpoints").mkdir()
        (folder / f"checkpoints/step_{checkpoint:08d}.pt").write_bytes(b"")
    return Run(folder).progress


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "stopped at step 120 of 600, epoch 12 of 60"),
        ({"checkpoint": 121}, "stopped at step 121 of 600, epoch 13 of 60"),
        ({"left": "best.safetensors"}, "stopped at step 120 of 600, epoch 12 of 60"),
        ({"epoch": None}, "stopped at step 120; 60 epochs were asked for"),
        ({"epoch": None, "epochs": 1}, "stopped at step 120; 1 epoch was asked for"),
        ({"epoch": None, "begun": 10}, "stopped at step 120 of 600, epoch 12 of 60"),
        ({"epochs": 12, "left": "backbone.safetensors"}, "120 steps, 12 epochs"),
        ({"epochs": 12}, "stopped at step 120 of 120, epoch 12 of 12"),
        # It is prolonged, and has left the weights of its first end.
        ({"left": "model.safetensors"}, "stopped at step 120 of 600, epoch 12 of 60"),
    ],
)
def test_how_far_a_run_is(tmp_path, made, said):
    assert progress(tmp_path / "run", **made).describe() == said


def test_a_run_that_goes_on_is_not_stopped_and_keeps_its_lock(tmp_path):
    code = (
        "import sys, time; from transreid_ssl.training.ownership import take; from pathlib import "
        "Path; take(Path(sys.argv[1])); print('taken', flush=True); sys.stdin.read()"
    )
    assert progress(tmp_path / "run").state == "stopped"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "run"], **pipes) as trains:
        trains.stdout.readline()
        for _ in range(2):
            said = Run(tmp_path / "run").progress.describe()
            assert said == "still going on, at step 120 of 600, epoch 12 of 60"
        with pytest.raises(UserError, match="trains in it"):
            take(tmp_path / "run")
        trains.stdin.close()
    take(tmp_path / "run")
    assert Run(tmp_path / "run").progress.state == "goes on"
    code = code.replace("sys.stdin.read()", "")
    other = subprocess.run([sys.executable, "-c", code, tmp_path / "run"], capture_output=True)
    assert b"trains in it" in other.stderr, "to have looked has not let go"


def test_a_run_that_was_stopped_says_so_on_its_page_and_beside_others(tmp_path):
    stopped, whole = fill(tmp_path / "stopped", steps=9), fill(tmp_path / "whole", lr=0.2)
    (whole / "backbone.safetensors").write_bytes(b"")
    page = check(write_run_page(stopped))
    assert "Lengthstopped at step 9; 2 epochs were asked for" in page.text.replace("\n", "")
    assert "at step 919.029.0" in page.text.replace("\n", ""), "and not: after"
    assert "Endednot yet; stopped at about 20" in page.text.replace("\n", "")
    assert "once more (it goes on from its beginning)" in page.text
    assert "Length30 steps, 2 epochs" in check(write_run_page(whole)).text.replace("\n", "")
    both = check(write_comparison(tmp_path / "c.html", [stopped, whole])).text.replace("\n", "")
    assert "stoppedstopped at step 9; 2 epochs were asked for10.019.0" in both
    assert "whole30 steps, 2 epochs10.040.0" in both
    assert "“after” is its last probe" in both


def test_the_page_of_a_stopped_run_tells_what_is_left_and_the_command_that_goes_on(tmp_path):
    folder = fill(tmp_path / "stopped", steps=9)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/step_00000008.pt").write_bytes(b"")
    made = {"method": "dino", "images": "folder crops: 96 images", "probed": None}
    begun = {"steps_per_epoch": 12, "command": "transreid-ssl pretrain dino", "made": made}
    (folder / "begun.json").write_text(json.dumps(begun))
    text = check(write_run_page(folder)).text.replace("\n", "")
    assert "Methoddino" in text
    assert "Imagesfolder crops: 96 images" in text
    assert "Lengthstopped at step 9 of 24, epoch 1 of 2" in text
    assert "Left15 steps, about 0 min 08 s at the pace of the last lines" in text
    again = "give the command that began it once more, in the same folder: transreid-ssl pretrain"
    assert f"To go on{again} dino (it goes on after step 8, of the last checkpoint)" in text


def test_addresses_in_damaged_findings_are_not_followed(tmp_path, found):
    damaged = json.loads(json.dumps(found))
    damaged["retrieval"]["gallery"][0]["query"]["image"] = "https://example.org/x.jpg"
    damaged["attention"][0]["over"] = "javascript:alert(1)"
    page = check(write_run_page(fill(tmp_path / "run", found=damaged)))
    assert "example.org" not in page.text


def test_what_is_no_run_or_damaged_is_said_in_a_line(tmp_path):
    with pytest.raises(UserError, match="not the folder of a run"):
        write_run_page(tmp_path)
    folder = fill(tmp_path / "run")
    (folder / "report.json").write_text("{")
    with pytest.raises(UserError, match=r"report\.json: damaged"):
        write_run_page(folder)
    text = launch.run("-m", "transreid_ssl.report", "curvs", code=2)
    assert text.endswith("did you mean curves?\n")


def test_runs_are_compared_by_what_differs(tmp_path):
    runs = [
        fill(tmp_path / name, lr, steps=steps) for name, lr, steps in (("a", 0.1, 9), ("b", 0.2, 5))
    ]
    page = check(write_comparison(tmp_path / "out" / "c.html", runs))
    settings = page.text.split("Settings that differ")[2].split("Curves")[0]
    assert settings.split()[-1] == "optim.lr0.10.2"
    for figure in ("19.0", "15.0"):  # mAP after
        assert figure in page.text
    same = check(write_comparison(tmp_path / "d.html", [runs[0], runs[0]]))
    assert "None: these runs have the same settings." in same.text


def test_a_comparison_says_what_was_probed_on_other_images_or_in_sample(tmp_path):
    a, b = fill(tmp_path / "a"), fill(tmp_path / "b")
    assert "different images" not in check(write_comparison(tmp_path / "c.html", [a, b])).text
    log = (b / "metrics.jsonl").read_text().replace('histogram": 50.0', 'histogram": 60.0')
    log = log.replace('"probe/mAP":', '"probe/on": "tracks, in-sample", "probe/mAP":')
    (b / "metrics.jsonl").write_text(log)
    text = check(write_comparison(tmp_path / "c.html", [a, b])).text
    assert "probed on different images" in text
    assert "In-sample, on images that the network is trained on: b." in text


def test_what_a_run_has_to_beat_is_drawn_after_its_first_probe():
    words = {"dotted": ["chance"], "xlabel": "step"}
    svg = Charts().lines("x", {"ROC area": ([0], [70.0]), "chance": ([0], [50.0])}, **words)
    paths = re.findall(r"<path [^>]*stroke-dasharray[^>]*>", str(svg))
    assert sum(" L " in path for path in paths) == 2, "a line in the panel, one in the legend"


def test_no_page_elsewhere_is_replaced_whatever_its_name_is(tmp_path):
    run, mine = fill(tmp_path / "run"), tmp_path / "mine/report.html"
    mine.parent.mkdir()
    mine.write_text("mine")
    for runs in ([run], [run, run]):
        with pytest.raises(UserError, match=r"mine/report\.html: is there already"):
            make_page(Page(runs, out=str(mine)))
    assert mine.read_text() == "mine"
    for _ in range(2):
        make_page(Page([run], out=str(run / "report.html")))  # its own, as without --out


def test_twenty_long_runs_make_a_page_that_opens_at_once(tmp_path):
    """What a browser has to do is bounded, and not timed: an idle one took below half a second.

    The page is of some 0.4 MB and 1,600 elements, and of 1 MB were every step drawn.
    """
    runs = [fill(tmp_path / f"run_{n}", n / 10, name="x", steps=2000, noise=1.0) for n in range(20)]
    path = write_comparison(tmp_path / "c.html", runs)
    assert len(check(path).tags) < 3000
    assert path.stat().st_size < 6e5


def test_a_search_and_a_selection_have_pages_of_the_same_kind(tmp_path):
    pool = open_pool("demo:identities=3,images=4,height=32,width=16")
    one = findings.tile(pool, 0)
    rows = [{"label": HOSTILE, "query": one | {"name": HOSTILE},
             "found": [one | {"similarity": 0.5, "probability": 0.25}]}]  # fmt: skip
    settings = {"weights": HOSTILE, "query": HOSTILE, "gallery": HOSTILE}
    page = check(write_search(tmp_path / "search.html", HOSTILE, rows, settings))
    assert "0.50, probability 0.250" in page.text
    broken = FilesPool("somewhere", tmp_path, [f"<b>{n}.jpg" for n in range(12)])
    page = check(
        write_selection(
            tmp_path / "cfs.html", broken, np.linspace(0, 1, 12), np.arange(12) > 5, method="cfs",
            lines=[HOSTILE], curves={HOSTILE: np.linspace(0, 1, 101)}, settings={"x": None},
        )
    )  # fmt: skip
    assert "<b>11.jpg" in page.text
    assert page.text.count("kept: 6") == page.text.count("dropped: 6") == 1


def test_rates_of_matches_are_those_of_counting():
    random = np.random.default_rng(0)
    same, different = random.normal(0.5, 0.1, 300), random.normal(0.3, 0.1, 2000)
    found = findings.roc_of(PairCounts.of(same, different))
    for rate, true in list(zip(found["false"], found["true"]))[30:]:
        cut = np.sort(different)[::-1][min(len(different) - 1, round(rate * len(different)))]
        assert true == pytest.approx((same > cut).mean(), abs=0.03)
    assert found["area"] == pytest.approx((same[:, None] > different).mean(), abs=1e-4)


def test_the_purity_of_clusters_is_that_of_counting():
    images = open_reid("demo:identities=2,images=4,test=4,height=32,width=16").gallery
    pool, count = images.pool, len(images)
    identities = np.arange(count) % 2
    labels = np.where(np.arange(count) < 5, 0, 1)
    labels[-1] = -1
    found = findings.of_clusters(labels, LabelledImages(pool, identities))
    inside = labels >= 0
    most = sum(
        max(np.sum((labels == c) & (identities == i)) for i in (0, 1)) for c in (0, 1)
    )  # fmt: skip
    assert found["purity"] == pytest.approx(most / inside.sum())
    assert found["outliers"] == 1
    unknown = findings.of_clusters(labels, LabelledImages(pool, np.full(count, -1)))
    assert unknown["purity"] is None


def test_similarities_have_the_digits_that_tell_them_apart():
    assert digits([0.9, 0.8, 0.7]) == 2
    assert digits([0.99999, 0.99998, 0.99997]) == 5
    assert digits([0.5, 0.5]) == digits([]) == 2
    assert [decimal(one, 2) for one in (-0.004, 0.004, -0.006)] == ["0.00", "0.00", "-0.01"]


def test_names_are_cut_in_the_middle_and_said_in_full(tmp_path):
    assert shorten("cam1_track000017_00012.jpg", 26) == "cam1_track000017_00012.jpg"
    assert shorten("cam1_track000017_00012.jpg", 17) == "cam1_tra…0012.jpg"
    assert in_lines("a_b<i>-c/d.jpg") == "a_<wbr>b&lt;i&gt;-<wbr>c/<wbr>d.jpg"
    long = "warehouse/" * 9 + "cam1_track000017_00012.jpg"
    assert in_lines(long).replace("<wbr>", "") == shorten(long, 32)
    one = {"image": "data:image/jpeg;base64,", "name": long}
    rows = [{"label": "", "query": one, "found": [one | {"similarity": 0.5}]}]
    settings = {"weights": "w", "query": "q", "gallery": "g"}
    text = write_search(tmp_path / "s.html", "t", rows, settings).read_text()
    assert text.count(f'title="{long}"') == text.count(f'data-say="{long}') == 2
    assert "…<wbr>000017_<wbr>00012.jpg</span>" in text


def test_a_legend_has_the_names_of_its_lines_in_full():
    names = ["ROC area", "equal error rate, colour histogram"]
    drawn = Charts().lines("", dict.fromkeys(names, ([0, 1], [2, 3])), xlabel="step")
    assert all(f">{name}</text>" in drawn for name in names)
    assert ">0.5</text>" not in drawn, "there is no half a step"


def test_no_line_ends_within_an_option():
    said = keep_options("<b>: give a lower --eps, or --min_samples")
    option = '<span class="whole">--{}</span>'.format
    assert said == f"&lt;b&gt;: give a lower {option('eps')}, or {option('min_samples')}"


def test_a_tile_says_what_is_known_of_its_image():
    assert who({"identity": None}) == "nobody's"
    assert who({"identity": 3, "camera": 0}) == "person 3, camera 0"
    assert who({"camera": "Camera 2", "track": "Camera 2/7"}) == "Camera 2, track 7"
    assert who({"camera": "door", "track": "monday/7"}) == "camera door, track monday/7"
    assert who({"name": "a"}) == ""


def test_people_and_cameras_are_called_as_the_set_calls_them():
    pool = open_pool("demo:identities=2,images=2,height=32,width=16")
    called = {("identity", 14): "014", ("camera", 0): "1"}
    images = LabelledImages(pool, [14, 14, 20, -1], [0, 2, 0, 0], called)
    said = [who(findings.tile(images, index)) for index in range(4)]
    assert said == [
        "person 014, camera 1", "person 014, camera 2", "person 20, camera 1", "nobody's, camera 1",
    ]  # fmt: skip
    flat = findings.feature_map([torch.randn(4, 8)], [images])
    assert sorted(flat["identity"]) == ["014", "014", "20"]
    assert sorted(flat["camera"]) == ["1", "1", "2"]


def test_an_image_is_kept_as_it_looks():
    uri = data_uri(np.full((64, 32, 3), (200, 30, 30), np.uint8))
    assert uri.startswith("data:image/jpeg;base64,")
    assert len(uri) < 3000


@pytest.mark.skipif(browser.PROGRAM is None, reason="Chromium is not installed")
def test_a_browser_shows_the_pages_without_complaint(run_page, clusters_page, tmp_path):
    runs = [fill(tmp_path / f"run_{n}", n / 10, name="x", steps=2000) for n in range(20)]
    many = write_comparison(tmp_path / "c.html", runs)
    with browser.Browser() as tab:
        papers = []
        for width, dark in ((1200, False), (400, True)):
            for path in (clusters_page, run_page, many):
                tab.open(path, width, dark)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, path
                assert tab.evaluate("[...document.images].every(i => !i.src || i.naturalWidth)")
                inside = "every(one => one.scrollWidth <= one.clientWidth)"
                assert tab.evaluate(f"[...document.querySelectorAll('.tile')].{inside}"), path
            assert tab.evaluate("document.getElementsByTagName('*').length") < 3000, many
            papers.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert papers[0] != papers[1]
        tab.open(run_page)
        tab.click(".tile.query button")
        assert tab.evaluate("large.open && large.innerText").count(HOSTILE) == 1
        tab.click("#large button")
        assert not tab.evaluate("large.open")
        tab.click("nav a[href='#settings']")
        assert tab.evaluate("location.hash") == "#settings"
        tab.click("#settings summary")
        tab.click("#settings-filter")
        tab.call("Input.insertText", text="optim.")
        shown = "[...document.querySelectorAll('#settings-table tbody tr')].filter(r => !r.hidden)"
        assert tab.evaluate(f"{shown}.map(r => r.cells[0].textContent).join()") == "optim.lr"
        assert tab.evaluate("window.alert.toString()").count("native code") == 1
        assert tab.complaints == []
        assert {address.partition(":")[0] for address in tab.asked} <= {"file", "data", "about"}


def test_the_page_of_a_run_tells_which_network_was_the_best_and_by_what(tmp_path):
    folder = fill(tmp_path / "run")
    assert "Best network" not in facts(Run(folder))  # its log does not tell what was probed
    with open(folder / "metrics.jsonl", "a") as file:
        for step, area in ((0, 60.0), (20, 80.0), (30, 70.0)):
            figures = {"probe/on": "tracks", "probe/roc_area": area, "probe/equal_error_rate": 9.0}
            file.write(json.dumps({"step": step} | figures) + "\n")
    told = "that of step 20, by ROC area: 80.0 % (the last probe, at step 30: 70.0 %)"
    assert facts(Run(folder))["Best network"] == told
    model = build_backbone("vit_nano_patch8_reid", img_size=(32, 16))
    kept = folder / "best.safetensors"
    save_backbone(kept, model, replace(model.spec, provenance={"step": 0}))
    assert facts(Run(folder))["Best network"] == told  # and not of another network's file
    save_backbone(kept, model, replace(model.spec, provenance={"step": 20}))
    assert f"{told}; in best.safetensors" in check(write_run_page(folder)).text
