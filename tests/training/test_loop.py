"""The training loop on a toy objective: logging, stops that leave a good state, and collapse."""

import io
import math
import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from matplotlib.figure import Figure
from torch import nn

from transreid_ssl import UserError
from transreid_ssl.data import SubsetPool
from transreid_ssl.data.people import PeopleConfig, PeoplePool
from transreid_ssl.data.track_columns import make_table
from transreid_ssl.models import BackboneSpec
from transreid_ssl.pretrain import DINO, MoBY, MoCoV3
from transreid_ssl.training import (
    Objective,
    Plan,
    ProbeSettings,
    RetrievalProbe,
    RunFolder,
    RunSettings,
    TrackProbe,
    Trainer,
    feature_spread,
)
from transreid_ssl.training.checkpoint import list_checkpoints, load_checkpoint
from transreid_ssl.training.clock import Clock
from transreid_ssl.training.curves import LEGEND, _columns, _label, _panels, series_by_panel
from transreid_ssl.training.probe import retrieval_probe

pytestmark = pytest.mark.usefixtures("console")


@pytest.fixture(autouse=True)
def _lines_of_short_runs_are_as_far_apart_as_asked_for(monkeypatch):
    monkeypatch.setattr("transreid_ssl.training.settings.LINES", 1)


class Toy(Objective):
    """Fits a line with noise from torch's global generator; counts what it is told."""

    name = "toy"

    def __init__(self, bad_step: int | None = None, on_step=None) -> None:
        super().__init__()
        self.line = nn.Linear(3, 1)
        self.backbone = nn.Identity()
        self.backbone.spec = BackboneSpec("vit_nano_patch8_reid")
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.bad_step, self.on_step = bad_step, on_step
        self.epochs: list[int] = []

    def forward(self, batch, epoch):
        loss = (self.line(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        loss = loss + 0.1 * torch.rand(()) * self.line.weight.sum()
        return {"loss": loss * (float("nan") if int(self.steps) == self.bad_step else 1.0)}

    def before_step(self, epoch):
        self.epochs.append(epoch)

    def after_step(self, progress):
        self.steps += 1
        if self.on_step:
            self.on_step(int(self.steps))


def trainer(path, objective, image_names=None, probing=None, **settings):
    settings = RunSettings(
        **{"batch_size": 4, "log_every": 2, "checkpoint_every": 3, "precision": "no"} | settings
    )
    torch.manual_seed(0)
    objective.line.reset_parameters()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1, momentum=0.9)
    plan = Plan(steps_per_epoch=4, epochs=3, lr=lambda step: 0.1 / (1 + step))
    run = RunFolder(path)
    run.claim(settings)
    return Trainer(
        Accelerator(cpu=True), objective, optimizer, plan, run, settings, image_names=image_names,
        **probing or {},
    )  # fmt: skip


def newest(path):
    return load_checkpoint(list_checkpoints(path / "checkpoints")[-1])


def batches(first, accumulation=1):
    for step in range(first, 12):
        values = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        yield from ({"x": part} for part in values.chunk(accumulation))


def test_a_run_logs_trains_and_tells_the_epoch(tmp_path):
    objective = Toy()
    trainer(tmp_path, objective).fit(batches(0))
    lines = RunFolder(tmp_path).read_metrics()
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0]["lr"] == pytest.approx(0.05)
    assert objective.epochs == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize("counts", [False, True])
def test_an_objective_is_told_how_much_is_done_before_or_after_its_step(tmp_path, counts):
    objective, told = Toy(), []
    objective.counts_step = counts
    objective.after_step = told.append
    trainer(tmp_path, objective).fit(batches(0))
    assert told == [(step + counts) / 12 for step in range(12)]
    assert [c.counts_step for c in (DINO, MoCoV3, MoBY)] == [False, True, True]


def test_a_run_shorter_than_the_distance_of_its_lines_has_a_curve(tmp_path, monkeypatch):
    monkeypatch.setattr("transreid_ssl.training.settings.LINES", 20)
    settings = {"log_every": 100, "collapse_patience": 1}  # of 100 steps
    trainer(tmp_path, Collapsing(2, until=9), **settings).fit(batches(0))
    assert [line["step"] for line in RunFolder(tmp_path).read_metrics()] == list(range(1, 13))


