"""Qwen3-VL: a language model that reads pictures and clips as tokens among its words, and says what comes next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from minivid.layers.attention import KERNELS, MultiHeadAttention, block_mask, causal_mask
from minivid.layers.feed_forward import SwiGLU
from minivid.layers.kv_cache import KVCache
from minivid.layers.linear import Linear, linear
from minivid.layers.norms import RMSNorm
from minivid.layers.positions import Rotary, interleaved_axes, mrope_angles, mrope_positions, turns
from minivid.models.qwen3_vl_vision import SMALL_CONFIG as SMALL_VISION_CONFIG
from minivid.models.qwen3_vl_vision import (
    Qwen3VLVision,
    Qwen3VLVisionConfig,
    VisionFeatures,
    initialize,
)
from minivid.shapes import Grid, ShapeError, checked_grid


@dataclass(frozen=True)
class Qwen3VLTextConfig:
    """The numbers of the language model; names as published, defaults those of Qwen3-VL-4B.

    Attributes:
        vocab_size: tokens v.
        hidden_size: width d of a token.
        num_hidden_layers: layers.
        num_attention_heads: heads of the queries.
        num_key_value_heads: heads of the keys and values, a divisor of num_attention_heads.
        head_dim: width k of a head, even; the heads together may be wider or narrower than a token.
        intermediate_size: hidden width f of each feed-forward layer.
        rms_norm_eps: keeps the normalisations away from division by zero.
        rope_theta: base of the rotary angles.
        mrope_section: pairs of a head that time, row and column turn, head_dim / 2 in all.
        attention_bias: whether the four projections of the attention add a number.
        initializer_range: standard deviation of the first weights.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    vocab_size: int = 151936
    hidden_size: int = 2560
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    intermediate_size: int = 9728
    rms_norm_eps: float = 1e-6
    rope_theta: float = 5_000_000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    attention_bias: bool = False
    initializer_range: float = 0.02

    def __post_init__(self):
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
            "intermediate_size",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not at least 1")
        for name in ("rms_norm_eps", "rope_theta", "initializer_range"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} is not above 0")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: rotation turns pairs of numbers")
        interleaved_axes(self.mrope_section)
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"mrope_section={tuple(self.mrope_section)} has {sum(self.mrope_section)} pairs, but head_dim="
                f"{self.head_dim} has {self.head_dim // 2}"
            )


@dataclass(frozen=True)
class Qwen3VLConfig:
    """The numbers of a Qwen3-VL; names as published, defaults those of Qwen3-VL-4B.

    What it has not as published: kernel, and "gelu_tanh" where that says "gelu_pytorch_tanh".

    Attributes:
        text_config: of the language model.
        vision_config: of the vision tower.
        image_token_id: the id that stands for every merged token of a picture.
        video_token_id: the id that stands for every merged token of a clip.
        vision_start_token_id, vision_end_token_id: the ids around them; the model reads them as words.
        tie_word_embeddings: whether the vocabulary head is the table of token embeddings.
        kernel: how attention is computed, as in MultiHeadAttention; no weight and, up to rounding, no result depends on
            it. Only "plain" has gradients of gradients.

    Raises:
        ValueError: if the numbers do not fit together.
    """

    text_config: Qwen3VLTextConfig = field(default_factory=Qwen3VLTextConfig)
    vision_config: Qwen3VLVisionConfig = field(default_factory=Qwen3VLVisionConfig)
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653
    tie_word_embeddings: bool = True
    kernel: str = "fastest"

    def __post_init__(self):
        v = self.text_config.vocab_size
        for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
            if not 0 <= getattr(self, name) < v:
                raise ValueError(f"{name}={getattr(self, name)} is no token of vocab_size={v}")
        if self.image_token_id == self.video_token_id:
            raise ValueError(f"image_token_id and video_token_id are both {self.image_token_id}")
        if self.vision_config.out_hidden_size != self.text_config.hidden_size:
            raise ValueError(
                f"vision_config.out_hidden_size={self.vision_config.out_hidden_size} is not "
                f"text_config.hidden_size={self.text_config.hidden_size}, the width of a token"
            )
        if self.kernel not in KERNELS:
            raise ValueError(f"kernel={self.kernel!r} is none of {', '.join(KERNELS)}")


SMALL_CONFIG = Qwen3VLConfig(
    text_config=Qwen3VLTextConfig(
        vocab_size=512,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        rope_theta=10000.0,
        mrope_section=(4, 2, 2),
    ),
    vision_config=SMALL_VISION_CONFIG,
    image_token_id=510,
    video_token_id=511,
    vision_start_token_id=508,
    vision_end_token_id=509,
)
"""For clips of 8 frames of 32 x 32 pixels, which are 16 tokens among the words."""


