"""The routes of a service: a page for people, KServe's protocol and simpler ones for programs.

Every answer to a mistake is one line of text.
"""

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from typing import Annotated, Any

import jinja2
import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from anomaly_toolbox import __version__
from anomaly_toolbox.inference.predictions import of_scored, of_unusable
from anomaly_toolbox.service.figures import CONTENT_TYPE, Figures
from anomaly_toolbox.service.forms import files_in_form
from anomaly_toolbox.service.guard import HEALTH, Guard, Refusal, Rules, too_busy
from anomaly_toolbox.service.limits import Limits
from anomaly_toolbox.service.scorer import Answer, Busy, Scorer, TooManyPixels

PAGE = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
MULTIPART = {
    "required": True,
    "content": {"multipart/form-data": {"schema": {"additionalProperties": {"type": "string", "format": "binary"}}}},
}
LINE = {"content": {"text/plain": {"schema": {"type": "string"}}}}
MISTAKES: dict[int | str, dict[str, Any]] = {
    400: LINE | {"description": "Something in the request is wrong; the line says what."},
    401: LINE | {"description": "The token is missing or wrong."},
    413: LINE | {"description": "The request is too large, or has too many images."},
    503: LINE | {"description": "The service is busy; ask again after the seconds of the header Retry-After."},
    "4XX": LINE | {"description": "Another mistake."},
}
SECONDS_TO_CLOSE = 3.0  # for the batch that is being scored
UNREADABLE_JSON = "the body cannot be read as JSON in UTF-8"
MOST_NORMAL_SCORES = 1000  # that the page gets, to tell the share of normal images above a threshold

Heatmaps = Annotated[bool, Query(description="Also give the anomaly heatmap of each image, as a PNG file in base64.")]


class Prediction(BaseModel):
    """What is said about an image."""

    score: float = Field(description="The anomaly score; higher is more anomalous.")
    calibrated: float = Field(description="The calibrated score, from 0 to 1.")
    anomalous: bool = Field(description="Whether the score is at or above the threshold of the run.")
    p_value: float | None = Field(description="How often a normal image has a score at least as high.")
    heatmap: str | None = Field(None, description="The heatmap over the image: a PNG file in base64.")


class FilePrediction(BaseModel):
    """What is said about a file; a file that cannot be used has its name and the problem only."""

    file: str = Field(description="The name that the file was sent under.")
    score: float | None = None
    calibrated: float | None = None
    anomalous: bool | None = None
    p_value: float | None = None
    heatmap: str | None = None
    problem: str | None = Field(None, description="Why the file cannot be used.")


class FilePredictions(BaseModel):
    """The answer to `POST /score`."""

    predictions: list[FilePrediction]


class Instance(BaseModel):
    """An image as KServe's protocol sends it."""

    b64: str = Field(description="A PNG, JPEG, BMP or TIFF file in base64.")


class Instances(BaseModel):
    """The request of KServe's protocol."""

    instances: list[Instance] = Field(min_length=1, max_length=Limits().images)  # before each is checked


class Predictions(BaseModel):
    """The answer of KServe's protocol."""

    predictions: list[Prediction]


