"""Words without an option: the message says which option takes such a word."""

import pytest

import launch


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("embed m/one two", "m/one two: stands without the name of an option; write its name "
         "before it: --images m/one (or --weights, --subset, --out, …)"),
        ("cfs select table.parquet", "write its name before it: --scores table.parquet"),
        ("cfs score CROPS", "write its name before it: --pool CROPS (or "),
        ("evaluate --json=true net.pth", "write its name before it: --weights net.pth"),
        ("embed --images a/1.jpg a/2.jpg a/3.jpg", "a/2.jpg: stands behind --images a/1.jpg, which "
         "takes one value: put quotes around a value with blanks; of several files give their "
         "folder"),
        ("search a b c", "c: too many words: one is for query, one for gallery; write"),
        ("weights show a b", "b: too many words: one is for weights; write the name of its option"),
        ("pretrain dino CROPS", "error: CROPS: stands without the name of an option; write its "
         "name before it: --data.pool CROPS (or --model.weights, --data.subset, --run.output, …)"),
        ("pretrain dino dino_cpu.yaml", "write its name before it: --config dino_cpu.yaml"),
        ("finetune usl .", "write its name before it: --data.root ."),
        ("plan pretrain dino 5", "5: stands without the name of an option; write the name of its"),
    ],
)  # fmt: skip
def test_a_word_too_many_is_told_which_option_takes_it(typed, message):
    said = launch.run("-m", "transreid_ssl", *typed.split(), code=2)
    assert message in said
    assert "unrecognized" not in said
    assert said.count("\n") == 1
