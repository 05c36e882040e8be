"""Scores without labels: what they learn, that nothing is learnt by heart, and their judgement."""

import cv2
import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.covariance import LedoitWolf

import launch
from transreid_ssl import UserError
from transreid_ssl.cfs import judge, score
from transreid_ssl.cfs.__main__ import main
from transreid_ssl.cfs.judge import recorded
from transreid_ssl.cfs.likeness import (
    LIKENESSES,
    DensityRatio,
    Moments,
    Nearest,
    density_ratio,
    halves,
    whitening,
)
from transreid_ssl.cfs.parts import ScoreParts
from transreid_ssl.cfs.subset import read_scores
from transreid_ssl.data import FilesPool, open_pool
from transreid_ssl.models import load_backbone, save_backbone
from transreid_ssl.parts import Parts
from transreid_ssl.retrieval import embed_images
from transreid_ssl.tables import read_record


def test_judgement_counts_pairs():
    found = judge(np.array([1.0, 2.0, 3.0, np.nan]), np.array([0.0, 2.5, np.nan]))
    assert found.auc == pytest.approx(4 / 6)  # of six pairs, four have the target above
    assert found.low < found.auc < found.high
    assert (found.images, found.knows) == (3, False)  # so few say nothing
    rng = np.random.default_rng(0)
    assert not judge(rng.normal(size=500), rng.normal(size=900)).knows
    assert judge(rng.normal(1, 1, size=500), rng.normal(size=900)).knows


def likeness(places, weights, **options):
    """Scores of the mixed pool, or of ``pool``, by a density ratio unless told otherwise."""
    options = {"method": "density-ratio", "out": places / "s.parquet"} | options
    pool, target = (open_pool(str(places / name)) for name in ("mixed", "target"))
    return score(pool, weights[0], target=target, **options)


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 0.5), (0.4, 0.95)])
def test_a_density_ratio_knows_what_is_common_to_a_set_and_no_image_by_heart(shift, expected):
    # In 100 dimensions a plane separates any 120 points: learnt by heart, the ratio would know all.
    rng = np.random.default_rng(0)
    target, pool = unit(rng.normal(size=(120, 100)) + shift), unit(rng.normal(size=(120, 100)))
    half = halves(120, 0)
    ratio = density_ratio(target, half, pool, half)
    scores = [ratio(torch.from_numpy(rows), torch.from_numpy(half)) for rows in (target, pool)]
    auc = judge(*(values.numpy() for values in scores)).auc
    assert auc == pytest.approx(expected, abs=0.1)


def test_nearest_is_the_mean_cosine_to_a_twentieth_of_the_other_half():
    rng = np.random.default_rng(0)
    target, features = unit(rng.normal(size=(400, 8))), unit(rng.normal(size=(20, 8)))
    target_half, half = halves(400, 0), halves(20, 1)
    nearest = Nearest(target, target_half, features, half)
    found = nearest(torch.from_numpy(features), torch.from_numpy(half))
    for row, own, value in zip(features, half, found.tolist()):
        others = target[target_half != own]
        centre, matrix = whitening(np.concatenate([others, features[half != own]]))
        one, rows = unit((row - centre)[None] @ matrix), unit((others - centre) @ matrix)
        best = sorted((rows @ one[0]).tolist(), reverse=True)[:10]
        assert value == pytest.approx(np.mean(best), abs=1e-5)


def test_white_features_have_no_common_direction():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4)) + 3
    centre, matrix = whitening(rows)
    white = (rows - centre) @ matrix
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(np.cov(white.T), np.eye(4), atol=0.05)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)


@pytest.mark.parametrize(("count", "dim"), [(40, 100), (4000, 20)])
def test_the_regularisation_fits_the_number_of_images(count, dim):
    # What tells the two apart is one of many directions, small beside what all images share.
    rng = np.random.default_rng(0)
    loud = 1 + 5 * rng.random(dim)
    target, pool = (rng.normal(size=(count, dim)) * loud for _ in range(2))
    target[:, np.argmin(loud)] += 3
    half = halves(count, 0)
    learnt = unit(target), half, unit(pool), half
    chosen = density_ratio(*learnt).tells_apart(*learnt)
    for kind, strength in (("scaled", 1e-4), ("scaled", 1e-2), ("white", 1e-4), ("white", 1e-1)):
        assert DensityRatio(*learnt, kind=kind, strength=strength).tells_apart(*learnt) <= chosen
    if count > 1000:
        assert chosen > 0.95


