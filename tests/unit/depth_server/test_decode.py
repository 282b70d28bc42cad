import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from depth_server.decode import ImageLimits, apply_orientation, decode_image
from depth_server.errors import ImageTooLargeError, InvalidImageError, RequestError, http_error
from tests.unit.depth_server.hostile_images import HostileFile, encoded, hostile_files, photo

# What the codecs have to say about damaged metadata is no failure of ours.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

LIMITS = ImageLimits(max_pixels=40_000_000, max_side_pixels=16_384)


def decode(data: bytes) -> np.ndarray:
    image = decode_image(data, LIMITS)
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    return image


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(kind: str) -> None:
    np.testing.assert_array_equal(decode(encoded(photo(), kind)), np.asarray(photo()))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_are_close(kind: str) -> None:
    assert np.abs(decode(encoded(photo(), kind, quality=95)).astype(int) - np.asarray(photo())).mean() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("orientation", [0, 9, -1, 65535])
def test_unknown_orientation_means_upright(orientation: int) -> None:
    image = np.asarray(photo())
    np.testing.assert_array_equal(apply_orientation(image, orientation), image)


def test_damaged_exif_does_not_spoil_the_picture() -> None:
    data = encoded(photo(), "JPEG", exif=b"Exif\x00\x00MM\x00*\x7f\xff\xff\xff" + bytes(20))
    assert decode(data).shape == (32, 48, 3)


def test_grey_becomes_three_equal_channels() -> None:
    grey = photo().convert("L")
    np.testing.assert_array_equal(decode(encoded(grey, "PNG")), np.repeat(np.asarray(grey)[:, :, None], 3, axis=2))


def test_black_and_white_is_0_and_255() -> None:
    assert set(np.unique(decode(encoded(photo().convert("1"), "PNG")))) == {0, 255}


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    levels = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    image = decode(encoded(Image.fromarray(levels), "PNG"))
    np.testing.assert_array_equal(image[:, :, 0], np.rint(levels / 257).astype(np.uint8))
    assert image.min() == 0
    assert image.max() == 255


def test_alpha_is_dropped_and_colours_stay() -> None:
    image = photo().convert("RGBA")
    image.putalpha(0)
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), np.asarray(photo()))


def test_grey_with_alpha_keeps_its_grey() -> None:
    image = photo().convert("LA")
    image.putalpha(128)
    np.testing.assert_array_equal(decode(encoded(image, "PNG"))[:, :, 1], np.asarray(photo().convert("L")))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(64))], ids=["none", "index", "table"])
def test_palette_is_resolved(transparency: int | bytes | None) -> None:
    palette = photo().quantize(64)
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode(encoded(palette, "PNG", **options)), np.asarray(palette.convert("RGB")))


def test_cmyk_is_converted() -> None:
    cmyk = photo().convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "TIFF")), np.asarray(cmyk.convert("RGB")))
    # JPEG stores CMYK inverted; read naively it would be a negative.
    grey = Image.new("CMYK", (16, 16), (0, 0, 0, 30))
    assert decode(encoded(grey, "JPEG", quality=95)).mean() == pytest.approx(225, abs=3)


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode(data) == (255, 0, 0)).all()


def test_size_limits_name_the_size() -> None:
    data = encoded(photo(), "PNG")
    with pytest.raises(ImageTooLargeError, match=r"48x32 = 1536 pixels, the limit is 1535"):
        decode_image(data, ImageLimits(1535, 100))
    with pytest.raises(ImageTooLargeError, match="limit of a side is 47"):
        decode_image(data, ImageLimits(1536, 47))
    assert decode_image(data, ImageLimits(1536, 48)).shape == (32, 48, 3)


@pytest.mark.parametrize("hostile", hostile_files(), ids=lambda hostile: hostile.name)
def test_hostile_file_gets_its_answer(hostile: HostileFile) -> None:
    with pytest.raises(RequestError) as raised:
        decode(hostile.data)
    assert http_error(type(raised.value)).status in hostile.statuses, str(raised.value)


def test_corpus_has_no_duplicates() -> None:
    assert len({hostile.data for hostile in hostile_files()}) == len(hostile_files()) >= 50


@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"]), st.integers(0), st.integers(0, 255), st.booleans()
)
def test_flipped_bytes_decode_or_are_refused(kind: str, position: int, value: int, cut: bool) -> None:
    data = bytearray(encoded(photo(), kind))
    data[position % len(data)] = value
    try:
        decode(bytes(data[: position % len(data)] if cut else data))
    except RequestError:
        return


def test_truncated_picture_is_not_half_grey() -> None:
    data = encoded(photo(480, 320), "JPEG")
    with pytest.raises(InvalidImageError, match="truncated or damaged"):
        decode(data[: len(data) * 3 // 4])
