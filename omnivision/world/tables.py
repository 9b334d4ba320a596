"""Real tables from installed packages, cut into small slices for charts.

Every table is a grid of named rows and columns. A slice is a few rows and one or two columns; a hash of the slice
alone decides whether it may be seen in training or only in evaluation, so no chart of one is a chart of the other.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from .fonts import package_file
from .table_words import CHINESE, COUNTRIES, MONTHS

EVALUATION_SHARE = 5  # one slice in five is kept for evaluation
YEARS = tuple(str(year) for year in range(1952, 2008, 5))
Cells = dict[tuple[str, str], float]


@dataclass(frozen=True)
class Table:
    """A grid of numbers.

    Args:
        title: what the numbers are.
        source: package and file.
        rows, columns: names, in natural order.
        cells: value per (row, column).
        ordered: the rows are a sequence (years, months), so a line may join them.
        additive: the values of different rows add up to something (pies and stacks make sense).
    """

    title: str
    source: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Cells
    ordered: bool = False
    additive: bool = False

    def words(self) -> Iterable[str]:
        """Every word a chart of this table can show."""
        return (self.title, *self.rows, *self.columns)

    def turned(self, ordered: bool) -> "Table":
        """The same numbers with rows and columns exchanged."""
        cells = {(column, row): value for (row, column), value in self.cells.items()}
        return Table(self.title, self.source, self.columns, self.rows, cells, ordered, self.additive)


@dataclass(frozen=True)
class Slice:
    """A few rows and columns of a table, in drawing order; values are [series][label]."""

    title: str
    labels: tuple[str, ...]
    series: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    source: str
    slice_id: str


def _read(package: str, name: str) -> list[dict[str, str]]:
    data = package_file(package, name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def _grid(
    rows: Iterable[dict], row: Callable, column: Callable, value: Callable, total: bool = False, scale: float = 1.0
) -> Cells:
    """Mean (or sum) of the values that fall into each cell; a row whose names are None is left out."""
    gathered: dict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in rows:
        key = (row(entry), column(entry))
        if None not in key and value(entry) not in ("", None):
            gathered[key].append(float(value(entry)))
    return {key: sum(found) / (1 if total else len(found)) * scale for key, found in gathered.items()}


def _table(title: str, source: str, rows: Iterable, columns: Iterable, cells: Cells, **flags) -> Table:
    return Table(title, source, tuple(rows), tuple(columns), cells, **flags)


def _world_tables() -> list[Table]:
    """Countries by year: plotly's gapminder and bokeh's emissions."""
    gap = _read("plotly", "package_data/datasets/gapminder.csv.gz")
    source, country = "plotly gapminder", lambda e: e["country"] if e["country"] in COUNTRIES else None
    tables = []
    for title, key, scale, flags in (
        ("Life expectancy", "lifeExp", 1, {}),
        ("Income", "gdpPercap", 1e-3, {}),
        ("Population", "pop", 1e-6, {"additive": True}),
    ):
        cells = _grid(gap, country, lambda e: e["year"], lambda e, key=key: e[key], scale=scale)
        tables.append(_table(title, source, COUNTRIES, YEARS, cells, **flags))
    seen = _read("bokeh_sampledata", "_data/emissions.csv.gz")
    cells = _grid(seen, country, lambda e: str(int(float(e["year"]))), lambda e: e["emissions"])
    tables.append(_table("Emissions", "bokeh_sampledata emissions", COUNTRIES, YEARS, cells, additive=True))
    tables += [table.turned(ordered=True) for table in tables]
    regions = ("Asia", "Europe", "Africa", "Americas", "Oceania")
    cells = _grid(gap, lambda e: e["continent"], lambda e: e["year"], lambda e: e["lifeExp"])
    return [*tables, _table("Life expectancy", source, regions, YEARS, cells)]


def _month_tables() -> list[Table]:
    """Months by year: weather, sea, unemployment, share prices."""
    weather = _read("vega_datasets", "_data/seattle-weather.csv")
    month, year = (lambda e: MONTHS[int(e["date"][5:7]) - 1]), (lambda e: e["date"][:4])
    seasons, tables = ("2012", "2013", "2014", "2015"), []
    for title, key, total in (("Rainfall", "precipitation", True), ("Temperature", "temp_max", False)):
        cells = _grid(weather, month, year, lambda e, key=key: e[key], total=total)
        tables.append(_table(title, "vega_datasets seattle-weather", MONTHS, seasons, cells, ordered=True))
    sea = _read("statsmodels", "datasets/elnino/elnino.csv")
    cells = {(m, e["YEAR"]): float(e[m.upper()]) for e in sea for m in MONTHS}
    tables.append(_table("Sea temperature", "statsmodels elnino", MONTHS, YEARS, cells, ordered=True))
    work = _read("bokeh_sampledata", "_data/unemployment1948.csv")
    cells = {(m, e["Year"]): float(e[m]) for e in work for m in MONTHS if e[m]}
    tables.append(_table("Unemployment", "bokeh_sampledata unemployment1948", MONTHS, YEARS, cells, ordered=True))
    shares = _read("plotly", "package_data/datasets/stocks.csv.gz")
    firms = {"GOOG": "Google", "AAPL": "Apple", "AMZN": "Amazon", "FB": "Facebook", "NFLX": "Netflix"}
    flat = [{"date": e["date"], "firm": name, "price": e[key]} for e in shares for key, name in firms.items()]
    last = [e for e in flat if e["date"].startswith("2018")]
    cells = _grid(last, month, lambda e: e["firm"], lambda e: e["price"], scale=100)
    prices = _table("Share price", "plotly stocks", MONTHS, firms.values(), cells, ordered=True)
    return [*tables, prices, prices.turned(ordered=False)]


def _shop_tables() -> list[Table]:
    """Goods by region, cars by road, bills by day."""
    shop = _read("bokeh_sampledata", "_data/SampleSuperstore.csv.gz")
    goods = ("Chairs", "Tables", "Phones", "Paper", "Art", "Storage", "Labels", "Copiers", "Binders", "Machines")
    regions = ("East", "West", "South", "Central")
    item = lambda e: e["Sub-Category"] if e["Sub-Category"] in goods else None  # noqa: E731
    cells = _grid(shop, item, lambda e: e["Region"], lambda e: e["Sales"], total=True, scale=1e-3)
    sales = _table("Sales", "bokeh_sampledata SampleSuperstore", goods, regions, cells, additive=True)
    cars = _read("bokeh_sampledata", "_data/auto-mpg2.csv")
    makers = ("Audi", "Ford", "Honda", "Nissan", "Subaru", "Toyota", "Dodge", "Jeep", "Hyundai")
    drives = [{"maker": e["manufacturer"].title(), "road": r, "mpg": e[k]} for e in cars for r, k in _ROADS]
    cells = _grid(drives, lambda e: e["maker"], lambda e: e["road"], lambda e: e["mpg"])
    tables = [sales, sales.turned(False)]
    tables.append(_table("Miles per gallon", "bokeh_sampledata auto-mpg2", makers, ("City", "Highway"), cells))
    tips = _read("plotly", "package_data/datasets/tips.csv.gz")
    days, source = {"Thur": "Thu", "Fri": "Fri", "Sat": "Sat", "Sun": "Sun"}, "plotly tips"
    for title, key in (("Average bill", "total_bill"), ("Tips", "tip")):
        cells = _grid(tips, lambda e: days[e["day"]], lambda e: e["time"], lambda e, key=key: e[key])
        tables.append(_table(title, source, days.values(), ("Lunch", "Dinner"), cells))
    return tables


_ROADS = (("City", "cty"), ("Highway", "hwy"))


def _public_tables() -> list[Table]:
    """Power by fuel, wind by direction, votes, medals, harvests, degrees."""
    power = _read("vega_datasets", "_data/iowa-electricity.csv")
    fuels = {"Fossil Fuels": "Fossil", "Nuclear Energy": "Nuclear", "Renewables": "Renewable"}
    years = tuple(str(year) for year in range(2001, 2018))
    cells = _grid(power, lambda e: e["year"][:4], lambda e: fuels[e["source"]], lambda e: e["net_generation"], scale=1e-3)
    energy = _table("Electricity", "vega_datasets iowa-electricity", years, fuels.values(), cells, ordered=True, additive=True)
    wind = _read("plotly", "package_data/datasets/wind.csv.gz")
    compass, forces = ("N", "NE", "E", "SE", "S", "SW", "W", "NW"), ("0-1", "1-2", "2-3", "3-4", "4-4")
    cells = _grid(wind, lambda e: e["direction"], lambda e: e["strength"], lambda e: e["frequency"])
    winds = _table("Wind", "plotly wind", compass, forces, cells, additive=True)
    votes = _read("plotly", "package_data/datasets/election.csv.gz")
    people, areas = ("Coderre", "Bergeron", "Joly"), [e["district_id"] for e in votes[:12]]
    cells = {(name, e["district_id"]): float(e[name]) for e in votes for name in people}
    polls = _table("Votes in district", "plotly election", people, areas, cells, additive=True)
    games = json.loads(package_file("bokeh_sampledata", "_data/olympics2014.json").read_text("utf-8"))["data"]
    cells = {(e["name"], k.title()): float(e["medals"][k]) for e in games for k in ("gold", "silver", "bronze")}
    winners = [e["name"] for e in games if e["medals"]["total"] >= 3 and e["name"] in COUNTRIES]
    medals = _table("Medals", "bokeh_sampledata olympics2014", winners, ("Gold", "Silver", "Bronze"), cells, additive=True)
    fields = json.loads(package_file("vega_datasets", "_data/barley.json").read_text("utf-8"))
    sites = ("Waseca", "Morris", "Crookston", "Duluth")
    kinds = tuple(dict.fromkeys(e["variety"] for e in fields if e["variety"].isalpha()))
    site, kind = (lambda e: e["site"] if e["site"] in sites else None), (lambda e: e["variety"])
    cells = _grid((e for e in fields if e["variety"] in kinds), site, kind, lambda e: e["yield"])
    barley = _table("Barley", "vega_datasets barley", sites, kinds, cells)
    return [energy, energy.turned(False), winds, polls, medals, medals.turned(False), barley, *_degrees()]


def _degrees() -> list[Table]:
    short = {"Computer Science": "Computing", "Math and Statistics": "Math", "Agriculture": "Farming"}
    subjects = ("Biology", "Business", "Computing", "Education", "Engineering", "English", "Math", "Psychology",
                "Farming", "Architecture")
    seen = _read("bokeh_sampledata", "_data/percent-bachelors-degrees-women-usa.csv")
    cells = {(short.get(key, key), e["Year"]): float(value) for e in seen for key, value in e.items() if key != "Year"}
    years = tuple(year for year in YEARS if year >= "1970")
    table = _table("Women graduates", "bokeh_sampledata degrees", subjects, years, cells)
    return [table, table.turned(ordered=True)]


@lru_cache(maxsize=1)
def tables() -> tuple[Table, ...]:
    """Every table, read once a process."""
    return (*_world_tables(), *_month_tables(), *_shop_tables(), *_public_tables())


@lru_cache(maxsize=16)
def tables_for(language: str, ordered: bool, additive: bool) -> tuple[Table, ...]:
    """The tables that fit a chart: joinable rows, summable values, a Chinese word for every label."""
    return tuple(
        table
        for table in tables()
        if (table.ordered or not ordered)
        and (table.additive or not additive)
        and (language == "en" or all(word in CHINESE or word.isdigit() or "-" in word for word in table.words()))
    )


def slice_name(title: str, labels: Iterable[str], series: Iterable[str], source: str) -> str:
    """A slice's name, from the English names alone: order, drawing, language and orientation do not matter."""
    sides = sorted((",".join(sorted(labels)), ",".join(sorted(series))))
    return "/".join((source, title, *sides))


