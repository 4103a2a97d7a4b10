"""`python -m mechshift_tl`: the same as the command `mechshift`."""

from mechshift_tl.cli import app

app()
