"""The benchmarks as lm-eval tasks: the same answers and scores as `omnivision eval`, whichever way a checkpoint is asked."""

import importlib
import json
from pathlib import Path

import omnivision_eval
import pytest
from eval_world import checkpoint, model, world  # noqa: F401 - fixtures are found by name
from omnivision_eval.lm import OmniVisionLM
from omnivision_eval.models import source_of
from omnivision_eval.ours import Ours
from omnivision_eval.run import Settings, evaluate

from omnivision.errors import ConfigError

TASKS = Path(omnivision_eval.__file__).parent / "tasks"
NAMES = ("pope_random", "chartqa")


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def through_lm_eval(model, names, metadata, **options):
    """lm-eval's results for tasks of ours; its own 13,000 task files are left out, indexing them takes ten seconds."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS), include_defaults=False, metadata=metadata)
    return lm_eval.simple_evaluate(model, tasks=[f"omnivision_{name}" for name in names], task_manager=manager, bootstrap_iters=0, **options)


def check_alike(data, checkpoint, folder, table, theirs, names=NAMES, judge=None, limit=None):
    """lm-eval's table and answers against ours, for a checkpoint that both loaded from its folder."""
    ours = evaluate(source_of(checkpoint), data, names, folder, Settings(limit=limit), judge)
    for name in names:
        for metric, value in ours[name]["metrics"].items():
            if f"{metric},none" in table[f"omnivision_{name}"]:
                assert table[f"omnivision_{name}"][f"{metric},none"] == pytest.approx(value), (name, metric)
        answers = [s["resps"][0][0].strip() for s in sorted(theirs[f"omnivision_{name}"], key=lambda s: s["doc_id"])]
        assert answers == [s["answer"] for s in lines(folder / name / "samples.jsonl")]
        assert len(set(answers)) > 1, "a random model that sees its images does not answer all alike"


def test_lm_evals_own_table_is_our_score(world, model):
    found = evaluate(model, world, NAMES)
    table = through_lm_eval(OmniVisionLM(model=model), NAMES, {"data_dir": str(world), "images": "path"})["results"]
    assert table["omnivision_pope_random"]["f1,none"] == pytest.approx(found["pope_random"]["score"])
    assert table["omnivision_pope_random"]["false_yes,none"] == found["pope_random"]["metrics"]["false_yes"]
    assert table["omnivision_chartqa"]["relaxed_accuracy,none"] == pytest.approx(found["chartqa"]["score"])


def test_the_same_answers_through_hf_multimodal(world, checkpoint, tmp_path):
    found = through_lm_eval("hf-multimodal", NAMES, {"data_dir": str(world)}, apply_chat_template=True, batch_size=2, device="cpu",
                            model_args={"pretrained": str(checkpoint), "convert_img_format": True})
    check_alike(world, checkpoint, tmp_path, found["results"], found["samples"])


@pytest.mark.slow  # ten seconds of it are lm-eval reading its own 13,000 task files
def test_the_same_answers_through_lm_evals_command(world, checkpoint, tmp_path, monkeypatch):
    from omnivision_eval import harness

    monkeypatch.setattr("sys.argv", [
        "lm-eval", "run", "--model", "hf-multimodal", "--model_args", f"pretrained={checkpoint},convert_img_format=True",
        "--apply_chat_template", "--include_path", str(TASKS), "--tasks", ",".join(f"omnivision_{name}" for name in NAMES),
        "--metadata", json.dumps({"data_dir": str(world)}), "--batch_size", "2", "--device", "cpu",
        "--log_samples", "--output_path", str(tmp_path / "theirs")])
    harness.main()
    table = json.loads(next((tmp_path / "theirs").rglob("results_*.json")).read_text())["results"]
    theirs = {f"omnivision_{name}": lines(next((tmp_path / "theirs").rglob(f"samples_omnivision_{name}_*.jsonl"))) for name in NAMES}
    check_alike(world, checkpoint, tmp_path / "ours", table, theirs)


