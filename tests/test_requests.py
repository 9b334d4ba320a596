"""`omnivision data requests`: a whole run, its report, a user's sentences, and every check by a row that fails it."""

from __future__ import annotations

import json

import bfcl
import pytest
from function_parts import make_tokenizer
from requests_teacher import TOOLS, Writer, serve
from tokenizers import normalizers

from omnivision.data.rows import read_rows
from omnivision.errors import ConfigError
from omnivision.functions import Function, FunctionSet
from omnivision.requests.checks import Checks, with_tokens
from omnivision.requests.composed import nestable
from omnivision.requests.grounding import number_said, text_said
from omnivision.requests.main import parser, run
from omnivision.requests.negatives import negative_rows
from omnivision.requests.sieve import Sieve
from omnivision.requests.templates import template_rows
from omnivision.requests.user_templates import Sentences
from omnivision_cli.main import main
from train_world import read_lines


@pytest.fixture
def table(tmp_path):
    (tmp_path / "functions.json").write_text(json.dumps(TOOLS))
    return tmp_path


@pytest.fixture(scope="module")
def checks():
    return Checks(FunctionSet.from_json(TOOLS))


def made(folder, *more) -> dict:
    return run(parser().parse_args(["--functions", str(folder / "functions.json"), "--out", str(folder / "rows.jsonl"), "--held-out", str(folder / "held.jsonl"),
                                    "--per-function", "20", *more]))


