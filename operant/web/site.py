"""Pages and data, by URL. Pages are whole without scripts, as far as a page can be; figures and streams are data."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from operant.errors import UserError
from operant.run.directory import STATUSES
from operant.web import learning, watching
from operant.web.atlas import Atlas, figure
from operant.web.curves import NAMES, Curves
from operant.web.pages import (
    KINDS,
    assets,
    atlas_page,
    duration,
    flat,
    learned_page,
    learning_page,
    number,
    paper_page,
    render,
    short,
    tables,
    texts,
)
from operant.web.runs import Runs, open_below

PAGE_SIZE = 100  # runs on one page
MOST_COMPARED = 12
MOST_LIVE = 4  # curves that move at the top of the list of runs
GLANCE = 1 << 18  # bytes of metrics that a page waits for: their names are in the first lines
TICK = 1.0  # seconds between looks at what has changed


class Site:
    """The application: `app` is ASGI, without the guard that stands before it."""

    def __init__(self, runs: Path, results: Path):
        self.runs, self.atlas = Runs(runs), Atlas(results)
        self.closing = False
        self.watchers = watching.Watchers()
        self.assets = {name: (data, KINDS[name[name.rindex(".") :]]) for name, data in assets()}
        self.app = Starlette(
            routes=[
                Route("/", self.home),
                Route("/papers/{slug}", self.paper),
                Route("/papers/{slug}/{scale}", self.paper),
                Route("/learning", self.list_learning),
                Route("/learning/{name}", self.learned),
                Route("/data/learning.json", self.learning_figure),
                Route("/data/learning/{name}", self.learning_figure),
                Route("/data/{slug}/{scale}", self.figure),
                Route("/runs", self.list_runs),
                Route("/runs/{run}", self.run),
                Route("/runs/{run}/watch", self.watch),
                Route("/runs/{run}/watch/stream", self.watch_stream),
                Route("/runs/{run}/films/{file}", self.film),
                Route("/runs/{run}/figures/{file}", self.picture),
                Route("/compare", self.compare),
                Route("/curves", self.curves),
                Route("/live/runs", self.live_runs),
                Route("/live/curves", self.live_curves),
                Route("/static/{name}", self.asset),
            ],
            exception_handlers={HTTPException: self.error, Exception: self.error},
        )
        self.app.router.redirect_slashes = False  # there is one address for each page

    def close(self) -> None:
        """Streams end, and whatever acts stops acting."""
        self.closing = True
        self.watchers.close()

    # ------------------------------------------------------------------------------------------------------ papers
    def home(self, request: Request) -> Response:
        return _page("atlas.html", "papers", **atlas_page(self.atlas))

    def paper(self, request: Request) -> Response:
        found = paper_page(self.atlas, request.path_params["slug"], request.path_params.get("scale"))
        if found is None:
            raise HTTPException(404, "There is no such paper, or no such result of it.")
        return _page("paper.html", "papers", **found)

    def figure(self, request: Request) -> Response:
        scale = request.path_params["scale"].removesuffix(".json")
        result = self.atlas.result(request.path_params["slug"], scale)
        if result is None:
            raise HTTPException(404, "There is no such result.")
        return JSONResponse(figure(result))

    # ---------------------------------------------------------------------------------------------------- learning
    def list_learning(self, request: Request) -> Response:
        return _page("learning.html", "learning", **learning_page(self.atlas))

    def learned(self, request: Request) -> Response:
        found = learned_page(self.atlas, request.path_params["name"])
        if found is None:
            raise HTTPException(404, "There is no such learning run.")
        return _page("learned.html", "learning", **found)

    def learning_figure(self, request: Request) -> Response:
        """The curve of one run, or those of all tasks that several runs are of."""
        known, name = self.atlas.learning, request.path_params.get("name")
        if name is None:
            return JSONResponse(learning.together(known.all()))
        row = known.get(name.removesuffix(".json"))
        if row is None:
            raise HTTPException(404, "There is no such learning run.")
        return JSONResponse(learning.figure(row))

    # -------------------------------------------------------------------------------------------------------- runs
    def list_runs(self, request: Request) -> Response:
        everything = self.runs.all()
        asked = {name: request.query_params.get(name, "") for name in ("q", "status", "sort")}
        words = asked["q"].lower().split()
        rows = [
            row
            for row in everything
            if (not asked["status"] or row["status"] == asked["status"])
            and all(word in f"{row['name']} {row['method']} {row['env']}".lower() for word in words)
        ]
        if asked["sort"] == "return":
            rows.sort(key=lambda row: -math.inf if row["return_mean"] is None else row["return_mean"], reverse=True)
        elif asked["sort"] in ("method", "env"):
            rows.sort(key=lambda row: row[asked["sort"]] or "")
        pages = max(1, -(-len(rows) // PAGE_SIZE))
        number = min(max(_whole(request.query_params.get("page"), 1), 1), pages)
        links = {n: "/runs?" + urlencode({**{k: v for k, v in asked.items() if v}, "page": n}) for n in
                 (number - 1, number + 1) if 1 <= n <= pages}  # fmt: skip
        return _page(
            "runs.html", "runs", rows=rows[(number - 1) * PAGE_SIZE : number * PAGE_SIZE], found=len(rows),
            total=len(everything), asked=asked, number=number, pages=pages, before=links.get(number - 1),
            after=links.get(number + 1), statuses=(*STATUSES, "broken"), root=str(self.runs.root),
            live=[row for row in everything if row["status"] == "running"][:MOST_LIVE],
        )  # fmt: skip

    def run(self, request: Request) -> Response:
        row = self._row(request.path_params["run"])
        curves, summary, config = self.runs.curves(row, GLANCE), self.runs.summary(row), self.runs.config(row)
        return _page(
            "run.html", "runs", row=row, metrics=curves.metrics, unreadable=curves.unreadable, summary=summary,
            films=self.runs.films(row), pictures=self.runs.pictures(row), tables=tables(config),
            has_checkpoint=(row["path"] / "checkpoints").is_dir(),
            sweep=texts(config.get("settings"), "sweep"), frozen=texts(summary, "frozen_lanes"),
        )  # fmt: skip

    def compare(self, request: Request) -> Response:
        rows = [self._row(run) for run in _asked(request)]
        if len(rows) < 2:
            raise HTTPException(404, "Choose two runs or more, in the list of runs.")
        settings = [flat(self.runs.config(row)) for row in rows]
        keys = sorted({key for one in settings for key in one}, key=_order)
        table = [(key, values, len(set(values)) > 1) for key in keys
                 for values in [[one.get(key, "") for one in settings]]]  # fmt: skip
        metrics = list(dict.fromkeys(m for row in rows for m in self.runs.curves(row, GLANCE).metrics))
        return _page("compare.html", "runs", rows=rows, table=table, metrics=metrics,
                     films={row["id"]: self.runs.films(row) for row in rows})  # fmt: skip

    def curves(self, request: Request) -> Response:
        """The curves of the runs that are asked for, as far as their files have been read."""
        return JSONResponse(self._figure(_asked(request), request.query_params.get("metric", "")))

    def film(self, request: Request) -> Response:
        return self._file(request, self.runs.films)

    def picture(self, request: Request) -> Response:
        return self._file(request, self.runs.pictures)

    def _file(self, request: Request, files: Callable[[dict[str, Any]], list[dict[str, Any]]]) -> Response:
        """One of a run's `files`, by its id."""
        row = self._row(request.path_params["run"])
        asked = [file for file in files(row) if file["id"] == request.path_params["file"]]
        try:
            descriptor = open_below(row["path"], *asked[0]["parts"])
        except (IndexError, OSError):
            raise HTTPException(404, "There is no such film or figure.") from None
        return _send(descriptor, asked[0]["kind"], request.headers.get("range", ""))

    def _row(self, run_id: str) -> dict[str, Any]:
        row = self.runs.get(run_id)
        if row is None:
            raise HTTPException(404, "There is no such run, or there is none any more.")
        return row

    def _figure(self, ids: list[str], metric: str) -> dict[str, Any]:
        rows = [self._row(run) for run in ids]
        known = [self.runs.curves(row) for row in rows]
        metric = metric or next((m for curves in known for m in curves.metrics), "")
        series: list[dict[str, Any]] = []
        for row, curves in zip(rows, known, strict=True):
            for one in curves.columns(metric):
                name = ", ".join(part for part in (_title(row) if len(rows) > 1 else "", one.pop("label")) if part)
                series.append({"name": name or _title(row), "run": row["id"], "colour": len(series), **one})
        return {
            "x_label": "environment steps",
            "y_label": NAMES.get(metric, metric.replace("_", " ")),
            "metric": metric,
            "metrics": list(dict.fromkeys(m for curves in known for m in curves.metrics)),
            "complete": all(curves.complete for curves in known),
            "read": sum(curves.read for curves in known),
            "size": sum(curves.size for curves in known),
            "panels": [{"title": "", "series": series}],
        }

    # -------------------------------------------------------------------------------------------------------- live
    async def live_runs(self, request: Request) -> Response:
        """Rows of the list as they change, and how many runs there are."""

        async def stream() -> AsyncIterator[tuple[str, Any]]:
            known: dict[str, Any] | None = None
            while not self.closing:
                rows = {row["id"]: _moving(row) for row in await run_in_threadpool(self.runs.all)}
                changed = [row for run, row in rows.items() if known is not None and known.get(run) != row]
                if known is None or changed or rows.keys() != known.keys():
                    yield "runs", {"total": len(rows), "changed": changed[:PAGE_SIZE]}
                known = rows
                await self._rest()

        return _events(stream())

    async def live_curves(self, request: Request) -> Response:
        """The curves of some runs whenever they have grown, until all of the runs have ended."""
        ids, metric = _asked(request), request.query_params.get("metric", "")
        for run in ids:
            self._row(run)

        async def stream() -> AsyncIterator[tuple[str, Any]]:
            versions: list[Any] = []
            while not self.closing:
                try:
                    rows = [await run_in_threadpool(self._row, run) for run in ids]
                except HTTPException:  # one of them was removed
                    break
                grown = [(await run_in_threadpool(self.runs.curves, row)) for row in rows]
                # what is told of a run is compared too: the file may have grown between the look at it and its curves
                now = [(curves.version, curves.read, _moving(row)) for curves, row in zip(grown, rows, strict=True)]
                if now != versions:
                    versions = now
                    figure = await run_in_threadpool(self._figure, ids, metric)
                    yield "curves", {**figure, "runs": [_moving(row) for row in rows]}
                if all(row["status"] != "running" for row in rows) and all(curves.complete for curves in grown):
                    break
                await self._rest()
            yield "end", {}

        return _events(stream())

    async def _rest(self) -> None:
        """Until the next look, or the end."""
        until = time.monotonic() + TICK
        while not self.closing and time.monotonic() < until:
            await asyncio.sleep(0.1)

    # ----------------------------------------------------------------------------------------------------- watching
    def watch(self, request: Request) -> Response:
        row = self._row(request.path_params["run"])
        config = self.runs.config(row)
        return _page("watch.html", "runs", row=row, lanes=_lanes(self.runs.curves(row, GLANCE), config))

    async def watch_stream(self, request: Request) -> Response:
        row = await run_in_threadpool(self._row, request.path_params["run"])
        asked = request.query_params
        which = "best" if asked.get("which") == "best" else "latest"
        choice = watching.Choice(
            row["path"], lane=_whole(asked.get("lane"), -1), which=which, stochastic=asked.get("sample") == "1"
        )
        return _events(self.watchers.watch(choice))

    # -------------------------------------------------------------------------------------------------------- rest
    def asset(self, request: Request) -> Response:
        found = self.assets.get(request.path_params["name"])
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return Response(found[0], media_type=found[1], headers={"cache-control": "no-cache"})

    def error(self, request: Request, error: Exception) -> Response:
        status, words = 500, "Something went wrong here; the terminal says what."
        if isinstance(error, HTTPException):
            status = error.status_code
            words = "There is no such page." if error.detail == "Not Found" else error.detail
        return _page("error.html", "", status=status, words=words, code=status)


