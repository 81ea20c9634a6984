"""What turns messages into the inputs of a model: its tokenizer, and how its pictures and clips are cut."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from minivid.text.byte_pair import BytePair
from minivid.video.clip import CHANNELS, ClipSettings
from minivid.video.resize import CLIP_TOKENS, FRAME_TOKENS_MIN, IMAGE_TOKENS_MAX, IMAGE_TOKENS_MIN
from minivid.video.sample import FPS
from minivid.whole_files import replace_file

PAD = "<|endoftext|>"
CUT = ("patch_size", "temporal_patch_size", "spatial_merge_size")
IMAGE_FILE, VIDEO_FILE, BOTH_FILE, MODEL_FILE = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "config.json",
)
# Pixels go from 0..255 to -1..1, see minivid/video/resize.py: the published mean and standard deviation.
MEAN = STD = 0.5
# The published files bound all frames of a clip together. What one frame may have is said under a name that they do not
# use, and that other readers pass over.
FRAME_CAP = "max_frame_pixels"


@dataclass(frozen=True)
class Processor:
    """A tokenizer, and how pictures and clips become patches.

    Attributes:
        tokenizer: of the model.
        image: how pictures become patches; of its settings those of size and cut count.
        video: how clips become patches. A message can say otherwise for its own clip.
        nested: whether the start and end tokens around a whole clip stay, see `minivid.text.chat.expand`.
    """

    tokenizer: BytePair
    image: ClipSettings = ClipSettings()
    video: ClipSettings = ClipSettings()
    nested: bool = False

    def __post_init__(self):
        for name in CUT:
            image, video = getattr(self.image, name), getattr(self.video, name)
            if image != video:
                raise ValueError(f"{name}: {image} for pictures, {video} for clips; one model cuts both alike")

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels."""
        return self.video.patch_size

    @property
    def temporal_patch_size(self) -> int:
        """Frames in one patch."""
        return self.video.temporal_patch_size

    @property
    def spatial_merge_size(self) -> int:
        """Side of the blocks of patches that become one token."""
        return self.video.spatial_merge_size

    @property
    def pad_token_id(self) -> int:
        """What fills up the short rows of a batch."""
        return self.tokenizer.token_id(PAD)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike, *, tokenizer: BytePair | None = None) -> "Processor":
        """Read how a published model wants its inputs.

        Pictures: `size` bounds the area, from shortest_edge to longest_edge pixels. Clips: longest_edge bounds all
        frames together, so it is twice the total_pixels of `ClipSettings`, which counts pairs of frames; shortest_edge
        is the least area of a frame, or, where num_frames fixes their number, of all frames together.

        Args:
            folder: with preprocessor_config.json and video_preprocessor_config.json, or both in one
                processor_config.json. What they leave open, config.json says, and else the published models.
            tokenizer: None = the one in the folder.

        Raises:
            FileNotFoundError: if there is no such folder, or no tokenizer in it.
            ValueError: if a file is not JSON, the files contradict each other, or pixels are to be normalised in
                another way than to -1..1.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give one with a model's files")
        both, model = _read(folder / BOTH_FILE), _read(folder / MODEL_FILE).get("vision_config", {})
        image = _read(folder / IMAGE_FILE) or both.get("image_processor", {})
        video = _read(folder / VIDEO_FILE) or both.get("video_processor", {})
        cut = {name: _agreed(folder, name, image, video, model) for name in CUT}
        for said in (image, video):
            _check_range(folder, said)
        least, most = _bounds(image)
        pictures = ClipSettings(**cut, min_pixels=least, max_pixels=most)
        return cls(tokenizer or BytePair.load(folder), pictures, _clips(video, cut))

    def save(self, folder: str | os.PathLike) -> None:
        """Write the tokenizer and the two files that `from_folder` and published readers take.

        Args:
            folder: made where it is missing; files of these names in it are replaced.

        Raises:
            ValueError: if the settings fix what such files cannot say: a size, a range of seconds.
        """
        written = {IMAGE_FILE: self._image_file(), VIDEO_FILE: self._video_file()}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder)
        for name, said in written.items():
            text = json.dumps(said, indent=2) + "\n"
            replace_file(folder / name, lambda path, text=text: Path(path).write_text(text, encoding="utf-8"))

    def _image_file(self) -> dict:
        _check_sayable("image", self.image, ("total_pixels",))
        least, most = self.image.min_pixels, self.image.max_pixels
        token = self.image.factor**2
        least = IMAGE_TOKENS_MIN * token if least is None else least
        most = IMAGE_TOKENS_MAX * token if most is None else most
        return {"image_processor_type": "Qwen2VLImageProcessorFast", **self._said(least, most)}

    def _video_file(self) -> dict:
        settings = self.video
        _check_sayable("video", settings)
        token = settings.factor**2
        least = FRAME_TOKENS_MIN * token if settings.min_pixels is None else settings.min_pixels
        total = CLIP_TOKENS * token if settings.total_pixels is None else settings.total_pixels
        frames = 1 if settings.frames is None else settings.frames
        said = {"video_processor_type": "Qwen3VLVideoProcessor", **self._said(least * frames, 2 * total)}
        if settings.max_pixels is not None:
            said[FRAME_CAP] = settings.max_pixels
        if settings.frames is not None:
            return {**said, "num_frames": settings.frames}
        rate = FPS if settings.fps is None else settings.fps
        return {**said, "fps": rate, "min_frames": settings.min_frames, "max_frames": settings.max_frames}

    def _said(self, least: int | float, most: int | float) -> dict:
        return {
            "processor_class": "Qwen3VLProcessor",
            "size": {"shortest_edge": round(least), "longest_edge": round(most)},
            "patch_size": self.patch_size,
            "temporal_patch_size": self.temporal_patch_size,
            "merge_size": self.spatial_merge_size,
            "image_mean": [MEAN] * CHANNELS,
            "image_std": [STD] * CHANNELS,
        }


def _check_sayable(kind: str, settings: ClipSettings, more: Sequence[str] = ()) -> None:
    for name in ("start", "end", "height", "width", *more):
        if getattr(settings, name) is not None:
            raise ValueError(f"{kind}: {name}={getattr(settings, name)} has no place in a model's files; leave it open")


def _read(path: Path) -> dict:
    """A file of settings; empty where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: a {type(found).__name__}, expected an object of settings")
    return found


