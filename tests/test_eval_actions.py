"""The error table of actions by hand, and their counterfactuals with a model whose answers are told."""

import json
from types import SimpleNamespace

import pytest
from eval_world import FUNCTIONS, OBJECTS, random_model, world, write_world  # noqa: F401 - fixtures are found by name
from omnivision_eval import action_table, actions, compare, counterfactuals, results
from omnivision_eval import main as eval_main
from omnivision_eval.answer import Answer
from omnivision_eval.asking import ask
from omnivision_eval.exported import Exported
from omnivision_eval.models import GREY, source_of
from omnivision_eval.ours import Ours
from omnivision_eval.prompts import Picture, Prompt
from omnivision_eval.run import Settings, evaluate
from omnivision_eval.task_data import load_task
from PIL import Image

from omnivision.errors import ConfigError, DataError
from omnivision.functions import FunctionSet, install_tokens, target_ids


def call(name, nested=None, **arguments):
    return {"name": name, "arguments": arguments} | ({"nested": nested} if nested else {})


CAT = call("order", item="cat", count=1)
ERRORS = [  # true calls, made calls, fault, kinds
    ([CAT], [CAT], None, []),
    ([CAT], [call("order", item="dog", count=2)], None, ["wrong argument: item", "wrong argument: count"]),
    ([CAT], [call("order", item="cat")], None, ["wrong argument: count"]),
    ([call("order", item="cat")], [CAT], None, ["wrong argument: count"]),
    ([CAT], [call("find", item="cat")], None, ["wrong function"]),
    ([CAT], [call("order", item="cat", count=True)], None, ["wrong argument: count"]),
    ([call("order", sizes=[{"n": 1}])], [call("order", sizes=[{"n": True}])], None, ["wrong argument: sizes"]),
    ([CAT], [call("order", item="cat", count=1.0)], None, []),
    ([CAT], [], None, ["missing call"]),
    ([CAT, CAT], [CAT], None, ["missing call"]),
    ([], [CAT], None, ["extra call"]),
    ([CAT], [CAT, CAT], None, ["extra call"]),
    ([CAT], [CAT], "stray_end: an end token without a call", ["malformed: stray_end"]),
    ([], [], "unclosed: no end token", ["malformed: unclosed"]),
    ([CAT, CAT], [call("find", item="cat"), call("order", item="dog", count=1)], None, ["wrong function", "wrong argument: item"]),
    ([call("send", to=1, nested={"who": CAT})], [call("send", to=1, nested={"who": call("find", item="cat")})], None, ["wrong argument: who"]),
    ([call("send", nested={"who": CAT})], [call("send", who="Ann")], None, ["wrong argument: who"]),
]


@pytest.mark.parametrize(("true", "said", "fault", "kinds"), ERRORS)
def test_kinds_of_errors(true, said, fault, kinds):
    assert action_table.errors_of(true, said, fault) == kinds
    graded = actions.grade({"calls": true}, Answer("", calls=said, fault=fault))["official"]
    assert bool(kinds) == (graded["strict"] == 0), "an answer has errors exactly where it is not strictly right"


def test_whatever_an_exports_runner_says_of_a_call_is_one_kind_of_error():
    asked = Exported.__new__(Exported)
    asked.runner = SimpleNamespace(settings={"stop_token_ids": [], "functions": {"names": {}}}, text=str, tokenizer=SimpleNamespace(decode=lambda *_, **__: ""))
    for why in ("it does not end", "an argument comes twice, is missing ['item'] or unknown []"):
        asked.runner.calls = lambda ids, why=why: [{"name": "order", "error": why}]
        answer = asked._read([1, 2], 9)
        assert why in answer.fault and action_table.errors_of([CAT], answer.calls, answer.fault) == ["malformed: unread"]


def test_a_checkpoint_computes_in_no_type_that_only_exports_are_stored_in(acting):
    with pytest.raises(ConfigError, match="a variant of an ONNX export"):
        source_of(acting, dtype="int8")


class Knowing(Ours):
    """Makes the calls that it was told for each request, as far as it is allowed to go on."""

    def __init__(self, calls):
        network, processor = random_model()
        install_tokens(network, processor.tokenizer, FunctionSet.from_json(FUNCTIONS))
        super().__init__(network, processor, FunctionSet.from_json(FUNCTIONS))
        self.calls = calls

    def answer(self, prompts, prepared):
        return [self._read(target_ids(self.calls[one.text], self.processor.tokenizer, self.functions)[: one.max_new_tokens]) for one in prompts]


