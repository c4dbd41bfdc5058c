"""Runs snippets as processes of this machine: what the benchmark compares containers with."""

import subprocess
import sys
import time

from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Snippet(BaseModel):
    code: str
    timeout: int = 30


@app.post("/run")
def run(snippet: Snippet):
    begun = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", snippet.code],
            capture_output=True,
            text=True,
            timeout=snippet.timeout,
        )
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "stdout": "", "stderr": "", "execution_time": snippet.timeout}
    return {
        "status": "success" if done.returncode == 0 else "error",
        "stdout": done.stdout,
        "stderr": done.stderr,
        "execution_time": time.monotonic() - begun,
    }
