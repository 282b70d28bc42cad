"""The endpoints, with a model whose depth is the red channel."""

import base64
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from depth_server.access_settings import FaceBlurStyle
from depth_server.faces import FaceBlur
from depth_server.postprocess import resize_nearest
from depth_server.preprocess import Size, input_size, preprocess, preprocess_fast
from tests.unit.depth_server.api_server import DIGEST, MODEL, RedDepthModel, encoded, gradient, serving

PHOTO = encoded(gradient())
INFER = f"/v2/models/{MODEL}/infer"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with serving() as client:
        yield client


async def predict(client: httpx.AsyncClient, data: bytes = PHOTO, query: str = "", accept: str = "") -> httpx.Response:
    headers = {"content-type": "application/octet-stream", "accept": accept}
    return await client.post("/predict" + query, content=data, headers=headers)


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (body["status"], body["type"]) == (status, f"urn:depthserving:problem:{slug}")
    assert body["title"]
    assert body["detail"]
    return body


def read_levels(png: bytes) -> NDArray[Any]:
    levels = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert levels is not None
    return np.asarray(levels)


def restored(levels: NDArray[Any], minimum: float, maximum: float) -> NDArray[Any]:
    return minimum + levels / 65535 * (maximum - minimum)


def read_tiff(data: bytes) -> NDArray[Any]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "F"
        return np.asarray(image)


async def depth_of(client: httpx.AsyncClient, data: bytes = PHOTO, query: str = "") -> NDArray[Any]:
    response = await predict(client, data, query, "application/x-npy")
    assert response.status_code == 200, response.text
    depth = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert depth.dtype == np.float32
    return np.asarray(depth)


