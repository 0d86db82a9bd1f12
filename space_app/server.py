"""`serve`: put the page on the network."""

from starlette.middleware import Middleware

from space_app.live_tab import LiveSessions
from space_app.page import build_page, page_style


def serve(service, host: str, port: int | None, block: bool = True):
    """Serve the page.

    Args:
        service: the `Service`.
        host: address to listen on.
        port: `None` for the first free one from 7860 on.
        block: until the process is interrupted.

    Returns:
        the page, and its address.
    """
    limits = service.limits
    page, live = build_page(service), LiveSessions(service.pipe, limits)
    page.queue(max_size=limits.queue_size, default_concurrency_limit=8)
    _, url, _ = page.launch(
        server_name=host,
        server_port=port,
        # Uploads are checked again when they are read; this stops them on their way.
        max_file_size=int(limits.max_megabytes * 1e6),
        app_kwargs={"middleware": [Middleware(part.middleware) for part in (service.uploads, live)]},
        # What goes wrong inside is logged here, and not told there.
        show_error=False,
        mcp_server=True,
        ssr_mode=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=["api", "gradio"],
        state_session_capacity=100,
        prevent_thread_lock=True,
        **page_style(),
    )
    if block:
        page.block_thread()
    return page, url