def test_moments_are_the_ratio_of_two_normal_densities():
    rng = np.random.default_rng(0)
    spreads, means = (0.5, 1.0), (0.3, 0.0)
    target, pool = (rng.normal(m, s, size=(8000, 3)) for m, s in zip(means, spreads))
    half = halves(8000, 0)
    rows = pool.astype(np.float32)
    found = Moments(target, half, pool, half)(torch.from_numpy(rows), torch.from_numpy(half))
    logs = [multivariate_normal([m] * 3, s**2).logpdf(rows) for m, s in zip(means, spreads)]
    assert np.std(logs[0] - logs[1]) > 3
    np.testing.assert_allclose(found, logs[0] - logs[1], atol=0.3, rtol=0.15)


@pytest.fixture
def places(tmp_path):
    """Folders of crops of a calm place, of it and a noisy one, and more of the calm one."""
    rng = np.random.default_rng(0)
    for folder, kind, count in (
        ("target", "calm", 60), ("mixed", "calm", 40), ("mixed", "noisy", 40),
        ("calm", "calm", 40),
    ):  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        for number in range(count):
            image = rng.integers(0, 30 if kind == "calm" else 256, (32, 16, 3))
            image[:, :, number % 3] //= 2
            cv2.imwrite(str(tmp_path / folder / f"{kind}_{number:02d}.png"), image.astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("method", LIKENESSES)
def test_what_is_like_the_target_is_kept(places, weights, method, monkeypatch, capsys):
    monkeypatch.chdir(places)
    shared = ["--pool=mixed", "--target=target", f"--before={weights[0]}", "--num_workers=0"]
    main(["score", *shared, f"--method={method}"])
    assert "this score knows your target" in capsys.readouterr().out
    main(["select", "--strict=true"])
    main(["report", "--count=4"])
    kept = open_pool("mixed", "outputs/cfs/subset.parquet")
    assert sum(name.startswith("calm") for name in kept.names) >= 36
    record = read_record("outputs/cfs/scores.parquet")
    assert (record["method"], record["target_images"]) == (method, 60)
    assert 0.65 < recorded(record).auc < 0.8  # half of the pool is as good as the target
    assert read_record("outputs/cfs/subset.parquet")["strategy"] == method


def test_a_pool_that_is_all_target_has_nothing_to_gain(places, weights, monkeypatch, capsys):
    monkeypatch.chdir(places)
    score(
        open_pool("calm"), weights[0], out="s.parquet",
        method="density-ratio", target=open_pool("target"),
    )  # fmt: skip
    main(["select", "--scores=s.parquet"])
    assert "warning: nothing is to be gained here" in capsys.readouterr().err
    with pytest.raises(UserError, match="nothing is to be gained"):
        main(["select", "--scores=s.parquet", "--strict=true", "--out=other.parquet"])
    main(["select", "--scores=s.parquet", "--strict=true", "--strategy=random"])


def test_cfs_is_judged_and_keeps_its_scores(places, weights):
    pool = open_pool(str(places / "mixed"))
    plain = score(pool, *weights, places / "plain.parquet")
    target = open_pool(str(places / "target"))
    judged = score(pool, *weights, places / "judged.parquet", target=target)
    assert read_scores(plain).equals(read_scores(judged))
    theirs = read_scores(score(target, *weights, places / "theirs.parquet"))["score"].to_numpy()
    ours = read_scores(plain)["score"].to_numpy()
    assert recorded(read_record(judged)).auc == pytest.approx(judge(theirs, ours).auc)
    assert recorded(read_record(plain)) is None
    with pytest.raises(UserError, match="was not judged by"):
        score(pool, *weights, places / "plain.parquet", target=target)


def test_too_few_images_to_learn_from(places, weights):
    for path in sorted((places / "target").iterdir())[5:]:
        path.unlink()
    with pytest.raises(UserError, match=r"target: 5 readable image.* 10 or more"):
        likeness(places, weights)


def test_another_scoring_is_refused_before_anything_is_embedded(places, weights, monkeypatch):
    out = likeness(places, weights)
    monkeypatch.setattr("transreid_ssl.cfs.scorers.networks.embed_images", None)
    assert likeness(places, weights) == out  # nothing is left to be done
    with pytest.raises(UserError, match="is of other images, weights or settings"):
        likeness(places, weights, method="nearest")


@pytest.mark.parametrize("method", ["density-ratio", "cfs-whitened"])
def test_two_processes_learn_and_score_as_one(places, weights, method):
    networks = weights if method.startswith("cfs") else weights[:1]
    target = open_pool(str(places / "target"))
    with launch.fresh_process():
        one = score(
            open_pool(str(places / "mixed")), *networks, out=places / "one.parquet", method=method,
            target=target, batch_size=4, shard_size=8, sample=30,
        )  # fmt: skip
    named = [f"--before={weights[0]}", f"--after={weights[1]}"][: len(networks)]
    launch.run(
        "-m", "transreid_ssl.cfs", "score", f"--method={method}", f"--pool={places / 'mixed'}",
        f"--target={places / 'target'}", *named, "--batch_size=4", "--shard_size=8",
        "--sample=30", "--num_workers=0", f"--out={places / 'two.parquet'}", processes=2,
    )  # fmt: skip
    scores = [read_scores(path)["score"].to_numpy() for path in (one, places / "two.parquet")]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["density-ratio", "nearest", "moments", "cfs-whitened", "cfs"])
