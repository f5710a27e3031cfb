"""`DispatchApp`: an ASGI application for devices, preferences, links in messages, callbacks and admin sends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from notify import NotifyError, UsageError
from notify._asgi import (
    DISPATCH_FILES,
    SAFE,
    Authenticate,
    CrossSiteRules,
    Identification,
    Identity,
    Receive,
    Reply,
    Request,
    Scope,
    Send,
    WebError,
    reply_to,
    without_body,
)

from . import _app_admin, _app_callbacks, _app_devices, _app_files, _app_links, _app_openapi, _app_preferences
from ._app_links import UnsubscribeView as UnsubscribeView
from ._app_links import unsubscribe_page as default_page
from ._app_routes import match
from ._app_site import DispatchSite, Handler, NamedAudience, ReadReports, check_devices, check_functions
from ._checks import check_count, check_seconds
from ._dispatcher import Dispatcher, parts_of
from ._report import Report as Report
from .abc import SessionEndpoints

ROUTES: Final[Mapping[str, Mapping[str, Handler]]] = {
    "devices": {"GET": _app_devices.listed, "POST": _app_devices.register},
    "devices/unregister": {"POST": _app_devices.unregister},
    "devices/{id}": {"DELETE": _app_devices.remove},
    "push/vapid-key": {"GET": _app_devices.vapid_key},
    "push/subscribe": {"POST": _app_devices.subscribe},
    "push/unsubscribe": {"POST": _app_devices.unregister},
    "preferences": {"GET": _app_preferences.read, "PATCH": _app_preferences.patch},
    "deliveries/{id}/opened": {"POST": _app_links.opened},
    "deliveries/{id}/clicked": {"POST": _app_links.clicked},
    "deliveries/{id}/dismissed": {"POST": _app_links.dismissed},
    "unsubscribe/{token}": {"GET": _app_links.show, "HEAD": _app_links.show, "POST": _app_links.unsubscribe},
    "opened/{token}": {"GET": _app_links.pixel, "HEAD": _app_links.pixel},
    "clicked/{token}": {"GET": _app_links.redirect, "HEAD": _app_links.redirect},
    "dismissed/{token}": {"POST": _app_links.dismiss},
    "callbacks/{name}": {"POST": _app_callbacks.callback},
    "send": {"POST": _app_admin.send},
    "users/{user}/notifications": {"GET": _app_admin.notifications},
    "explain": {"GET": _app_admin.explain},
    "openapi.json": {"GET": _app_openapi.document},
    **{name: {"GET": _app_files.file(name), "HEAD": _app_files.file(name)} for name in DISPATCH_FILES},
}
"""The handlers, by the end of the path and the method."""

UNBOUND: Final = frozenset(
    {"unsubscribe/{token}", "opened/{token}", "clicked/{token}", "dismissed/{token}", "callbacks/{name}"}
)
"""Used by mail programs, service workers and providers: a signature says who sent the request, so cookies and origins
do not count."""

PUBLIC: Final = frozenset({"openapi.json", *DISPATCH_FILES})
"""Served to the pages of any site: they show nothing of any user."""


class DispatchApp:
    """What a dispatcher needs over HTTP. Pure ASGI: run it by itself, or mount it anywhere in another application.

    docs/howto/dispatch-http.md has the endpoints; `GET /openapi.json` describes them.

    Args:
        dispatcher: it is not closed.
        authenticate: called with each `Request`, plain or async; returns the user, an `Identity`, or None for 401.
            `NotifyApp` takes the same function.
        admin: called with an `Identity`, plain or async; returns True for administrators, who may send, and read for
            others. None: there are no such endpoints.
        session_of: called with a request for which `authenticate` returned None; returns the id of its session, to
            which devices belong until login, or None. None: devices need a login.
        audiences: audiences by name, for `POST /send`: functions such as `submit_many` takes.
        callbacks: what reads and verifies a provider's callbacks, by the name in `/callbacks/{name}`. Called with the
            request and its body, plain or async; returns `Report`s, or None if the signature is not valid.
        devices: channels for which clients may register addresses of their own; None: `fcm`, if it is installed. Never
            one whose addresses need proof, such as e-mail.
        web_push: the name of the channel that browsers subscribe to.
        max_devices: the most devices of one user, or one session; one more retires the one that was registered longest
            ago.
        unsubscribe_page: a function from an `UnsubscribeView` to HTML; None: a page in English.
        origins: other sites whose pages may use the application, for example `https://app.example.com`.
        max_body: the largest request body, in bytes; `POST /send` accepts 1 MiB in any case.
        timeout: seconds within which a body has to be complete.
        allow_private: whether a browser's push service may have an address that is not public: for tests.

    Raises:
        UsageError: an argument is unacceptable.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        authenticate: Authenticate,
        *,
        admin: Callable[[Identity], Any] | None = None,
        session_of: Callable[[Request], Any] | None = None,
        audiences: Mapping[str, NamedAudience] | None = None,
        callbacks: Mapping[str, ReadReports] | None = None,
        devices: Collection[str] | None = None,
        web_push: str = "web_push",
        max_devices: int = 20,
        unsubscribe_page: Callable[[UnsubscribeView], str] | None = None,
        origins: Sequence[str] = (),
        max_body: int = 65_536,
        timeout: float = 20.0,
        allow_private: bool = False,
    ) -> None:
        if not isinstance(dispatcher, Dispatcher):
            raise UsageError(f"the first argument must be a Dispatcher, not {dispatcher!r:.80}")
        for name, function in (("admin", admin), ("session_of", session_of), ("unsubscribe_page", unsubscribe_page)):
            if function is not None and not callable(function):
                raise UsageError(f"DispatchApp: {name} must be a function, not {function!r:.80}")
        check_count("DispatchApp: max_devices", max_devices)
        check_count("DispatchApp: max_body", max_body)
        check_seconds("DispatchApp: timeout", timeout)
        parts = parts_of(dispatcher)
        if session_of is not None and not isinstance(parts.endpoints, SessionEndpoints):
            raise UsageError(
                f"DispatchApp: session_of needs a store of endpoints that finds those of a session: "
                f"{type(parts.endpoints).__name__} lacks the ability notify.dispatch.abc.SessionEndpoints"
            )
        self._site = DispatchSite(
            dispatcher=dispatcher,
            parts=parts,
            identification=Identification(authenticate),
            rules=CrossSiteRules(origins),
            admin=admin,
            session_of=session_of,
            audiences=check_functions("audiences", {} if audiences is None else audiences),
            callbacks=check_functions("callbacks", {} if callbacks is None else callbacks),
            devices=check_devices(devices, parts) - {web_push},
            web_push=web_push,
            unsubscribe_page=default_page if unsubscribe_page is None else unsubscribe_page,
            allow_private=allow_private,
            max_devices=max_devices,
            max_body=max_body,
            timeout=timeout,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request or the lifespan of the server; a WebSocket is refused.

        Raises:
            UsageError: the scope is of another type.

        Concurrency: any number of tasks.
        """
        kind = scope["type"]
        if kind == "http":
            request = Request(scope)
            try:
                reply = await self._answered(request, receive)
            except (WebError, NotifyError) as error:
                reply = reply_to(error)
            send = without_body(send) if request.method == "HEAD" else send
            await reply.send(send, request.response_headers)
        elif kind == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
        elif kind == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            raise UsageError(f"DispatchApp serves http and lifespan, not {kind!r}")

    async def _answered(self, request: Request, receive: Receive) -> Reply:
        """Return the answer to a request.

        Raises:
            WebError: there is nothing at its path, its method is not supported, its page may not send it, or the
                handler refuses it.
            NotifyError: the store failed, or an argument is not valid.
        """
        site = self._site
        if site.rules:
            request.response_headers += site.rules.cors(request.headers)
        found = match(request.scope, ROUTES)
        if found is None:
            raise WebError(404, "not_found", "there is nothing at this path: see /openapi.json")
        if found.template not in UNBOUND and not (request.method in SAFE and found.template in PUBLIC):
            refusal = site.rules.refusal(request.method, str(request.scope.get("scheme", "http")), request.headers)
            if refusal is not None:
                raise WebError(*refusal)
        methods = ROUTES[found.template]
        if request.method == "OPTIONS":
            supported = sorted({*methods, "OPTIONS"})
            allow = (b"allow", ", ".join(supported).encode())
            return Reply(204, headers=[allow, *site.rules.preflight(request.headers, supported)])
        handler = methods.get(request.method)
        if handler is None:
            allowed = ", ".join(sorted({*methods, "OPTIONS"}))
            raise WebError(405, "method_not_allowed", f"use {allowed}", [(b"allow", allowed.encode())])
        return await handler(site, request, receive, found.names)
