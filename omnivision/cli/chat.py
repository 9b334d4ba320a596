"""`omnivision chat`: one question about one picture, the answer streamed as it is generated."""

from __future__ import annotations

import argparse
import json
import sys
import time

from omnivision_cli.call import check_request
from omnivision_cli.terminal import for_terminal

EXAMPLE = 'example: omnivision chat --model runs/quickstart/sft/final --image photo.jpg "How many cups are there?"'


def main(argv: list[str]) -> int:
    """Answers one question; the answer is all that stands on stdout."""
    parser = argparse.ArgumentParser(prog="omnivision chat", description="An answer about a picture, streamed.", epilog=EXAMPLE)
    parser.add_argument("--model", required=True, metavar="DIR", help="a checkpoint in the hub's layout, a run's final/ folder")
    parser.add_argument("--image", required=True, metavar="FILE", help="JPEG, PNG or WebP")
    parser.add_argument("--max-new-tokens", type=int, default=128, metavar="N", help="longest answer (default 128)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, not streamed")
    parser.add_argument("question")
    options = parser.parse_args(argv)
    if options.max_new_tokens < 1:
        parser.error(f"--max-new-tokens is {options.max_new_tokens}; at least 1 is needed")
    check_request(parser, options.question, "question")

    from omnivision.data.image import open_image
    from omnivision.functions import FunctionSet
    from omnivision.model.checkpoints import load_checkpoint, model_folder

    folder = model_folder(options.model)  # both inputs are judged before anything slow begins
    picture = open_image(options.image)
    functions = FunctionSet.beside(folder)
    model, processor = load_checkpoint(folder)
    started = time.perf_counter()
    ids = answer_ids(model, processor, picture, options.question, options.max_new_tokens, stream=not (options.json or functions))
    text, calls = shown(processor.tokenizer, ids, functions)
    if calls:
        print("chat: the answer holds calls of functions; `omnivision call` reads them", file=sys.stderr)
    if functions and not options.json:
        print(for_terminal(text))
    if options.json:
        print(json.dumps({"model": options.model, "image": options.image, "question": options.question, "answer": text,
                          "tokens": len(ids), "seconds": round(time.perf_counter() - started, 3)}, ensure_ascii=False))
    return 0


def shown(tokenizer, ids: list[int], functions) -> tuple[str, bool]:
    """The answer's text, and whether it holds calls; their functional tokens, which are control tokens, stand there as the functions' names."""
    from itertools import groupby

    from omnivision.functions import functional_tokens

    names = {}
    if functions:
        tokens = functional_tokens(tokenizer, functions)
        names = {**dict(zip(tokens.functions, (one.name for one in functions.functions), strict=True)), tokens.end: ""}
    parts = ["".join(names[one] for one in some) if named else tokenizer.decode(list(some), skip_special_tokens=True) for named, some in groupby(ids, names.__contains__)]
    return "".join(parts).strip(), any(one in names for one in ids)


def answer_ids(model, processor, picture, question: str, max_new_tokens: int, stream: bool) -> list[int]:
    """Greedy answer to one question.

    Args:
        model, processor: as load_checkpoint gives them.
        picture: a PIL image.
        question: taken as text: control tokens typed into it stay letters.
        max_new_tokens: longest answer.
        stream: whether to print words on stdout as they come.

    Returns:
        The generated ids, without the prompt and the end of the turn.
    """
    import torch

    from omnivision.constants import TURN_END
    from omnivision.generation import stop_ids

    tokenizer = processor.tokenizer
    messages = [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": question}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    ends = sorted(stop_ids(model)) or [tokenizer.convert_tokens_to_ids(TURN_END)]
    streamer = _streamer(tokenizer) if stream else None
    with torch.inference_mode():
        output = model.generate(**inputs.to(model.device), max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer,
                                eos_token_id=ends, pad_token_id=tokenizer.pad_token_id)
    sys.stdout.flush()
    ids = output[0, inputs["input_ids"].shape[1]:].tolist()
    return [one for one in ids if one not in ends]


def _streamer(tokenizer):
    """Prints an answer word by word."""
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            super().on_finalized_text(for_terminal(text), stream_end)

    return Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