def slice_split(name: str) -> str:
    """The side of a slice, "train" or "eval", decided by a hash of its name."""
    return "eval" if hashlib.sha256(name.encode()).digest()[0] % EVALUATION_SHARE == 0 else "train"


def rounded(value: float, digits: int) -> float:
    """A number rounded to at most so many significant digits (whole where it can be)."""
    found = float(f"{value:.{digits}g}")
    return int(found) if found == int(found) else found


def take_slice(
    rng: random.Random,
    split: str,
    language: str = "en",
    labels: tuple[int, int] = (3, 6),
    series: int = 1,
    ordered: bool = False,
    additive: bool = False,
) -> Slice:
    """A random slice of a random table that belongs to a split.

    Args:
        split: "eval" or "eval_held_out" for evaluation, anything else for training.
        labels: fewest and most rows.
        series: number of columns.
    """
    side = "eval" if split.startswith("eval") else "train"
    fitting = [t for t in tables_for(language, ordered, additive) if len(t.columns) >= series]
    for _ in range(2000):
        found = _try_slice(rng, rng.choice(fitting), side, labels, series)
        if found:
            return found if language == "en" else _translated(found)
    raise AssertionError("no slice found in 2000 tries")  # a table as small as that is a mistake in this file


def _try_slice(rng: random.Random, table: Table, side: str, labels: tuple[int, int], series: int) -> Slice | None:
    count = min(rng.randint(*labels), len(table.rows))
    if table.ordered:
        start = rng.randrange(len(table.rows) - count + 1)
        rows = table.rows[start : start + count]
    else:
        rows = tuple(rng.sample(table.rows, count))
    columns = tuple(sorted(rng.sample(table.columns, series), key=table.columns.index))
    numbers = [table.cells.get((row, column)) for column in columns for row in rows]
    if count < labels[0] or None in numbers or min(numbers) <= 0.04 * max(numbers):
        return None
    name = slice_name(table.title, rows, columns, table.source)
    if slice_split(name) != side:
        return None
    if not table.ordered and rng.random() < 0.5:  # half of the rankings come sorted, as published charts do
        rows = tuple(sorted(rows, key=lambda row: -table.cells[row, columns[0]]))
    digits = rng.choice((2, 2, 3))
    values = tuple(tuple(rounded(table.cells[row, column], digits) for row in rows) for column in columns)
    title = f"{table.title}, {columns[0]}" if series == 1 else table.title
    return Slice(title, rows, columns, values, table.source, name)


def _translated(found: Slice) -> Slice:
    def word(text: str) -> str:
        return CHINESE.get(text, text)

    title = "，".join(word(part) for part in found.title.split(", "))
    labels, series = tuple(map(word, found.labels)), tuple(map(word, found.series))
    return replace(found, title=title, labels=labels, series=series)
