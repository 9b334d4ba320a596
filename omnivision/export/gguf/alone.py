"""One question about a picture to a GGUF pair in llama.cpp: how long it takes and how much memory, in a process that holds nothing else.

    python alone.py model-f16.gguf mmproj-f16.gguf picture.png "How many cups are there?"

Run by its path, so that neither torch nor the rest of the package is loaded; needs xllamacpp.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import secrets
import sys
import time
import urllib.request
from pathlib import Path

CONTEXT = 2048
NEW_TOKENS = 32  # decoded after the first, past the answer's end
ROUNDS = 3  # the median of their times


def main(argv: list[str]) -> int:
    """Prints one JSON object: seconds and bytes."""
    text, picture_file, picture, question = argv
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = text, picture_file
    params.n_ctx, params.n_parallel, params.n_batch, params.n_ubatch = CONTEXT, 1, CONTEXT, 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    params.warmup = params.fit_params = params.ui = False
    params.api_keys = [secrets.token_hex()]
    server = xllamacpp.Server(params)

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is this process, no proxy leads to it

    def post(path: str, body: dict) -> dict:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {params.api_keys[0]}"}
        with opener.open(urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)) as answer:
            return json.load(answer)

    shown = base64.b64encode(Path(picture).read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{shown}"}}, {"type": "text", "text": question}]
    prompt = {"prompt_string": post("/apply-template", {"messages": [{"role": "user", "content": content}]})["prompt"], "multimodal_data": [shown]}
    firsts, rates = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        post("/completion", {"prompt": prompt, "n_predict": 1, "temperature": 0, "cache_prompt": False})
        firsts.append(time.perf_counter() - started)
        longer = {"prompt": prompt, "n_predict": 1 + NEW_TOKENS, "temperature": 0, "cache_prompt": False, "ignore_eos": True}
        rates.append(post("/completion", longer)["timings"]["predicted_per_second"])
    print(json.dumps({"seconds_to_first_token": sorted(firsts)[ROUNDS // 2], "tokens_per_second": sorted(rates)[ROUNDS // 2],
                      "peak_bytes": peak_bytes()}))
    return 0


def peak_bytes() -> int:
    """The most memory that this process held. Linux' getrusage would count what its parent held before it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
