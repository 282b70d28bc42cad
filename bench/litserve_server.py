"""The same job under LitServe, in an environment of its own. Run by `bench.frontend`."""

import argparse

import litserve
from fastapi import UploadFile

from bench.naive_server import answer


class DepthApi(litserve.LitAPI):  # type: ignore[misc]  # not installed where types are checked
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: UploadFile) -> bytes:
        data: bytes = request.file.read()
        return data

    def predict(self, data: bytes) -> dict[str, object]:
        return answer(data)

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        return output


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    server = litserve.LitServer(DepthApi(api_path="/predict"), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=parser.parse_args().port, log_level="warning", generate_client_file=False)
