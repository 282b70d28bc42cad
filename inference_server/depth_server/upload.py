"""Reads the file of a streamed body, or the files of a form, counting every byte before it is kept.

Starlette's form parser spools to disk and limits only what is no file, so this feeds `python-multipart` itself.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final

import python_multipart
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from depth_server.errors import InvalidRequestError, UnsupportedMediaError

FILE_FIELD: Final = "file"
"""Name of the form field that carries the image."""

MAX_PARTS: Final = 8
"""Parts of a form; only one is used."""

RAW_MEDIA_TYPES: Final = ("image/", "application/octet-stream")
"""Beginnings of media types whose body is the image itself; what it really is, its bytes tell."""


class FormFileParser:
    """Incremental parser of `multipart/form-data` that keeps the parts called `file`.

    Args:
        content_type: The request's header `Content-Type`.
        max_files: How many of them; None keeps the first and drops the others.

    Raises:
        UnsupportedMediaError: Not a multipart form.
        InvalidRequestError: No usable boundary.
    """

    def __init__(self, content_type: str, max_files: int | None = None) -> None:
        media_type, options = parse_options_header(content_type)
        if media_type.lower() != b"multipart/form-data":
            given = media_type.decode("latin-1") or "nothing"
            message = f"the body is {given}, expected multipart/form-data with the field {FILE_FIELD!r}"
            if max_files is None:
                message += ", or an image as image/* or application/octet-stream"
            raise UnsupportedMediaError(message)
        boundary = options.get(b"boundary")
        if not boundary:
            message = "the header Content-Type has no multipart boundary"
            raise InvalidRequestError(message)
        self._files: list[bytearray] = []
        self._max_files = max_files
        self._max_parts = max(MAX_PARTS, max_files or 0)
        self._is_file_part = False
        self._complete = False
        self._parts = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._field_name: bytes | None = None
        try:
            self._parser = python_multipart.MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": self._add_header_name,
                    "on_header_value": self._add_header_value,
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            message = "the multipart boundary is not valid"
            raise InvalidRequestError(message) from error

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body.

        Raises:
            InvalidRequestError: The multipart framing is damaged.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            message = "the multipart body is damaged"
            raise InvalidRequestError(message) from error

    def finish(self) -> bytes:
        """Return the first file after the last chunk.

        Raises:
            InvalidRequestError: The body ended early or has no such field.
        """
        return self.finish_all()[0]

    def finish_all(self) -> list[bytes]:
        """Return the files after the last chunk, in their order, at least one.

        Raises:
            InvalidRequestError: The body ended early or has no such field.
        """
        if not self._files:
            message = f"the form has no field {FILE_FIELD!r}; send the image as multipart field {FILE_FIELD!r}"
            raise InvalidRequestError(message)
        if not self._complete:
            message = "the multipart body ends before its closing boundary"
            raise InvalidRequestError(message)
        files = [bytes(file) for file in self._files]
        self._files.clear()
        return files

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            message = f"the form has more than {self._max_parts} parts"
            raise InvalidRequestError(message)
        self._is_file_part = False
        self._field_name = None

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._header_name).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._header_value))
            self._field_name = options.get(b"name")
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        if self._field_name != FILE_FIELD.encode() or (self._files and self._max_files is None):
            return
        if self._max_files is not None and len(self._files) >= self._max_files:
            message = f"the form has more than {self._max_files} files"
            raise InvalidRequestError(message)
        self._is_file_part = True
        self._files.append(bytearray())

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file_part:
            self._files[-1] += memoryview(data)[start:end]

    def _end(self) -> None:
        self._complete = True


async def read_form_file(content_type: str, body: AsyncIterator[bytes], count: Callable[[int], None]) -> bytes:
    """Read the file of a form.

    Args:
        content_type: The request's header `Content-Type`.
        body: Chunks of the body.
        count: Called with the size of each chunk before it is kept; raises to refuse the rest.

    Raises:
        InvalidRequestError, UnsupportedMediaError: See `FormFileParser`.
    """
    parser = FormFileParser(content_type)
    async for chunk in body:
        count(len(chunk))
        parser.feed(chunk)
    return parser.finish()


async def read_form_files(
    content_type: str, body: AsyncIterator[bytes], count: Callable[[int], None], max_files: int
) -> list[bytes]:
    """Read all files of a form, at least one.

    Args:
        content_type: The request's header `Content-Type`.
        body: Chunks of the body.
        count: Called with the size of each chunk before it is kept; raises to refuse the rest.
        max_files: One more is refused.

    Raises:
        InvalidRequestError, UnsupportedMediaError: See `FormFileParser`.
    """
    parser = FormFileParser(content_type, max_files)
    async for chunk in body:
        count(len(chunk))
        parser.feed(chunk)
    return parser.finish_all()


async def read_body(body: AsyncIterator[bytes], count: Callable[[int], None]) -> bytes:
    """Read a whole body.

    Args:
        body: Its chunks.
        count: Called with the size of each chunk before it is kept; raises to refuse the rest.
    """
    data = bytearray()
    async for chunk in body:
        count(len(chunk))
        data += chunk
    return bytes(data)


async def read_image_file(content_type: str, body: AsyncIterator[bytes], count: Callable[[int], None]) -> bytes:
    """Read an image file that is the body itself or the file of a form, by the type of the content.

    Raises:
        InvalidRequestError, UnsupportedMediaError: See `FormFileParser`.
    """
    media_type = content_type.strip().lower()
    if media_type.startswith(RAW_MEDIA_TYPES):
        return await read_body(body, count)
    return await read_form_file(content_type, body, count)
