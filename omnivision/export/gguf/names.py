"""GGUF's names for the tensors of a checkpoint."""

from __future__ import annotations

LANGUAGE = "model.language_model."
TOWER = "model.vision_tower."
PROJECTOR = "model.projector."

TEXT_WHOLE = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
TEXT_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
WITH_BIAS = ("attn_q", "attn_k", "attn_v")

PICTURE_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_out": "self_attn.out_proj",
    "ln1": "layer_norm1",
    "ln2": "layer_norm2",
    "ffn_up": "mlp.fc1",
    "ffn_down": "mlp.fc2",
}
PICTURE_WHOLE = {
    "v.patch_embd.weight": "embeddings.patch_embedding.weight",
    "v.patch_embd.bias": "embeddings.patch_embedding.bias",
    "v.position_embd.weight": "embeddings.position_embedding.weight",
}
POST_NORM = {"v.post_ln.weight": "post_layernorm.weight", "v.post_ln.bias": "post_layernorm.bias"}
KINDS = ("weight", "bias")


def text_names(blocks: int, tied: bool) -> dict[str, str]:
    """GGUF name -> checkpoint name of the language model's tensors; a tied head has none of its own."""
    found = {ours: LANGUAGE + theirs for ours, theirs in TEXT_WHOLE.items()}
    if not tied:
        found["output.weight"] = "lm_head.weight"
    for block in range(blocks):
        for short, long in TEXT_BLOCK.items():
            for kind in KINDS[: 2 if short in WITH_BIAS else 1]:
                found[f"blk.{block}.{short}.{kind}"] = f"{LANGUAGE}layers.{block}.{long}.{kind}"
    return found


def picture_names(blocks: int, post_norm: bool, released: bool = False) -> dict[str, str]:
    """GGUF name -> checkpoint name of the tower's and the projector's tensors.

    Args:
        blocks: how many of the tower's blocks are there.
        post_norm: whether the norm behind them is.
        released: as the released OmniVLM file has them: the projector's linears are 0 and 2 (lfm2: 1 and 2), fc1 is called ffn_down and fc2 ffn_up.
    """
    found = {ours: TOWER + theirs for ours, theirs in {**PICTURE_WHOLE, **(POST_NORM if post_norm else {})}.items()}
    other = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"} if released else {}
    for block in range(blocks):
        for short, long in PICTURE_BLOCK.items():
            for kind in KINDS:
                found[f"v.blk.{block}.{other.get(short, short)}.{kind}"] = f"{TOWER}encoder.layers.{block}.{long}.{kind}"
    for number, layer in ((0 if released else 1, "linear_1"), (2, "linear_2")):
        for kind in KINDS:
            found[f"mm.{number}.{kind}"] = f"{PROJECTOR}{layer}.{kind}"
    return found