# --------------------------------------------------------------------------------------------------- what is asked for
def _whole(text: str | None, default: int) -> int:
    """The whole number that is asked for, within reason."""
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,6}", text) else default


def _order(key: str) -> tuple[int, str]:
    groups = ("env", "agent", "settings", "init_from", "devices", "machine")
    head = key.partition(".")[0]
    return groups.index(head) if head in groups else len(groups), key


def _title(row: dict[str, Any]) -> str:
    return f"{row['method'] or 'run'} · {row['name'].rpartition('/')[2]}"


def _moving(row: dict[str, Any]) -> dict[str, Any]:
    """What of a run changes while it trains, as it is shown."""
    return {
        "id": row["id"], "status": row["status"], "steps": short(row["steps"]), "return": number(row["return_mean"]),
        "seconds": duration(row["seconds"]),
    }  # fmt: skip


def _asked(request: Request) -> list[str]:
    return list(dict.fromkeys(request.query_params.getlist("run")))[:MOST_COMPARED]


def _lanes(curves: Curves, config: dict[str, Any]) -> int:
    """How many lanes a run has, to choose among."""
    settings = config.get("settings")
    seeds = settings.get("seeds") if isinstance(settings, dict) else None
    groups = max(len(curves.labels), 1)
    return min(seeds * groups, 256) if type(seeds) is int and 0 < seeds < 257 else 1