class TestRepresentations:
    async def test_all_tell_the_same_depth(self, client: httpx.AsyncClient) -> None:
        depth = await depth_of(client)
        assert depth.shape == (32, 48)
        body = (await predict(client)).json()
        minimum, maximum = body["min"], body["max"]
        assert (minimum, maximum) == (float(depth.min()), float(depth.max()))
        step = (maximum - minimum) / 65535
        from_json = restored(read_levels(base64.b64decode(body["depth_map"])), minimum, maximum)
        np.testing.assert_allclose(from_json, depth, atol=0.51 * step + 1e-6)
        png = await predict(client, accept="image/png")
        assert png.content == base64.b64decode(body["depth_map"])
        tiff = await predict(client, accept="image/tiff")
        np.testing.assert_array_equal(read_tiff(tiff.content), depth)

    async def test_json_has_what_is_promised(self, client: httpx.AsyncClient) -> None:
        body = (await predict(client)).json()
        assert set(body) == {
            "depth_map", "processing_time", "width", "height", "min", "max", "kind", "unit", "model", "timings",
        }  # fmt: skip
        assert (body["width"], body["height"], body["kind"], body["unit"]) == (48, 32, "relative_inverse", None)
        assert body["model"] == MODEL
        assert set(body["timings"]) == {"queue", "preprocess", "forward", "postprocess"}
        assert 0 < sum(body["timings"].values()) <= body["processing_time"]

    @pytest.mark.parametrize("accept", ["application/json", "image/png", "image/tiff", "application/x-npy"])
    async def test_headers_tell_the_same_as_json(self, client: httpx.AsyncClient, accept: str) -> None:
        body = (await predict(client)).json()
        response = await predict(client, accept=accept)
        headers = response.headers
        assert headers["content-type"] == accept
        assert headers["vary"] == "Accept"
        assert float(headers["x-depth-min"]) == body["min"]
        assert float(headers["x-depth-max"]) == body["max"]
        assert (headers["x-depth-kind"], headers["x-depth-model"]) == ("relative_inverse", MODEL)
        assert (headers["x-depth-width"], headers["x-depth-height"]) == ("48", "32")
        assert "x-depth-unit" not in headers
        names = re.findall(r"(\w+);dur=\d+\.\d+", headers["server-timing"])
        assert names == ["queue", "preprocess", "forward", "postprocess", "total"]

    @pytest.mark.parametrize("accept", ["image/png", "image/jpeg"])
    async def test_colours_are_bright_where_it_is_near(self, client: httpx.AsyncClient, accept: str) -> None:
        for colormap in ("inferno", "gray", "viridis", "cividis", "magma"):
            response = await predict(client, query=f"?colormap={colormap}", accept=accept)
            assert (response.status_code, response.headers["content-type"]) == (200, accept)
            picture = read_levels(response.content)
            assert (picture.dtype, picture.shape) == (np.uint8, (32, 48, 3))
            brightness = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY).mean(axis=0)
            assert brightness[-4:].mean() > brightness[:4].mean() + 60

    async def test_metric_depth_has_a_unit_and_is_bright_where_it_is_small(self) -> None:
        model = RedDepthModel()
        model.info = type(model.info)(MODEL, "metric", "cpu", "FP32", align_corners=True)
        async with serving(model, model_family="DepthAnythingV2MetricHypersim") as client:
            response = await predict(client)
            assert (response.json()["kind"], response.json()["unit"]) == ("metric", "m")
            assert response.headers["x-depth-unit"] == "m"
            picture = read_levels((await predict(client, query="?colormap=gray")).content)
            assert picture[:, :4].mean() > picture[:, -4:].mean() + 60

    async def test_focal_length_makes_metres(self, client: httpx.AsyncClient) -> None:
        problem = assert_problem(await predict(client, query="?focal_length=300"), 422, "invalid-parameter")
        assert "no meaning for depth_anything_vits14" in problem["detail"]
        family = {"model_family": "DepthAnything3Metric", "model_variant": "ViTL14", "input_size": 252}
        async with serving(**family) as metric:
            relative = (await predict(metric)).json()
            assert (relative["kind"], relative["unit"]) == ("relative_depth", None)
            body = (await predict(metric, query="?focal_length=96")).json()
            assert (body["kind"], body["unit"]) == ("metric", "m")
            # The network sees 252 of the image's 48 columns: the focal length grows by as much.
            assert body["max"] == pytest.approx(relative["max"] * 96 * 252 / 48 / 300, rel=1e-5)

    async def test_refusals(self, client: httpx.AsyncClient) -> None:
        assert_problem(await predict(client, accept="text/html"), 406, "not-acceptable")
        body = assert_problem(await predict(client, query="?colour=red"), 422, "invalid-parameter")
        assert "'colour'" in body["detail"]

    async def test_constant_depth(self, client: httpx.AsyncClient) -> None:
        data = encoded(np.full((20, 30, 3), 7, np.uint8))
        body = (await predict(client, data)).json()
        assert body["min"] == pytest.approx(body["max"], abs=1e-5)
        assert (await predict(client, data, "?colormap=turbo")).status_code == 200


class TestSizes:
    async def test_exact_takes_upstreams_size_and_default_a_bucket(self) -> None:
        model = RedDepthModel()
        async with serving(model, input_size=266) as client:
            data = encoded(gradient(97, 50))
            await depth_of(client, data)
            await depth_of(client, data, "?exact=true")
            await depth_of(client, data, "?size=140")
        exact = input_size(Size(50, 97), 266, 1022)
        assert model.sizes[1] == (exact.height, exact.width)
        assert model.sizes[0] != model.sizes[1]
        assert min(model.sizes[2]) == 140

    async def test_long_side_is_capped(self) -> None:
        model = RedDepthModel()
        async with serving(model, max_long_side=252) as client:
            for query in ("", "?exact=true"):
                depth = await depth_of(client, encoded(gradient(1200, 30)), query)
                assert depth.shape == (30, 1200)
        assert max(max(size) for size in model.sizes) <= 252

    async def test_models_whose_longer_side_is_bounded(self) -> None:
        model = RedDepthModel()
        async with serving(model, model_family="DepthAnything3Mono", model_variant="ViTL14", input_size=252) as client:
            await depth_of(client, encoded(gradient(96, 48)), "?exact=true")
            await depth_of(client, encoded(gradient(96, 48)))
        assert model.sizes[0] == (126, 252)
        assert max(model.sizes[1]) <= 252

    async def test_nearest_invents_no_depth(self, client: httpx.AsyncClient) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
        nearest = await depth_of(client, encoded(pixels), "?upsample=nearest&exact=true")
        size = input_size(Size(150, 170), 126, 1022)
        expected = resize_nearest(preprocess(pixels, size)[0], Size(150, 170))
        np.testing.assert_array_equal(nearest, expected)

    def test_fast_preprocessing_is_as_good(self) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
        for size in (Size(126, 140), Size(266, 518)):
            assert np.abs(preprocess_fast(pixels, size) - preprocess(pixels, size)).max() < 1e-4


