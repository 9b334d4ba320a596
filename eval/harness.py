"""lm-eval's own command with our model known to it: `python -m omnivision_eval.harness run ...`.

Plain `lm-eval` cannot open a checkpoint of ours by its folder, because nothing imports omnivision before it loads
the model. Example, the same score as `omnivision eval pope_random`:

    python -m omnivision_eval.harness run --model hf-multimodal \
        --model_args pretrained=runs/NAME/sft/final,convert_img_format=True --apply_chat_template \
        --include_path eval/tasks --tasks omnivision_pope_random --metadata '{"data_dir": "world"}'

`--model omnivision --model_args pretrained=DIR` uses our generation instead, and is the only one that can score
omnivision_actions.
"""

from __future__ import annotations

import sys

from omnivision.errors import OmniError
from omnivision_cli.failures import describe, report


def main() -> None:
    """Registers the model classes, then hands over to lm-eval."""
    import omnivision.model.auto  # noqa: F401 - transformers' Auto classes

    from . import lm  # noqa: F401 - lm-eval's registry

    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except OmniError as error:
        sys.exit(report(describe(error), as_json=False))


if __name__ == "__main__":
    main()
