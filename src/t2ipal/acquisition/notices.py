"""What acquisition says in its log, and in which words."""

from __future__ import annotations

import ssl
import sys
from urllib.parse import urlsplit

from requests import RequestException, Timeout
from requests.exceptions import TooManyRedirects
from urllib3.exceptions import HTTPError, IncompleteRead, TimeoutError

from t2ipal.hub import causes, first_line


def say(sentence: str) -> None:
    """Write one line at once: a log may be all that is left of a killed job."""
    print(f"t2ipal acquire: {sentence}", file=sys.stderr, flush=True)


def shown(address: str) -> str:
    """An address without the password and the query that it may hold."""
    if "://" not in address:
        return address
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def host(address: str) -> str:
    """The host of an address; a path is shown whole."""
    return urlsplit(address).netloc.rpartition("@")[2] or shown(address)


def reason(error: RequestException | HTTPError, seconds: float) -> str:
    """Why a connection failed, in a few words; ``seconds`` is the time that was waited for an answer."""
    chain = list(causes(error))
    spoken = [cause.strerror for cause in chain if isinstance(cause, OSError) and cause.strerror]
    if spoken:
        return spoken[-1]
    if any(isinstance(cause, Timeout | TimeoutError) for cause in chain):
        return f"no answer for {seconds:g} seconds"
    if any(isinstance(cause, IncompleteRead) for cause in chain):
        return "breaks off"
    return "redirects in circles" if isinstance(error, TooManyRedirects) else first_line(chain[-1])


def is_distrusted(error: BaseException) -> bool:
    """Whether a connection failed for the server's certificate."""
    return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes(error))
