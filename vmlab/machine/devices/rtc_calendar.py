"""The calendar of a real-time clock: its ten time bytes, how they count on, and when they reach the alarm.

The bytes are what the guest wrote: BCD or binary, 12 or 24 hours, as register B says when they are used. Counting on
decodes them, adds, and encodes them again, so any number of seconds costs the same; values that are no time (31 February,
13 o'clock in 12-hour mode) are carried over into the next unit by that.

Simplified: no daylight saving. The century byte counts on with the year, as firmware would have it.

Read more: Motorola MC146818A data sheet, "Time, Calendar and Alarm Locations"; the century byte: PC/AT firmware, named
by the ACPI specification's FADT field CENTURY.
"""

from __future__ import annotations

__all__ = ["CENTURY", "TIME_BYTES", "add_seconds", "seconds_to_alarm"]

SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR = range(10)
TIME_BYTES = 10
CENTURY = 0x32
# in register B
HOURS_24, BINARY = 0x02, 0x04
PM = 0x80  # of an hour in 12-hour mode
ANY = 0xC0  # an alarm byte from here on matches everything

DAY_SECONDS = 86_400
CYCLE_YEARS, CYCLE_DAYS = 400, 146_097  # the Gregorian calendar repeats


def _decode(byte: int, mode: int) -> int:
    return byte if mode & BINARY else (byte >> 4) * 10 + (byte & 0xF)


def _encode(value: int, mode: int) -> int:
    return value if mode & BINARY else value // 10 << 4 | value % 10


def _decode_hour(byte: int, mode: int) -> int:
    if mode & HOURS_24:
        return _decode(byte, mode)
    return _decode(byte & ~PM, mode) % 12 + (12 if byte & PM else 0)


def _encode_hour(hour: int, mode: int) -> int:
    if mode & HOURS_24:
        return _encode(hour, mode)
    return _encode(hour % 12 or 12, mode) | (PM if hour >= 12 else 0)


def _to_days(year: int, month: int, day: int) -> int:
    """Days since 1 March of year 0; a year that begins in March has its leap day at its end."""
    year, month = year + (month - 3) // 12, (month - 3) % 12
    cycle, within = divmod(year, CYCLE_YEARS)
    days = 365 * within + within // 4 - within // 100
    return cycle * CYCLE_DAYS + days + (153 * month + 2) // 5 + day - 1


def _from_days(days: int) -> tuple[int, int, int]:
    """Year, month and day: the inverse of `_to_days`."""
    cycle, days = divmod(days, CYCLE_DAYS)
    year = (days - days // 1460 + days // 36_524 - days // 146_096) // 365
    days -= 365 * year + year // 4 - year // 100
    month = (5 * days + 2) // 153
    day = days - (153 * month + 2) // 5 + 1
    year += cycle * CYCLE_YEARS + (1 if month >= 10 else 0)
    return year, (month + 2) % 12 + 1, day


def _second_of_day(cmos: bytearray, mode: int) -> int:
    minutes = _decode_hour(cmos[HOURS], mode) * 60 + _decode(cmos[MINUTES], mode)
    return minutes * 60 + _decode(cmos[SECONDS], mode)


def add_seconds(cmos: bytearray, count: int, mode: int) -> None:
    """Count the time bytes on.

    Parameters
    ----------
    cmos : bytearray
        The chip's memory, changed in place.
    count : int
        Seconds.
    mode : int
        Register B: how the bytes are encoded.
    """
    days, rest = divmod(_second_of_day(cmos, mode) + count, DAY_SECONDS)
    minutes, second = divmod(rest, 60)
    cmos[SECONDS] = _encode(second, mode)
    cmos[MINUTES] = _encode(minutes % 60, mode)
    cmos[HOURS] = _encode_hour(minutes // 60, mode)
    if not days:
        return
    cmos[WEEKDAY] = (cmos[WEEKDAY] - 1 + days) % 7 + 1
    year = _decode(cmos[CENTURY], 0) * 100 + _decode(cmos[YEAR], mode)
    start = _to_days(year, _decode(cmos[MONTH], mode), _decode(cmos[DAY], mode))
    year, month, day = _from_days(start + days)
    cmos[DAY], cmos[MONTH], cmos[YEAR] = (_encode(value, mode) for value in (day, month, year % 100))
    cmos[CENTURY] = _encode(year // 100 % 100, 0)


def _matching(byte: int, values: dict[int, int]) -> list[int]:
    """The values whose encoding an alarm byte matches."""
    return sorted(values.values()) if byte >= ANY else [values[byte]] if byte in values else []


def _after(values: list[int], value: int) -> int | None:
    return next((each for each in values if each > value), None)


def seconds_to_alarm(cmos: bytearray, mode: int) -> int | None:
    """Return the seconds until the time bytes next match the alarm bytes, 1 to 86400; None for never."""
    sixty = {_encode(value, mode): value for value in range(60)}
    hours = _matching(cmos[HOURS_ALARM], {_encode_hour(value, mode): value for value in range(24)})
    minutes = _matching(cmos[MINUTES_ALARM], sixty)
    seconds = _matching(cmos[SECONDS_ALARM], sixty)
    if not (hours and minutes and seconds):
        return None
    now = _second_of_day(cmos, mode) % DAY_SECONDS
    rest, second = divmod(now, 60)
    hour, minute = divmod(rest, 60)
    found = hours[0], minutes[0], seconds[0]  # tomorrow, if not sooner
    later = _after(hours, hour)
    if hour in hours and minute in minutes and (next_second := _after(seconds, second)) is not None:
        found = hour, minute, next_second
    elif hour in hours and (next_minute := _after(minutes, minute)) is not None:
        found = hour, next_minute, seconds[0]
    elif later is not None:
        found = later, minutes[0], seconds[0]
    return (found[0] * 3600 + found[1] * 60 + found[2] - now - 1) % DAY_SECONDS + 1
