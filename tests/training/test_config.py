"""Settings from YAML and the command line, and what is said when they are wrong."""

from dataclasses import dataclass, field

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from damage import damaged, outcome
from transreid_ssl import UserError
from transreid_ssl.training import OptimizerSettings, RunSettings, parse_config, to_yaml
from transreid_ssl.training.yaml_files import read_yaml


@dataclass(frozen=True)
class Config:
    """Settings of a test."""

    run: RunSettings = field(default_factory=RunSettings)
    optim: OptimizerSettings = field(default_factory=OptimizerSettings)


@pytest.fixture
def demo(tmp_path):
    path = tmp_path / "demo.yaml"
    path.write_text("run:\n  epochs: 3\n  precision: 'no'\n")
    return path


def test_without_a_file_the_demo_is_read_and_options_override_it(demo):
    config, origin = parse_config(Config, demo, "", ["--optim.lr", "0.5"])
    assert (config.run.epochs, config.run.precision, config.optim.lr) == (3, "no", 0.5)
    assert "demo" in origin


def test_a_given_file_replaces_the_demo(demo, tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("optim:\n  clip_per_parameter: false\n  betas: [0.5, 0.6]\n")
    config, origin = parse_config(Config, demo, "", ["--config", str(mine), "--run.epochs=7"])
    assert config.run == RunSettings(epochs=7)
    assert config.optim == OptimizerSettings(clip_per_parameter=False, betas=(0.5, 0.6))
    assert "demo" not in origin


def test_a_bare_name_is_looked_for_beside_the_demo(demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (demo.parent / "shipped").mkdir()
    shipped = demo.rename(demo.parent / "shipped" / "small_cpu.yaml")
    for option in (["--config", "small_cpu.yaml"], ["--config=small_cpu.yaml"]):
        config, origin = parse_config(Config, shipped, "", option)
        assert (config.run.epochs, origin) == (3, "the shipped small_cpu.yaml")
    (tmp_path / "small_cpu.yaml").write_text("run:\n  epochs: 5\n")  # the user's own comes first
    config, origin = parse_config(Config, shipped, "", option)
    assert (config.run.epochs, origin) == (5, "your --config")
    with pytest.raises(UserError, match=r"smal\.yaml: there is no such file; .* small_cpu\.yaml\?"):
        parse_config(Config, shipped, "", ["--config", "smal.yaml"])


def test_unknown_options_and_keys_name_the_nearest(demo):
    with pytest.raises(
        UserError, match=r"^unrecognized arguments: --lr=1; did you mean --optim\.lr\?"
    ):
        parse_config(Config, demo, "", ["--lr=1"])
    demo.write_text("run:\n  epoch: 3\n")
    with pytest.raises(UserError, match=r"did you mean run\.epochs\?"):
        parse_config(Config, demo, "", [])


def test_help_tells_the_values_that_will_run(demo, capsys):
    for option, more in (("--help", False), ("--help-all", True)):
        with pytest.raises(SystemExit):
            parse_config(Config, demo, "A test.", ["--run.seed=1", option])
        said = " ".join(capsys.readouterr().out.split())
        assert ("--run.epochs 3 Passes over the images" in said) != more
        assert ("begun run keeps them. (type: int, default: 3)" in said) == more
        assert ("--run.seed" in said) == more
    demo.write_text("run:\n  epochs: many\n")
    with pytest.raises(UserError, match="epochs"):
        parse_config(Config, demo, "", ["--help"])


def test_resolved_settings_read_back_as_themselves(demo, tmp_path):
    config, _ = parse_config(Config, demo, "", [])
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert parse_config(Config, demo, "", ["--config", str(saved)])[0] == config
    assert "torch" in saved.read_text().splitlines()[0]
    assert set(yaml.safe_load(saved.read_text())) == {"run", "optim"}


@pytest.mark.parametrize(
    ("content", "arguments", "expected"),
    [
        ("run:\n  epoch: 3\n", [], "epoch"),
        ("rum:\n  epochs: 3\n", [], "rum"),
        ("run:\n  epochs: many\n", [], "epochs"),
        ("run: [\n", [], "demo.yaml"),
        ("optim: {}", ["--optim.velocity", "1"], "velocity"),
        ("optim: {}", ["--run.precision", "int3"], "int3"),
    ],
)
def test_unknown_keys_and_wrong_values_are_errors_for_users(demo, content, arguments, expected):
    demo.write_text(content)
    with pytest.raises(UserError, match=expected):
        parse_config(Config, demo, "", ["--config", str(demo), *arguments])


def test_a_missing_file_is_named(demo):
    with pytest.raises(UserError, match="nowhere"):
        parse_config(Config, demo, "", ["--config", "nowhere.yaml"])


def aliases(depth):
    """A list of lists of … lists, nine times as long at each depth."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (aliases(20), "aliases stand for too many"),
        ("run: &run [*run]", "aliases stand for too many"),
        ("[" * 5000, "not readable as YAML"),
        ("run: [", "not readable as YAML"),
        ("run: !!python/object/apply:os.system [ls]", "not readable as YAML"),
        ("- a", "holds no settings"),
        ("text", "holds no settings"),
    ],
    ids=["bomb", "circle", "deep", "open", "tag", "list", "text"],
)
def test_a_file_that_is_no_settings_is_one_line(demo, tmp_path, text, expected):
    file = tmp_path / "given.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"given\.yaml: .*{expected}"):
        parse_config(Config, demo, "", ["--config", str(file)])


def test_aliases_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "given.yaml"
    file.write_bytes("\ufeffa: &a [1, 2.5, null]\nb: {c: *a}\n".encode())
    assert read_yaml(file) == {"a": [1, 2.5, None], "b": {"c": [1, 2.5, None]}}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    text=st.text("ab01.:-_{}[],&*!<>|'\"#%@ \n\te+xoinfTZ~?\x00\x85", max_size=40),
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
)
def test_no_text_ends_otherwise_than_in_values_or_one_line(tmp_path_factory, text, places):
    path = tmp_path_factory.mktemp("yaml") / "given.yaml"
    path.write_bytes(damaged(f"run: {{epochs: 3}}\n{text}".encode(), places))
    outcome(lambda: read_yaml(path))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(32, 126)), min_size=1, max_size=3)
)
def test_no_damaged_settings_end_otherwise_than_in_settings_or_one_line(tmp_path_factory, places):
    path = tmp_path_factory.mktemp("yaml") / "given.yaml"
    path.write_bytes(damaged(b"run:\n  epochs: 3\n  output: x\noptim: {lr: 1.0e-3}\n", places))
    outcome(lambda: parse_config(Config, path, "", ["--config", str(path)]))


def test_printed_settings_are_those_that_will_run(demo, capsys):
    @dataclass(frozen=True)
    class Chosen:
        settings: dict
        lines: tuple = ("why",)

    @dataclass(frozen=True)
    class Choosing(Config):
        def choose(self, given, demo):
            return Chosen({"optim.lr": 0.25})

        def take_over(self, given):
            return Chosen({"run.epochs": 7} if "run.epochs" not in given else {})

    for arguments, epochs in (([], 7), (["--run.epochs=2"], 2)):
        with pytest.raises(SystemExit):
            parse_config(Choosing, demo, "", ["--config=auto", *arguments, "--print_config"])
        shown = yaml.safe_load(capsys.readouterr().out)
        assert (shown["optim"]["lr"], shown["run"]["epochs"]) == (0.25, epochs)
