"""A Typer app of five empty commands, made with the flags that hashcli's is made with."""

import typer

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
for name in ("one", "two", "three", "four", "five"):
    app.command(name)(lambda: None)
app()