def test_a_logged_loss_is_the_mean_since_the_last_line(tmp_path):
    every, second = tmp_path / "every", tmp_path / "second"
    trainer(every, Toy(), log_every=1).fit(batches(0))
    trainer(second, Toy()).fit(batches(0))
    single = [line["loss"] for line in RunFolder(every).read_metrics()]
    paired = [line["loss"] for line in RunFolder(second).read_metrics()]
    means = [(a + b) / 2 for a, b in zip(single[::2], single[1::2])]
    assert paired == pytest.approx(means, rel=1e-5)


def test_a_loss_that_is_not_finite_stops_the_run_with_the_last_good_state_kept(tmp_path):
    with pytest.raises(
        UserError, match=r"not finite in step 5.*checkpoint of step 3, from before, is kept"
    ):
        trainer(tmp_path, Toy(bad_step=4)).fit(batches(0))
    state = newest(tmp_path)
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["objective"].values())


def test_a_checkpoint_is_never_written_over_a_loss_that_is_not_finite(tmp_path):
    with pytest.raises(
        UserError, match=r"not finite in step 5.*checkpoint of step 3, from before, is kept"
    ):
        trainer(tmp_path, Toy(bad_step=4), log_every=100).fit(batches(0))
    assert newest(tmp_path)["step"] == 3


def with_index(first):
    for step, batch in enumerate(batches(first), start=first):
        yield batch | {"index": torch.arange(4) + 4 * step}


def test_the_images_of_a_step_that_is_not_finite_are_named(tmp_path):
    names = [f"{i}.jpg" for i in range(48)]
    with pytest.raises(UserError, match=r"step 6 .*not_finite_step_00000006\.txt"):
        trainer(tmp_path, Toy(bad_step=5), names, log_every=4).fit(with_index(0))
    listed = (tmp_path / "not_finite_step_00000006.txt").read_text().split()
    assert listed == names[20:24]


def test_steps_that_are_not_finite_are_left_out_if_asked_for(tmp_path):
    class Noted(Toy):
        forgotten = 0

        def forward(self, batch, epoch):  # the images of step 4, which is tried once
            bad = int(batch["index"][0]) == 12
            loss = super().forward(batch, epoch)["loss"]
            return {"loss": loss * (float("nan") if bad else 1.0)}

        def forget(self):
            self.forgotten += 1

    objective = Noted()
    trainer(tmp_path, objective, not_finite="skip").fit(with_index(0))
    assert int(objective.steps) == 11
    assert objective.forgotten == 1
    assert objective.line.weight.isfinite().all()
    lines = RunFolder(tmp_path).read_metrics()
    assert [line.get("skipped_steps") for line in lines] == [None, 1, None, None, None, None]
    assert all(line["loss"] < 100 for line in lines)


def test_a_run_of_steps_that_are_all_left_out_stops(tmp_path):
    class Never(Toy):
        def forward(self, batch, epoch):
            return {"loss": super().forward(batch, epoch)["loss"] * float("nan")}

    with pytest.raises(UserError, match=r"none of the 2 steps.*no checkpoint was written"):
        trainer(tmp_path, Never(), not_finite="skip").fit(batches(0))


def test_the_ceiling_is_that_of_the_precision_that_is_computed_in(tmp_path):
    assert trainer(tmp_path, Toy(), precision="bf16").ceiling.dtype == torch.float32


def test_a_short_run_bears_as_many_steps_left_out_as_a_long_one(tmp_path, monkeypatch):
    monkeypatch.setattr("transreid_ssl.training.settings.LINES", 20)

    class Sometimes(Toy):
        def forward(self, batch, epoch):
            bad = int(batch["index"][0]) // 4 in (0, 4, 5, 11)  # steps 1, 5, 6 and 12
            loss = super().forward(batch, epoch)["loss"]
            return {"loss": loss * (float("nan") if bad else 1.0)}

    trainer(tmp_path, Sometimes(), not_finite="skip", log_every=50).fit(with_index(0))
    lines = RunFolder(tmp_path).read_metrics()
    skipped = {line["step"]: line.get("skipped_steps") for line in lines}
    assert skipped == {2: 1, 3: None, 4: None, 7: 2, 8: None, 9: None, 10: None, 11: None}


