"""Screening: broken images are found, listed and left out, or stop the run when there are many."""

import numpy as np
import pytest

from transreid_ssl.data import doctor
from transreid_ssl.data.images import CorruptImage
from transreid_ssl.data.open import open_pool
from transreid_ssl.data.pool import Pool
from transreid_ssl.data.readers import open_reid
from transreid_ssl.data.reid import LabelledImages, ReIDProtocol
from transreid_ssl.errors import UserError


@pytest.fixture
def root(tmp_path, write_images, encoded):
    """Twenty images; number 4 is empty, 9 cut off, 13 a copy of 12."""
    root = write_images(tmp_path / "images", [f"{i:02d}.jpg" for i in range(20)])
    (root / "04.jpg").write_bytes(b"")
    (root / "09.jpg").write_bytes(encoded(9)[:-30])
    (root / "13.jpg").write_bytes(encoded(12))
    return root


def test_screened_pool_lacks_the_broken_ones(root, tmp_path):
    pool = open_pool(root)
    report = tmp_path / "run/bad_images.txt"
    screened = doctor.screen(pool, max_bad_fraction=0.1, report_path=report)
    assert set(pool.names) - set(screened.names) == {"04.jpg", "09.jpg"}
    assert screened.read(4) == pool.read(5)
    assert screened.source == pool.source
    assert (
        f"2 of 20 images looked at are broken and left out, all listed in {report}: 18 images"
        in (screened.describe())
    )
    assert report.read_text().splitlines() == [
        "04.jpg\tempty (0 bytes)",
        "09.jpg\ttruncated JPEG (no end marker)",
    ]


def test_too_many_broken_images_stop_the_run(root, tmp_path):
    with pytest.raises(UserError, match=r"2 of 20 images .* than the 5\.00% allowed") as caught:
        doctor.screen(open_pool(root), 0.05, report_path=tmp_path / "bad.txt")
    assert "04.jpg: empty" in str(caught.value)
    assert (tmp_path / "bad.txt").exists(), "the list is what one needs then"


def test_a_sound_pool_is_returned_as_it_is(tmp_path, write_images):
    pool = open_pool(write_images(tmp_path, ["1.jpg", "2.jpg"]))
    assert doctor.screen(pool, 0.0) is pool


class Counting(Pool):
    """A large pool that counts how often it is read; every tenth image is broken."""

    def __init__(self, content, generated=False):
        super().__init__("counting", [f"{i}.jpg" for i in range(5_000)])
        self.content, self.generated, self.reads = content, generated, []

    def read(self, index):
        self.reads.append(index)
        if index % 10 == 0:
            raise CorruptImage(self.names[index], "made so")
        return self.content


def test_a_large_pool_is_sampled(encoded):
    pool, again = Counting(encoded(0)), Counting(encoded(0))
    screened = doctor.screen(pool, 0.5, limit=200)
    doctor.screen(again, 0.5, limit=200)
    assert len(set(pool.reads)) == 200
    assert sorted(pool.reads) == sorted(again.reads), "the same sample each time"
    assert len(pool) - len(screened) == sum(index % 10 == 0 for index in pool.reads)
    assert "of 200 images looked at" in screened.describe()


def test_generated_images_are_not_looked_at(encoded):
    pool = Counting(encoded(0), generated=True)
    assert doctor.screen(pool, 0.0) is pool
    assert pool.reads == []


def test_findings_and_advice(root):
    pool = open_pool(root)
    ticks = []
    findings = doctor.examine(pool, range(len(pool)), ticks.append)
    assert sum(ticks) == findings.checked == 20
    assert findings.sizes == [(64, 32)] * 18
    assert sorted(findings.bad) == [4, 9]
    assert findings.duplicates == 1
    table = "\n".join(doctor.size_table(findings))
    assert "height   64 to  127          18" in table
    assert "median 64 x 32" in table
    advice = " | ".join(doctor.advise(findings))
    assert "10.00% of the images are broken" in advice
    assert "1 image is an exact copy of another" in advice
    tiny = doctor.Findings(2, sizes=[(20, 40), (20, 40)])
    assert [line.split()[0] for line in doctor.advise(tiny)] == ["most", "100%"]


def test_errors_of_reading_other_than_a_broken_image_are_not_swallowed():
    class Failing(Pool):
        def read(self, index):
            raise RuntimeError("a defect of ours")

    with pytest.raises(RuntimeError, match="a defect"):
        doctor.examine(Failing("x", ["a"]), [0])


def test_protocol_check(tmp_path, write_images):
    sound = open_reid("demo:identities=2,images=6,test=2")
    assert doctor.check_protocol(sound) == []
    pool = open_pool(write_images(tmp_path, [f"{i}.jpg" for i in range(4)]))
    train = LabelledImages(pool, [1, 2, 2, 3])
    query = LabelledImages(pool, [3, 4, 5, 6], np.array([0, 0, 0, 0]))
    gallery = LabelledImages(pool, [3, 4, 5, 5], np.array([1, 0, 1, 2]))
    advice = " | ".join(doctor.check_protocol(ReIDProtocol("x", train, query, gallery)))
    assert "2 of 4 queries have no match" in advice
    assert "1 identity is in training and among the queries: a leak" in advice
    assert "2 training identities have one image only" in advice
    assert "no cameras" not in advice
    query = LabelledImages(pool, [3, 4, 5, 6])
    advice = " | ".join(doctor.check_protocol(ReIDProtocol("x", train, query, gallery)))
    assert "1 of 4 queries has no match in the gallery" in advice
    assert "another camera" not in advice
    assert "no cameras" in advice
