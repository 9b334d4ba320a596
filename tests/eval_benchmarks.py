"""Small folders in the layouts that the real benchmarks are published in, with pictures of noise."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

from omnivision_eval.mmmu_subjects import SUBJECTS
from PIL import Image

OBJECTS = ("cat", "dog", "apple", "kite", "bus", "cup")
SIZE = (54, 54)


def picture(seed: int) -> Image.Image:
    """Noise."""
    return Image.frombytes("RGB", SIZE, random.Random(seed).randbytes(SIZE[0] * SIZE[1] * 3))


def png(seed: int) -> bytes:
    """The same as a file's bytes."""
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def write(path: Path, value) -> Path:
    """JSON, or JSON lines of a list where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in value) if path.suffix == ".jsonl" else json.dumps(value)
    path.write_text(text)
    return path


def save(path: Path, seed: int) -> None:
    """A picture's file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, "PNG")


def pope(folder: Path, images: int = 4) -> Path:
    """Six questions an image, the same positives in each split."""
    for at in range(images):
        save(folder / "val2014" / f"COCO_{at}.jpg", at)
    for split in ("random", "popular", "adversarial"):
        rng, rows = random.Random(split), []
        for at in range(images):
            asked = [(word, "yes") for word in OBJECTS[:3]] + [(rng.choice(OBJECTS) + f" {at}", "no") for _ in range(3)]
            rows += [{"question_id": len(rows) + i, "image": f"COCO_{at}.jpg", "text": f"Is there a {word} in the image?", "label": label}
                     for i, (word, label) in enumerate(asked, 1)]
        (folder / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def chartqa(folder: Path, images: int = 3) -> Path:
    """Two halves; two questions a chart."""
    for half in ("human", "augmented"):
        rows = []
        for at in range(images):
            save(folder / "test" / "png" / f"{half}{at}.png", at + 50 * (half == "human"))
            rows += [{"imgname": f"{half}{at}.png", "query": query, "label": str(at)} for query in ("How many?", f"Which is number {at}?")]
        write(folder / "test" / f"test_{half}.json", rows)
    return folder


def mmvet(folder: Path, questions: int = 6) -> Path:
    """Questions of two capability sets."""
    for at in range(questions):
        save(folder / "images" / f"v1_{at}.png", at)
    write(folder / "mm-vet.json", {f"v1_{at}": {"imagename": f"v1_{at}.png", "question": f"What is {at}?", "answer": f"{at}<AND>x",
                                                "capability": ["ocr", "rec"] if at % 2 else ["math"]} for at in range(questions)})
    return folder


def mmmu(folder: Path) -> Path:
    """A choice about two pictures and an open question about one, in each subject."""
    import datasets

    datasets.disable_progress_bars()
    features = datasets.Features({**dict.fromkeys(("id", "question", "options", "answer", "question_type"), datasets.Value("string")),
                                  **{f"image_{number}": datasets.Image() for number in range(1, 8)}})
    for at, subject in enumerate(SUBJECTS):
        (folder / subject).mkdir(parents=True)
        shown = [{"bytes": png(2 * at + number), "path": None} for number in range(2)]
        columns = {"id": [f"validation_{subject}_1", f"validation_{subject}_2"], "question": ["Which of <image 1> and <image 2>?", "How many in <image 1>?"],
                   "options": ["['x', \"y's\", 'z']", "[]"], "answer": ["B", "3.43"], "question_type": ["multiple-choice", "open"],
                   "image_1": [shown[0], shown[1]], "image_2": [shown[1], None], **{f"image_{number}": [None, None] for number in range(3, 8)}}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / subject / "validation-00000-of-00001.parquet")
    return folder


def scienceqa(folder: Path, problems: int = 8) -> Path:
    """Every other problem has a picture."""
    one = {"question": "Which?", "choices": ["x", "y", "z"], "answer": 1, "subject": "natural science", "grade": "grade2"}
    found = {str(at): one | {"question": f"Which is {at}?", "hint": "Look." if at % 3 else "", "image": "image.png" if at % 2 else None}
             for at in range(1, problems + 1)}
    for key, problem in found.items():
        if problem["image"]:
            save(folder / "images" / "test" / key / "image.png", int(key))
    write(folder / "problems.json", found)
    write(folder / "pid_splits.json", {"test": list(found), "val": [], "train": []})
    return folder


MAKERS = {"pope": pope, "chartqa": chartqa, "mmvet": mmvet, "mmmu": mmmu, "scienceqa": scienceqa}


def all_of_them(folder: Path) -> dict[str, Path]:
    """Benchmark -> its folder."""
    return {name: make(folder / name) for name, make in MAKERS.items()}
