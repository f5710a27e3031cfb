"""What providers report after sending, read and verified: for `DispatchApp(callbacks=...)` and `Dispatcher.report`.

`TwilioReports` and `JsonReports` read callbacks over HTTP; `mail_reports` reads bounces and complaints that come by
e-mail.
"""

from ._json import JsonReports as JsonReports
from ._mail import mail_reports as mail_reports
from ._twilio import TwilioReports as TwilioReports

__all__ = ["JsonReports", "TwilioReports", "mail_reports"]