def test_a_stopped_scoring_goes_on_with_what_it_had_learnt(places, weights, method, monkeypatch):
    pools = [open_pool(str(places / name)) for name in ("mixed", "target")]
    networks = weights if method.startswith("cfs") else weights[:1]
    shared = {"method": method, "target": pools[1], "shard_size": 20}
    whole = score(pools[0], *networks, out=places / "whole.parquet", **shared)
    with monkeypatch.context() as patch:
        write = Parts.write

        def stop(self, part, columns):
            if part == 2:
                raise KeyboardInterrupt
            write(self, part, columns)

        patch.setattr(Parts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            score(pools[0], *networks, out=places / "s.parquet", **shared)
    # Nothing is learnt anew.
    monkeypatch.setattr("transreid_ssl.cfs.scorers.networks.embed_images", None)
    found = score(pools[0], *networks, out=places / "s.parquet", batch_size=7, **shared)
    np.testing.assert_allclose(
        *(read_scores(path)["score"].to_numpy() for path in (found, whole)), atol=1e-4, rtol=1e-4
    )
    one, other = (recorded(read_record(path)) for path in (found, whole))
    assert one.separable == other.separable is not None
    assert not list(places.glob("*.parts"))


def test_what_was_learnt_of_images_of_before_is_learnt_again(places, weights, monkeypatch):
    """And all is scored by it: scores by two are not to be compared."""
    pools = [open_pool(str(places / name)) for name in ("mixed", "target")]
    shared = {"method": "density-ratio", "target": pools[1], "shard_size": 20}
    with monkeypatch.context() as patch:
        patch.setattr(ScoreParts, "merge", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(pools[0], weights[0], out=places / "s.parquet", **shared)
    first, last = (places / "mixed" / pools[0].names[place] for place in (0, -1))
    last.write_bytes(first.read_bytes())
    read, original = [], FilesPool.read
    monkeypatch.setattr(
        FilesPool, "read", lambda s, index: read.append(index) or original(s, index)
    )
    found = score(pools[0], weights[0], out=places / "s.parquet", **shared)
    assert set(read) >= set(range(len(pools[0])))
    whole = score(pools[0], weights[0], out=places / "whole.parquet", **shared)
    assert read_scores(found).equals(read_scores(whole))


def test_a_stopped_scoring_may_be_judged_by_another_target(places, weights, monkeypatch):
    mixed, calm, target = (open_pool(str(places / name)) for name in ("mixed", "calm", "target"))
    shared = {"method": "cfs-whitened", "shard_size": 20}
    whole = score(mixed, *weights, out=places / "whole.parquet", target=target, **shared)
    with monkeypatch.context() as patch:
        patch.setattr(ScoreParts, "merge", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score(mixed, *weights, out=places / "s.parquet", target=calm, **shared)
    found = score(mixed, *weights, out=places / "s.parquet", target=target, **shared)
    assert recorded(read_record(found)) == recorded(read_record(whole))
    assert read_scores(found).equals(read_scores(whole))


def test_weights_that_give_no_numbers_are_noticed_while_learning(places, weights):
    network = load_backbone(weights[0])
    network.norm.weight.data[0] = torch.nan
    save_backbone(places / "nan.safetensors", network)
    for method, networks in (("nearest", 1), ("cfs", 2)):
        given = [places / "nan.safetensors", weights[1]][:networks]
        pools = [open_pool(str(places / name)) for name in ("mixed", "target")]
        with pytest.raises(UserError, match="features are not finite"):
            score(pools[0], *given, out=places / "s.parquet", method=method, target=pools[1])


@pytest.mark.parametrize(
    ("auc", "separable", "images", "said"),
    [
        (0.9, 0.92, 500, "this score knows your target"),
        (0.51, 0.52, 500, "nothing is to be gained"),
        (0.51, 0.8, 500, "use --method density-ratio"),
        (0.51, 0.6, 20, "too close to call"),
        (0.57, 0.57, 2000, "nothing is to be gained"),  # other people of the same place
        (0.58, 0.605, 500, "too close to call"),
        (0.51, None, 500, "unless all of the pool is of the target"),
    ],
)
def test_the_verdicts(auc, separable, images, said):
    # Normal scores whose means are so far apart have this area under the curve, but for sampling.
    points = (np.arange(images) + 0.5) / images
    shift = np.sqrt(2) * norm.ppf(auc)
    found = judge(norm.ppf(points) + shift, norm.ppf(points), separable)
    assert found.auc == pytest.approx(auc, abs=0.02)
    assert said in str(found)


@pytest.mark.parametrize("method", ["cfs-centred", "cfs-whitened"])
def test_cfs_without_what_all_features_share(places, weights, method):
    pool = open_pool(str(places / "mixed"))
    out = score(pool, *weights, places / "s.parquet", method=method)
    assert read_record(out)["method"] == method
    features = [embed_images(load_backbone(path), pool)[0].double().numpy() for path in weights]
    framed = []
    for rows in features:
        rows = rows - rows.mean(0)
        if method == "cfs-whitened":
            inverse = np.linalg.inv(LedoitWolf().fit(rows).covariance_)
            rows = rows @ scipy.linalg.sqrtm(inverse).real
        framed.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    found = read_scores(out)["score"].to_numpy()
    np.testing.assert_allclose(found, (framed[0] * framed[1]).sum(1), atol=2e-3)
    plain = read_scores(score(pool, *weights, places / "plain.parquet"))["score"].to_numpy()
    assert np.abs(found - plain).max() > 0.05


def test_chance_asks_no_network_and_is_judged_as_chance(places, monkeypatch, capsys):
    monkeypatch.chdir(places)
    main(["score", "--method=random", "--pool=mixed", "--target=target", "--num_workers=0"])
    said = capsys.readouterr().out
    assert "this score does not know your target" in said
    table = read_scores("outputs/cfs/scores.parquet")
    assert len(set(table["score"].to_pylist())) == 80
    main(["score", "--method=random", "--pool=mixed", "--target=target", "--seed=1",
          "--out=other.parquet"])  # fmt: skip
    assert not table.equals(read_scores("other.parquet"))


def test_a_score_that_does_not_see_what_the_features_show_is_said_to_be_one(places, weights):
    # Compared with itself a network forgets nothing: all scores are 1, and tell nobody from nobody.
    pool, target = (open_pool(str(places / name)) for name in ("mixed", "target"))
    out = score(pool, weights[0], weights[0], places / "s.parquet", target=target)
    found = recorded(read_record(out))
    assert not found.knows
    assert found.separable > 0.6
    assert "use --method density-ratio" in str(found)


def test_a_method_says_what_it_lacks(places, weights):
    pool = open_pool(str(places / "mixed"))
    for method, given, lacks in (
        ("nearest", weights[:1], "images of the target"), ("cfs", weights[:1], "after fine-tuning"),
        ("cfs-centred", (), "a pre-trained backbone"), ("magic", weights, "is unknown"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=lacks):
            score(pool, *given, out=places / "s.parquet", method=method)