class Qwen3VLCache:
    """What a model has read so far: every layer's keys and values, and where the next token stands.

    Args:
        num_layers: of the language model.
        capacity: tokens to make room for at first.

    Attributes:
        layers: one KVCache a layer.
        next_position: of each row, the position of the token that comes next, on all three axes; None = nothing is
            read yet.
        kept: True = a token, False = padding, for all tokens so far; None = there is no padding.
    """

    def __init__(self, num_layers: int, capacity: int = 64):
        self.layers = [KVCache(capacity) for _ in range(num_layers)]
        self.next_position: Int[Tensor, " b"] | None = None
        self.kept: Bool[Tensor, "b s"] | None = None

    @property
    def length(self) -> int:
        """Tokens read so far, padding included."""
        return self.layers[0].length

    def go_on(
        self, input_ids: Int[Tensor, "b n"], kept: Bool[Tensor, "b n"] | None, following: Int[Tensor, " b"]
    ) -> Bool[Tensor, "b s"] | None:
        """Note that tokens are read, before the layers append them.

        Args:
            input_ids: the new tokens.
            kept: True = a token, False = padding; None = no padding.
            following: of each row, the position of the token after them.

        Returns:
            `kept` for all tokens so far.

        Raises:
            ShapeError: if the batch has another number of rows than before.
        """
        b, n = input_ids.shape
        if self.next_position is not None and len(self.next_position) != b:
            raise ShapeError(
                f"input_ids: b={b} rows, but the cache has read {len(self.next_position)}; a cache serves one batch"
            )
        self.next_position = following
        if kept is None and self.kept is None:
            return None
        earlier = input_ids.new_ones(b, self.length, dtype=torch.bool) if self.kept is None else self.kept
        new = input_ids.new_ones(b, n, dtype=torch.bool) if kept is None else kept
        self.kept = torch.cat([earlier, new], 1)
        return self.kept


