"""Subsets: taken in their order, and refused when they belong to another pool."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from transreid_ssl.data.open import open_pool
from transreid_ssl.errors import UserError


@pytest.fixture
def root(tmp_path, write_images):
    return write_images(tmp_path / "pool", ["a/1.jpg", "a/2.jpg", "b/2.jpg", "b/3.jpg"])


def subset(tmp_path, *names):
    (tmp_path / "subset.txt").write_text("\n".join(names))
    return tmp_path / "subset.txt"


def test_in_the_order_of_the_list(root, tmp_path, encoded):
    path = tmp_path / "subset.parquet"
    pq.write_table(pa.table({"image": ["b/3.jpg", "a/1.jpg"]}), path)
    pool = open_pool(root, path)
    assert list(pool.names) == ["b/3.jpg", "a/1.jpg"]
    assert pool.read(0) == encoded(3)
    assert pool.source == str(root)
    assert pool.indices.tolist() == [3, 0]
    assert f"subset {path}: 2 images" in pool.describe()
    assert pool.fingerprint != open_pool(root).fingerprint


@pytest.mark.parametrize("names", [("images/b/3.jpg", "a/1.jpg"), ("3", "1"), ("x/y/b/3.png",)])
def test_folders_in_front_and_extensions_may_differ(root, tmp_path, names):
    pool = open_pool(root, subset(tmp_path, *names))
    assert list(pool.names) == ["b/3.jpg", "a/1.jpg"][: len(names)]
    assert "matched without folder or extension" in pool.describe()


@pytest.mark.parametrize("name", ["2.jpg", "c/1.jpg", "11.jpg", "a/2/1.jpg"])
def test_ambiguous_or_different_paths_are_unknown(root, tmp_path, name):
    with pytest.raises(UserError) as caught:
        open_pool(root, subset(tmp_path, "a/1.jpg", name))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'subset.txt'}: 1 of its 2 names")
    assert repr(name) in message
    assert "another pool" in message


def test_repeated_names_count_once(root, tmp_path):
    pool = open_pool(root, subset(tmp_path, "b/3.jpg", "a/1.jpg", "b/3.jpg"))
    assert list(pool.names) == ["b/3.jpg", "a/1.jpg"]
    assert "1 repeated" in pool.describe()


def test_missing_or_empty_list(root, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        open_pool(root, tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match="subset is empty"):
        open_pool(root, subset(tmp_path, ""))


def test_subset_of_generated_people(tmp_path):
    whole = open_pool("demo:identities=2,images=4")
    part = open_pool("demo:identities=2,images=4", subset(tmp_path, *whole.names[3:5]))
    assert part.read(0) == whole.read(3)
    assert part.generated
