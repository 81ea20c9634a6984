"""Positions: attention does not see the order of tokens, so each token is told where it stands."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from minivid.shapes import ShapeError


def sinusoidal(n: int, d: int, *, device: torch.device | str | None = None) -> Float[Tensor, "n d"]:
    """A table of waves, one row a position, to be added to the tokens.

        table[position, 2 i]     = sin(position / 10000^(2 i / d))
        table[position, 2 i + 1] = cos(position / 10000^(2 i / d))

    Each pair of columns is the hand of a clock, the first turning once in 2 pi positions, each later one more slowly.
    Moving on by a fixed number of positions turns every hand by a fixed angle, wherever it stands.

    Args:
        n: positions 0 to n - 1.
        d: width of a token, even.
        device: where the table is made.

    Raises:
        ValueError: if d is odd.

    Source: Vaswani et al. 2017, section 3.5 (arXiv:1706.03762).
    """
    if d % 2:
        raise ValueError(f"d is {d}, expected an even number: sines and cosines come in pairs")
    # In float32 the angle of position 100000 would already be off by 4e-3.
    position = torch.arange(n, dtype=torch.float64, device=device)
    speed = 10000.0 ** (-torch.arange(0, d, 2, dtype=torch.float64, device=device) / d)
    angle = position[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1).float()


def rotary_angles(positions: Int[Tensor, "*b n"], k: int, *, base: float = 10000.0) -> Float[Tensor, "*b n half"]:
    """By which angle each pair of numbers of a query or key is turned at each position.

        angle[position, i] = position / base^(2 i / k),   i = 0 .. k/2 - 1

    Args:
        positions: where each token stands, counted in tokens, frames, rows or columns.
        k: width of a head, even.
        base: how slow the slowest pair turns.

    Returns:
        half = k / 2 angles a position, in radians, as float32.

    Raises:
        ValueError: if k is odd.

    Source: Su et al. 2021, equation 15 (arXiv:2104.09864).
    """
    if k % 2:
        raise ValueError(f"k is {k}, expected an even number: rotation turns pairs")
    speed = base ** (-torch.arange(0, k, 2, dtype=torch.float64, device=positions.device) / k)
    return (positions[..., None] * speed).float()


def rotate(
    x: Float[Tensor, "b heads n k"], angles: Float[Tensor, "n half"] | Float[Tensor, "b n half"]
) -> Float[Tensor, "b heads n k"]:
    """Turn each pair of numbers of a query or key by an angle that tells where the token stands.

        (x_i, x_i+half)  ->  (x_i cos - x_i+half sin,  x_i+half cos + x_i sin)

    The product of a query turned by a and a key turned by b depends on a - b only: attention sees distances. The pairs
    are i and i + half, as in the published weights of Llama and Qwen; the article pairs 2 i and 2 i + 1, which is the
    same layer with its weights in another order.

    Args:
        x: queries or keys.
        angles: of rotary_angles, half = k / 2; one row a token, for all clips or for each.

    Raises:
        ShapeError: if there are not k / 2 angles, or not one row a token.

    Source: Su et al. 2021, equation 34 (arXiv:2104.09864).
    """
    if angles.shape[-2:] != (x.shape[-2], x.shape[-1] // 2) or x.shape[-1] % 2:
        raise ShapeError(
            f"angles: shape {tuple(angles.shape)}, expected n={x.shape[-2]} rows of k/2 = {x.shape[-1] / 2:g} angles "
            f"for x {tuple(x.shape)}"
        )
    cos, sin = angles.cos().unsqueeze(-3), angles.sin().unsqueeze(-3)  # one axis more, for the heads
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
