"""Words and options that mean nothing here: the message says which option was meant."""

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


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("data clip --out X", "OUT stands alone here, without --out before it"),
        ("data clip demo --out=X", "OUT stands alone here, without --out before it"),
        ("whiten --data.pool X", "did you mean --images?"),
        ("export --run.output X", "[WEIGHTS] OUTPUT stands alone here, without --run.output before "
         "it"),
        ("cluster --images X", "pool stands alone here, without --images before it"),
        ("search --data.pool X", "gallery stands alone here, without --data.pool before it"),
        ("verdict --model.weights X", "WEIGHTS stands alone here, without --model.weights before "
         "it"),
        ("embed --pool X", "did you mean --images?"),
        ("embed --output X", "did you mean --out?"),
        ("evaluate --out X", "did you mean --json?"),
        ("evaluate --data.root X", "--data.root; did you mean --root?"),
        ("evaluate --run.batch_size=3", "--run.batch_size; did you mean --batch_size?"),
        ("report --run.output X", "--run.output; did you mean --out?"),
        ("cfs score --weights X", "did you mean --after?"),
        ("cfs select --images X", "did you mean --pool?"),
        ("pretrain dino --images X", "did you mean --data.pool?"),
        ("pretrain dino --out X", "did you mean --run.output?"),
        ("finetune usl --images X", "did you mean --data.root?"),
        ("whiten --sample 3", "did you mean --max_images?"),
        ("embed --nonsense X", "unrecognized arguments: --nonsense X"),
    ],
)  # fmt: skip
def test_an_option_of_another_command_leads_to_the_one_that_means_the_same_here(typed, hint):
    said = launch.run("-m", "transreid_ssl", *typed.split(), code=2)
    assert said.endswith(f"{hint}\n")
    assert said.count("\n") == 1