class Jumping(Toy):
    """Its weights jump when a step ends."""

    def __init__(self, step: int, factor: float) -> None:
        super().__init__(on_step=lambda done: done == step and self.line.weight.data.mul_(factor))


@pytest.mark.parametrize("step", [4, 12])
def test_weights_that_an_update_made_infinite_are_never_kept(tmp_path, step):
    settings = {"log_every": 100, "checkpoint_every": 1}
    with pytest.raises(UserError, match=rf"not finite|exploded.*checkpoint of step {step - 1}"):
        trainer(tmp_path, Jumping(step, float("inf")), **settings).fit(batches(0))
    assert newest(tmp_path)["step"] == step - 1


def test_weights_that_explode_stop_the_run_within_a_line_of_the_log(tmp_path):
    with pytest.raises(UserError, match=r"exploded: their norm is .* at step 4; the checkpoint"):
        trainer(tmp_path, Jumping(4, 1e9), checkpoint_every=1).fit(batches(0))


def test_the_rate_of_a_line_is_that_of_its_steps(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def pass_time(step):
        now[0] += 0.1 if step <= 6 else 1.0

    trainer(tmp_path, Toy(on_step=pass_time)).fit(batches(0))
    seconds = [line["step_seconds"] for line in RunFolder(tmp_path).read_metrics()]
    assert seconds == pytest.approx([0.1, 0.1, 0.1, 1, 1, 1])


@pytest.mark.parametrize("apart", [1, 2])
def test_the_first_step_is_told_apart_and_waiting_is_measured(tmp_path, monkeypatch, capsys, apart):
    """It warms up, compiles, and counts in no rate: of a line of its own neither."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def pass_time(step):
        now[0] += 30.0 if step == 1 else 0.3

    def slow_batches():
        for batch in batches(0):
            now[0] += 0.1
            yield batch

    trainer(tmp_path, Toy(on_step=pass_time), log_every=apart).fit(slow_batches())
    lines = RunFolder(tmp_path).read_metrics()
    assert [line["step"] for line in lines] == list(range(apart, 13, apart))
    timed = [line for line in lines if line["step"] > 1]
    assert [line["step_seconds"] for line in timed] == pytest.approx([0.4] * len(timed))
    assert [line["images_per_second"] for line in timed] == pytest.approx([10] * len(timed))
    assert [line["data_wait"] for line in timed] == pytest.approx([0.25] * len(timed))
    if apart == 1:
        assert {"step_seconds", "images_per_second", "data_wait"}.isdisjoint(lines[0])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("step 1/12  loss ")
    assert "the first step took 30.1 s" in said[0]
    assert "(waits 25%)  0 min 04 s left" in said[1]
    assert sum(line.startswith("step 1/12 ") for line in said) == 1


def test_clustering_within_the_wait_for_images_is_neither(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock()
    with clock.waiting():
        now[0] += 1.0
        with clock.untimed():
            now[0] += 100.0
    now[0] += 3.0
    assert clock.read(2) == pytest.approx((2.0, 0.25))


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("screen", [Terminal(), io.StringIO()])
def test_a_terminal_shows_a_bar_and_a_file_does_not(tmp_path, monkeypatch, capsys, screen):
    monkeypatch.setattr("sys.stderr", screen)
    trainer(tmp_path, Toy()).fit(batches(0))
    last = r"12/12 \[.* steps/s, loss [\d.]+, [\d,.]+ images/s, waits \d+%\]"
    assert bool(re.search(last, screen.getvalue())) == screen.isatty()
    assert "step 12/12  loss " in capsys.readouterr().out


def test_an_interrupt_ends_the_step_and_a_new_start_goes_on_exactly(tmp_path):
    whole, broken = Toy(), tmp_path / "broken"
    trainer(tmp_path / "whole", whole).fit(batches(0))
    interrupt = Toy(on_step=lambda step: step == 5 and signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        trainer(broken, interrupt).fit(batches(0))
    assert signal.getsignal(signal.SIGTERM) is before
    again = Toy()
    resumed = trainer(broken, again)
    assert resumed.step == 5
    resumed.fit(batches(5))
    assert torch.equal(again.line.weight, whole.line.weight)
    assert int(again.steps) == 12


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    trainer(tmp_path, Toy()).fit(batches(0))
    with pytest.raises(UserError, match="other images"):
        Trainer(
            Accelerator(cpu=True), toy := Toy(), torch.optim.SGD(toy.parameters()),
            Plan(4, 3, lambda step: 0.1), RunFolder(tmp_path), RunSettings(), data_key="another",
        )  # fmt: skip


def test_feature_spread_is_zero_for_one_point_and_near_one_for_noise():
    assert feature_spread(torch.ones(50, 8) * torch.arange(1, 51)[:, None]) < 1e-3
    noise = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    assert feature_spread(noise) == pytest.approx(1.0, abs=0.01)


class Collapsing(Toy):
    """Logs a feature spread that falls to nothing at a step, for ever or until another."""

    def __init__(self, collapse_step: int, until: int = 1000) -> None:
        super().__init__()
        self.collapsed = range(collapse_step, until)

    def forward(self, batch, epoch):
        spread = torch.tensor(0.0 if int(self.steps) in self.collapsed else 0.5)
        return super().forward(batch, epoch) | {"feature_spread": spread}


def test_a_collapse_stops_the_run_and_no_checkpoint_is_written_meanwhile(tmp_path):
    settings = {"log_every": 1, "checkpoint_every": 1, "collapse_patience": 4}
    with pytest.raises(UserError, match="collapsed"):
        trainer(tmp_path, Collapsing(5), **settings).fit(batches(0))
    assert newest(tmp_path)["step"] == 5
    assert RunFolder(tmp_path).read_metrics()[-1]["step"] == 8


def test_a_run_that_collapsed_from_its_first_step_fails_however_short_it_is(tmp_path):
    with pytest.raises(UserError, match=r"collapsed.* last 6 lines .*no checkpoint was written"):
        trainer(tmp_path, Collapsing(0)).fit(batches(0))


def test_an_interrupt_while_collapsed_says_where_the_run_goes_on(tmp_path, capsys):
    objective = Collapsing(5)
    objective.on_step = lambda step: step == 8 and signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, objective, log_every=1).fit(batches(0))
    assert "checkpoint of step 3, from before, is kept" in capsys.readouterr().out


def test_patience_zero_never_stops_a_run(tmp_path):
    trainer(tmp_path, Collapsing(5), log_every=1, collapse_patience=0).fit(batches(0))
    assert newest(tmp_path)["step"] == 12


class Exploding(Toy):
    """A finite loss whose gradient is not: the square root at zero."""

    def forward(self, batch, epoch):
        zero = (self.line.weight * 0).sum()
        extra = zero.abs().sqrt() if int(self.steps) == 4 else zero
        return {"loss": super().forward(batch, epoch)["loss"] + extra}


def test_a_gradient_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path):
    with pytest.raises(UserError, match=r"gradient was not finite in step 5.*checkpoint of step 4"):
        trainer(tmp_path, Exploding(), log_every=100, checkpoint_every=1).fit(batches(0))
    state = newest(tmp_path)
    assert state["step"] == 4
    assert all(value.isfinite().all() for value in state["objective"].values())


def test_a_checkpoint_of_another_network_is_said_to_be_one(tmp_path):
    trainer(tmp_path, Toy()).fit(batches(0))
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(path)
    state["objective"] = {"other": torch.ones(2)}
    torch.save(state, path)
    with pytest.raises(UserError, match="another network"):
        trainer(tmp_path, Toy())


def test_a_probe_that_a_stop_came_before_is_made_up(tmp_path):
    class Counting(RetrievalProbe):
        def __init__(self, stop):
            self.stop, self.features = stop, None

        def __call__(self, step):
            assert self.features is None, "of a large set they take much room"
            self.features = (torch.ones(1),)
            if step == self.stop:
                raise KeyboardInterrupt
            return {"probe/mAP": float(step)}

    def probed(stop=None):
        probing = {"probe": Counting(stop), "probe_every": 6}
        return trainer(tmp_path, Toy(), probing=probing)

    with pytest.raises(KeyboardInterrupt):
        probed(stop=6).fit(batches(0))
    again = probed()
    assert again.step == 6
    again.fit(batches(6))
    found = [
        line["probe/mAP"] for line in RunFolder(tmp_path).read_metrics() if "probe/mAP" in line
    ]
    assert found == [0, 6, 12]
    assert again.probing.probe.features is not None


def test_a_checkpoint_whose_optimiser_groups_the_parameters_otherwise_is_said_to_be_one(tmp_path):
    """As that of an older version, which had one group for biases of twice the rate in a layer of
    half of it and for weights of the plain rate."""
    trainer(tmp_path, Toy()).fit(batches(0))
    path = list_checkpoints(tmp_path / "checkpoints")[-1]
    state = load_checkpoint(path)
    group = state["optimizer"]["param_groups"][0]
    state["optimizer"]["param_groups"] = [group, {**group, "params": []}]
    torch.save(state, path)
    with pytest.raises(UserError, match=r"network is this run's, .* other groups .* config\.yaml"):
        trainer(tmp_path, Toy())


def test_too_many_unreadable_images_stop_the_run_and_few_are_listed(tmp_path, capsys):
    def broken(count):
        for step, batch in enumerate(batches(0)):
            yield batch | {"corrupt": [f"{step}.jpg"] if step < count else []}

    few, many = trainer(tmp_path / "few", Toy()), trainer(tmp_path / "many", Toy())
    few.bad_images.limit = many.bad_images.limit = 3
    few.fit(broken(3))
    few.report("model.safetensors")
    assert "3 unreadable images" in capsys.readouterr().out
    listed = (tmp_path / "few" / "bad_images_met.txt").read_text().split()
    assert listed == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(UserError, match=r"4 images could not be read.*verify"):
        many.fit(broken(4))


class Colour(nn.Module):
    """Knows the colours of four stripes."""

    spec = BackboneSpec("vit_nano_patch8_reid", img_size=(32, 16))

    def __init__(self):
        super().__init__()
        self.colours = nn.Linear(12, self.spec.embed_dim, bias=False)

    def forward(self, images):
        means = images.float().unflatten(2, (4, -1)).mean(dim=(3, 4)).flatten(1)
        return self.colours(means - 115)


class Tracked(PeoplePool):
    """Twelve crops of three tracks in one video, of which one cannot be read."""

    def __init__(self):
        super().__init__(PeopleConfig.from_spec("demo:identities=3,images=4,height=32,width=16"))
        tracks = np.char.add("t", (np.arange(12) // 4).astype(str)).tolist()
        one = ["a"] * 12
        self.annotations = make_table(camera=one, video=one, track=tracks, frame=np.arange(12) % 4)

    def read(self, index):
        return b"no image" if index == 5 else super().read(index)


def test_an_automatic_probe_looks_at_the_images_that_are_trained_on_and_can_be_read():
    accelerator, pool = Accelerator(cpu=True), Tracked()
    subset = SubsetPool(pool, np.arange(11))

    def automatic(root=None, images=subset, network=Colour):
        settings = ProbeSettings("auto", root)
        return retrieval_probe(settings, network, accelerator, trained_on=images)

    probe = automatic()
    looked_at = {*probe.images.names}
    assert len(looked_at) > 6
    assert not looked_at & {pool.names[5], pool.names[11]}  # broken; not in the subset
    values = probe(0)
    assert 0 < values["probe/roc_area"] < 100
    assert values["probe/on"] == "pairs that tracks know, in-sample"

    class Diverged(Colour):
        def forward(self, images):
            return super().forward(images) * float("nan")

    with pytest.raises(UserError, match="features are not finite"):
        automatic(network=Diverged)(0)
    assert automatic(images=PeoplePool(pool.config)) is None
    with pytest.raises(UserError, match="/nowhere"):
        automatic("/nowhere")


def test_the_probe_measures_the_backbone_it_is_given():
    settings = ProbeSettings("demo:test=6,images=6,height=32,width=16", max_query=20)
    values = RetrievalProbe(settings, Colour, Accelerator(cpu=True))(0)
    assert values["probe/mAP"] > 2 * values["probe/mAP_chance"] > 0
    assert 0 < values["probe/feature_spread"] < 1


def test_the_best_network_is_that_of_the_probes_own_first_figure(tmp_path):
    class ByArea(TrackProbe):
        def __init__(self):
            self.title = "tracks"

        def __call__(self, step):
            area = {0: 60.0, 6: 80.0, 12: 70.0}[step]
            names = [
                f"probe/{name}{of}" for name in self.figures for of in ("_histogram", "_chance")
            ]
            return {
                "probe/roc_area": area,
                "probe/equal_error_rate": 30.0,
                **dict.fromkeys(names, 50),
            }

    kept = []
    probing = {
        "probe": ByArea(), "probe_every": 6, "keep_best": lambda: kept.append(made.step),
    }  # fmt: skip
    made = trainer(tmp_path, Toy(), probing=probing)
    made.fit(batches(0))
    assert kept == [0, 6]
    file = tmp_path / "a best.safetensors"

    def describe(step):
        return made.probing.describe_best(SimpleNamespace(path=file, step=step))

    assert describe(6) == (
        "the best network, by the probe, is that of step 6: ROC area 80.0 %, and the last has ROC "
        f"area 70.0 %; to take it: --weights '{file}'"
    )
    assert describe(0) == describe(None) == ""  # of another run than the log tells of
    assert not made.probing._is_best({"probe/roc_area": math.nan, "probe/on": "others"})
    table = made.probing.describe().splitlines()
    assert "ROC area %" in table[0]
    assert table[2].split() == ["after", "(step", "12)", "70.0", "30.0"]
    RunFolder(tmp_path).log(14, {"probe/roc_area": 65.0, "probe/on": "other tracks"})
    assert describe(14) == "the last network is the best, by the probe: ROC area 65.0 %"


@pytest.mark.parametrize("launched", [True, False])
def test_a_run_whose_launcher_was_killed_stops_with_a_checkpoint(tmp_path, monkeypatch, launched):
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    parent = [os.getppid()]
    monkeypatch.setattr(os, "getppid", lambda: parent[0])
    objective = Toy(on_step=lambda step: step == 5 and parent.append(parent.pop() + 1))
    made = trainer(tmp_path, objective)
    if launched:
        with pytest.raises(KeyboardInterrupt):
            made.fit(batches(0))
    else:  # a shell may end before the programs that it has started
        made.fit(batches(0))
    assert newest(tmp_path)["step"] == (5 if launched else 12)


def test_stages_of_a_run_share_a_tracker(tmp_path, monkeypatch):
    made, told = trainer(tmp_path, Toy()), []
    monkeypatch.setattr(made.accelerator, "log", lambda values, step: told.append((step, values)))
    made.run.stage, made.run.first_tracked_step, made.step = "source/", 100, 6
    made.log({"probe/mAP": 40.0, "probe/on": "retrieval on msmt17"})
    assert told == [(106, {"source/probe/mAP": 40.0})]
    assert RunFolder(tmp_path).read_metrics() == [
        {"step": 6, "probe/mAP": 40.0, "probe/on": "retrieval on msmt17"}
    ]


def test_curves_name_what_was_probed():
    lines = [
        {"step": 0, "probe/mAP": 1.0, "probe/mAP_chance": 1.0, "probe/on": "retrieval on msmt17"},
        {"step": 5, "loss": 2.0},
    ]
    assert list(_panels(lines)) == ["retrieval on msmt17 (%)", "loss"]
    assert set(_panels(lines)["retrieval on msmt17 (%)"]) == {"probe/mAP", "probe/mAP_chance"}


def test_legends_have_full_words_in_as_many_columns_as_a_panel_is_wide():
    names = ("roc_area", "equal_error_rate")
    lines = [{"step": 0, "lr": 0.1, "probe/on": "tracks"}]
    lines[0] |= {f"probe/{name}{of}": 1.0 for of in ("", "_histogram", "_chance") for name in names}
    panels = series_by_panel(lines)
    assert list(panels["tracks (%)"])[1:4] == [
        "equal error rate", "ROC area, colour histogram", "equal error rate, colour histogram",
    ]  # fmt: skip
    assert list(panels["schedules"]) == ["learning rate"]
    figure = Figure(figsize=(4.6, 3))
    axis = figure.add_axes((0.15, 0.5, 0.81, 0.4))
    for name in _panels(lines)["tracks (%)"]:
        axis.plot([0, 1], label=_label(name))
    drawn = axis.legend(ncols=_columns(_panels(lines)["tracks (%)"]), **LEGEND)
    assert drawn.get_window_extent().width < figure.bbox.width
    assert _columns(["probe/mAP", "probe/rank1"] * 3) == 3