class ModelStatus(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class Models(BaseModel):
    """The names of all models."""

    models: list[str]


class Description(BaseModel):
    """What the page needs to know about the detector."""

    name: str
    version: str = Field(description="The version of the toolbox.")
    threshold: float
    score_range: tuple[float, float] = Field(description="The scores whose calibrated scores are 0 and 1.")
    normal_scores: list[float] = Field(description="Scores of normal validation images, sorted; at most 1,000.")
    most_images: int = Field(description="The most images in a request.")


def make_app(scorer: Scorer, name: str, rules: Rules, limits: Limits) -> Guard:
    """The application that answers for a detector.

    Args:
        scorer: scores the images; the application closes it when it ends.
        name: the name of the model in KServe's protocol.
        rules: who may ask.
        limits: how much may be asked.
    """
    detector = scorer.detector
    figures = Figures(lambda: scorer.n_waiting)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(scorer.close, SECONDS_TO_CLOSE)

    app = FastAPI(
        title=f"anomaly-box serve: {name}",
        summary="Scores of images by a trained anomaly detector.",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=MISTAKES,
        lifespan=lifespan,
    )

    async def answers_for(contents: Sequence[bytes], with_heatmaps: bool) -> list[Answer]:
        """The answers for images, after the limits are checked."""
        most = limits.images_with_heatmaps if with_heatmaps else limits.images
        if len(contents) > most:
            kind = "images to draw heatmaps of" if with_heatmaps else "images"
            raise Refusal(413, f"the request has {len(contents)} {kind}; expected at most {most}")
        for number, content in enumerate(contents, 1):
            if len(content) > limits.image_bytes:
                raise Refusal(
                    413, f"image {number} has {len(content):,} bytes; expected at most {limits.image_bytes:,}"
                )
        try:
            # In a thread, because it reads the headers of the images.
            submitted = await asyncio.to_thread(scorer.submit, contents, with_heatmaps)
        except TooManyPixels as problem:
            raise Refusal(413, str(problem)) from None
        except Busy as problem:
            raise too_busy(str(problem)) from None
        try:
            async with asyncio.timeout(limits.seconds_to_score):
                answers = await asyncio.gather(*map(asyncio.wrap_future, submitted))
        except TimeoutError:
            raise too_busy(f"the images were not scored within {limits.seconds_to_score:g} seconds") from None
        for answer in answers:
            verdict = "unusable"
            if answer.scored is not None:
                verdict = "anomalous" if answer.scored.is_anomalous else "normal"
            figures.images.labels(verdict).inc()
        return answers

    async def predictions_of_files(request: Request, with_heatmaps: bool) -> list[dict[str, Any]]:
        """The predictions of the files in a form, whatever their fields are called."""
        uploads = await files_in_form(request, limits)
        answers = await answers_for([content for _, content in uploads], with_heatmaps)
        return [_prediction(file, answer) for (file, _), answer in zip(uploads, answers, strict=True)]

    @app.get(HEALTH, response_class=PlainTextResponse, summary="Whether the service runs")
    async def health() -> str:
        if not scorer.is_alive:
            raise Refusal(500, "images are no longer scored; start the service again")
        return "ok\n"

    @app.get("/metrics", response_class=PlainTextResponse, summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(figures.text(), media_type=CONTENT_TYPE)

    @app.get("/model", summary="What the page knows about the detector")
    async def model() -> Description:
        normal_scores = np.sort([] if detector.normal_scores is None else detector.normal_scores)
        if len(normal_scores) > MOST_NORMAL_SCORES:
            normal_scores = np.quantile(normal_scores, np.linspace(0, 1, MOST_NORMAL_SCORES))
        return Description(
            name=name,
            version=__version__,
            threshold=detector.threshold,
            score_range=detector.score_range,
            normal_scores=normal_scores.tolist(),
            most_images=limits.images,
        )

    @app.get("/v1/models", summary="The names of all models (KServe)")
    async def models() -> Models:
        return Models(models=[name])

    @app.get("/v1/models/{model_name}", summary="Whether a model answers (KServe)")
    async def status(model_name: str) -> ModelStatus:
        if model_name.endswith(":predict"):
            raise HTTPException(405, headers={"Allow": "POST"})
        check_name(model_name)
        return ModelStatus(name=name, ready=scorer.is_alive)

    @app.post(
        "/v1/models/{model_name}:predict",
        summary="Scores of images in base64 (KServe)",
        response_model_exclude_none=True,
    )
    async def predict(model_name: str, request: Instances, heatmaps: Heatmaps = False) -> Predictions:
        check_name(model_name)
        contents = [_decoded(number, instance.b64) for number, instance in enumerate(request.instances)]
        predictions = []
        for number, answer in enumerate(await answers_for(contents, heatmaps)):
            if answer.scored is None:
                raise Refusal(400, f"instances[{number}]: {answer.problem}")
            predictions.append(Prediction(**_prediction("", answer)))
        return Predictions(predictions=predictions)

    @app.post(
        "/score",
        summary="Scores of image files, such as curl sends them",
        response_model_exclude_none=True,
        openapi_extra={"requestBody": MULTIPART},
    )
    async def score(request: Request, heatmaps: Heatmaps = False) -> FilePredictions:
        predictions = await predictions_of_files(request, heatmaps)
        if all("problem" in prediction for prediction in predictions):
            raise Refusal(400, f"{_printable(predictions[0]['file'])}: {predictions[0]['problem']}")
        return FilePredictions(predictions=[FilePrediction(**prediction) for prediction in predictions])

    @app.post("/page-score", response_model_exclude_none=True, include_in_schema=False)
    async def score_for_page(request: Request) -> FilePredictions:
        """The same, but browsers would report an error to their console if a single file could not be used."""
        predictions = await predictions_of_files(request, with_heatmaps=True)
        return FilePredictions(predictions=[FilePrediction(**prediction) for prediction in predictions])

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page(request: Request) -> Response:
        """The page for browsers; clients of KServe ask here whether the service runs."""
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_file("page.html"))
        return JSONResponse({"status": "alive"})

    @app.get("/page/{file_name}", include_in_schema=False)
    async def page_file(file_name: str) -> Response:
        if file_name not in PAGE:
            raise Refusal(404, f"there is no {file_name}")
        return Response(_file(file_name), media_type=PAGE[file_name])

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def documentation(request: Request) -> Response:
        template = jinja2.Environment(autoescape=True).from_string(_file("docs.html"))
        return HTMLResponse(template.render(api=app.openapi(), name=name, address=str(request.base_url), limits=limits))

    def check_name(model_name: str) -> None:
        if model_name != name:
            raise Refusal(404, f"there is no model {model_name[:100]!r}; expected {name!r}")

    @app.exception_handler(RequestValidationError)
    async def explain(_: Request, problem: RequestValidationError) -> Response:
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            return PlainTextResponse(f"the body is no JSON, see its character {first['loc'][-1]}\n", 400)
        if first["loc"] == ("body",) and isinstance(problem.body, bytes):
            return PlainTextResponse("expected JSON with the header Content-Type: application/json\n", 400)
        if first["type"] == "model_attributes_type":
            first["msg"] = 'expected an object such as {"b64": "…"}'
        parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"] if part != "body")
        where = "".join(parts).removeprefix(".") or "body"
        return PlainTextResponse(f"{where}: {first['msg']}\n", 400)

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> Response:
        return refusal.answer()

    @app.exception_handler(ClientDisconnect)
    async def note_departure(_: Request, problem: ClientDisconnect) -> Response:
        return PlainTextResponse("the request was cut off\n", 400)  # nobody reads it, but it is counted

    @app.exception_handler(HTTPException)
    async def explain_status(_: Request, problem: HTTPException) -> Response:
        if isinstance(problem.__cause__, Refusal):  # while the body was read
            return problem.__cause__.answer()
        line = UNREADABLE_JSON if problem.detail.startswith("There was an error parsing") else problem.detail
        return PlainTextResponse(f"{line}\n", problem.status_code, problem.headers)

    paths = {route.path.replace("{model_name}", name) for route in app.routes if isinstance(route, Route)}
    return Guard(app, rules, limits, figures, paths)


def _prediction(name: str, answer: Answer) -> dict[str, Any]:
    """The prediction of a file, as `predict` writes it."""
    if answer.scored is None:
        return of_unusable(name, str(answer.problem))
    heatmap = None if answer.heatmap is None else base64.b64encode(answer.heatmap).decode()
    return of_scored(name, answer.scored, answer.scored.is_anomalous) | {"heatmap": heatmap}


def _printable(name: str) -> str:
    """A name on one line, without signs that a terminal would act on."""
    return "".join(sign if sign.isprintable() else " " for sign in name)


def _decoded(number: int, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, f"instances[{number}].b64: is no base64") from None


def _file(name: str) -> str:
    """A file of the page."""
    return files("anomaly_toolbox.service").joinpath("page", name).read_text(encoding="utf-8")
