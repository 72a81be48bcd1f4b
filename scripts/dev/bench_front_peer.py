"""A server of the shape that Python engines have, for bench_front.sh: one task is the engine and puts a token a step
into the queue of each running request; a handler takes them out and yields an event for each, JSON made anew."""

import asyncio
import json
import os
import time
import uuid

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

STEP = float(os.environ.get("NULL_STEP_MS", "0")) / 1000
WORDS = [" that", " with", " have", " this", " will", " your", " from", " they"]

app = FastAPI()
running: dict[str, tuple[asyncio.Queue, list[int]]] = {}
wake = asyncio.Event()


async def engine():
    while True:
        if not running:
            wake.clear()
            await wake.wait()
        begun = time.monotonic()
        for name, (queue, left) in list(running.items()):
            left[0] -= 1
            queue.put_nowait((WORDS[left[0] % len(WORDS)], left[0] == 0))
            if left[0] == 0:
                del running[name]
        await asyncio.sleep(max(0, STEP - (time.monotonic() - begun)))


@app.on_event("startup")
async def start():
    app.state.engine = asyncio.create_task(engine())


@app.get("/health")
async def health():
    return {}


async def events(name, max_tokens):
    queue: asyncio.Queue = asyncio.Queue()
    created = int(time.time())
    running[name] = (queue, [max_tokens])
    wake.set()
    done = False
    while not done:
        text, done = await queue.get()
        chunk = {"id": name, "object": "text_completion", "created": created, "model": "null",
                 "choices": [{"index": 0, "text": text, "logprobs": None,
                              "finish_reason": "length" if done else None, "stop_reason": None}]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


@app.post("/v1/completions")
async def completions(request: Request):
    body = await request.json()
    name = "cmpl-" + uuid.uuid4().hex
    return StreamingResponse(events(name, body["max_tokens"]), media_type="text/event-stream")
