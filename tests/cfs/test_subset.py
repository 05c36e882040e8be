import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transreid_ssl.cfs import import_list, select
from transreid_ssl.cfs.subset import resolve_keep
from transreid_ssl.data import FilesPool
from transreid_ssl.errors import UserError
from transreid_ssl.tables import read_record, write_table


def make_pool(count=10):
    return FilesPool("somewhere", "/nowhere", [f"{i:02d}.jpg" for i in range(count)])


@pytest.fixture
def scores(tmp_path):
    """Ten images; 03 cannot be read, 05 and 02 tie for the second place."""
    pool = make_pool()
    cfs = np.array([0.1, 0.9, 0.8, np.nan, 0.3, 0.8, -0.5, 0.2, 0.0, 0.4], np.float32)
    columns = {"image": pa.array(pool.names), "cfs": pa.array(cfs, mask=np.isnan(cfs))}
    record = {"pool": pool.source, "pool_fingerprint": pool.fingerprint}
    write_table(tmp_path / "scores.parquet", columns, record)
    return tmp_path / "scores.parquet"


def kept(path):
    return [name.removesuffix(".jpg") for name in pq.read_table(path)["image"].to_pylist()]


ORDER = ["01", "02", "05", "09", "04", "07", "00", "08", "06"]


@pytest.mark.parametrize(
    ("keep", "count"), [(1, 9), (1.0, 9), (0.5, 4), (2, 2), (9, 9), (0.01, 1), (5.0, 5)]
)
def test_best_first_ties_by_name(scores, tmp_path, keep, count):
    out = select(scores, keep, tmp_path / "subset.parquet")
    assert out == tmp_path / "subset.parquet"
    assert kept(out) == ORDER[:count]


def test_fraction_gives_the_published_counts():
    assert resolve_keep(0.5, 4_180_243) == 2_090_122
    assert resolve_keep(0.6, 4_180_243) == 2_508_146


@pytest.mark.parametrize(
    "keep", [0, -0.5, -3, 1.7, 10, 2.5, float("nan"), float("inf"), True, "half"]
)
def test_impossible_keep(scores, tmp_path, keep):
    with pytest.raises(UserError, match="keep"):
        select(scores, keep, tmp_path / "subset.parquet")
    assert not (tmp_path / "subset.parquet").exists()


def test_records_where_it_comes_from(scores, tmp_path):
    record = read_record(select(scores, 0.5, tmp_path / "subset.parquet"))
    pool = make_pool()
    assert record["pool"] == "somewhere"
    assert record["pool_fingerprint"] == pool.fingerprint
    assert (record["strategy"], record["keep"], record["images"]) == ("cfs", 0.5, 4)


def test_random_is_nested_seeded_and_readable_only(scores, tmp_path):
    def draw(keep, seed):
        return kept(select(scores, keep, tmp_path / "r.parquet", strategy="random", seed=seed))

    assert sorted(draw(1, 0)) == sorted(ORDER)
    assert draw(4, 0) == draw(1, 0)[:4] == draw(4, 0)
    assert draw(1, 0) != draw(1, 1)


def test_other_pool_is_refused(scores, tmp_path):
    select(scores, 0.5, tmp_path / "subset.parquet", pool=make_pool())
    with pytest.raises(UserError, match="another pool"):
        select(scores, 0.5, tmp_path / "subset.parquet", pool=make_pool(11))


def test_not_a_table_of_scores(tmp_path):
    (tmp_path / "text.parquet").write_text("no")
    pq.write_table(pa.table({"image": ["a"]}), tmp_path / "names.parquet")
    write_table(tmp_path / "null.parquet", {"image": ["a"], "cfs": pa.nulls(1, pa.float32())}, {})
    for name, message in [
        ("text", "not a readable Parquet"),
        ("names", "no column cfs"),
        ("null", "no score at all"),
        ("missing", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            select(tmp_path / f"{name}.parquet", 0.5, tmp_path / "subset.parquet")


def dump(path, value, protocol=2):
    path.write_bytes(pickle.dumps(value, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "names", [["b.jpg", "a/c.jpg"], [b"b.jpg", b"a/c.jpg"], ("b.jpg", b"a/c.jpg", "b.jpg")]
)
def test_import_list(tmp_path, names, protocol):
    if protocol < 3 and any(isinstance(name, bytes) for name in names):
        # What Python 2 wrote for byte strings, which today's pickle cannot write any more.
        body = "".join(f"S'{n if isinstance(n, str) else n.decode()}'\na" for n in names)
        (tmp_path / "list.pkl").write_bytes(f"(l{body}.".encode())
    else:
        dump(tmp_path / "list.pkl", names, protocol)
    out = import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet")
    assert pq.read_table(out)["image"].to_pylist() == ["b.jpg", "a/c.jpg"]
    assert read_record(out)["strategy"] == "imported"


def test_import_of_bytes_that_python_3_wrote_for_python_2(tmp_path):
    dump(tmp_path / "list.pkl", [b"b.jpg", b"a/c.jpg"], protocol=2)
    out = import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet")
    assert pq.read_table(out)["image"].to_pylist() == ["b.jpg", "a/c.jpg"]


def test_import_keeps_the_front(tmp_path):
    dump(tmp_path / "list.pkl", ["d", "c", "b", "a"])
    out = import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet", keep=0.5)
    assert pq.read_table(out)["image"].to_pylist() == ["d", "c"]


def test_import_takes_the_names_of_the_pool(tmp_path):
    dump(tmp_path / "list.pkl", ["03.jpg", "images/01.jpg"])
    out = import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet", pool=make_pool())
    assert kept(out) == ["03", "01"]
    assert read_record(out)["pool_fingerprint"] == make_pool().fingerprint
    dump(tmp_path / "list.pkl", ["03.jpg", "elsewhere.jpg"])
    with pytest.raises(UserError, match=r"list\.pkl.*another pool"):
        import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet", pool=make_pool())


class Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


def test_pickle_cannot_run_code(tmp_path):
    target = tmp_path / "executed"
    path = dump(tmp_path / "evil.pkl", [Attack(target)])
    pickle.loads(path.read_bytes())  # the attack is real
    assert target.exists()
    target.unlink()
    with pytest.raises(UserError, match="refused"):
        import_list(path, tmp_path / "subset.parquet")
    assert not target.exists()
    assert not (tmp_path / "subset.parquet").exists()


@pytest.mark.parametrize(
    "value", [{"a": 1}, [], "text", [1, 2], [["a"]], [b"\xff"], np.array(["a"])]
)
def test_not_a_list_of_names(tmp_path, value):
    with pytest.raises(UserError, match=r"list\.pkl"):
        import_list(dump(tmp_path / "list.pkl", value, 4), tmp_path / "subset.parquet")


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"not a pickle", b"\x80\x04]\x94(", b"(lp0\nS'a\n."]
)
def test_damaged_pickle(tmp_path, content):
    (tmp_path / "list.pkl").write_bytes(content)
    with pytest.raises(UserError, match=r"list\.pkl"):
        import_list(tmp_path / "list.pkl", tmp_path / "subset.parquet")
