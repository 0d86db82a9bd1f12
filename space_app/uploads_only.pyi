"""Parts of the page that take files from the visitor, and none by address: Gradio would fetch those, however large."""

import gradio as gr
from gradio_client.utils import is_http_url_like


class _UploadsOnly:
    # To the browser these are the components that they are made of.
    is_template = True

    async def async_move_resource_to_block_cache(self, path):
        if path is not None and is_http_url_like(str(path)):
            raise gr.Error("Give the file itself, not its address.", print_exception=False)
        return await super().async_move_resource_to_block_cache(path)

from gradio.events import Dependency

class UploadedAudio(_UploadsOnly, gr.Audio):
    """A recording that was uploaded."""

    def get_block_name(self):
        return "audio"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component


class UploadedFile(_UploadsOnly, gr.File):
    """A file that was uploaded."""

    def get_block_name(self):
        return "file"
    from typing import Callable, Literal, Sequence, Any, TYPE_CHECKING
    from gradio.blocks import Block
    if TYPE_CHECKING:
        from gradio.components import Timer
        from gradio.components.base import Component