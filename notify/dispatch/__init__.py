"""Notifications over the right channel, at the right time, once, and the reason for each decision.

`Dispatcher` puts the parts together: types, preferences, channels, a store. Everything that decides is pure and can be
used alone.
"""

# Names are imported on first use: a store needs `notify.dispatch.abc` only, and importing everything would double the
# imports of a process that opens one.

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._audience import Audience as Audience
    from ._channel import Action as Action
    from ._channel import Channel as Channel
    from ._channel import Content as Content
    from ._channel import Gated as Gated
    from ._channel import Job as Job
    from ._content import DataTemplates as DataTemplates
    from ._content import Rendering as Rendering
    from ._content import Templates as Templates
    from ._decisions import Decision as Decision
    from ._decisions import Hold as Hold
    from ._decisions import Join as Join
    from ._decisions import Plan as Plan
    from ._decisions import Send as Send
    from ._decisions import Skip as Skip
    from ._dispatcher import Dispatcher as Dispatcher
    from ._explain import Explanation as Explanation
    from ._explain import ReportEntry as ReportEntry
    from ._layers import Layers as Layers
    from ._links import Links as Links
    from ._outcomes import Accepted as Accepted
    from ._outcomes import Ambiguous as Ambiguous
    from ._outcomes import Delivered as Delivered
    from ._outcomes import EndpointGone as EndpointGone
    from ._outcomes import Misconfigured as Misconfigured
    from ._outcomes import Outcome as Outcome
    from ._outcomes import Rejected as Rejected
    from ._outcomes import Throttled as Throttled
    from ._outcomes import Transient as Transient
    from ._plan import plan_recipient as plan_recipient
    from ._preferences import Preferences as Preferences
    from ._preferences import check_patch as check_patch
    from ._presets import preset as preset
    from ._quiet import QuietRule as QuietRule
    from ._quiet_hours import QuietHours as QuietHours
    from ._reasons import Reason as Reason
    from ._registry import TypeRegistry as TypeRegistry
    from ._retry import RetrySchedule as RetrySchedule
    from ._schedules import Schedule as Schedule
    from ._scheduling import ScheduleStatus as ScheduleStatus
    from ._settings import settings_of_gh as settings_of_gh
    from ._settings import settings_of_tp as settings_of_tp
    from ._tickets import Ticket as Ticket
    from ._type_parts import Digest as Digest
    from ._type_parts import Fallback as Fallback
    from ._type_parts import FrequencyCap as FrequencyCap
    from ._types import NotificationType as NotificationType
    from ._types import Recipient as Recipient
    from ._worker import Tick as Tick
    from .abc import DispatchStore as DispatchStore
    from .abc import Endpoint as Endpoint
    from .abc import State as State
    from .app import DispatchApp as DispatchApp
    from .app import Report as Report
    from .app import UnsubscribeView as UnsubscribeView
    from .templates import JinjaTemplates as JinjaTemplates
    from .templates import TemplateMissingError as TemplateMissingError
else:
    _PLACES = {
        "Accepted": "_outcomes",
        "Action": "_channel",
        "Ambiguous": "_outcomes",
        "Audience": "_audience",
        "Channel": "_channel",
        "Content": "_channel",
        "DataTemplates": "_content",
        "Decision": "_decisions",
        "Delivered": "_outcomes",
        "Digest": "_type_parts",
        "DispatchApp": "app",
        "DispatchStore": "abc",
        "Dispatcher": "_dispatcher",
        "Endpoint": "abc",
        "EndpointGone": "_outcomes",
        "Explanation": "_explain",
        "Fallback": "_type_parts",
        "FrequencyCap": "_type_parts",
        "Gated": "_channel",
        "Hold": "_decisions",
        "JinjaTemplates": "templates",
        "Job": "_channel",
        "Join": "_decisions",
        "Layers": "_layers",
        "Links": "_links",
        "Misconfigured": "_outcomes",
        "NotificationType": "_types",
        "Outcome": "_outcomes",
        "Plan": "_decisions",
        "Preferences": "_preferences",
        "QuietHours": "_quiet_hours",
        "QuietRule": "_quiet",
        "Reason": "_reasons",
        "Recipient": "_types",
        "Rejected": "_outcomes",
        "Rendering": "_content",
        "Report": "app",
        "ReportEntry": "_explain",
        "RetrySchedule": "_retry",
        "Schedule": "_schedules",
        "ScheduleStatus": "_scheduling",
        "Send": "_decisions",
        "Skip": "_decisions",
        "State": "abc",
        "TemplateMissingError": "templates",
        "Templates": "_content",
        "Throttled": "_outcomes",
        "Tick": "_worker",
        "Ticket": "_tickets",
        "Transient": "_outcomes",
        "TypeRegistry": "_registry",
        "UnsubscribeView": "app",
        "check_patch": "_preferences",
        "plan_recipient": "_plan",
        "preset": "_presets",
        "settings_of_gh": "_settings",
        "settings_of_tp": "_settings",
    }

    def __getattr__(name: str) -> object:
        """Import an exported name, or a public module, on first use."""
        if name in ("abc", "app", "templates"):
            return import_module(f".{name}", __name__)
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(f".{_PLACES[name]}", __name__), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Accepted",
    "Action",
    "Ambiguous",
    "Audience",
    "Channel",
    "Content",
    "DataTemplates",
    "Decision",
    "Delivered",
    "Digest",
    "DispatchApp",
    "DispatchStore",
    "Dispatcher",
    "Endpoint",
    "EndpointGone",
    "Explanation",
    "Fallback",
    "FrequencyCap",
    "Gated",
    "Hold",
    "JinjaTemplates",
    "Job",
    "Join",
    "Layers",
    "Links",
    "Misconfigured",
    "NotificationType",
    "Outcome",
    "Plan",
    "Preferences",
    "QuietHours",
    "QuietRule",
    "Reason",
    "Recipient",
    "Rejected",
    "Rendering",
    "Report",
    "ReportEntry",
    "RetrySchedule",
    "Schedule",
    "ScheduleStatus",
    "Send",
    "Skip",
    "State",
    "TemplateMissingError",
    "Templates",
    "Throttled",
    "Tick",
    "Ticket",
    "Transient",
    "TypeRegistry",
    "UnsubscribeView",
    "check_patch",
    "plan_recipient",
    "preset",
    "settings_of_gh",
    "settings_of_tp",
]