def _agreed(folder: Path, name: str, image: Mapping, video: Mapping, model: Mapping) -> int:
    """The one value that all files give."""
    published = "merge_size" if name == "spatial_merge_size" else name
    said = {
        "pictures": image.get(published),
        "clips": video.get(published),
        f"the vision_config of {MODEL_FILE}": model.get(name),
    }
    said = {who: value for who, value in said.items() if value is not None}
    if len(set(said.values())) > 1:
        raise ValueError(f"{folder}: {name} is {', '.join(f'{value} for {who}' for who, value in said.items())}")
    return next(iter(said.values()), getattr(ClipSettings(), name))


def _check_range(folder: Path, said: Mapping) -> None:
    for name, wanted in (("image_mean", MEAN), ("image_std", STD)):
        found = said.get(name)
        if found is not None and any(value != wanted for value in found):
            raise ValueError(f"{folder}: {name} {found}, expected {[wanted] * 3}: pixels are normalised to -1..1 here")


def _bounds(said: Mapping) -> tuple[int | None, int | None]:
    """The least and the largest number of pixels, in the words of today's files or of older ones."""
    size = said.get("size") or {}
    return size.get("shortest_edge", said.get("min_pixels")), size.get("longest_edge", said.get("max_pixels"))


def _clips(said: Mapping, cut: Mapping[str, int]) -> ClipSettings:
    least, most = _bounds(said)
    total = None if most is None else most / 2
    settings = ClipSettings(**cut, min_pixels=least, max_pixels=said.get(FRAME_CAP), total_pixels=total)
    frames = said.get("num_frames")
    if frames is not None:
        least = None if least is None else least / frames
        return replace(settings, frames=frames, repeat_short=True, min_pixels=least)
    given = {name: said[name] for name in ("fps", "min_frames", "max_frames") if said.get(name) is not None}
    return replace(settings, **given)
