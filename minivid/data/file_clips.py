"""Video files as labelled clips of one size: decoded once, kept in a cache, and a list of what cannot be read."""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from minivid.data.clip_cache import ClipCache, KeptClip
from minivid.data.labelled_files import LabelledFile, Unreadable, fingerprint
from minivid.video.clip import ClipSettings, load_pixels
from minivid.video.decode import VideoError, VideoWarning
from minivid.video.resize import normalize

# Files read at a time; each keeps its own decoder, which uses several processors where the pictures are large.
THREADS = min(4, os.cpu_count() or 1)


class FileClips:
    """Labelled files as examples: item i is clip i, normalised, `t c h w`, and the number of its class.

    It holds names and settings, no open file and no pixels, so that it costs a data worker nothing to take along.

    Args:
        files: what `read_files` found readable.
        classes: the labels, in the order of their numbers.
        settings: which frames and what size; `frames`, `height` and `width` are given, so that all clips are alike.
        cache: where decoded clips are kept; None = they are decoded each time.
        unreadable: what was left out, for whoever wants to show it.

    Raises:
        ValueError: if a label is none of the classes, or the settings leave the size open.
    """

    def __init__(
        self,
        files: Sequence[LabelledFile],
        classes: Sequence[str],
        settings: ClipSettings,
        *,
        cache: ClipCache | None = None,
        unreadable: Sequence[Unreadable] = (),
    ):
        _check_fixed(settings)
        self.files = tuple(files)
        self.classes = tuple(classes)
        self.settings = settings
        self.cache = cache
        self.unreadable = list(unreadable)
        numbers = {label: number for number, label in enumerate(self.classes)}
        if unknown := sorted({file.label for file in self.files} - numbers.keys()):
            raise ValueError(f"label {unknown[0]!r} is none of the {len(numbers)} classes {', '.join(self.classes)}")
        self.labels = [numbers[file.label] for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "t c h w"], int]:
        return normalize(_kept(self.files[index], self.settings, self.cache).pixels), self.labels[index]


def read_files(
    files: Sequence[LabelledFile],
    settings: ClipSettings,
    *,
    cache: ClipCache | None = None,
    on_file: Callable[[], object] | None = None,
) -> tuple[list[LabelledFile], list[Unreadable]]:
    """Decode every file once, which fills the cache and shows what cannot be read before anything is learnt.

    Args:
        files: what `read_labelled_files` lists.
        settings: as for `FileClips`.
        cache: gets the decoded clips.
        on_file: called after each file, for a progress bar.

    Returns:
        The files that can be read, with their fingerprints and what is damaged about them; and what cannot be read at
        all (left out) or only in part (used: the last frame that came stands for those that did not).
    """
    _check_fixed(settings)
    good, report = [], []
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for file in pool.map(lambda file: _read(file, settings, cache), files):
                if isinstance(file, LabelledFile) and file.damage:  # here: catching warnings takes one thread alone
                    file = _read_in_part(file, settings, cache)
                if isinstance(file, Unreadable):
                    report.append(file)
                else:
                    good.append(file)
                    if file.damage:
                        kind, _, reason = file.damage.partition(": ")
                        report.append(Unreadable(file.path, reason, kind, used=True))
                if on_file is not None:
                    on_file()
        except BaseException:  # Ctrl-C too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return good, report


def _check_fixed(settings: ClipSettings) -> None:
    if settings.frames is None or settings.height is None:
        raise ValueError(
            f"frames={settings.frames}, height={settings.height}, width={settings.width}: give all three, "
            "because clips of one batch are of one size"
        )


def _read(file: LabelledFile, settings: ClipSettings, cache: ClipCache | None) -> LabelledFile | Unreadable:
    """Decode a sound file; of another, say in `damage` what kind of fault it has."""
    try:
        if os.path.isfile(file.path):  # else decoding says best what it is
            file = replace(file, fingerprint=fingerprint(file.path))
        return replace(file, damage=_kept(file, settings, cache).damage)
    except VideoError as error:
        return replace(file, damage=error.kind)
    except PermissionError as error:
        return Unreadable(file.path, str(error.strerror), "permission")
    except ValueError as error:  # the seconds asked for are not in the file
        return Unreadable(file.path, _reason(file, error), "seconds")


def _read_in_part(file: LabelledFile, settings: ClipSettings, cache: ClipCache | None) -> LabelledFile | Unreadable:
    """Decode what can be decoded of a damaged file, and say in `damage` what is wrong with it."""
    try:
        return replace(file, damage=_kept(file, settings, cache).damage)
    except VideoError as error:
        return Unreadable(file.path, _reason(file, error), error.kind)
    except ValueError as error:
        return Unreadable(file.path, _reason(file, error), "seconds")


def _reason(file: LabelledFile, error: Exception | str) -> str:
    return " ".join(str(error).split()).removeprefix(f"{file.path}: ")


def _kept(file: LabelledFile, settings: ClipSettings, cache: ClipCache | None) -> KeptClip:
    """The frames of a file, from the cache or decoded; of one that is not known to be damaged, only if it is sound."""
    settings = replace(settings, start=file.start, end=file.end)
    kept = cache.load(file.path, settings) if cache is not None and os.path.isfile(file.path) else None
    if kept is not None:
        return kept
    if file.damage:
        kept = _decoded_in_part(file, settings)
    else:
        kept = KeptClip(load_pixels(file.path, settings, strict=True).pixels, "")
    missing = settings.frames - len(kept.pixels)
    if missing:
        last = kept.pixels[-1:].expand(missing, -1, -1, -1)
        kept = kept._replace(pixels=torch.cat([kept.pixels, last]))
    if cache is not None:
        cache.store(file.path, settings, kept.pixels, kept.damage)
    return kept


def _decoded_in_part(file: LabelledFile, settings: ClipSettings) -> KeptClip:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", VideoWarning)
        pixels = load_pixels(file.path, settings).pixels
    kind = file.damage.partition(": ")[0]
    reasons = [_reason(file, str(warning.message)) for warning in said if warning.category is VideoWarning]
    return KeptClip(pixels, f"{kind}: {'; '.join(reasons)}" if reasons else "")
