"""`uploads_only`: take files from the visitor, and none by address: Gradio would fetch those, however large."""

import gradio as gr
from gradio_client.utils import is_http_url_like


def uploads_only(component):
    """Return a component that refuses addresses in place of uploads."""
    move = component.async_move_resource_to_block_cache

    async def move_upload(path):
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("Give the file itself, not its address.", print_exception=False)
        return await move(path)

    # Not by a subclass: for each of those Gradio writes a file beside the code.
    component.async_move_resource_to_block_cache = move_upload
    return component
