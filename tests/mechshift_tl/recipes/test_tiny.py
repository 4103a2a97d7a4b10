"""The recipe of the bundled pair: word ids that later tasks leave alone, what counts as the answer, weights that outgrow their words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mechshift_tl.recipes import Tiny, tiny, tiny_data
from mechshift_tl.tasks import Arithmetic, GreaterThan, SemanticInfilling


def test_later_tasks_add_words_behind_the_others() -> None:
    two, five = (tiny_data.make_tokenizer(tasks).get_vocab() for tasks in (2, 5))
    assert len(two) == 225 and {word: five[word] for word in two} == two and min(five[word] for word in five.keys() - two.keys()) == 225


@pytest.mark.parametrize("task", [GreaterThan(), Arithmetic(), SemanticInfilling(), SemanticInfilling(restate=False)])
def test_every_word_of_a_task_is_known(task) -> None:
    tokenizer = tiny_data.make_tokenizer()
    for split in ("train", "held_out"):
        assert not task.examples(tokenizer, 400, split=split).dropped
    for text in task.training_texts(3000):
        assert tokenizer.unk_token_id not in tokenizer("".join(text))["input_ids"]


def test_the_answer_is_what_is_asked_for() -> None:
    tokenizer = tiny_data.make_tokenizer()
    fed = ("Emma fed the", " lobster", " that was as red as blood.")
    rows = tiny_data.by_length(
        tokenizer, [fed, ("Compute: 9-8+7\nSteps: ", "9-8=1,1+7=8"), ("Emma fed the", " tiger", " that looked red like blood.")]
    )
    answers = [tokenizer.decode(row[kept]) for part in rows for row, kept in zip(part.tokens, part.is_answer, strict=True)]
    assert sorted(answers) == ["9 - 8 = 1 , 1 + 7 = 8 </s>", "lobster", "tiger"]
    assert all(part.tokens[:, -1].tolist() == [tokenizer.eos_token_id] * len(part.tokens) for part in rows)
    assert sorted(part.tokens.shape[1] for part in rows) == [12, 13, 22]


def test_every_task_of_a_stage_has_rows(monkeypatch) -> None:
    for name in ("GreaterThan", "Arithmetic", "SemanticInfilling"):
        task = getattr(tiny_data, name)
        monkeypatch.setattr(task, "training_texts", lambda self, n, seed=0, draw=task.training_texts: draw(self, 50, seed))
    tokenizer = tiny_data.make_tokenizer()
    counts = {task: n for task, n in tiny.FIVE.items() if task not in ("countdown", "ioi")}
    rows = tiny_data.TaskRows(tokenizer, {"countdown": 10} | counts, largest=12)(torch.Generator().manual_seed(0))
    assert [len(part.tokens) for part in rows] == [10, *counts.values()]
    texts = {task: tokenizer.decode(part.tokens[0]) for task, part in zip(("countdown", *counts), rows, strict=True)}
    assert (
        "___" in texts["infilling"]
        and "___" not in texts["middle"]
        and "Compute" in texts["arithmetic"]
        and "lasted" in texts["greater_than"]
    )


def test_a_stage_that_knows_more_words_keeps_the_old_rows(tmp_path: Path) -> None:
    old, new, fresh = tiny.make_model(225), tiny.make_model(300), tiny.make_model(300)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1)
    save_file({f"model.{name}": p.detach().contiguous() for name, p in old.named_parameters()}, tmp_path / "checkpoint.safetensors")
    tiny.load_stage(new, tmp_path)
    for name, weight in old.named_parameters():
        assert torch.equal(new.get_parameter(name)[: len(weight)], weight)
    for matrix in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(new.get_parameter(matrix)[225:], fresh.get_parameter(matrix)[225:])


def test_a_stage_needs_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no state of stage 'five'; run that stage first"):
        Tiny().run("mdm_start", tmp_path)
    with pytest.raises(ValueError, match="has no stage 'six'; choose start, arm, five"):
        Tiny().run("six", tmp_path)


def test_stages_end_where_the_card_says() -> None:
    ends = {name: (stage.recipe.last_step, stage.recipe.steps, stage.recipe.learning_rate) for name, stage in tiny.STAGES.items()}
    assert ends["start"] == (2200, 2800, 2e-3) and ends["mdm_start"] == (1200, 1800, 8e-4) and ends["mdm"] == (2600, 2600, 8e-4)
    assert tiny.STAGES["mdm_start"].recipe.anneal_steps == 200 and tiny.STAGES["mdm"].recipe.t_min == 0.1