def test_a_run_gives_rows_of_every_kind_and_a_true_report(table, capsys):
    words = ["data", "requests", "--functions", str(table / "functions.json"), "--out", str(table / "rows.jsonl"),
             "--held-out", str(table / "held.jsonl"), "--per-function", "20", "--languages", "en,zh", "--negatives", "0.5", "--parallel", "0.3", "--nested", "0.2"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {"train": read_lines(table / "rows.jsonl"), "held_out": read_lines(table / "held.jsonl")}
    assert report == json.loads((table / "rows.report.json").read_text()) and report["rows"] == {split: len(found) for split, found in rows.items()}
    for split, found in rows.items():
        counts = report["splits"][split]["kinds"]
        assert counts == {kind: sum(row["kind"] == kind for row in found) for kind in ("single", "negative", "parallel", "nested")}
        assert counts["negative"] == round(counts["single"] / 2) and counts["parallel"] == round(0.3 * counts["single"]) and counts["nested"]
        assert all(row["calls"] == [{"name": "irrelevant", "arguments": {}}] for row in found if row["kind"] == "negative")
        assert all(len(row["calls"]) in (2, 3) for row in found if row["kind"] == "parallel")
        assert all(len(row["calls"]) == 2 for row in found if row["request"].startswith(("Two things", "做两件事")))
        assert not any(call in row["calls"][:at] for row in found for at, call in enumerate(row["calls"]))
    assert {name for name, one in report["short"]["train"].items()} <= {"current_volume"}  # no arguments: as many requests as wordings
    assert len(read_rows(table / "rows.jsonl")) == report["rows"]["train"]
    assert Checks(FunctionSet.from_json(TOOLS)).faults(rows["train"] + rows["held_out"]) == [None] * sum(map(len, rows.values()))
    languages = report["splits"]["held_out"]["languages"]
    assert min(languages.values()) > 0.35 * sum(languages.values())
    assert main(words) == 0 and "held_out:" in capsys.readouterr().out


@pytest.mark.parametrize(("row", "reason"), [
    ({"calls": [{"name": "sing", "arguments": {}}]}, "unknown_function"),
    ({"calls": [{"name": "set_volume", "arguments": {"level": 61}}], "request": "61"}, "schema"),
    ({"calls": [{"name": "set_volume", "arguments": {"level": 6, "colour": "red"}}], "request": "6 red"}, "schema"),
    ({"calls": [{"name": "find_contact", "arguments": {"name": "Ann"}}], "request": "Find the annual report"}, "value_not_said"),
    ({"calls": [{"name": "find_contact", "arguments": {"name": "安"}}], "request": "电话是多少"}, "value_not_said"),
    ({"calls": [{"name": "set_volume", "arguments": {"level": 6}}], "request": "Make it 60"}, "value_not_said"),
    ({"calls": [{"name": "find_contact", "arguments": {"name": "Ann"}}], "request": "Ann 的电话是多少"}, "language"),
    ({"calls": [{"name": "current_volume", "arguments": {}}], "request": "How loud is it?", "language": "zh"}, "language"),
    ({"calls": [{"name": "send_message", "arguments": {"text": "hi"}, "nested": {"to": {"name": "find_contact", "arguments": {"name": "Bob"}}}}],
      "request": "Tell Ann hi"}, "value_not_said"),
    ({"calls": [{"name": "current_volume", "arguments": {}}], "request": " "}, "empty")])
def test_a_row_that_is_not_right_is_refused(checks, row, reason):
    good = {"request": "Which number has Ann?", "language": "en", "calls": [{"name": "find_contact", "arguments": {"name": "Ann"}}]}
    found = checks.faults([good, {**good, **row}, good])
    assert found[0] is found[2] is None and found[1][0] == reason


def test_calls_that_ids_cannot_carry_are_refused_one_by_one(checks):
    """A tokenizer that forgets capitals spoils one row of several; half a character is no text."""
    functions = FunctionSet.from_json(TOOLS)
    inner = make_tokenizer()
    inner.backend_tokenizer.normalizer = normalizers.Lowercase()
    rows = [{"request": f"Which number has {name}?", "language": "en", "calls": [{"name": "find_contact", "arguments": {"name": name}}]}
            for name in ("ann", "Ben", "cleo", "d\ud83d")]
    found = Checks(functions, with_tokens(inner, functions)).faults(rows)
    assert [fault and fault[0] for fault in found] == [None, "not_expressible", None, "not_expressible"]
    assert [fault and fault[0] for fault in checks.faults(rows[:3])] == [None] * 3


def test_what_constrained_generation_cannot_write_is_refused():
    pattern = {"type": "object", "properties": {"code": {"type": "string", "pattern": "^.+$"}}, "required": ["code"]}
    functions = FunctionSet((Function("find", "Find a code.", pattern),))
    rows = [{"request": f"Find {code}", "language": "en", "calls": [{"name": "find", "arguments": {"code": code}}]} for code in ("a/b", "a\\b")]
    assert [fault and fault[0] for fault in Checks(functions).faults(rows)] == [None, "grammar"]  # patterns allow no backslash


@pytest.mark.parametrize(("request_", "level"), [("Make it ten", 10), ("音量调到两格", 2), ("音量１２", 12), ("up to 30.", 30), ("turn it to 5%", 5)])
def test_numbers_may_be_said_in_words(checks, request_, level):
    row = {"request": request_, "language": "zh" if "音" in request_ else "en", "calls": [{"name": "set_volume", "arguments": {"level": level, "device": "phone"}}]}
    assert checks.faults([row]) == [None]


@pytest.mark.parametrize(("text", "request_", "is_said"), [
    ("the bus is late", "Tell Ann that the bus is lste", True), ("please tell her that the bus is late again", "Tell her that the bus is late", False),
    ("the bus is late", "The bus is lat", True), ("the bus is late", "The bus", False), ("late buses", "Buses on time", False),
    ("dining room lamp", "Turn off the living room lamp", False), ("dining room lamp", "Turn off the dinning room lamp", True),
    ("dining room lamp", "Turn off the diningroom lamp", True), ("living room lamps", "the living room lamp", True), ("the red cup on it", "the bed cup on it", False)])
def test_a_slip_of_the_pen_is_forgiven_and_a_missing_half_is_not(text, request_, is_said):
    assert text_said(text, request_) == is_said


@pytest.mark.parametrize(("value", "request_", "is_said"), [
    (-18, "Set the freezer to -18 degrees", True), (-18, "Set the freezer to 18 degrees", False), (-18, "Set it to minus 18", True), (-18, "Set it to \u221218", True),
    (-5, "温度调到零下5度", True), (-5, "温度调到5度", False), (-5, "温度为-5度", True), (-3, "rooms 2-3", False), (18, "Set it to 18", True),
    (18, "Set the freezer to -18 degrees", False), (18, "Set it to minus 18", False), (5, "温度调到零下5度", False),
    (-7, "between -5 and 7", False), (7, "between -5 and 7", True),
    (5, "pizza - 5 of them", True), (-7, "7 degrees below zero", True), (3, "from 3 to -3", True), (-3, "from 3 to -3", True),
    (3, "What is 10 minus 3?", True), (5, "温度在3月-5月", True), (20, "温度10元-20元", True), (3, "from -3 to three", True), (0.5, "a change of -50%", False),
    (15, "set it to 1,5 degrees", False), (1.5, "set it to 1,5 degrees", True), (1500, "1,500 steps", True), (1234567, "12,34,567 steps", True), (1.5, "1,500 steps", False),
    (2, "channels 1,2,3", True), (123, "channels 1,2,3", False), (1234.5, "pay 1,234.50", True), (-1500, "minus 1,500", True)])
def test_a_number_below_zero_is_said_with_its_sign(value, request_, is_said):
    assert number_said(value, request_, "zh" if "温" in request_ else "en") == is_said


def test_one_in_a_word_of_chinese_counts_nothing():
    assert not number_said(1, "帮我查一下天气", "zh") and number_said(1, "给我一个", "zh") and number_said(1, "周一下午", "zh")


def test_a_number_longer_than_a_double_is_said_digit_by_digit():
    assert number_said(9007199254740993, "the parcel 9,007,199,254,740,993", "en") and not number_said(9007199254740993, "the parcel 9007199254740992", "en")


def test_the_sieve_refuses_what_is_there_and_what_is_like_a_held_out_one(checks):
    def row(request):
        return {"request": request, "language": "en", "calls": [{"name": "find_contact", "arguments": {"name": "Ann Miller"}}]}

    sieve = Sieve(checks)
    assert sieve.take_all([row("Which number has Ann Miller?"), row("which number has ann miller")], "held_out", "single") == 1
    assert sieve.take_all([row("Which number has Ann Miller?!"), row("Which number has the Ann Miller?"), row("Ann Miller, I need her number")], "train", "single") == 1
    assert sieve.refused == {"duplicate": 1, "overlap": 1, "near_duplicate": 1}


def test_sentences_of_a_user_are_used_alone_and_the_fifth_is_held_out(table):
    mine = [f"Sentence {word}: louder, {{level}}." for word in ("one", "two", "three", "four", "five")]
    (table / "templates.json").write_text(json.dumps({"set_volume": {"en": mine}, "find_contact": {"en": ["Number of {name}?"]}}))
    assert made(table, "--templates", str(table / "templates.json"))["shared_sentences"] == ["find_contact"]
    for file, wanted in (("rows.jsonl", mine[:4]), ("held.jsonl", mine[4:])):
        said = {row["request"].split(":")[0] for row in read_lines(table / file) if row["calls"][0]["name"] == "set_volume"}
        assert said == {one.split(":")[0] for one in wanted}


@pytest.mark.parametrize(("templates", "said"), [
    ({"set_volum": {"en": ["x"]}}, "Did you mean 'set_volume'"), ({"set_volume": {"en": ["{lvl}"]}}, "no argument 'lvl'"), ({"set_volume": {"fr": ["{level}"]}}, "'fr'"),
    ({"set_volume": {"en": ["louder"]}}, "required level"), ({"set_volume": {"en": [""]}}, "no sentence"), ([], "no object")])
def test_a_user_is_told_what_is_wrong_with_templates(table, templates, said):
    (table / "templates.json").write_text(json.dumps(templates))
    with pytest.raises(ConfigError, match=said):
        Sentences.read(table / "templates.json", FunctionSet.from_json(TOOLS))


def test_a_sentence_list_that_stands_twice_loses_nothing_in_silence(table):
    (table / "templates.json").write_text('{"find_contact": {"en": ["Number of {name}?"]}, "find_contact": {"en": ["{name}?"]}}')
    with pytest.raises(ConfigError, match="'find_contact' stands twice.*templates.json"):
        Sentences.read(table / "templates.json", FunctionSet.from_json(TOOLS))


@pytest.mark.parametrize("more", [("--out", "{}/x/../functions.json"), ("--held-out", "{}/functions.json"), ("--templates", "{}/rows.jsonl"), ("--left-out", "{}/held.jsonl"),
                                  ("--functions", "{}/rows.report.json"), ("--held-out", "{}/rows.report.json"), ("--held-out", "{}/rows.work")])
def test_no_file_is_written_over_another(table, more):
    (table / "x").mkdir()
    with pytest.raises(ConfigError, match="one file"):
        made(table, *(word.format(table) for word in more))
    assert json.loads((table / "functions.json").read_text()) == TOOLS and len(list(table.iterdir())) == 2


@pytest.mark.parametrize(("more", "said"), [
    (("--held-out", "{}/x/../rows.jsonl"), "one file"), (("--teacher", "http://127.0.0.1:1", "--left-out", "{}/functions.json"), "--left-out"),
    (("--teacher", "http://127.0.0.1:1", "--templates", "{}/templates.json"), "--templates"),
    (("--second-look",), "Without --teacher.*--second-look"), (("--teacher-model", "m"), "Without --teacher.*--teacher-model"), (("--max-cost", "3"), "Without --teacher"),
    (("--temperature", "0"), "Without --teacher"), (("--concurrency", "9"), "Without --teacher")])
def test_flags_that_would_do_nothing_or_lose_a_split_are_refused(table, more, said):
    (table / "x").mkdir()
    with pytest.raises(ConfigError, match=said):
        made(table, *(word.format(table) for word in more))
    assert not (table / "rows.work").exists()


def test_a_number_of_held_out_rows_needs_their_file(table):
    with pytest.raises(ConfigError, match="Without --held-out it would do nothing"):
        run(parser().parse_args(["--functions", str(table / "functions.json"), "--out", str(table / "rows.jsonl"), "--per-function", "2", "--held-out-per-function", "50"]))


def test_negatives_are_nothing_that_the_set_does_and_half_of_them_near():
    functions = FunctionSet.from_json(TOOLS)
    left_out = FunctionSet.from_json([*TOOLS, {"name": "read_message", "description": "Read out the newest message of a sender.",
                                               "parameters": {"type": "object", "properties": {"sender": {"type": "string"}}, "required": ["sender"]}}])
    rows = negative_rows(functions, 40, 0, "train", ("en",), left_out)
    assert len(rows) == 40 and 15 <= sum("read" in row["request"].lower() for row in rows) <= 25
    assert 5 <= sum("read" in row["request"].lower() for row in rows[:20]) <= 15  # whoever takes the first of them has both kinds
    assert all(row["calls"] == [{"name": "irrelevant", "arguments": {}}] for row in rows)
    for tools, wanted in ((TOOLS, False), (TOOLS[:2], True)):  # only the second set has nothing to do with a volume
        far = negative_rows(FunctionSet.from_json(tools), 200, 0, "train", ("en",))
        assert any("volume" in row["request"].lower() for row in far) == wanted


def test_refused_negatives_are_made_up_for(table):
    report = made(table, "--held-out-per-function", "30", "--negatives", "0.5")
    kinds = report["splits"]["held_out"]["kinds"]
    assert report["refused"]["duplicate"] and kinds["negative"] == round(kinds["single"] / 2)


def test_only_what_fits_is_nested():
    found = {(outer.name, argument, inner.name) for outer, argument, inner in nestable(FunctionSet.from_json(TOOLS))}
    assert found == {("send_message", "to", "find_contact"), ("send_message", "text", "find_contact")}  # the level has bounds, which a result may not keep


@pytest.mark.parametrize("wanted", [{"type": "string", "format": "date"}, {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}]},
                                    {"allOf": [{"type": "string"}, {"format": "date"}]}, {"type": "string", "minLength": 3}])
