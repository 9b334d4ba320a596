"""The projector: patches are grouped into image tokens, then Linear, GELU, Linear into the language model's width.

Legend: B images, P patches, C vision width, T image tokens, G width of a token's patches together,
D language width.
"""

from __future__ import annotations

from torch import Tensor, nn

from omnivision.model.layouts import LAYOUTS

# rms of gelu(x) for a standard normal x; with it the projector starts at a chosen scale
GELU_RMS = 0.652


class Projector(nn.Module):
    """Turns tower features into word-embedding-like image tokens.

    Args:
        layout: a key of layouts.LAYOUTS.
        group: patches of one token.
        grid: patches along one side of the image.
        vision_width: C.
        hidden_width: between the two linears.
        text_width: D.
        gelu: "erf" or "tanh".

    Source: OmniVLM, the reshape 729 x 1152 -> 81 x 10368, then 10368 -> 4096 -> 896.
    """

    def __init__(self, layout: str, group: int, grid: int, vision_width: int, hidden_width: int, text_width: int,
                 gelu: str) -> None:
        super().__init__()
        self.layout = LAYOUTS[layout](group, grid, vision_width)
        self.linear_1 = nn.Linear(self.layout.out_width, hidden_width)
        self.act = nn.GELU(approximate="none" if gelu == "erf" else "tanh")
        self.linear_2 = nn.Linear(hidden_width, text_width)

    def forward(self, features_BPC: Tensor) -> Tensor:
        """Returns (B, T, D). Features are cast to the projector's own type: that of the linear which is not kept in fp32, see kept_layers."""
        own = min(self.linear_1.weight.dtype, self.linear_2.weight.dtype, key=lambda kind: kind.itemsize)
        return self.of_tokens(self.layout(features_BPC.to(own)))

    def of_tokens(self, tokens_NG: Tensor) -> Tensor:
        """The same for tokens' grouped patches, (..., G) -> (..., D)."""
        return self.linear_2(self.act(self.linear_1(tokens_NG)))

    def initial_stds(self, output_std: float) -> dict[nn.Module, float]:
        """Standard deviations of the initial weights of every layer, so that features of unit variance leave with output_std.

        Image tokens that start at the scale of word embeddings do not drown the text in the residual stream.
        """
        stds = {
            self.linear_1: self.linear_1.in_features**-0.5,
            self.linear_2: output_std / GELU_RMS * self.linear_2.in_features**-0.5,
        }
        convolutions = [m for m in self.layout.modules() if isinstance(m, nn.Conv2d)]
        return stds | {conv: conv.weight[0].numel() ** -0.5 for conv in convolutions}
