"""Writes expected_daily.csv and expected_monthly.csv from the observations.

This shares nothing with the application: exact decimal arithmetic over whole months at once, where the application
adds one reading after the other in floating point. Of handmade-2016.csv only the lines named in GOOD count; which
ones they are was decided by reading the file, not by a program.
"""

import csv
from collections import defaultdict
from decimal import Decimal
from pathlib import Path

HERE = Path(__file__).parent
GOOD = {2, 3, 19, 21}

rows = list(csv.DictReader((HERE / "seattle-weather.csv").open()))
assert len(rows) == 1461
lines = (HERE / "handmade-2016.csv").read_bytes().split(b"\n")
names = lines[0].decode().split(",")
rows += [dict(zip(names, lines[number - 1].decode().split(","))) for number in sorted(GOOD)]

months = defaultdict(list)
with (HERE / "expected_daily.csv").open("w") as out:
    print("date,temp_mean,temp_range,precipitation,wind,weather", file=out)
    for row in rows:
        date = row["date"].replace("/", "-")
        high, low = Decimal(row["temp_max"]), Decimal(row["temp_min"])
        print(date, (high + low) / 2, high - low, row["precipitation"], row["wind"], row["weather"], sep=",", file=out)
        months[date[:7]].append(row)

with (HERE / "expected_monthly.csv").open("w") as out:
    print("month,days,rain_days,precipitation,temp_max_mean,temp_min_mean,temp_highest,temp_lowest,wind_mean", file=out)
    for month, days in sorted(months.items()):
        def column(name):
            return [Decimal(day[name]) for day in days]

        def mean(name):
            return f"{sum(column(name)) / len(days):.6f}"

        print(
            month,
            len(days),
            sum(value > 0 for value in column("precipitation")),
            sum(column("precipitation")),
            mean("temp_max"),
            mean("temp_min"),
            max(column("temp_max")),
            min(column("temp_min")),
            mean("wind"),
            sep=",",
            file=out,
        )
