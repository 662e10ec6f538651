"""Reads the files that a request sends as a form."""

import codecs

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from anomaly_toolbox.service.guard import Refusal
from anomaly_toolbox.service.limits import Limits


class _ParserInMemory(MultiPartParser):
    """Keeps all files in memory, whose size the guard has limited: the disk may be full, or not writable."""

    spool_max_size = 0  # no limit


async def files_in_form(request: Request, limits: Limits) -> list[tuple[str, bytes]]:
    """The names and contents of the files in a form, whatever their fields are called.

    Raises:
        Refusal: the body is no form, has too many parts, or no file.
    """
    content_type, options = parse_options_header(request.headers.get("content-type"))
    charset = options.get(b"charset", b"utf-8").decode("latin-1")
    if not _is_utf8(charset):
        raise Refusal(400, f"expected names of files in UTF-8, received the charset {charset[:100]!r}")
    uploads = []
    if content_type == b"multipart/form-data":
        parser = _ParserInMemory(request.headers, request.stream(), max_files=limits.images, max_fields=limits.images)
        try:
            form = await parser.parse()
        except MultiPartException as problem:
            raise Refusal(413 if problem.message.startswith("Too many") else 400, problem.message) from None
        uploads = [value for _, value in form.multi_items() if not isinstance(value, str)]
    if not uploads:
        raise Refusal(400, "expected whole files as multipart/form-data, such as curl -F file=@image.png")
    return [(upload.filename or "", await upload.read()) for upload in uploads]


def _is_utf8(charset: str) -> bool:
    try:
        return codecs.lookup(charset).name == "utf-8"
    except LookupError:
        return False
