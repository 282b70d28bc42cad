"""The baseline: a FastAPI handler as articles show it, doing the same job as the server's front end.

Decode, upstream's transform, a model that takes no time, resize back, 16-bit PNG, base64, a dictionary as the answer.
Run by `bench.frontend`.
"""

import argparse
import base64
import io

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, UploadFile
from numpy.typing import NDArray
from PIL import Image

INPUT_HEIGHT, INPUT_WIDTH = 518, 686
"""Upstream's input size for 4:3."""

MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])


def transform(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    resized = cv2.resize(image / 255.0, (INPUT_WIDTH, INPUT_HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(((resized - MEAN) / DEVIATION).transpose(2, 0, 1), dtype=np.float32)


def fake_model(pixel_values: NDArray[np.float32]) -> NDArray[np.float32]:
    """As in `depth_server.fake`: depth is the red channel."""
    return pixel_values[0].copy()


def answer(data: bytes) -> dict[str, object]:
    image = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    depth = fake_model(transform(image))
    depth = cv2.resize(depth, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_LINEAR)
    minimum, maximum = float(depth.min()), float(depth.max())
    levels = ((depth - minimum) / (maximum - minimum) * 65535).astype(np.uint16)
    _, png = cv2.imencode(".png", levels)
    return {"depth_map": base64.b64encode(png).decode(), "min": minimum, "max": maximum}


app = FastAPI()


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, object]:
    return answer(await file.read())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(app, host="127.0.0.1", port=parser.parse_args().port, log_level="warning", access_log=False)
