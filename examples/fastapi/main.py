"""A FastAPI application that starts jobs in Celery; its page shows their progress live."""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from tasks import build

PAGE = Path(__file__).with_name("index.html")

api = FastAPI()


@api.get("/")
def index() -> FileResponse:
    return FileResponse(PAGE)


@api.post("/jobs", status_code=202)
def start(files: int = 5) -> dict[str, str]:
    """Start a job. Its id is the id of the run that the page follows."""
    return {"run_id": build.delay(files).id}