# ------------------------------------------------------------------------------------------------------------- answers
def _page(template: str, section: str, code: int = 200, **values: Any) -> Response:
    return HTMLResponse(render(template, section, lambda place: f"/{place}", **values), code)


def _events(stream: AsyncIterator[tuple[str, Any]]) -> Response:
    """Server-sent events, each a name and JSON."""

    async def lines() -> AsyncIterator[str]:
        try:
            yield "retry: 2000\n\n"
            async for name, data in stream:
                yield f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"
        except UserError as error:
            yield f"event: problem\ndata: {json.dumps({'words': str(error)})}\n\n"
        finally:
            await stream.aclose()

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _send(descriptor: int, kind: str, asked: str) -> Response:
    """A file that is open, or the one range of it that is asked for, which is how films are played. Closes it."""
    file = open(descriptor, "rb")  # which closes it, also where nobody stays to read
    size = os.fstat(descriptor).st_size
    start, end, status = 0, size, 200
    if match := re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", asked):
        first, last = match.groups()
        if first:
            start, end, status = int(first), min(int(last) + 1 if last else size, size), 206
        elif last:
            start, status = max(size - int(last), 0), 206
        if start >= end:
            file.close()
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
    headers = {"accept-ranges": "bytes", "content-length": str(end - start)}
    if status == 206:
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"

    def pieces() -> Iterator[bytes]:
        with file:
            file.seek(start)
            left = end - start
            while left > 0 and (piece := file.read(min(left, 1 << 18))):
                left -= len(piece)
                yield piece

    return StreamingResponse(pieces(), status, headers, media_type=kind)
