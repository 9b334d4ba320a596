"""The first layers of a GGUF model: the same numbers as in the whole, and a start that the stage functions takes."""

from __future__ import annotations


import pytest
import torch
from model_parts import CONTROL, SHAPE, make_model, make_tokenizer
from omnivision_train.config import FOLLOWS
from test_export_import import TEXT, text_file
from transformers import AutoModelForCausalLM

from omnivision import OmniVisionForConditionalGeneration, OmniVisionProcessor
from omnivision.constants import IMAGE_TOKEN, TURN_END
from omnivision.errors import ConfigError, DataError
from omnivision.functions import Function, FunctionSet, install_tokens
from omnivision.generation import generate_ids
from omnivision.model import first_layers, untrained
from omnivision.model.build import load_tokenizer
from omnivision.runs import read_hand_over


@pytest.fixture(scope="module")
def whole():
    """A language model of two layers inside of ours, with numbers that an F16 file can hold."""
    made = make_model(vision_config=SHAPE, text_config=TEXT, image_token_id=make_tokenizer(CONTROL[:6]).convert_tokens_to_ids(IMAGE_TOKEN))
    with torch.no_grad():
        for values in made.parameters():
            values.copy_(values.half())
    return made


@pytest.fixture(scope="module")
def file(whole, tmp_path_factory):
    return text_file(tmp_path_factory.mktemp("gguf"), whole)


@pytest.fixture(scope="module")
def language(file, tmp_path_factory):
    """The folder with the first of the two layers."""
    out = tmp_path_factory.mktemp("cut") / "one"
    assert first_layers.main(["--file", str(file), "--layers", "1", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def start(language, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "untrained"
    assert untrained.main(["--vision", "tiny", "--language", str(language), "--out", str(out)]) == 0
    return out


def test_the_first_layer_has_the_numbers_of_the_whole(whole, language):
    cut = AutoModelForCausalLM.from_pretrained(language)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        hidden = whole.model.language_model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        wanted = whole.lm_head(whole.model.language_model.norm(hidden))
        torch.testing.assert_close(cut(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert len(cut.model.layers) == cut.config.num_hidden_layers == 1
    assert cut.lm_head.weight is cut.model.embed_tokens.weight and not hasattr(cut.config, "quantization_config")


def test_its_tokenizer_reads_as_before_and_pads_with_the_end_of_the_text(language):
    words, before = load_tokenizer(str(language)), make_tokenizer(CONTROL[:6])
    for text in ("Is there a red cat in the image?", "图中有几只猫？"):
        assert words(text)["input_ids"] == before(text)["input_ids"]
    assert words.pad_token == "<|endoftext|>" and words.eos_token == TURN_END


def test_the_start_takes_functions_and_stops(start):
    assert read_hand_over(start, FOLLOWS["functions"], "functions")["stage"] == untrained.STAGE
    model, processor = OmniVisionForConditionalGeneration.from_pretrained(start), OmniVisionProcessor.from_pretrained(start)
    install_tokens(model, processor.tokenizer, FunctionSet(tuple(Function(f"find_{at}", f"Find {at}.") for at in range(100))))
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) > 448, "more functions than spare rows: the table grows"
    assert model.lm_head.weight is model.get_input_embeddings().weight
    end = processor.tokenizer.convert_tokens_to_ids(TURN_END)

    def only_end(logits, answers):
        return torch.full_like(logits, -1.0).index_fill_(-1, torch.tensor([end]), 1.0)

    assert generate_ids(model.eval(), processor, ["find it"], [[]], 8, 1, constrain=only_end) == [[end]]


def test_what_cannot_be_cut_is_refused(file, tmp_path):
    with pytest.raises(ConfigError, match="3 layers are wanted, and the model has 2"):
        first_layers.write(file, 3, tmp_path / "three")
    (tmp_path / "none.gguf").write_bytes(b"GGUF")
    with pytest.raises(DataError, match="cannot be read"):
        first_layers.write(tmp_path / "none.gguf", 1, tmp_path / "broken")
    assert not (tmp_path / "three").exists() and not (tmp_path / "broken").exists()


def test_the_wheel_is_found_without_an_import_and_its_absence_named(tmp_path, monkeypatch):
    monkeypatch.setattr(first_layers, "PACKAGE", "no_such_wheel")
    with pytest.raises(ConfigError, match="not installed") as error:
        first_layers.packaged_file()
    assert first_layers.INSTALL in str(error.value)
    (tmp_path / "carrier").mkdir()
    (tmp_path / "carrier" / "__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "carrier" / first_layers.FILE).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(first_layers, "PACKAGE", "carrier")
    assert first_layers.packaged_file() == tmp_path / "carrier" / first_layers.FILE


def test_the_pin_is_that_of_the_extra(root):
    import tomllib

    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert first_layers.INSTALL.split()[-1] in extras["smollm2"]