class Qwen3VLLayer(nn.Module):
    """One layer of the language model: tokens look back at each other, then each passes a gated feed-forward layer.

        x = x + attention(norm(x));   x = x + feed_forward(norm(x))

    Queries and keys are normed head by head, then turned; groups of query heads share one head of keys and values.
    Children `attention_norm`, `attention`, `feed_forward_norm` and `feed_forward`.

    Args:
        config: the numbers.
        kernel: as in MultiHeadAttention.

    Source: Qwen3 technical report, section 2 (arXiv:2505.09388).
    """

    def __init__(self, config: Qwen3VLTextConfig, *, kernel: str = "plain"):
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = RMSNorm(d, eps)
        self.attention = MultiHeadAttention(
            d,
            config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            qk_norm_eps=eps,
            bias=config.attention_bias,
            kernel=kernel,
        )
        self.feed_forward_norm = RMSNorm(d, eps)
        self.feed_forward = SwiGLU(d, config.intermediate_size)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        cache: KVCache | None = None,
        rotary: Rotary | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Let the tokens look back, then send each through the feed-forward layer.

        Args:
            x: tokens.
            mask: True = may look; broadcasts to b heads n s. None = every token looks at itself and all before it.
            cache: what this layer kept of earlier tokens; x is appended.
            rotary: angles of the tokens x, or what `turns` makes of them.
        """
        looked = self.attention(self.attention_norm(x), mask=mask, causal=mask is None, cache=cache, rotary=rotary)
        x = x + looked  # b n d
        return x + self.feed_forward(self.feed_forward_norm(x))  # b n d


class Qwen3VLLanguageModel(nn.Module):
    """Token embeddings, layers and a last norm; what the eyes saw is added once more behind the first layers.

    Children `embed_tokens`, `layers` and `norm`.

    Args:
        config: the numbers.
        kernel: as in MultiHeadAttention.

    Source: Qwen3-VL technical report, section 2 (arXiv:2511.21631).
    """

    def __init__(self, config: Qwen3VLTextConfig, *, kernel: str = "plain"):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Qwen3VLLayer(config, kernel=kernel) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        positions: Int[Tensor, "b n 3"],
        *,
        mask: Bool[Tensor, "..."] | None = None,
        rows: Int[Tensor, " tokens"] | None = None,
        deepstack: Sequence[Float[Tensor, "tokens d"]] = (),
        caches: Sequence[KVCache] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """Send embedded tokens through all layers and the last norm.

        Args:
            x: embedded tokens, pictures among them.
            positions: time, row and column of every token.
            mask: True = may look; broadcasts to b heads n s. None = every token looks at itself and all before it.
            rows: where the tokens of pictures stand, counted over the whole batch.
            deepstack: what is added to them behind layer 0, 1, 2, ...; levels beyond the last layer are left out.
            caches: one for each layer; x is appended.
        """
        angles = mrope_angles(positions, self.config.mrope_section, base=self.config.rope_theta)  # b n k/2
        rotary = turns(angles)  # b 1 n k, twice: every layer turns by the same
        for i, layer in enumerate(self.layers):
            x = layer(x, mask=mask, cache=None if caches is None else caches[i], rotary=rotary)  # b n d
            if i < len(deepstack):
                x = x.flatten(0, 1).index_add(0, rows, deepstack[i].to(x.dtype)).view_as(x)  # b n d
        return self.norm(x)


class Qwen3VL(nn.Module):
    """A vision tower makes tokens of pictures and clips, a language model reads them among words.

        x = table(ids), with merged features in place of the placeholders
        x = layers(x), with DeepStack's features added to the pictures' tokens behind the first layers
        logits = W norm(x)

    Children `visual`, `language_model` and, unless tie_word_embeddings, `lm_head`; with it, lm_head is None and W is
    language_model.embed_tokens.weight.

    Args:
        config: the numbers.

    Source: Qwen3-VL technical report, section 2 (arXiv:2511.21631).
    """

    def __init__(self, config: Qwen3VLConfig):
        super().__init__()
        self.config = config
        text = config.text_config
        self.visual = Qwen3VLVision(config.vision_config, kernel=config.kernel)
        self.language_model = Qwen3VLLanguageModel(text, kernel=config.kernel)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else Linear(text.hidden_size, text.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: matrices and tables normal, biases zero, scales one."""
        initialize(self, self.config.text_config.initializer_range)
        self.visual.reset_parameters()

    def forward(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"] | None = None,
        pixel_values: Float[Tensor, "rows box"] | None = None,
        image_grid_thw: Int[Tensor, "images 3"] | None = None,
        pixel_values_videos: Float[Tensor, "rows_videos box"] | None = None,
        video_grid_thw: Int[Tensor, "videos 3"] | None = None,
        *,
        position_ids: Int[Tensor, "b n 3"] | None = None,
        document_lengths: Sequence[int] | Int[Tensor, " documents"] | None = None,
        cache: Qwen3VLCache | None = None,
        keep: int | Bool[Tensor, "b n"] | None = None,
    ) -> Float[Tensor, "b n v"] | Float[Tensor, "b last v"] | Float[Tensor, "kept v"]:
        """Score every token of the vocabulary as the next one.

        Args:
            input_ids: tokens; every merged patch of a picture is one image_token_id, of a clip one video_token_id.
            attention_mask: 0 or False on padding, which nobody sees and which has no position; None = no padding.
            pixel_values: patches of all pictures, in the order of their placeholders over the whole batch.
            image_grid_thw: patches of every picture along time, height and width.
            pixel_values_videos, video_grid_thw: the same for clips.
            position_ids: time, row and column of every token; None = `mrope_positions`, counted anew in each document.
            document_lengths: tokens of each of several texts that stand one behind the other in a batch of one row and
                do not see each other; None = every row is one text.
            cache: what was read before; the ids are those that follow, and are added to it. Their attention_mask is
                that of the new ids alone.
            keep: which tokens get logits. None = all; a number k = the last k of each row; a mask = where it is True,
                as "kept v": a vocabulary head on few tokens saves most of its work and memory.

        Returns:
            Logits, those on padding without meaning.

        Raises:
            ShapeError: if placeholders, grids and patches do not fit together, or a tensor has another shape.
            ValueError: if document_lengths is given with a cache, or keep is a number below 1.
        """
        hidden = self.hidden(
            input_ids,
            attention_mask,
            pixel_values,
            image_grid_thw,
            pixel_values_videos,
            video_grid_thw,
            position_ids=position_ids,
            document_lengths=document_lengths,
            cache=cache,
        )  # b n d
        return self.logits(_kept(hidden, keep))  # b n v

    def hidden(
        self,
        input_ids: Int[Tensor, "b n"],
        attention_mask: Int[Tensor, "b n"] | Bool[Tensor, "b n"] | None = None,
        pixel_values: Float[Tensor, "rows box"] | None = None,
        image_grid_thw: Int[Tensor, "images 3"] | None = None,
        pixel_values_videos: Float[Tensor, "rows_videos box"] | None = None,
        video_grid_thw: Int[Tensor, "videos 3"] | None = None,
        *,
        position_ids: Int[Tensor, "b n 3"] | None = None,
        document_lengths: Sequence[int] | Int[Tensor, " documents"] | None = None,
        cache: Qwen3VLCache | None = None,
    ) -> Float[Tensor, "b n d"]:
        """What the vocabulary head reads: every token after all layers and the last norm.

        Args, Raises: as in `forward`.
        """
        pictures = {"image": (pixel_values, image_grid_thw), "video": (pixel_values_videos, video_grid_thw)}
        if document_lengths is not None and cache is not None:
            raise ValueError("document_lengths: with a cache every row is one text; give one or the other")
        start = None if cache is None else cache.next_position
        rows, seen = self._see(input_ids, pictures, goes_on=start is not None)
        x = self.language_model.embed_tokens(input_ids.to(self.device))  # b n d
        if seen is not None:
            x = x.flatten(0, 1).index_copy(0, rows, seen.merged.to(x.dtype)).view_as(x)  # b n d
        kept = _real_tokens(attention_mask, input_ids)  # b n, or None
        if position_ids is None:
            grids = None if seen is None else (image_grid_thw, video_grid_thw)
            position_ids, following = self._positions(input_ids, kept, grids, document_lengths, start)  # b n 3, b
        else:
            following = _one_a_token(position_ids, input_ids).amax((1, 2)) + 1  # b
        if cache is not None:
            kept = cache.go_on(input_ids, kept, following)  # b s, or None
        s = input_ids.shape[1] + (0 if cache is None else cache.length)
        return self.language_model(
            x,
            position_ids.to(x.device),
            mask=_mask(x, kept, document_lengths, s),
            rows=rows,
            deepstack=() if seen is None else seen.deepstack,
            caches=None if cache is None else cache.layers,
        )  # b n d

    def logits(self, hidden: Float[Tensor, "*tokens d"]) -> Float[Tensor, "*tokens v"]:
        """Score every token of the vocabulary with what `hidden` gives.

        Args:
            hidden: any tokens of it.
        """
        head = self.language_model.embed_tokens if self.lm_head is None else self.lm_head
        return linear(hidden, head.weight)

    def make_cache(self, capacity: int = 64) -> Qwen3VLCache:
        """An empty cache for this model.

        Args:
            capacity: tokens to make room for at first.
        """
        return Qwen3VLCache(len(self.language_model.layers), capacity)

    @property
    def device(self) -> torch.device:
        """Where the weights are. Token ids, masks and grids may be elsewhere, best where their numbers can be read."""
        return self.language_model.embed_tokens.weight.device

    def example_inputs(self, batch: int = 1) -> tuple[Tensor | None, ...]:
        """Texts that hold one clip of zeros each, of two frame groups of 2 x 2 merged tokens.

        Args:
            batch: how many texts.
        """
        c = self.config
        group = [c.vision_start_token_id, *[c.video_token_id] * 4, c.vision_end_token_id]
        input_ids = torch.tensor([group * 2] * batch, device="cpu")  # its numbers are read, on any device
        patches, grid = self.visual.example_inputs(batch)
        return input_ids, None, None, None, patches, grid

    def _see(
        self, input_ids: Tensor, pictures: dict[str, tuple[Tensor | None, Tensor | None]], *, goes_on: bool
    ) -> tuple[Tensor | None, VisionFeatures | None]:
        """What the vision tower makes of pictures and clips, and which tokens of the batch that is, one after another.

        A text that goes on without new pictures has none: a placeholder in it is a word that the model itself has said.
        """
        given = {kind: pair for kind, pair in pictures.items() if pair != (None, None)}
        if goes_on and not given:
            return None, None
        rows = []
        for kind, (patches, grids) in pictures.items():
            name = "pixel_values" if kind == "image" else "pixel_values_videos"
            token = self.config.image_token_id if kind == "image" else self.config.video_token_id
            places = (input_ids == token).flatten().nonzero()[:, 0]
            if (patches is None) != (grids is None) or (patches is None and len(places)):
                raise ShapeError(
                    f"input_ids: {len(places)} {kind} placeholders (id {token}), but "
                    f"{'no ' * (patches is None)}{name} and {'no ' * (grids is None)}{kind}_grid_thw; give both"
                )
            if grids is not None:
                self._check_count(kind, len(places), grids)
            rows.append(places)
        if not given:
            return None, None
        patches, grids = (
            torch.cat(tensors) if len(given) > 1 else tensors[0] for tensors in zip(*given.values(), strict=True)
        )
        return torch.cat(rows).to(self.device), self.visual(patches, grids)

    def _check_count(self, kind: str, placeholders: int, grids: Tensor) -> None:
        m = self.config.vision_config.spatial_merge_size
        merged = sum(gt * gh * gw for gt, gh, gw in (checked_grid(Grid(*grid), m) for grid in grids.tolist())) // m**2
        if merged != placeholders:
            raise ShapeError(
                f"input_ids: {placeholders} {kind} placeholders, but {kind}_grid_thw {grids.tolist()} makes {merged} "
                f"tokens (t h w / spatial_merge_size {m}^2); give one placeholder for each"
            )

    def _positions(
        self,
        input_ids: Tensor,
        kept: Tensor | None,
        grids: tuple[Tensor | None, Tensor | None] | None,
        document_lengths: Sequence[int] | Tensor | None,
        start: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Time, row and column of every token, b n 3, and the position that comes next, b."""
        if document_lengths is not None:
            return self._positions_in_documents(input_ids, kept, grids, document_lengths)
        if grids is None:  # words alone count on all three axes at once
            real = torch.ones_like(input_ids) if kept is None else kept.to(input_ids)
            positions = ((real.cumsum(1) - 1) * real)[..., None].expand(-1, -1, 3)  # b n 3
            following = real.sum(1)
        else:
            positions, following = mrope_positions(
                input_ids,
                image_token_id=self.config.image_token_id,
                video_token_id=self.config.video_token_id,
                attention_mask=kept,
                image_grid_thw=grids[0],
                video_grid_thw=grids[1],
                spatial_merge_size=self.config.vision_config.spatial_merge_size,
            )
        return (positions, following) if start is None else (positions + start[:, None, None], following + start)

    def _positions_in_documents(
        self, input_ids: Tensor, kept: Tensor | None, grids: tuple | None, lengths: Sequence[int] | Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for documents in one row: each is counted as a row of its own."""
        lengths = list(map(int, lengths))
        if len(input_ids) != 1 or sum(lengths) != input_ids.shape[1] or min(lengths) < 1:
            raise ShapeError(
                f"document_lengths: {lengths}, {sum(lengths)} tokens in all, expected those of one row; input_ids is "
                f"{tuple(input_ids.shape)}"
            )
        real = torch.ones_like(input_ids) if kept is None else kept
        documents, real = (pad_sequence(x[0].split(lengths), batch_first=True) for x in (input_ids, real))
        positions, following = self._positions(documents, real, grids, None, None)
        return torch.cat([row[:length] for row, length in zip(positions, lengths, strict=True)])[None], following[-1:]


def _real_tokens(attention_mask: Tensor | None, input_ids: Tensor) -> Tensor | None:
    """True where there is no padding; None where there is none at all."""
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ShapeError(
            f"attention_mask: shape {tuple(attention_mask.shape)}, expected that of input_ids, "
            f"{tuple(input_ids.shape)}; with a cache, give the mask of the new ids alone"
        )
    return None if attention_mask.all() else attention_mask.bool()


def _one_a_token(position_ids: Tensor, input_ids: Tensor) -> Tensor:
    if position_ids.shape != (*input_ids.shape, 3):
        raise ShapeError(
            f"position_ids: shape {tuple(position_ids.shape)}, expected {(*input_ids.shape, 3)}: time, row and column "
            "of every token"
        )
    return position_ids


def _mask(x: Tensor, kept: Tensor | None, lengths: Sequence[int] | Tensor | None, s: int) -> Tensor | None:
    """Who may look where; None = every token at itself and at all before it."""
    if kept is None and lengths is None:
        return None
    mask = causal_mask(x.shape[1], s, device=x.device)  # n s
    if lengths is not None:
        mask = mask & block_mask(lengths).to(x.device)
    return mask if kept is None else mask & kept.to(x.device)[:, None, None, :]  # b 1 n s


def _kept(hidden: Tensor, keep: int | Tensor | None) -> Tensor:
    """The tokens that get logits."""
    if keep is None:
        return hidden
    if isinstance(keep, Tensor):
        if keep.shape != hidden.shape[:2]:
            raise ShapeError(f"keep: shape {tuple(keep.shape)}, expected one entry a token, {tuple(hidden.shape[:2])}")
        return hidden[keep.to(hidden.device)]
    if keep < 1:
        raise ValueError(f"keep is {keep}, expected a mask or at least 1, the last tokens of each row")
    return hidden[:, -keep:]
