"""Times as people compare them: how long ago, how soon."""

from pochta import clock


def show_span(seconds: float) -> str:
    """The two largest units: `3d 4h`, `2h 5m`, `4m 12s`, `9s`."""
    minutes, rest = divmod(max(0, int(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {rest}s" if minutes else f"{rest}s"


def ago(at: float) -> str:
    """`4m 12s ago`, or `now`."""
    passed = int(clock.now_s() - at)
    return f"{show_span(passed)} ago" if passed > 0 else "now"


def ahead(at: float) -> str:
    """`in 4m 12s`, or `now`."""
    left = int(at - clock.now_s())
    return f"in {show_span(left)}" if left > 0 else "now"
