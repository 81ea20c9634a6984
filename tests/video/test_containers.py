"""Nothing but one ordinary video file gets through, and each refusal says why and what to do."""

import os
import pickle
import re
import socket
import struct
import sys
import zlib

import av
import numpy as np
import pytest
from clips import box, make, patched, remux

from minivid.video.containers import MAX_PIXELS, VideoError, VideoFile, VideoWarning
from minivid.video.decode import probe


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clean") / "clean.mp4", 30, options={"g": "12"})


@pytest.fixture(scope="module")
def index_first(clean):
    return remux(clean, clean.with_name("index_first.mp4"), muxer={"movflags": "faststart"})


def kind_of(path, match: str = "; ") -> str:
    """The kind of error a path meets; every message names a cause and, behind a semicolon, a remedy."""
    with pytest.raises(VideoError, match=match) as caught:
        probe(path)
    assert caught.value.path == path
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250 + len(os.fsdecode(str(path)))
    return caught.value.kind


# Paths


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "fifo.mp4")
    os.symlink("loop.mp4", tmp_path / "loop.mp4")
    os.symlink("nothing", tmp_path / "dangling.mp4")
    (tmp_path / "empty.mp4").touch()
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(os.path.relpath(tmp_path / "socket.mp4"))
        assert kind_of(tmp_path / "socket.mp4") == "not_a_file"
    assert kind_of(tmp_path / "folder.mp4", "is a folder; give") == "not_a_file"
    assert kind_of(tmp_path / "fifo.mp4", "is a pipe") == "not_a_file"
    assert kind_of("/dev/zero") == "not_a_file"
    assert kind_of(tmp_path / "loop.mp4") == "not_found"
    assert kind_of(tmp_path / "dangling.mp4") == "not_found"
    assert kind_of(str(tmp_path / "missing.mp4"), "No such file") == "not_found"
    assert kind_of(tmp_path / "empty.mp4", "0 bytes") == "empty"
    assert kind_of("a\0b.mp4", r"'a\\x00b.mp4': .*NUL") == "bad_argument"
    assert kind_of("", "path is empty") == "bad_argument"
    with pytest.raises((VideoError, TypeError), match="int|path"):  # TypeError: where signatures are checked
        probe(7)
    assert kind_of("x" * 300, "too long") == "bad_argument"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    (tmp_path / "private.mp4").write_bytes(b"x")
    (tmp_path / "private.mp4").chmod(0)
    assert kind_of(tmp_path / "private.mp4", "may not be read") == "permission"


def test_a_file_that_may_not_be_read_says_so_to_anyone(clean, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert kind_of(clean, "may not be read") == "permission"


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:9/x.mp4",
        "HTTPS://example.org/x.mp4",
        "file:///tmp/x.mp4",
        "concat:a.ts|b.ts",
        "data:video/mp4;base64,AAAA",
        "subfile,,start,0,end,99,,:x.mp4",
        "cache:x.mp4",
        "crypto+http://x",
        "rtsp://camera/1",
        "pipe:0",
        "s3://bucket/x.mp4",
    ],
)
def test_addresses_are_refused_by_name_and_nothing_is_connected_to(address, monkeypatch):
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("FFmpeg was asked"))
    assert kind_of(address, "is an address, and only local files are read; download it") == "url_refused"


@pytest.mark.parametrize(
    "name", ["lesson1:intro.mp4", "http:.mp4", "frame%03d.mp4", "日本 🎬 ñ.mp4", "n" * 251 + ".mp4"]
)
def test_names_that_look_strange_are_names(clean, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with open(name, "wb") as file:
        file.write(clean.read_bytes())
    assert probe(name).frames == probe(os.fsencode(name)).frames == 30


# What is in the file


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\nsecret.ts\n",
        "\ufeff#EXTM3U\nhttp://127.0.0.1/x.ts\n",
        "ffconcat version 1.0\nfile secret.ts\n",
        "file 'secret.ts'\n",
        "[playlist]\nFile1=secret.ts\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n",
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
        '<?xml version="1.0"?><!-- list -->\n<playlist xmlns="http://xspf.org/ns/0/"></playlist>',
        "<smil><body><video src='x'/></body></smil>",
        "https://example.org/x.mp4\n",
    ],
)
def test_playlists_and_scripts_are_refused_whatever_their_name(tmp_path, text):
    (tmp_path / "clip.mp4").write_text(text)
    (tmp_path / "secret.ts").write_text("secret")
    assert kind_of(tmp_path / "clip.mp4", "names other files; give the video file itself") == "playlist_refused"