def test_no_result_stands_where_a_format_is_wanted(wanted):
    outer = {"type": "object", "properties": {"when": wanted, "why": {"anyOf": [{"type": "string", "description": "Why."}, {"type": "null"}]}}}
    functions = FunctionSet((Function("plan", "Plan it.", outer), Function("find", "Find a text.")))
    assert [(one.name, argument, inner.name) for one, argument, inner in nestable(functions)] == [("plan", "why", "find")]


@pytest.mark.parametrize("key", ["$defs", "definitions"])
def test_what_is_given_back_may_refer_to_its_own_definitions(table, key):
    returns = {"$ref": f"#/{key}/number", key: {"number": {"type": "str"}}}
    (table / "functions.json").write_text(json.dumps([*TOOLS[:1], {**TOOLS[3], "returns": returns}]))
    functions = FunctionSet.from_json(table / "functions.json")
    functions.save(table)  # a checkpoint's table knows it too
    for found in (nestable(functions), nestable(FunctionSet.load(table))):
        assert {(outer.name, argument, inner.name) for outer, argument, inner in found} == {("send_message", name, "current_volume") for name in ("to", "text")}


def test_kinds_of_which_there_are_too_few_are_told(table, capsys):
    (table / "functions.json").write_text(json.dumps(TOOLS[2:3]))  # nothing gives anything back
    words = ["--functions", str(table / "functions.json"), "--out", str(table / "rows.jsonl"), "--per-function", "10", "--nested", "0.5"]
    assert main(["data", "requests", *words]) == 0 and "fewer nested ones than wanted: 0 of 5" in capsys.readouterr().out
    assert json.loads((table / "rows.report.json").read_text())["short_kinds"] == {"train": {"nested": {"got": 0, "wanted": 5}}}