@pytest.fixture
def own(tmp_path):
    """Writes rows as the stage reads them, and says what a model makes of them that knows all."""

    def write(*rows) -> tuple:
        (tmp_path / "held_out.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
        return tmp_path / "held_out.jsonl", Knowing({one["request"]: one["calls"] for one in rows})

    return write


def test_rows_of_ones_own_are_evaluated(own, tmp_path):
    """As `data requests --held-out` writes them, with answers longer than the embedded world's; pictures are a matter of choice."""
    long = call("order", item="a very long wish, said with every detail that somebody may think of, and then some more of them")
    Image.new("RGB", (54, 54), "red").save(tmp_path / "red.png")
    file, knowing = own({"id": "a", "request": "The long one.", "language": "en", "calls": [long], "kind": "single"}, {"id": "b", "request": "Nothing.", "language": "zh", "calls": [{"name": "irrelevant"}]},
                        {"request": "Order this.", "images": ["red.png"], "calls": [call("order", item="cat")]}, {"request": "And this.", "image": "red.png", "calls": [call("order", item="cat")]})
    found = evaluate(knowing, file, ["actions"], tmp_path / "out")["actions"]
    assert found["score"] == 100 and found["n"] == 4 and found["table"]["all"]["pictures"] == 3 and found["table"]["zh"]["rates"]["over_call"]["of"] == 1
    assert found["settings"]["max_new_tokens"] > len(json.dumps(long)) and found["metrics"]["format_valid"] == 100
    del knowing.calls["And this."]
    assert evaluate(knowing, file, ["actions"], settings=Settings(limit=3))["actions"]["n"] == 3
    (tmp_path / "functions.json").write_text(json.dumps([{"name": "order", "parameters": {"type": "object", "properties": {"item": {"type": "string", "synonyms": {"cat": ["kitty"]}}}}}]))
    knowing.calls["Order this."] = call("order", item="kitty")
    assert evaluate(knowing, file, ["actions"], settings=Settings(limit=3))["actions"]["metrics"]["lenient"] == 100


@pytest.mark.parametrize(("row", "word"), [
    ({"question": "Is it?", "answer": "Yes"}, "is no request with calls"), ({"id": "a", "request": "x", "calls": [CAT]}, "'a' stands twice"),
    ({"request": "x", "calls": [CAT], "images": ["a.png", "b.png"]}, "has 2 pictures"), ({"request": "x", "calls": [CAT], "images": ["../a.png"]}, "outside of the data root"),
    ({"request": "x", "calls": "none"}, "cannot be read")])
def test_rows_of_ones_own_that_cannot_be_asked_are_named(own, row, word):
    file, _ = own({"id": "a", "request": "y", "calls": [CAT]})
    file.write_text(file.read_text() + json.dumps(row) + "\n")
    with pytest.raises(DataError, match=word):
        load_task("actions", file)
    with pytest.raises(ConfigError, match="no split"):
        load_task("actions", file, "eval")


@pytest.mark.parametrize(("wrong", "why"), [
    (call("odrer", item="cat"), "odrer"), (call("order", itm="cat"), "itm"), (call("order", item=3), "3"),
    ({"name": "order", "nested": {"item": call("order", item=3)}}, "3")])
def test_true_calls_that_the_model_cannot_write_are_refused(own, acting, wrong, why):
    right = call("order", item="cat")
    file, knowing = own({"id": "a", "request": "y", "calls": [right]}, {"id": "b", "request": "z", "calls": [right, wrong]})
    assert evaluate(knowing, file, ["actions"], settings=Settings(limit=1))["actions"]["score"] == 100
    for model in (knowing, source_of(acting)):
        with pytest.raises(DataError, match=rf"1 of 2 requests of actions .*{why}.*\(question b\)"):
            evaluate(model, file, ["actions"])


def samples_of(rows):
    """rows: (image, language, true calls, made calls, fault)."""
    asked = [{"question_id": at, "image": image, "language": language, "text": "", "calls": true} for at, (image, language, true, _, _) in enumerate(rows)]
    return results.samples_of(actions, asked, [Answer("", calls=said, fault=fault) for *_, said, fault in rows])


def test_table_by_hand():
    table = action_table.error_table(samples_of([
        ("a", "en", [CAT], [CAT], None), ("a", "en", [CAT], [call("order", item="Cat", count=1)], None),
        ("b", "zh", [CAT], [], None), ("c", "zh", [call("irrelevant")], [CAT], None), ("d", "en", [CAT], [CAT], "unclosed: x")]))
    assert list(table) == ["all", "en", "zh"]
    counts = {name: {key: (one["count"], one["of"]) for key, one in part["rates"].items()} for name, part in table.items()}
    assert counts["all"] == {"function": (2, 5), "strict": (1, 5), "lenient": (2, 5), "format_valid": (4, 5), "over_call": (1, 1), "missed_call": (1, 4)}
    assert counts["zh"] == {"function": (0, 2), "strict": (0, 2), "lenient": (0, 2), "format_valid": (2, 2), "over_call": (1, 1), "missed_call": (1, 1)}
    assert table["all"]["rates"]["strict"]["rate"] == 20 and table["all"]["pictures"] == 4 and table["en"]["n"] == 3
    assert table["en"]["rates"]["over_call"] == {"count": 0, "of": 0, "rate": None, "stderr": None}
    assert table["all"]["errors"] == {"wrong argument: item": 1, "missing call": 1, "extra call": 1, "malformed: unclosed": 1}


def test_errors_of_the_rates_are_over_pictures():
    rows = [(str(image), "en", [CAT], [CAT] if image % 2 else [], None) for image in range(10) for _ in range(6)]
    wide = action_table.error_table(samples_of(rows))["all"]["rates"]["strict"]["stderr"]
    assert wide == pytest.approx(100 * (0.25 / 10) ** 0.5, rel=0.1)


def row(image, *items):
    return [{"image": image, "calls": [call("order", item=item)]} for item in items]


def pictures_of(rows):
    return {one["image"]: (Picture(one["image"], one["image"]),) for one in rows}


def test_swapped_pictures_are_others_with_other_calls():
    rows = [one for number in range(40) for one in row(f"{number}.png", OBJECTS[number % 6], OBJECTS[number // 6 % 6])]
    found = counterfactuals.swap(rows, pictures_of(rows))
    assert sorted(found) == sorted(found.values()) and len(found) == 40
    calls = {name: {json.dumps(one["calls"]) for one in rows if one["image"] == name} for name in found}
    assert all(name != other and not calls[name] & calls[other] for name, other in found.items())
    assert counterfactuals.swap(rows, pictures_of(rows)) == found != counterfactuals.swap(rows, pictures_of(rows), seed=1)


def test_requests_in_text_alone_are_swapped_with_nobody():
    rows = [{"image": name, "calls": [{"name": str(at)}]} for at, name in enumerate(("a", None, "b", None))]
    shown = pictures_of([row for row in rows if row["image"]])
    prompts = [Prompt("Do it.", shown.get(row["image"], ()), 48) for row in rows]
    found, asked = counterfactuals.changed("swapped", rows, prompts)
    assert [one["shown_image"] for one in found] == ["b", None, "a", None]
    assert [one.pictures for one in asked] == [shown["b"], (), shown["a"], ()]


def test_a_swap_that_needs_every_place_is_found():
    rows = row("a", "cat") + row("b", "cat") + row("c", "dog") + row("d", "dog")
    found = counterfactuals.swap(rows, pictures_of(rows))
    assert {found["a"], found["b"]} == {"c", "d"} and {found["c"], found["d"]} == {"a", "b"}


@pytest.mark.parametrize("rows", [row("a", "cat"), row("a", "cat") + row("b", "cat"), row("a", "cat") + row("b", "dog") + row("c", "dog")])
def test_what_cannot_be_swapped_is_said(rows):
    with pytest.raises(DataError, match="cannot be swapped"):
        counterfactuals.swap(rows, pictures_of(rows))


def test_open_pictures_are_told_apart_as_a_model_sees_them():
    shown = [Image.new("P", (9, 9), 1) for _ in range(2)]
    for one, levels in zip(shown, ([0, 0, 0, 255, 0, 0], [0, 0, 0, 0, 255, 0])):
        one.putpalette(levels)
    assert shown[0].tobytes() == shown[1].tobytes() and Picture.of(shown[0]) != Picture.of(shown[1])
    assert Picture.of(shown[0]) == Picture.of(Image.new("RGB", (9, 9), (255, 0, 0)))


def test_equal_pixels_under_two_names_are_one_picture():
    rows = row("a", "cat") + row("b", "dog")
    same = (Picture("x", "a"),)
    with pytest.raises(DataError, match="cannot be swapped"):
        counterfactuals.swap(rows, {"a": same, "b": same})


@pytest.fixture(scope="module")
def different(tmp_path_factory):
    """The world with another object in each of its pictures, and one request that fits none."""
    folder = write_world(tmp_path_factory.mktemp("different"), images=5)
    for split in ("eval", "eval_held_out"):
        rows = [json.loads(line) for line in (folder / split / "actions.jsonl").read_text().splitlines()]
        for at, one in enumerate(rows):
            one["calls"] = [call("order", item=OBJECTS[at])] if at < 4 else [call("irrelevant")]
        (folder / split / "actions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


class Seeing(Ours):
    """Orders what is in the picture that it is shown; of a grey one it calls nothing. Remembers what it was asked."""

    def __init__(self):
        network, processor = random_model()
        install_tokens(network, processor.tokenizer, FunctionSet.from_json(FUNCTIONS))
        super().__init__(network, processor, FunctionSet.from_json(FUNCTIONS))
        self.asked = []

    def prepare(self, prompts, pictures):
        return None

    def answer(self, prompts, prepared):
        self.asked.append(prompts)
        return [self._read(target_ids(self._call(one.pictures[0].source), self.processor.tokenizer, self.functions)) for one in prompts]

    def _call(self, source):
        number = None if isinstance(source, Image.Image) else int(source.rsplit("/", 1)[1][0])
        return call("order", item=OBJECTS[number]) if number is not None and number < 4 else call("irrelevant")


@pytest.fixture(scope="module")
def seen(different, tmp_path_factory):
    """Results, their folder, and what was asked."""
    model, out = Seeing(), tmp_path_factory.mktemp("counterfactuals")
    return evaluate(model, different, ["actions"], out, Settings(counterfactuals=True)), out, model.asked


def test_a_model_that_looks_falls_to_nothing_when_pictures_change(seen):
    found, out, _ = seen
    own = found["actions"]
    assert own["score"] == 100 and found["actions_swapped"]["score"] == 0 and found["actions_blind"]["score"] == 20  # the request that fits none
    swapped, blind = own["counterfactuals"]["swapped"], own["counterfactuals"]["blind"]
    assert swapped["all"]["fall"] == 100 and swapped["all"]["n"] == 5 and swapped["all"]["low"] == 100 and swapped["zh"]["fall"] == 100
    assert blind["all"]["fall"] == 80 and blind["en"]["n"] + blind["zh"]["n"] == 5 and blind["all"]["fall_stderr"] > 0
    assert json.loads((out / "actions" / "results.json").read_text()) == own
    assert sorted(one.name for one in out.iterdir() if one.is_dir()) == ["actions", "actions_blind", "actions_swapped"]


def test_what_was_shown_instead_stands_in_the_samples(seen):
    _, out, _ = seen
    samples = [json.loads(line) for line in (out / "actions_swapped" / "samples.jsonl").read_text().splitlines()]
    assert all(one["shown_image"] != one["image"] for one in samples)
    assert all("shown_image" not in json.loads(line) for line in (out / "actions" / "samples.jsonl").read_text().splitlines())


def test_a_grey_picture_is_asked_about_once(seen):
    asked = [one for batch in seen[2] for one in batch]
    grey = [one for one in asked if isinstance(one.pictures[0].source, Image.Image)]
    assert len(grey) == 1 and grey[0].pictures[0].source.getpixel((0, 0)) == GREY
    assert len(seen[2][0]) == 5, "the tasks' own batches come first and hold nothing else"
    assert len(asked) == len(set(asked)), "a swapped picture that another request was asked about is not asked about again"


def test_grey_in_place_of_a_picture_is_a_blind_run(different, tmp_path):
    network, processor = random_model()
    functions = FunctionSet.from_json(FUNCTIONS)
    install_tokens(network, processor.tokenizer, functions)

    class Cache:  # knows files only
        def get(self, paths):
            from omnivision.generation import encode_images

            assert paths and all(isinstance(path, str) for path in paths)
            return list(encode_images(network, processor, paths))

    found = evaluate(Ours(network, processor, functions, features=Cache()), different, ["actions"], tmp_path / "a", Settings(counterfactuals=True))
    blind = evaluate(Ours(network, processor, functions, blank=True), different, ["actions"], tmp_path / "b")
    said = [[json.loads(line)["ids"] for line in (tmp_path / folder / "actions_blind" / "samples.jsonl").read_text().splitlines()] for folder in "ab"]
    assert said[0] == said[1] and found["actions_blind"] == blind["actions"]


@pytest.fixture(scope="module")
def acting(tmp_path_factory):
    """A checkpoint with functional tokens."""
    folder = tmp_path_factory.mktemp("acting")
    network, processor = random_model()
    functions = FunctionSet.from_json(FUNCTIONS)
    install_tokens(network, processor.tokenizer, functions)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    functions.save(folder)
    return folder


def test_the_command_constrains_and_goes_on(different, acting, tmp_path, capsys):
    argv = ["actions", "--model", str(acting), "--data", str(different), "--out", str(tmp_path), "--json"]
    assert eval_main.main([*argv, "--constrain", "--counterfactuals"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["tasks"]
    # a random model may run into the limit, but nothing else can be wrong with an answer that the grammar holds
    assert set(found["actions"]["table"]["all"]["errors"]) - {"malformed: unclosed"} <= {"wrong function", "wrong argument: item", "extra call", "missing call"}
    assert found["actions"]["settings"]["constrain"] and "strict, swapped" in err and "falls by" in err and "function right" in err
    journals = list((tmp_path / "answers").glob("answers-*.jsonl"))
    kept = [journal.read_text() for journal in journals]
    assert eval_main.main([*argv, "--constrain", "--counterfactuals"]) == 0
    assert [journal.read_text() for journal in journals] == kept and json.loads(capsys.readouterr().out)["tasks"] == found
    with pytest.raises(ConfigError, match="another settings"):
        eval_main.main(argv)


def test_a_killed_run_asks_only_what_is_left(different, acting, tmp_path):
    first = evaluate(source_of(acting), different, ["actions"], tmp_path)
    journal = next((tmp_path / "answers").glob("answers-*.jsonl"))
    before = journal.read_text()
    found = evaluate(source_of(acting), different, ["actions"], tmp_path, Settings(counterfactuals=True))
    added = journal.read_text().removeprefix(before)
    assert len(added.splitlines()) == 1, "all requests are worded alike: only the grey picture is new"
    found["actions"].pop("counterfactuals")
    assert found["actions"] == first["actions"]


@pytest.mark.parametrize(("tasks", "flag", "message"), [
    (["pope_random"], {"counterfactuals": True}, "of the task actions"), (["actions", "pope_random"], {"constrain": True}, "not answered in calls")])
def test_flags_that_do_not_fit_are_refused(different, acting, tasks, flag, message):
    source = source_of(acting, constrain=flag.pop("constrain", False))
    with pytest.raises(ConfigError, match=message):
        evaluate(source, different, tasks, None, Settings(**flag))


def test_only_models_with_functional_tokens_can_be_held_to_calls(tmp_path, different, acting):
    with pytest.raises(ConfigError, match="no functional tokens"):
        source_of("HuggingFaceTB/SmolVLM-256M-Instruct", constrain=True)
    with pytest.raises(ConfigError, match="blind"):
        evaluate(source_of(acting, blank=True), different, ["actions"], None, Settings(counterfactuals=True))


def test_the_journal_of_constrained_answers_is_another(acting, tmp_path):
    prompts = [Prompt("Order it.", (Picture.of(Image.new("RGB", (54, 54), "red")),), 4)]
    for constrain in (False, True):
        ask(source_of(acting, constrain=constrain), prompts, 1, tmp_path)
    assert len(list(tmp_path.glob("answers-*.jsonl"))) == 2


def test_compare_puts_the_rates_of_runs_side_by_side(seen, different, tmp_path, capsys):
    evaluate(Seeing(), different, ["actions"], tmp_path / "other")
    assert compare.main([str(seen[1]), str(tmp_path / "other"), "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    first, second = found["runs"].values()
    assert list(first) == ["actions", "actions_blind", "actions_swapped"] and list(second) == ["actions"]
    assert "over-call" in err and err.count("0.0 ± 0.0 (0/4)") == 2 and found["differences"]["other"]["actions"]["difference"] == 0
