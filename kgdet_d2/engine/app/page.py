"""The web page: what is on it, what happens when, and how it is served. It needs Gradio."""

import html
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr

from kgdet_d2.engine.app.finder import HEADERS, Found, GarmentFinder, RefusedPhoto
from kgdet_d2.visualizer import PARTS

KEPT_SECONDS = 1800  # uploads, pictures, and what was found
_HEADING = f"""# KGDet: garments and their landmarks

Drop a photo or take an example: the model finds each garment, its class, its box and its landmarks. Photos
stay on the machine that this page comes from, for {KEPT_SECONDS // 60} minutes.
"""
_DOWNLOADS = ("Download picture", "Download JSON", "Download COCO results")


def make_page(finder: GarmentFinder, *, score_threshold: float, examples: Sequence[Path]) -> gr.Blocks:
    """Lay out the page.

    Args:
        finder: finds what is shown.
        score_threshold: where the slider stands at first, 0..1; it goes down to the predictor's.
        examples: photos.
    """
    lowest = finder.predictor.score_threshold
    with gr.Blocks(title="KGDet", analytics_enabled=False, delete_cache=(60, KEPT_SECONDS)) as page:
        gr.Markdown(_HEADING)
        with gr.Row():
            with gr.Column(scale=2):
                photo = gr.Image(label="Photo", sources=["upload", "clipboard"], height=280)
                score = gr.Slider(lowest, 1, score_threshold, step=0.01, label="Score from")
                parts = gr.CheckboxGroup(list(PARTS), value=list(PARTS), label="Show")
                events = [photo.input]
                if examples:
                    listed = gr.Examples([[str(path)] for path in examples], photo)
                    events.append(listed.load_input_event.then)
            with gr.Column(scale=3):
                picture = gr.Image(
                    label="Garments",
                    interactive=False,
                    buttons=["fullscreen"],
                    height=520,
                    alt_text="the photo with its garments drawn",
                )
                table = gr.Dataframe(headers=list(HEADERS), interactive=False, show_label=False, buttons=[])
                with gr.Row():
                    downloads = [gr.DownloadButton(name, size="md", interactive=False) for name in _DOWNLOADS]
        _connect(finder, events, photo, [score, parts], [picture, table, *downloads])
    return page.queue(max_size=20)


def _connect(
    finder: GarmentFinder,
    events: Sequence[Any],
    photo: gr.Image,
    choices: Sequence[gr.Slider | gr.CheckboxGroup],
    outputs: Sequence[Any],
) -> None:
    """Have garments found when a photo comes, and drawn then and whenever a choice changes.

    Args:
        finder: finds them.
        events: that a photo comes by.
        photo: the photo.
        choices: the lowest score, and the parts of garments that are drawn.
        outputs: what :func:`_show` fills.
    """
    found = gr.State(time_to_live=KEPT_SECONDS)  # one for each visitor
    # One thing at a time, by one name for all: matplotlib is not made for threads, and so what is drawn last
    # is of the photo that came last.
    in_turn = {"concurrency_id": "in turn", "trigger_mode": "always_last"}
    finding = {"fn": partial(_find, finder), "inputs": photo, "outputs": [found, *outputs], **in_turn}
    drawing = {"fn": _show, "inputs": [found, *choices], "outputs": outputs, **in_turn}
    for event in events:
        # Gradio's preprocessing decodes a photo, in 8 bits; without it the file itself arrives.
        done = event(**finding, preprocess=False, show_progress_on=outputs[0], api_name="find")
        done.success(**drawing, api_visibility="private")
    gr.on([choice.change for choice in choices], **drawing, api_name="show")


def _find(finder: GarmentFinder, upload: dict | None) -> Iterator[tuple]:
    """Generate what is found, and nothing to show of it as yet."""
    yield None, *_nothing()  # else what is older would stay beside a photo that is refused
    if upload and upload["path"]:
        try:
            yield finder.find(upload["path"]), *_nothing()
        except RefusedPhoto as refused:
            raise gr.Error(html.escape(str(refused)), duration=30, print_exception=False) from refused


def _show(found: Found | None, score: float, parts: list[str]) -> Iterator[tuple]:
    """Generate once what is shown and downloaded; Gradio has copied the files when it asks for more."""
    if found is None:
        yield _nothing()
        return
    with TemporaryDirectory() as folder:
        files = found.write(Path(folder), score, parts)
        buttons = (gr.DownloadButton(value=str(file), interactive=True) for file in files)
        yield str(files.picture), found.table(score), *buttons


def _nothing() -> tuple:
    """Return no picture, no garments and no files."""
    return None, [], *(gr.DownloadButton(value=None, interactive=False) for _ in _DOWNLOADS)


def serve(page: gr.Blocks, *, host: str, port: int, max_megabytes: int) -> str:
    """Start the page's server in a thread of its own; return the page's address.

    Args:
        page: see :func:`make_page`.
        host: address to listen at.
        port: likewise.
        max_megabytes: of an uploaded file.

    Raises:
        OSError: the port is taken, or host and port are not this machine's.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            max_file_size=f"{max_megabytes}mb",
            state_session_capacity=200,  # visitors, of whom each may have a reduced photo of 5 MB in memory
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inline=False,
            ssr_mode=False,
            mcp_server=False,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
        )
    except (OSError, OverflowError) as error:
        raise OSError(f"{host}:{port}: cannot listen there; is the port taken, or no port?") from error
    return address
