"""Whether there is a network, found out within seconds."""

import http.client
import threading
import urllib.error
import urllib.request


def answers(url: str, limit: float = 5.0) -> bool:
    """Whether a server answers, with whatever status, directly or by a proxy.

    For libraries that try for minutes before they admit that there is no network.

    Args:
      url: What to ask, e.g. "https://storage.googleapis.com/".
      limit: Seconds in all.

    Returns:
      True if an answer came in time.
    """
    answered = threading.Event()

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=limit).close()
            answered.set()
        except urllib.error.HTTPError as error:  # "forbidden" is an answer too
            error.close()
            answered.set()
        except (OSError, ValueError, http.client.HTTPException):
            pass

    # In a thread, since no time limit reaches the look-up of the server's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(limit)
    return answered.is_set()