def test_settings_of_generation_are_kept_or_refused(model):
    from lm_eval.api.instance import Instance
    from PIL import Image

    def answers(**settings):
        request = Instance("generate_until", {}, ("<image>What?", settings, {"visual": [Image.new("RGB", (54, 54), "red")]}), 0)
        return OmniVisionLM(model=model).generate_until([request])[0]

    whole = answers(max_gen_toks=8, do_sample=False, temperature=0.0)
    assert len(whole) > 2 and answers(max_gen_toks=8, until=[whole[2:4], ""]) == whole[:whole.find(whole[2:4])] and answers(max_gen_toks=8, until="never there") == whole
    assert answers().startswith(whole)  # as long as lm-eval's other models may be
    long = Instance("generate_until", {"longest": 12}, ("<image>What?", {"max_gen_toks": 4}, {"visual": [Image.new("RGB", (54, 54), "red")]}), 0)
    assert len(OmniVisionLM(model=model).generate_until([long])[0].ids) > len(answers(max_gen_toks=4).ids)  # of one's own rows
    for settings in ({"do_sample": True}, {"temperature": 5.0}, {"num_beams": 4}, {"repetition_penalty": 1.2}):
        with pytest.raises(ConfigError, match=f"answers greedily, and {next(iter(settings))} is"):
            answers(max_gen_toks=4, **settings)


@pytest.mark.parametrize("module", ["harness", "speed"])
def test_what_is_wrong_is_told_in_one_paragraph(tmp_path, monkeypatch, capsys, module):
    words = {"harness": ["run", "--model", "omnivision", "--model_args", f"pretrained={tmp_path}", "--include_path", str(TASKS), "--tasks", "omnivision_pope_random",
                         "--metadata", json.dumps({"data_dir": str(tmp_path)})], "speed": ["--preset", "tiny", "--data", str(tmp_path)]}[module]
    monkeypatch.setattr("sys.argv", ["program", *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"omnivision_eval.{module}").main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code in (2, 3) and last.startswith("omnivision: ") and str(tmp_path) in last


def test_speed_makes_no_more_rounds_than_there_are_pictures(world, model):
    from omnivision_eval import speed

    found = speed.measure(model.model, model.processor, speed.prompts_of(world, ["pope"], 1), 5, 4)
    assert found["images"] == 1 and {len(rates) for rates in found["rates"].values()} == {1} and set(found["equal"].values()) == {1}


def test_pictures_without_a_file_are_told_apart_by_their_pixels(model):
    """As other lm-eval tasks give them."""
    from lm_eval.api.instance import Instance
    from PIL import Image

    pictures = [Image.new("RGB", (54, 54), color) for color in ("red", "blue", "red")]
    requests = [Instance("generate_until", {}, ("<image>What?", {"max_gen_toks": 4, "until": []}, {"visual": [p]}), i)
                for i, p in enumerate(pictures)]
    answered = []

    class Listening(Ours):
        def answer(self, prompts, prepared):
            answered.extend(prompts)
            return super().answer(prompts, prepared)

    answers = OmniVisionLM(model=Listening(model.model, model.processor)).generate_until(requests)
    assert answers[0] == answers[2] and len(answered) == 2


def test_every_metric_and_length_of_a_benchmark_stands_in_its_task():
    """lm-eval averages a metric that its YAML does not name, whatever it is."""
    import yaml
    from omnivision_eval.benchmarks import MODULES

    class Loader(yaml.SafeLoader):
        """lm-eval's own tag names functions."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    named = {}
    for file in TASKS.glob("*/omnivision_*.yaml"):
        common = yaml.load((file.parent / "_common_yaml").read_text(), Loader)
        named[yaml.load(file.read_text(), Loader)["task"]] = [one["metric"] for one in common["metric_list"]], common["generation_kwargs"]["max_gen_toks"]
    assert named == {f"omnivision_{task}": (list(one.METRICS), one.MAX_NEW_TOKENS) for task, one in MODULES.items()}