def test_no_other_file_is_opened(clean, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(clean.read_bytes())
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    probe(tmp_path / "clip.mp4")
    assert {name for name in opened if str(tmp_path) in name} == {str(tmp_path / "clip.mp4")}


def test_what_is_no_video_is_told_apart(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("This is the transcript of a lesson.\n" * 20)
    assert kind_of(path, "is text, not a video") == "not_video"
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")
    assert kind_of(path, "web page") == "not_video"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n")
    assert kind_of(path, "git lfs pull") == "not_video"
    path.write_bytes(bytes(zlib.crc32(bytes([i % 251, i // 251])) & 255 for i in range(20_000)))
    assert kind_of(path, "none of the known video formats") == "not_video"
    path.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    assert kind_of(path, r"no video stream \(streams: subtitle \w+\)") == "no_video_stream"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    assert kind_of(path, r"no video stream \(streams: audio aac\)") == "no_video_stream"


def test_enormous_pictures_are_refused_by_their_size_alone(tmp_path):
    gif = b"GIF89a" + struct.pack("<HH", 16000, 16000) + b"\x00\0\0," + bytes(50) + b";"
    (tmp_path / "a.gif").write_bytes(gif)
    assert kind_of(tmp_path / "a.gif", "16000 x 16000 = 256 million") == "too_large"
    header = struct.pack(">II5B", 30000, 30000, 8, 2, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + b"IHDR"
        + header
        + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    )
    (tmp_path / "a.png").write_bytes(png + bytes(100))
    assert kind_of(tmp_path / "a.png", "30000 x 30000 = 900 million") == "too_large"
    assert 7680 * 4320 < MAX_PIXELS < 8192 * 8192


# Contradictions


def webp(kind: bytes, payload: bytes) -> bytes:
    chunk = b"VP8" + kind + struct.pack("<I", len(payload)) + payload + bytes(len(payload) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


@pytest.mark.parametrize(
    "data",
    [
        webp(b"X", bytes(4) + (8999).to_bytes(3, "little") + (6999).to_bytes(3, "little")),
        webp(b" ", bytes.fromhex("1000009d012a") + struct.pack("<HH", 9000, 7000) + bytes(40)),
        webp(b"L", b"\x2f" + struct.pack("<I", 8999 | 6999 << 14) + bytes(40)),
        b"BM" + bytes(8) + struct.pack("<IIiiHHIIiiII", 54, 40, 9000, -7000, 1, 24, *[0] * 6) + bytes(99),
        b"qoif" + struct.pack(">IIBB", 9000, 7000, 4, 0) + bytes(30),
        bytes.fromhex("ffd8 ffe00004 0000 ffc0000b 08 1b58 2328 01 012200 ffda0008 01 0100 003f00") + bytes(99),
    ],
    ids=["webp", "lossy_webp", "lossless_webp", "bmp", "qoi", "jpeg"],
)
def test_enormous_pictures_of_other_formats_say_how_large_they_are(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert kind_of(tmp_path / "a", "9000 x 7000 = 63 million") == "too_large"


def test_an_avi_header_may_lie_about_the_size_as_long_as_its_frames_can_be_decoded(tmp_path):
    for codec, pix_fmt in (("mpeg4", "yuv420p"), ("ffv1", "yuv420p")):
        path = make(tmp_path / f"{codec}.avi", 3, codec=codec, pix_fmt=pix_fmt)
        place = path.read_bytes().index(b"strf") + 12
        patched(path, tmp_path / f"large_{codec}.avi", place, struct.pack("<ii", 30000, 30000))
    assert probe(tmp_path / "large_mpeg4.avi").width == 64
    assert kind_of(tmp_path / "large_ffv1.avi", "30000 x 30000 = 900 million") == "too_large"


def test_an_animated_webp_is_told_from_a_broken_one(tmp_path):
    (tmp_path / "a.webp").write_bytes(webp(b"X", b"\2" + bytes(9)))
    assert kind_of(tmp_path / "a.webp", "animated WebP") == "unsupported_codec"


def damage_of(path) -> str | None:
    file = VideoFile(path)
    file.close()
    return file.damage and file.damage.kind


def test_an_ogg_file_cut_anywhere_is_known_before_decoding(tmp_path):
    whole = make(tmp_path / "a.ogv", 30, codec="libvpx", format="ogg").read_bytes()
    last_page = whole.rindex(b"OggS")
    for end in (last_page, last_page + 5, last_page + 30, len(whole) - 1):
        (tmp_path / "cut.ogv").write_bytes(whole[:end])
        assert damage_of(tmp_path / "cut.ogv") == "truncated", end
    for more in (b"", b"and more"):
        (tmp_path / "whole.ogv").write_bytes(whole + more)
        assert damage_of(tmp_path / "whole.ogv") is None, more


def test_a_jpeg_without_its_end_is_cut_off(tmp_path):
    whole = make(tmp_path / "a.jpg", 1, codec="mjpeg", pix_fmt="yuvj420p", format="image2").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[:-2])
    assert damage_of(tmp_path / "cut.jpg") == "truncated"
    for more in (b"", b"a film that the camera took beside it"):
        (tmp_path / "whole.jpg").write_bytes(whole + more)
        assert damage_of(tmp_path / "whole.jpg") is None, more


def test_a_picture_in_an_mp4_like_file_has_its_index_elsewhere(tmp_path):
    boxes = [(b"ftyp", b"avif" + bytes(4)), (b"meta", bytes(30)), (b"mdat", bytes(50))]
    data = b"".join(struct.pack(">I", 8 + len(payload)) + kind + payload for kind, payload in boxes)
    (tmp_path / "a.avif").write_bytes(data)
    assert damage_of(tmp_path / "a.avif") is None
    (tmp_path / "a.avif").write_bytes(data[:-1])
    assert damage_of(tmp_path / "a.avif") == "truncated"


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".flv", ".avi", ".gif", ".mp4"])
@pytest.mark.parametrize("part", [0.5, 0.93])
def test_a_file_cut_short_is_known_before_decoding(tmp_path, suffix, part):
    codec = {".gif": {"codec": "gif", "pix_fmt": "rgb8"}}.get(suffix, {})
    whole = make(tmp_path / f"whole{suffix}", 30, **codec)
    file = VideoFile(whole)
    assert file.damage is None
    file.close()
    size = int(whole.stat().st_size * part)
    size += size % 188 == 0  # a transport stream that ends with a packet is whole
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[:size])
    file = VideoFile(cut)
    file.close()
    assert file.damage.kind == "truncated"
    assert re.search(rf"is cut off: {size} bytes of at least \d+; ", str(file.damage)) or suffix == ".mp4"


def test_an_mp4_without_its_index_is_cut_off(clean, tmp_path):
    data = clean.read_bytes()
    start, end = box(data, b"mdat")
    for size in (start + 100, end - 1, end):
        (tmp_path / "cut.mp4").write_bytes(data[:size])
        assert kind_of(tmp_path / "cut.mp4", "is cut off") == "truncated"


def test_what_follows_the_first_film_does_not_count(clean, tmp_path):
    (tmp_path / "twice.mp4").write_bytes(clean.read_bytes() * 2)
    assert probe(tmp_path / "twice.mp4").frames == 30


def test_a_broken_header_is_corrupt(clean, tmp_path):
    start, _ = box(clean.read_bytes(), b"moov", b"trak")
    with pytest.warns(VideoWarning, match=r"boxes of its header do not fit into each other \(at byte \d+\)"):
        assert probe(patched(clean, tmp_path / "a.mp4", start - 5, b"\xff")).frames == 30
    start, _ = box(clean.read_bytes(), b"moov")
    assert kind_of(patched(clean, tmp_path / "b.mp4", start - 4, b"m\x00ov")) == "corrupt"
    nested = b"".join(struct.pack(">I4s", 8 * (2000 - i), b"moov") for i in range(2000))
    (tmp_path / "c.mp4").write_bytes(clean.read_bytes()[:32] + nested)
    assert kind_of(tmp_path / "c.mp4") == "corrupt"


def test_more_samples_than_bytes_is_corrupt_and_fills_no_memory(clean, tmp_path):
    start, _ = box(clean.read_bytes(), b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsz")
    lying = patched(clean, tmp_path / "a.mp4", start + 4, struct.pack(">II", 1, 100_000_000))
    assert kind_of(lying, rf"lists 100000000 samples in a file of {clean.stat().st_size} bytes") == "corrupt"


def test_no_samples_is_no_frames(clean, tmp_path):
    data, table = bytearray(clean.read_bytes()), (b"moov", b"trak", b"mdia", b"minf", b"stbl")
    for name, place in [(b"stsz", 8), (b"stts", 4), (b"stsc", 4), (b"stco", 4), (b"ctts", 4), (b"stss", 4)]:
        start, _ = box(bytes(data), *table, name)
        data[start + place : start + place + 4] = bytes(4)
    (tmp_path / "a.mp4").write_bytes(data)
    assert kind_of(tmp_path / "a.mp4", "no frame") == "no_frames"


def test_an_unknown_compression_and_an_encrypted_film_say_so(clean, index_first, tmp_path):
    place = clean.read_bytes().index(b"avc1", box(clean.read_bytes(), b"moov")[0])
    assert kind_of(patched(clean, tmp_path / "a.mp4", place, b"zz9q"), "no decoder") == "unsupported_codec"
    data = bytearray(clean.read_bytes())
    data[place : place + 4] = b"encv"
    start, _ = box(clean.read_bytes(), b"moov", b"trak", b"mdia", b"hdlr")
    data[start + 24 : start + 28] = b"sinf"
    (tmp_path / "b.mp4").write_bytes(data)
    assert kind_of(tmp_path / "b.mp4", "is encrypted") == "encrypted_or_corrupt"


def test_tags_need_not_be_utf8(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Grüße-XXXX"
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"XXXX", b"\xff\xfe\xe9\xff"))
    assert probe(path).frames == 1


def test_an_error_can_be_sent_to_another_process():
    error = VideoError("a.mp4", "corrupt", "is broken; copy it again")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.kind) == ("a.mp4: is broken; copy it again", "a.mp4", "corrupt")