def rotated(kind: str = "JPEG", **options: Any) -> bytes:
    """Lies on its side, and EXIF says how to turn it."""
    image = Image.fromarray(gradient())
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), kind, exif=exif, **options)


def kinds() -> dict[str, bytes]:
    """The gradient as every kind of file that people send; in each it must grow to the right."""
    colour = Image.fromarray(gradient())
    grey = Image.fromarray(gradient()[:, :, 0])
    alpha = colour.copy()
    alpha.putalpha(0)
    deep = Image.fromarray(gradient()[:, :, 0].astype(np.uint16) * 257)
    return {
        "jpeg": encoded(colour, "JPEG", quality=98),
        "jpeg turned by EXIF": rotated(quality=98),
        "png turned by EXIF": rotated("PNG"),
        "webp turned by EXIF": rotated("WEBP", lossless=True),
        "tiff turned by EXIF": rotated("TIFF"),
        "jpeg in CMYK": encoded(colour.convert("CMYK"), "JPEG", quality=98),
        "jpeg in grey": encoded(grey, "JPEG", quality=98),
        "png in grey": encoded(grey),
        "png in 16 bits": encoded(deep),
        "png with alpha": encoded(alpha),
        "png in grey with alpha": encoded(alpha.convert("LA")),
        "png with a palette": encoded(colour.quantize(256)),
        "gif": encoded(colour, "GIF"),
        "webp": encoded(colour, "WEBP", lossless=True),
        "bmp": encoded(colour, "BMP"),
        "tiff in CMYK": encoded(colour.convert("CMYK"), "TIFF"),
        "tiff in 16 bits": encoded(deep, "TIFF"),
    }


@pytest.mark.parametrize("kind", kinds())
async def test_every_kind_of_image_through_every_representation(client: httpx.AsyncClient, kind: str) -> None:
    data = kinds()[kind]
    depth = await depth_of(client, data)
    assert depth.shape == (32, 48)
    span = depth.max() - depth.min()
    # Grey has the same in all channels; the red channel alone falls by the weight of a conversion, not below this.
    assert span > 0.8
    assert (np.diff(depth.mean(axis=0)) > -0.05 * span).all()
    tiff = await predict(client, data, accept="image/tiff")
    np.testing.assert_array_equal(read_tiff(tiff.content), depth)
    body = (await predict(client, data)).json()
    assert (body["width"], body["height"]) == (48, 32)
    for accept in ("image/png", "image/jpeg"):
        assert (await predict(client, data, "?colormap=magma", accept)).status_code == 200
    text = base64.b64encode(data).decode()
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]
    (tensor,) = (await client.post(INFER, json={"inputs": inputs, "outputs": [{"name": "depth"}]})).json()["outputs"]
    np.testing.assert_allclose(np.reshape(tensor["data"], tensor["shape"])[0], depth, rtol=1e-6)


class TestBodies:
    async def test_form_and_raw_bodies_are_the_same(self, client: httpx.AsyncClient) -> None:
        form = await client.post("/predict", files={"file": PHOTO})
        expected = form.json()["depth_map"]
        for content_type in ("image/png", "image/jpeg", "IMAGE/x-whatever", "application/octet-stream; a=b"):
            response = await client.post("/predict", content=PHOTO, headers={"content-type": content_type})
            assert response.json()["depth_map"] == expected

    async def test_other_bodies_are_refused(self, client: httpx.AsyncClient) -> None:
        assert_problem(await client.post("/predict", json={"file": "x"}), 415, "unsupported-media")
        assert_problem(await client.post("/predict"), 415, "unsupported-media")
        assert_problem(await predict(client, b""), 400, "invalid-image")

    async def test_raw_bodies_are_bounded(self) -> None:
        async with serving(max_upload_bytes=20_000, max_inflight_upload_bytes=20_000) as client:
            body = assert_problem(await predict(client, bytes(60_000)), 413, "upload-too-large")
            assert body["detail"] == "the upload has more than 20000 bytes"