def test_a_teacher_on_the_command_line(table):
    with serve(Writer()) as server:
        report = made(table, "--teacher", server.url, "--teacher-model", "teacher", "--negatives", "0.25", "--parallel", "0.1", "--second-look")
    assert report["rows"]["train"] == 80 + 20 + 8 and report["short"] == {"train": {}, "held_out": {}} and report["teacher"] == f"teacher at {server.url}"
    with pytest.raises(ConfigError, match="--teacher-model"):
        made(table, "--teacher", server.url)


@pytest.mark.official_data
def test_berkeley_functions_get_checked_rows(official_data):
    functions, _ = bfcl.read(official_data / "bfcl")
    small = FunctionSet(functions.functions[:60])
    sieve = Sieve(Checks(small))
    rows = template_rows(small, 3, 0, languages=("en", "zh"))
    assert sieve.take_all(rows, "train", "single") == len(rows) == 180 and not sieve.refused
    assert {row["calls"][0]["name"] for row in rows} == {function.name for function in small.functions if function.name != "irrelevant"}


def test_a_function_without_a_row_in_a_language_is_told(table, capsys):
    """Its rows in the other fill its number, and negatives in this one would teach the model to refuse it here."""
    odd = {"name": "defenestrate", "description": "Defenestrates a grommet.", "parameters": {"type": "object", "properties": {}}}
    (table / "functions.json").write_text(json.dumps([*TOOLS, odd]))
    assert main(["data", "requests", "--functions", str(table / "functions.json"), "--out", str(table / "rows.jsonl"), "--per-function", "4", "--languages", "en,zh"]) == 0
    assert "no row in zh, where the model will refuse them: defenestrate (give sentences" in capsys.readouterr().out
    assert json.loads((table / "rows.report.json").read_text())["without"] == {"train": {"zh": ["defenestrate"]}}
