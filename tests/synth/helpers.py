"""A server of somebody else's, as far as herd can see: it answers chat completions by a function of the messages, over real HTTP."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from herd.config import read
from herd.engine.remote import Remote
from herd.runs import Run
from herd.synth.recipe import Recipe
from herd.synth.run import make
from herd.synth.writer import RemoteWriter
from tests.listening import listening


@contextmanager
def server(answer):
    """`answer(last message, whole body)` is text, a value for JSON, or a list of them for n; None breaks the reply off."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            found = answer(body["messages"][-1]["content"], body)
            found = found if isinstance(found, list) else [found] * body["n"]
            choices = [
                {
                    "message": {"content": one if isinstance(one, str) else json.dumps(one)},
                    "finish_reason": "length" if one is None else "stop",
                }
                for one in found
            ]
            data = json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with listening(Handler) as url:
        yield f"{url}/v1"


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def written(place, rows, answer, recipe, questions=()):
    """(data, dropped, results) of a recipe's text for these rows, with a server that answers by `answer`."""
    (place / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (place / "recipe.toml").write_text(f'inputs = ["in.jsonl"]\n{recipe}\n', "utf-8")
    settings = read(Recipe, place / "recipe.toml", values={"folder": str(place)}).check()
    run = Run.create(place / "run", "synth", "", version="0")
    with server(answer) as url:
        writer = RemoteWriter(Remote(url, "m"), {"model": "m"}, workers=4)
        results = make(run, settings, writer, list(questions))
    return lines(run.folder / "data.jsonl"), lines(run.folder / "dropped.jsonl"), results