class TestBatch:
    async def test_each_image_has_its_own_result(self, client: httpx.AsyncClient) -> None:
        files = [PHOTO, b"no image", encoded(gradient(30, 20), "JPEG"), b""]
        response = await client.post("/predict/batch?size=140", files=[("file", data) for data in files])
        assert response.status_code == 200
        first, second, third, fourth = response.json()["results"]
        alone = (await predict(client, query="?size=140")).json()
        assert first["prediction"]["depth_map"] == alone["depth_map"]
        assert second["error"]["type"].endswith(":unsupported-media")
        assert (third["prediction"]["width"], third["prediction"]["height"]) == (30, 20)
        assert (fourth["error"]["status"], fourth["error"]["type"][-13:]) == (400, "invalid-image")
        text = (await client.get("/metrics")).text
        assert 'depth_server_requests_total{outcome="success"} 3.0' in text
        assert 'depth_server_requests_total{outcome="invalid"} 2.0' in text
        assert "depth_server_inflight_requests 0.0" in text
        assert "depth_server_work_units_in_flight 0.0" in text

    async def test_bounds(self) -> None:
        async with serving(max_batch_images=2, max_batch_bytes=50_000, max_upload_bytes=20_000) as client:

            async def send(*files: bytes, query: str = "") -> httpx.Response:
                return await client.post("/predict/batch" + query, files=[("file", data) for data in files])

            assert "more than 2 files" in assert_problem(await send(*[PHOTO] * 3), 400, "invalid-request")["detail"]
            assert_problem(await send(bytes(80_000)), 413, "upload-too-large")
            results = (await send(PHOTO, bytes(21_000))).json()["results"]
            assert results[1]["error"]["type"].endswith(":upload-too-large")
            assert results[0]["prediction"]["width"] == 48
            assert_problem(await send(PHOTO, query="?colormap=turbo"), 422, "invalid-parameter")
            assert_problem(await client.post("/predict/batch", content=PHOTO), 415, "unsupported-media")

    async def test_only_json(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/predict/batch", files={"file": PHOTO}, headers={"accept": "image/png"})
        assert_problem(response, 406, "not-acceptable")


class TestInferenceProtocol:
    async def test_errors_are_the_same_with_the_protocols_member(self, client: httpx.AsyncClient) -> None:
        for response, status, slug in (
            (await client.get("/v2/models/other"), 404, "model-not-found"),
            (await client.post("/v2/models/other/infer", json={}), 404, "model-not-found"),
            (await client.post(INFER, content=b"{"), 400, "invalid-request"),
            (await client.post(INFER + "?size=140", json={}), 422, "invalid-parameter"),
        ):
            body = assert_problem(response, status, slug)
            assert body["error"] == body["detail"]
        body = (await client.get("/v2/nothing")).json()
        assert (body["status"], body["error"]) == (404, "Not Found")
        assert "error" not in (await client.get("/nothing")).json()

    async def test_one_bad_image_fails_the_request(self, client: httpx.AsyncClient) -> None:
        text = [base64.b64encode(data).decode() for data in (PHOTO, b"no image")]
        inputs = [{"name": "image", "datatype": "BYTES", "shape": [2], "data": text}]
        assert_problem(await client.post(INFER, json={"inputs": inputs}), 415, "unsupported-media")

    async def test_images_of_different_sizes(self, client: httpx.AsyncClient) -> None:
        text = [base64.b64encode(data).decode() for data in (PHOTO, encoded(gradient(20, 20)))]
        request: dict[str, Any] = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": text}]}
        assert (
            "different sizes"
            in assert_problem(await client.post(INFER, json=request), 400, "invalid-request")["detail"]
        )
        request |= {"outputs": [{"name": "depth_png"}, {"name": "minimum"}], "id": "7", "parameters": {"size": 140}}
        body = (await client.post(INFER, json=request)).json()
        assert (body["id"], body["model_name"]) == ("7", MODEL)
        pngs = [read_levels(base64.b64decode(item)) for item in body["outputs"][0]["data"]]
        assert [png.shape for png in pngs] == [(32, 48), (20, 20)]
        assert body["outputs"][1]["shape"] == [2]

    async def test_prepared_tensor_is_forwarded_as_it_is(self, client: httpx.AsyncClient) -> None:
        values = preprocess(gradient(), Size(28, 42))
        inputs = [{"name": "pixel_values", "datatype": "FP32", "shape": [3, 28, 42], "data": values.tolist()}]
        (tensor, *_) = (await client.post(INFER, json={"inputs": inputs})).json()["outputs"]
        np.testing.assert_allclose(np.reshape(tensor["data"], tensor["shape"])[0], values[0], rtol=1e-6)


class TestFaces:
    async def test_no_way_around_the_face_detector(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[int, ...]] = []
        original = FaceBlur.apply

        async def apply(self: FaceBlur, image: NDArray[np.uint8]) -> Any:
            seen.append(image.shape)
            return await original(self, image)

        monkeypatch.setattr(FaceBlur, "apply", apply)
        async with serving(face_blur=FaceBlurStyle.SOLID) as client:
            response = await predict(client, accept="image/png")
            assert (response.status_code, response.headers["x-faces-blurred"]) == (200, "0")
            batch = await client.post("/predict/batch", files={"file": PHOTO})
            assert batch.json()["results"][0]["prediction"]["faces_blurred"] == 0
            pixels = [{"name": "pixels", "datatype": "UINT8", "shape": [32, 48, 3], "data": gradient().tolist()}]
            body = (await client.post(INFER, json={"inputs": pixels})).json()
            assert body["parameters"]["faces_blurred"] == 0
            assert seen == [(32, 48, 3)] * 3
            values = preprocess(gradient(), Size(28, 42)).tolist()
            prepared = [{"name": "pixel_values", "datatype": "FP32", "shape": [3, 28, 42], "data": values}]
            assert_problem(await client.post(INFER, json={"inputs": prepared}), 400, "invalid-request")


class TestDocuments:
    async def test_model_card(self, client: httpx.AsyncClient) -> None:
        (card,) = (await client.get("/models")).json()["models"]
        assert (card["name"], card["license"], card["license_restricted"]) == (MODEL, "Apache-2.0", False)
        assert (card["sha256"], card["kind"], card["unit"]) == (DIGEST, "relative_inverse", None)

    async def test_page_loads_nothing_from_elsewhere(self, client: httpx.AsyncClient) -> None:
        page = await client.get("/docs")
        assert page.status_code == 200
        assert "'self'" in page.headers["content-security-policy"]
        assert "http" not in page.text.replace("http-equiv", "")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 3
        for link in links:
            asset = await client.get("/" + link)
            assert asset.status_code == 200
            assert asset.headers["content-type"].split(";")[0] in ("text/css", "text/javascript")
        assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text

    async def test_page_can_be_switched_off(self) -> None:
        async with serving(swagger_page=False) as client:
            assert (await client.get("/docs")).status_code == 404

    async def test_openapi_names_every_endpoint_and_error(self, client: httpx.AsyncClient) -> None:
        document = (await client.get("/openapi.json")).json()
        assert document["info"]["version"]
        assert set(document["paths"]) == {
            "/predict", "/predict/batch", "/models", "/healthz", "/readyz", "/metrics", "/v2", "/v2/health/live",
            "/v2/health/ready", "/v2/models/{model}", "/v2/models/{model}/ready", "/v2/models/{model}/infer",
        }  # fmt: skip
        operation = document["paths"]["/predict"]["post"]
        assert set(operation["responses"]["200"]["content"]) == {
            "application/json", "image/png", "image/jpeg", "image/tiff", "application/x-npy",
        }  # fmt: skip
        assert {"400", "406", "408", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
        assert {item["name"] for item in operation["parameters"]} >= {"size", "exact", "upsample", "colormap"}
        operations = [item["operationId"] for path in document["paths"].values() for item in path.values()]
        assert len(set(operations)) == len(operations)
