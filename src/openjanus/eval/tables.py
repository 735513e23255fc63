"""Tables that compare results, with the papers' rows beside them; as Markdown or plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from openjanus.eval.papers import PaperBenchmark, paper_benchmark
from openjanus.eval.results import Block, Figure, Result, headers, run_labels

FORMAT_VERSION: Final = 1
"""Of the tables as plain data."""
NOTHING: Final = "-"
MAIN: Final = "Main figures"
"""Title of the table that has a column a benchmark."""
Key = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One figure, counted one way."""

    key: Key
    title: str
    unit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A run, or a model as a paper has it."""

    name: str
    paper: bool
    figures: Mapping[Key, Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows of runs first, then of papers."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    sources: tuple[str, ...]
    """Where the papers' rows are from."""


def compare(results: Sequence[Result]) -> list[Table]:
    """Main figures in one table, then each benchmark's parts in one of its own.

    A paper's figure stands in the column of a run that was counted as the paper counts, over all
    questions; otherwise in a column of its own.
    """
    titles = headers(block for result in results for block in result.blocks)
    labels = run_labels(result.folder for result in results)
    tables = [_main_table(results, titles, labels)]
    first: dict[Key, Block] = {}
    for result in results:
        for block in result.blocks:
            if block.parts:
                first.setdefault(block.key, block)
    for key, block in first.items():
        tables += _part_tables(results, block, titles[key], labels)
    return [table for table in tables if table.columns]


def counted_alike(block: Block, paper: PaperBenchmark) -> bool:
    """Whether a run was asked and counted as a paper says, as far as its record tells."""
    return (
        block.task == paper.task
        and block.rule == paper.rule
        and block.limit is None
        and block.whole
        and any(paper.files in name for name in (block.title, *block.files))
    )


def _main_table(
    results: Sequence[Result], titles: Mapping[Key, str], labels: Mapping[Any, str]
) -> Table:
    blocks = {b.key: b for result in results for b in result.blocks if b.main is not None}
    columns: dict[Key, Column] = {}
    papers: dict[str, tuple[PaperBenchmark, list[Key]]] = {}
    for key, block in blocks.items():
        title, paper = titles[key], _beside(block)
        if paper is not None:
            keys = papers.setdefault(paper.title, (paper, []))[1]
            if counted_alike(block, paper):
                keys.append(key)
                title += f"; papers: {paper.how}"
        columns[key] = Column(key=key, title=title, unit=block.unit)
    for paper, keys in papers.values():
        if not keys:
            keys.append(("paper", paper.title))
            columns[keys[0]] = _paper_column(paper, keys[0])
    rows = [
        Row(
            name=labels[result.folder],
            paper=False,
            figures={b.key: b.main for b in result.blocks if b.main is not None},
        )
        for result in results
    ]
    names = dict.fromkeys(name for paper, _ in papers.values() for name in paper.figures)
    for name in names:
        figures = {
            key: Figure(value=paper.figures[name])
            for paper, keys in papers.values()
            if name in paper.figures
            for key in keys
        }
        rows.append(Row(name=name, paper=True, figures=figures))
    return Table(
        title=MAIN,
        columns=tuple(columns.values()),
        rows=tuple(row for row in rows if row.figures),
        sources=_sources(paper for paper, _ in papers.values()),
    )


def _beside(block: Block) -> PaperBenchmark | None:
    return paper_benchmark(block.like if block.like else block.task)


def _paper_column(paper: PaperBenchmark, key: Key) -> Column:
    return Column(key=key, title=f"{paper.title} itself (papers: {paper.how})", unit=paper.unit)


def _part_tables(
    results: Sequence[Result], block: Block, title: str, labels: Mapping[Any, str]
) -> list[Table]:
    """Parts of one block of every run that has it, and the papers' where they have parts."""
    rows = []
    for result in results:
        for one in result.blocks:
            if one.key == block.key:
                figures = {("part", name): figure for name, figure in one.parts.items()}
                rows.append(Row(name=labels[result.folder], paper=False, figures=figures))
    names = dict.fromkeys(key for row in rows for key in row.figures)
    columns = tuple(Column(key=key, title=key[-1], unit=block.unit) for key in names)
    title = f"Parts of {title}"
    paper = _beside(block)
    if paper is None or not paper.parts:
        return [Table(title=title, columns=columns, rows=tuple(rows), sources=())]
    told = [
        Row(
            name=name,
            paper=True,
            figures={("part", part): Figure(value=value) for part, value in parts.items()},
        )
        for name, parts in paper.parts.items()
    ]
    sources = _sources([paper])
    if counted_alike(block, paper):
        title += f"; papers: {paper.how}"
        return [Table(title=title, columns=columns, rows=(*rows, *told), sources=sources)]
    theirs = dict.fromkeys(key for row in told for key in row.figures)
    return [
        Table(title=title, columns=columns, rows=tuple(rows), sources=()),
        Table(
            title=f"Parts of {paper.title} itself (papers: {paper.how}): another count than ours",
            columns=tuple(Column(key=key, title=key[-1], unit=paper.unit) for key in theirs),
            rows=tuple(told),
            sources=sources,
        ),
    ]


def _sources(papers: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for paper in papers for one in paper.source.split("; ")))


def markdown(tables: Sequence[Table]) -> str:
    """Tables as Markdown; rows of papers in italics."""
    return "\n\n".join(_markdown(table) for table in tables)


def _markdown(table: Table) -> str:
    lines = [
        f"### {table.title}",
        "",
        "| | " + " | ".join(column.title for column in table.columns) + " |",
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for row in table.rows:
        cells = [_cell(row.figures.get(c.key), c.unit, row.paper) for c in table.columns]
        name = f"*{row.name}* (paper)" if row.paper else row.name
        lines.append("| " + " | ".join([name, *cells]) + " |")
    if any(row.paper for row in table.rows):
        lines += ["", f"Papers: {'; '.join(table.sources)}."]
    return "\n".join(lines)


def _cell(figure: Figure | None, unit: str, paper: bool) -> str:
    if figure is None:
        return NOTHING
    if figure.value is None:
        words = [figure.note]
    elif paper:
        words = [f"{figure.value:.2f}" if unit == "share" else str(figure.value)]
    else:
        digits = 3 if unit == "share" else 2
        text = f"{figure.value:.{digits}f}"
        if figure.interval is not None:
            low, high = figure.interval
            text += f" ({low:.{digits}f} to {high:.{digits}f})"
        words = [text, figure.note] if figure.note else [text]
    if figure.n is not None:
        words.append(f"n {figure.n}")
    if figure.broken:
        words.append(f"{figure.broken} broken")
    return ", ".join(words)


def as_data(tables: Sequence[Table]) -> list[dict[str, Any]]:
    """Tables as plain data: a row has a figure or null for each column."""
    return [
        {
            "title": table.title,
            "columns": [{"title": c.title, "unit": c.unit} for c in table.columns],
            "rows": [
                {
                    "name": row.name,
                    "paper": row.paper,
                    "figures": [
                        asdict(row.figures[c.key]) if c.key in row.figures else None
                        for c in table.columns
                    ],
                }
                for row in table.rows
            ],
            "sources": list(table.sources),
        }
        for table in tables
    ]
